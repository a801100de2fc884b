"""The module of the Hessian-alignment paper: whole runs, refusals, no large tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from curvature.alignment import HGP, Frobenius, Hutchinson, observe
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.models.mlp import HeadedNetwork

CONF = Path(__file__).parents[2] / "conf"


def composed(tmp_path, *overrides):
    lines = [
        "experiment=hessian_alignment",
        "+debug=smoke",
        "tracking=offline",
        f"outputs={tmp_path / 'outputs'}",
        "data.repeats=1",
        "module.eval_every=2",
        *overrides,
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=lines)


@pytest.mark.parametrize("method", ["erm", "coral", "fish", "iga", "hutchinson"])
def test_every_kind_of_method_trains_and_reports(method, tmp_path):
    metrics = run(composed(tmp_path, f"method={method}")).metrics
    for name in ("train/accuracy", "test/accuracy", "gray/accuracy"):
        assert 0 <= metrics[name] <= 1
    assert metrics["alignment/hessian_distance"] > 0
    assert metrics["attack/gap_after"] >= metrics["attack/gap_before"]


def test_domainbed_form_reports_held_out_parts(tmp_path):
    options = "data=cmnist_domainbed_digits", "model=domainbed_cnn", "model.width=8", "penalty_weight=1", "l2=0"
    metrics = run(composed(tmp_path, "method=hgp", *options, "data.repeats=1")).metrics
    assert metrics["val/accuracy"] == pytest.approx((metrics["p90_/out/accuracy"] + metrics["p80_/out/accuracy"]) / 2)


def test_methods_see_the_same_data_and_start(tmp_path):
    first, second = (composed(tmp_path, f"method={m}", "seed=3") for m in ("erm", "hgp"))
    inputs = []
    for cfg in (first, second):
        data = instantiate(cfg.data)
        data.setup("fit")
        inputs.append(data.training[0].examples(np.arange(50)))
    assert torch.equal(inputs[0][0], inputs[1][0]) and torch.equal(inputs[0][1], inputs[1][1])


def test_a_network_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="model"):
        run(composed(tmp_path, "model.widths=[64,32]"))


@pytest.mark.parametrize("method", [HGP(), Hutchinson(), Hutchinson(diag_estimator="shared", n_probes=2), Frobenius()])
def test_a_head_whose_hessian_could_not_be_stored_is_no_problem(method):
    network = HeadedNetwork(nn.Linear(4, 2048), nn.Linear, 2048, 345)
    method.bind(network, 2)
    domains = [observe(network, torch.randn(6, 4), torch.randint(0, 345, (6,))) for _ in range(2)]
    penalty = method.penalty(domains, network)
    penalty.backward()
    assert penalty.isfinite() and network.backbone.weight.grad.isfinite().all()
