"""The module of the paper under a plain Lightning trainer: final metrics, escape, balance, resume, bad arguments."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from curvature.data.stability import NoData, RegressionData
from curvature.errors import ConfigError
from curvature.models.stability_nets import DiagonalLinearNet, TwoLayerReLUNet
from curvature.papers.sgd_stability import SgdStability
from curvature.stability.exact import linear_metrics
from curvature.stability.problems import relu_teacher, sparse_regression
from curvature.stability.references import reference_losses
from curvature.training.evaluations import Evaluations

DIAGONAL = partial(DiagonalLinearNet, dim=60)
SPARSE = partial(sparse_regression, dim=60, samples=20, test_samples=100)


def module(**changes) -> SgdStability:
    options = {"model": DIAGONAL, "seed": 0, "grid": [0.01, 0.04, 0.16], "max_steps": 40, "chunk": 200} | changes
    return SgdStability(**({"batch_size": 1, "clip": 50.0, "stop_loss": 1e-10} | options))


def data(problem=SPARSE, seed=0) -> RegressionData:
    return RegressionData(problem, seed)


def trainer(steps: int, **options) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        limit_train_batches=steps,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fit(one: pl.LightningModule, datamodule: pl.LightningDataModule, steps: int = 40) -> dict[str, float]:
    trainer(steps).fit(one, datamodule=datamodule)
    return one.results


def test_sgd_obeys_the_trace_bound_and_gradient_descent_only_its_own():
    sgd = fit(module(), data())
    descent = fit(module(batch_size=None), data())
    assert sgd["stability/eligible_lanes"] == descent["stability/eligible_lanes"] == 3
    assert sgd["stability/trace_max"] <= 1.001 and sgd["stability/growth_max"] <= 1.001
    assert descent["stability/lambda_max_max"] <= 1.001 and descent["stability/trace_full_max"] > 2
    assert sgd["sweep/spearman/sharpness/trace"] == -1
    assert 0 < sgd["generalisation/ratio_max"] < 1 and "generalisation/ratio_max" not in descent
    bounds = [sgd[f"generalisation/bound/lr_{rate}"] for rate in (0.01, 0.04, 0.16)]
    assert bounds[0] > bounds[1] > bounds[2]
    assert sgd["test/loss/lr_0.16"] < 0.5 * descent["test/loss/lr_0.16"]
    assert sgd["reference/constant"] == pytest.approx(reference_losses(data().problem)["constant"])
    assert sgd["stability/alignment/lr_0.04"] >= sgd["stability/worst_alignment/lr_0.04"] > 0
    assert sgd["sharpness/trace/lr_0.04"] == pytest.approx(2 / 0.04 * sgd["stability/trace/lr_0.04"])


def test_decayed_and_clipped_runs_prove_nothing():
    decayed = fit(module(schedule="cosine"), data())
    assert decayed["stability/eligible_lanes"] == 0 and "stability/trace_max" not in decayed
    assert decayed["stability/ineligible/lr_0.04"] == 2
    clipped = fit(module(clip=1e-9), data())
    assert clipped["stability/eligible_lanes"] == 0


def test_a_diverging_lane_leaves_the_others_alone():
    results = fit(module(grid=[0.04, 5.0], clip=None), data())
    assert results["stability/ineligible/lr_5"] == 1
    assert results["stability/eligible/lr_0.04"] == 1


def test_rates_are_scaled_but_lanes_keep_the_name_of_their_place():
    one = module(rate_scale=0.1)
    assert one.recipe.rates == pytest.approx((0.001, 0.004, 0.016)) and one.labels[1] == "lr_0.04"


def test_all_lanes_start_alike_and_seeds_differ():
    starts = []
    for seed in (0, 0, 1):
        one = module(seed=seed)
        one.check_data(data())
        starts.append(one.replicas.state()["a"][0].clone())
    assert torch.equal(starts[0][0], starts[0][2]) and torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_imbalance_is_the_axis_of_the_balance_study():
    options = {"grid": [0.05], "imbalances": [1, 2, 8], "stop_loss": 0.0, "clip": 200.0}
    one = module(**options)
    one.check_data(data())
    norms = one.replicas.family.norms(one.replicas.state())["imbalance"]
    torch.testing.assert_close(norms[0], torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64))
    results = fit(module(**options, batch_size=None), data())
    assert results["balance/kept_min"] > 0.5
    assert results["norm/imbalance/r0_8"] > 4


def test_escape_from_a_minimum_is_where_the_growth_factor_says():
    start = {"rate": 0.04, "stop_loss": 1e-26, "max_steps": 20_000, "perturbation": 1e-9}
    start |= {"batch_size": None, "clip": None}
    one = module(
        model=partial(DiagonalLinearNet, dim=200),
        grid=[0.005, 0.08],
        start=start,
        max_steps=300,
        chunk=10,
        stop_loss=0.0,
        records=100,
    )
    results = fit(one, data(partial(sparse_regression, dim=200, samples=60, test_samples=50)), 300)
    assert results["escape/minimum/growth/lr_0.005"] < 1 < results["escape/minimum/growth/lr_0.08"]
    assert results["escape/left/lr_0.005"] == 0 and results["escape/left/lr_0.08"] == 1
    assert results["escape/agreement"] == results["escape/agreement_decidable"] == 1
    assert results["escape/minimum/almost_sure/lr_0.005"] < 0 < results["escape/minimum/almost_sure/lr_0.08"]
    assert results["escape/expected_log_rise/lr_0.005"] < 0 < results["escape/expected_log_rise/lr_0.08"]
    assert results["escape/log_slope/lr_0.08"] > 0.05
    assert results["sharpness/trace/lr_0.08"] < 0.3 * results["escape/minimum/trace"]


def test_any_small_net_trains_by_autograd():
    def mlp(generator):
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
        for p in net.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        return net

    problem = partial(relu_teacher, dim=6, samples=10, units=2, test_samples=50)
    results = fit(module(model=mlp, grid=[0.01, 0.02], max_steps=3, chunk=50), data(problem), 3)
    assert results["sharpness/trace/lr_0.01"] > 0 and "norm/weights/lr_0.02" in results


def test_restored_module_continues_bit_for_bit(tmp_path):
    whole = fit(module(), data())
    first = module()
    half = trainer(15)
    half.fit(first, datamodule=data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    second = module()
    second.check_data(data())
    second.load_state_dict(saved["state_dict"])
    second.on_load_checkpoint(saved)
    results = fit(second, data(), 25)
    last = {k: v for k, v in whole.items() if not k.startswith("escape")}
    assert last == {k: results[k] for k in last}


def test_facts_keep_the_extremes_over_steps():
    results = fit(Evaluations([linear_metrics], seed=2, max_steps=5, keep="extremes"), NoData(), 5)
    values = [linear_metrics(seed)["linear/trace"] for seed in range(10, 15)]
    assert (results["linear/trace/min"], results["linear/trace/max"]) == (min(values), max(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 0}, "module.chunk=0"),
        ({"grid": [0.1, 0.1]}, "module.grid"),
        ({"grid": [0.1, 0.2], "imbalances": [1, 2]}, "module.grid"),
        ({"grid": [0.1], "imbalances": [2, 2]}, "module.imbalances"),
        ({"grid": []}, "rates"),
        ({"model": partial(DiagonalLinearNet, dim=7)}, "model='DiagonalLinearNet'"),
        ({"model": partial(TwoLayerReLUNet, dim=7)}, "60 inputs"),
        ({"batch_size": 21, "replacement": False}, "batch_size=21"),
    ],
)
def test_unusable_arguments_are_named_before_training(changes, message):
    with pytest.raises(ConfigError, match=message):
        module(**changes).check_data(data())


def test_one_process_only():
    with pytest.raises(ConfigError, match=r"trainer\.devices=2"):
        module().check_data(data(), 2)


def test_impossible_data_names_its_key():
    with pytest.raises(ConfigError, match=r"data\.problem\.sparsity=3"):
        data(partial(sparse_regression, dim=2)).setup("fit")
