"""Arguments that cannot work are refused with their config key."""

from functools import partial

import pytest
import torch
from torch import nn

from curvature.errors import ConfigError
from curvature.optim import GSAM, SAM

BASE = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("rho", {"rho": -0.1}),
        ("rho", {"rho": float("nan")}),
        ("rho", {"rho": float("inf")}),
        ("rho", {"rho": "0.05"}),
        ("rho", {"rho": None}),
        ("eta", {"eta": -1e-3}),
        ("eps", {"eps": 0.0}),
        ("max_grad_norm", {"max_grad_norm": 0.0}),
        ("adaptive_scope", {"adaptive_scope": "biases"}),
        ("adaptive_scope", {"adaptive": True}),
    ],
)
def test_sam_refuses(key, options):
    with pytest.raises(ConfigError) as error:
        SAM(nn.Linear(2, 2).parameters(), BASE, **options)
    assert error.value.key == f"optimizer.{key}"


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("rho_min", {"rho_min": -0.1}),
        ("rho_max", {"rho_max": 0.05, "rho_min": 0.1}),
        ("alpha", {"alpha": -1}),
        ("lr_max", {"lr_max": 1e-3, "lr_min": 1e-2}),
        ("lr_min", {"lr_min": -1e-2}),
    ],
)
def test_gsam_refuses(key, options):
    with pytest.raises(ConfigError) as error:
        GSAM(nn.Linear(2, 2).parameters(), BASE, **options)
    assert error.value.key == f"optimizer.{key}"


def test_base_optimizer_must_be_a_factory():
    with pytest.raises(ConfigError, match="_partial_"):
        SAM(nn.Linear(2, 2).parameters(), torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))


def test_scope_weight_takes_named_groups():
    model = nn.Linear(2, 2)
    groups = [{"params": [("weight", model.weight)]}, {"params": [("bias", model.bias)], "lr": 0.5}]
    optimizer = SAM(groups, BASE, adaptive=True)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_step_needs_closures_that_fit_the_weights():
    optimizer = SAM(nn.Linear(2, 2).parameters(), BASE)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    for closures, weights in [([], None), ([lambda: 0.0], [1, 2]), (lambda: 0.0, [1, 0]), (lambda: 0.0, [])]:
        with pytest.raises(ValueError, match="positive weights"):
            optimizer.step(closures, weights)
