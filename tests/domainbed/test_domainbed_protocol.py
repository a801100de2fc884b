"""Import, selection by all rules, tables and the registry, against rules applied by hand."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

from curvature.data.seeds import seed_hash
from curvature.domainbed import hparams, records, selection, tables
from curvature.errors import ConfigError

ENVS, STEPS = 3, (0, 100, 200)


def write_run(root, name, test_envs, hparams_seed, accuracies, algorithm="ERM", trial=0, done=True, cut=False):
    folder = root / name
    folder.mkdir(parents=True)
    lines = []
    for step, pairs in accuracies.items():
        args = {
            "dataset": "PACS",
            "algorithm": algorithm,
            "test_envs": test_envs,
            "trial_seed": trial,
            "hparams_seed": hparams_seed,
        }
        row = {"args": args, "step": step, "hparams": {}}
        for env, (inside, outside) in enumerate(pairs):
            row |= {f"env{env}_in_acc": inside, f"env{env}_out_acc": outside}
        lines.append(json.dumps(row))
    text = "\n".join(lines) + "\n"
    (folder / "results.jsonl").write_text(text[:-30] if cut else text)
    if done:
        (folder / "done").write_text("done")


def random_sweep(root, seeds=4, trials=2, seed=0):
    generator = np.random.default_rng(seed)
    sets = [[e] for e in range(ENVS)] + [list(p) for p in itertools.combinations(range(ENVS), 2)]
    runs = {}
    for algorithm, trial, hp, envs in itertools.product(("ERM", "HGP"), range(trials), range(seeds), sets):
        accuracies = {step: generator.integers(0, 8, (ENVS, 2)) / 8 for step in STEPS}
        runs[algorithm, trial, hp, tuple(envs)] = accuracies
        name = f"{algorithm}-{trial}-{hp}-{'_'.join(map(str, envs))}"
        write_run(root, name, envs, hp, accuracies, algorithm, trial)
    return runs


def by_hand(runs, rule, algorithm, trial, env):
    """The rules as loops over dictionaries, an independent reading of them."""
    candidates = []
    for (name, seed, hp, envs), steps in sorted(runs.items()):
        if (name, seed, envs) != (algorithm, trial, (env,)):
            continue
        scored = []
        for step, acc in sorted(steps.items()):
            if rule == "training":
                value = np.mean([acc[e][1] for e in range(ENVS) if e != env])
            elif rule == "oracle":
                value = acc[env][1] if step == max(steps) else -1
            else:
                others = [v for v in range(ENVS) if v != env]
                value = np.mean([runs[algorithm, trial, hp, tuple(sorted((env, v)))][step][v][0] for v in others])
            scored.append((value, step, acc[env][0]))
        candidates.append((*max(scored, key=lambda item: (item[0], -item[1])), hp))
    return max(candidates, key=lambda item: (item[0], item[3]))


def test_all_rules_select_what_loops_select(tmp_path):
    runs = random_sweep(tmp_path)
    found = selection.select(records.import_domainbed(tmp_path).records)
    keyed = found.set_index(["rule", "algorithm", "trial_seed", "test_env"])
    cells = list(itertools.product(("training", "oracle", "loo"), ("ERM", "HGP"), range(2), range(ENVS)))
    assert len(found) == len(cells) + 2 * 2 * ENVS
    for rule, algorithm, trial, env in cells:
        value, step, accuracy, hp = by_hand(runs, rule, algorithm, trial, env)
        row = keyed.loc[(rule, algorithm, trial, env)]
        assert (row["val_acc"], row["step"], row["test_acc"], row["hparams_seed"]) == (value, step, accuracy, hp)
    last = keyed.loc[("last", "HGP", 1, 2)]
    assert last["test_acc"] == runs["HGP", 1, 0, (2,)][200][2][0]
    regret = selection.regret(found)
    assert regret.loc[("PACS", "ERM", 1, 0), "training"] == pytest.approx(
        by_hand(runs, "oracle", "ERM", 0, 1)[2] - by_hand(runs, "training", "ERM", 0, 1)[2]
    )


def test_leaving_one_out_needs_every_pair(tmp_path):
    accuracies = {0: [[0.5, 0.5]] * ENVS, 100: [[0.6, 0.6]] * ENVS}
    write_run(tmp_path, "t0", [0], 0, accuracies)
    write_run(tmp_path, "t01", [0, 1], 0, accuracies)
    write_run(tmp_path, "t02", [0, 2], 0, {0: accuracies[0]})
    found = selection.select(records.import_domainbed(tmp_path).records)
    loo = found[found["rule"] == "loo"]
    assert loo["step"].tolist() == [0]


def test_damage_costs_a_line_and_is_named(tmp_path):
    accuracies = {step: [[0.5, 0.25]] * ENVS for step in STEPS}
    write_run(tmp_path, "whole", [0], 0, accuracies)
    write_run(tmp_path, "killed", [1], 0, accuracies, done=False, cut=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "results.jsonl").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "results.jsonl").write_text('{"step": 3}\n')
    found = records.import_domainbed(tmp_path)
    assert found.truncated == ["killed"]
    assert found.unfinished == ["empty", "foreign", "killed"]
    assert list(found.unreadable) == ["foreign:1"]
    assert found.records.groupby("run", observed=True)["step"].nunique().to_dict() == {"whole": 3, "killed": 2}
    job = {"dataset": "PACS", "algorithm": "ERM", "trial_seed": 0, "hparams_seed": 0}
    lacking = records.missing_jobs(found.records, [job | {"test_envs": str(env)} for env in range(ENVS)])
    assert lacking == ["dataset=PACS algorithm=ERM test_envs=2 trial_seed=0 hparams_seed=0"]


def selected_rows():
    values = {"ERM": [[0.8, 0.7], [0.84, 0.72], [0.82, 0.68]], "HGP": [[0.9, 0.75], [0.88, 0.77]]}
    rows = [
        ("training", "PACS", algorithm, env, trial, 0, 100, 0.5, accuracy)
        for algorithm, trials in values.items()
        for trial, pair in enumerate(trials)
        for env, accuracy in enumerate(pair)
    ]
    return pd.DataFrame(rows, columns=["rule", *selection.CELL, "hparams_seed", "step", "val_acc", "test_acc"])


def test_summary_has_unbiased_errors_and_counts_what_is_missing():
    table = tables.summary(selected_rows()).set_index(["algorithm", "test_env"])
    erm = table.loc[("ERM", "0")]
    assert erm["mean"] == pytest.approx(0.82)
    assert erm["sem"] == pytest.approx(0.02 / math.sqrt(3))
    assert erm["high"] - erm["mean"] == pytest.approx(4.302652729911275 * 0.02 / math.sqrt(3))
    assert (table.loc[("HGP", "average"), "n"], table.loc[("HGP", "average"), "missing"]) == (2, 1)
    single = tables.summary(selected_rows().query("trial_seed == 0"))
    assert single["sem"].isna().all()


def test_differences_are_paired():
    (row,) = tables.paired_differences(selected_rows()).to_dict("records")
    assert row["pairs"] == 4
    assert row["difference"] == pytest.approx(np.mean([0.1, 0.05, 0.04, 0.05]))
    assert 0.04 <= row["low"] < row["difference"] < row["high"] <= 0.1


def test_tables_in_every_format():
    rows = selected_rows().replace({"HGP": "HGP_exact {a&b}"})
    table = tables.summary(rows)
    markdown = tables.render(table, "training", "PACS")
    assert "| ERM | 82.0 ± 1.2 (n=3) | 70.0 ± 1.2 (n=3) | 76.0 ± 1.0 (n=3) |" in markdown
    assert "(n=2, 1 missing)" in markdown
    latex = tables.render(table, "training", "PACS", "latex")
    assert r"HGP\_exact \{a\&b\}" in latex and latex.count(r"\\") == 3
    plain = latex.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    numbers = tables.render(table, "training", "PACS", "csv").splitlines()
    assert len(numbers) == 1 + len(table)
    with pytest.raises(ValueError, match="none of"):
        tables.render(table, "training", "PACS", "html")


def test_registry_has_domainbeds_values_and_shares_draws():
    assert hparams.hparams("HGP", "PACS")["penalty_alpha"] == 1e-4
    assert hparams.hparams("ERM", "ColoredMNIST") | {} == {
        "lr": 1e-3,
        "weight_decay": 0.0,
        "batch_size": 64,
        "resnet_dropout": 0.0,
    }
    first, second = (hparams.hparams(a, "PACS", 3, 1) for a in ("ERM", "Fishr"))
    assert {k: second[k] for k in first} == first
    random = np.random.RandomState(seed_hash(seed_hash(3, 1), "lr"))
    assert first["lr"] == 10 ** random.uniform(-5, -3.5)
    for seed in range(1, 40):
        drawn = hparams.hparams("Hutchinson", "VLCS", seed)
        assert 10 <= drawn["penalty_alpha"] <= 1e4 and 1e2 <= drawn["penalty_beta"] <= 1e6
        assert isinstance(drawn["batch_size"], int) and 8 <= drawn["batch_size"] <= 45
    with pytest.raises(ConfigError, match="Hutchinson"):
        hparams.hparams("Hutchison", "VLCS")
