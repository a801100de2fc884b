"""Tables and figures of pages, drawn from finished runs whose metrics are made up."""

import csv
import json
from pathlib import Path
from shutil import copy

import pytest
from PIL import Image

from curvature.papers import (
    grassmann_head_figures,
    hesso_figures,
    policy_gradient_figures,
    sgd_stability_figures,
    spd_batchnorm_figures,
)
from curvature.papers.page import finished_page, markdown_of_arms
from curvature.rundir import FINISHED, RunDirectory

ROOT = Path(__file__).parents[2]
LARGEST = 100_000


@pytest.fixture
def page_of(tmp_path):
    """Arguments for a copy of a paper's claims, and a function that marks one of its runs as finished."""

    def prepare(paper, experiment, claims):
        folder = tmp_path / "experiments" / paper
        folder.mkdir(parents=True)
        copy(ROOT / "experiments" / paper / "claims.yaml", folder)
        arguments = [f"outputs={tmp_path}", f"experiments={folder.parent}", f"claim={claims}"]
        return folder, [experiment, *arguments], arguments

    def finish(planned, paper, metrics):
        run = RunDirectory(tmp_path, paper, planned.fingerprint)
        run.path.mkdir(parents=True, exist_ok=True)
        run.update(status=FINISHED, fingerprint=planned.fingerprint, metrics=metrics)
        return run

    return prepare, finish


def planned_runs(arguments, monkeypatch):
    """All planned runs, although none has finished."""
    from curvature.claims.verdicts import Result
    from curvature.papers import page

    with monkeypatch.context() as patch:
        patch.setattr(page, "collect", lambda runs, *_: {run.fingerprint: Result("none", {}) for run in runs})
        return [run.planned for run in finished_page(arguments).runs]


def test_subspace_heads_over_their_dimension(page_of, monkeypatch):
    prepare, finish = page_of
    folder, arguments, overrides = prepare("grassmann_head", "experiment=grassmann_head", "C1,C5")
    planned = planned_runs(arguments, monkeypatch)
    for run in sorted(planned, key=lambda run: run.value is not None):
        accuracy = 0.5 + 0.01 * (run.value or 0) + 0.001 * run.seed
        metrics = {"test/accuracy": accuracy, "transfer/mean": 0.7, "features/variability": 40.0, "other": 1.0}
        finish(run, "grassmann_head", metrics | {"features/separation": 0.5})
    grassmann_head_figures.main(overrides)
    with (folder / "arms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({run.fingerprint for run in planned}) < len(planned) and "other" not in rows[0]
    (row,) = [r for r in rows if (r["arm"], r["subspace_dim"], r["seed"]) == ("coarse-gcr", "16", "3")]
    assert float(row["test/accuracy"]) == pytest.approx(0.663)
    accuracy, *_ = grassmann_head_figures.dimension_figure(folder / "arms.csv").axes
    means = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert means["coarse: subspaces"] == pytest.approx([0.512, 0.542, 0.582, 0.662, 0.822])
    assert means["coarse: softmax"] == pytest.approx([0.502, 0.502])
    assert 0 < (folder / "dimension.png").stat().st_size < LARGEST


def test_sharpness_over_learning_rates(page_of, monkeypatch):
    prepare, finish = page_of
    folder, arguments, overrides = prepare("sgd_stability", "experiment=sgd_stability", "C7,C8,P2")
    for run in planned_runs(arguments, monkeypatch):
        metrics = {}
        for place, eligible, reason in (("0.02", 1.0, 0.0), ("0.04", 0.0, 4.0), ("0.1", 0.0, 1.0)):
            metrics |= {f"stability/eligible/lr_{place}": eligible, f"stability/ineligible/lr_{place}": reason}
            for name in ("sharpness/trace", "sharpness/lambda_max", "norm/l1", "norm/path_norm", "test/loss"):
                metrics[f"{name}/lr_{place}"] = 1.0 + run.seed
        left = finish(run, "sgd_stability", metrics).artifacts / "plots"
        left.mkdir(parents=True)
        for name in ("trajectories", "escape"):
            Image.new("RGB", (30, 20), (run.seed * 60, 0, 0)).save(left / f"{name}.png")
    sgd_stability_figures.main(overrides)
    for name in ("rates", "trajectories", "escape"):
        assert 0 < (folder / f"{name}.png").stat().st_size < LARGEST
    assert Image.open(folder / "escape.png").convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    trace = sgd_stability_figures.rates_figure(finished_page(arguments)).axes[0]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in trace.lines}
    assert lines["SGD"] == ([0.02, 0.04], [3.0, 3.0])
    assert lines["2 / learning rate"][1][0] == pytest.approx(500.0)
    filled = {line.get_xdata()[0]: line.get_fillstyle() for line in trace.lines if line.get_marker() == "o"}
    assert filled == {0.02: "full", 0.04: "none"}


def test_returns_over_trajectories(page_of, monkeypatch):
    prepare, finish = page_of
    folder, arguments, overrides = prepare("policy_gradient", "experiment=policy_gradient", "C1,C9")
    for run in planned_runs(arguments, monkeypatch):
        metrics = {"count/trajectories": 1280.0 if "harpg" not in run.arm else 1240.0, "return/final": 9.0 + run.seed}
        directory = finish(run, "policy_gradient", metrics).path
        values = {"return": [20.0, 100.0 + 10 * run.seed], "error": [4.0, 2.0]}
        records = [{"key": k, "value": v, "step": 40 * i} for k, pair in values.items() for i, v in enumerate(pair)]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    policy_gradient_figures.main(overrides)
    cartpole, reacher, lqr = policy_gradient_figures.curves_figure(finished_page(arguments)).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in cartpole.lines}
    assert curves["vanilla policy gradient"] == [[0, 20], [640, 120]]
    assert curves["N-HARPG"] == [[0, 20], [1240, 120]]
    assert len(reacher.lines) == 0
    assert [line.get_xydata().tolist() for line in lqr.lines] == [[[4000, 2]]]
    assert 0 < (folder / "learning_curves.png").stat().st_size < LARGEST
    with (folder / "arms.csv").open(newline="") as file:
        rows = {(row["arm"], row["seed"]): row["return/final"] for row in csv.DictReader(file)}
    assert rows["cartpole-vanilla", "3"] == "12"


def test_accuracy_over_group_sparsity(page_of, monkeypatch):
    prepare, finish = page_of
    folder, arguments, overrides = prepare("hesso", "experiment=hesso", "C6,C10")
    for run in planned_runs(arguments, monkeypatch):
        metrics = {"test/accuracy": 0.5 + 0.1 * run.seed, "groups/least_left": 1.0 + run.seed}
        left = finish(run, "hesso", metrics).artifacts / "plots"
        left.mkdir(parents=True)
        Image.new("RGB", (30, 20), (run.seed * 60, 0, 0)).save(left / "saliency.png")
    hesso_figures.main(overrides)
    with (folder / "arms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["arm"], row["seed"]): row["groups/least_left"] for row in rows}["period-85", "3"] == "4"
    table = markdown_of_arms(folder / "arms.csv", {"test/accuracy": "accuracy", "groups/least_left": "left"})
    assert "| period-93 | 0.7 ± 0.16 | 3 ± 1.6 |" in table.splitlines()
    for name in ("accuracy", "saliency"):
        assert 0 < (folder / f"{name}.png").stat().st_size < LARGEST
    assert Image.open(folder / "saliency.png").convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    sparsity, rescaled, survivors = hesso_figures.accuracy_figure(finished_page(arguments)).axes
    means = {line.get_label(): line.get_xydata().tolist() for line in sparsity.lines}
    assert means["HESSO, five periods"] == [[0.85, pytest.approx(0.7)], [0.93, pytest.approx(0.7)]]
    assert list(rescaled.lines[6].get_xdata()) == [6] * 5
    assert list(rescaled.lines[6].get_ydata()) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert {line.get_xdata()[0] for line in survivors.lines} == {1, 2, 3, 4, 5}


def test_accuracy_of_norms_and_folded_samples(page_of, monkeypatch):
    prepare, finish = page_of
    folder, arguments, overrides = prepare("spd_batchnorm", "experiment=spd_batchnorm", "C3,C4")
    planned = planned_runs(arguments, monkeypatch)
    for run in planned:
        folded = {"norm/folded": 0.2 if run.arm.endswith("gbw") else 0.0} if "gbw" in run.arm else {}
        accuracy = 0.5 + 0.1 * run.seed + (0.05 if "50" in run.arm else 0.0)
        finish(run, "spd_batchnorm", {"test/accuracy": accuracy, "other": 1.0} | folded)
    spd_batchnorm_figures.main(overrides)
    with (folder / "arms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(planned) and "other" not in rows[0]
    figure = spd_batchnorm_figures.accuracy_figure(folder / "arms.csv")
    *panels, last = figure.axes
    assert [panel.get_title() for panel in panels] == ["ill-conditioned", "control", "digits"]
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    place = labels.index("gbw, theta 0.5")
    seeds, mean = (line for line in panels[0].lines if line.get_ydata()[0] == place)
    assert list(seeds.get_xdata()) == pytest.approx([0.55, 0.65, 0.75, 0.85, 0.95])
    assert mean.get_xdata()[0] == pytest.approx(0.75)
    curves = {line.get_label(): line.get_xydata().tolist() for line in last.lines}
    assert curves["digits"] == [[1, pytest.approx(0.2)], [0.75, 0], [0.5, 0], [0.25, 0]]
    assert 0 < (folder / "accuracy.png").stat().st_size < LARGEST
