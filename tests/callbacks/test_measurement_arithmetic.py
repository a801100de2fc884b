"""Measurements run without TF32 and say when an eigenvalue is not known well enough."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from curvature.callbacks.blocks import HessianBlocks
from curvature.callbacks.measures import Measures
from curvature.hessian import spectrum
from curvature.hessian.operator import exact_arithmetic
from curvature.hessian.spectrum import lambda_max


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.mark.parametrize("before", [(True, "high"), (False, "highest")])
def test_tf32_is_off_inside_and_as_before_afterwards(before):
    kept = tf32()
    try:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
        with pytest.raises(RuntimeError, match="inside"), exact_arithmetic(nn.Linear(1, 1)):
            assert tf32() == (False, "highest")
            assert not torch.backends.cuda.matmul.allow_tf32
            raise RuntimeError("inside")
        assert tf32() == before
    finally:
        torch.backends.cudnn.allow_tf32 = kept[0]
        torch.set_float32_matmul_precision(kept[1])


class Diagonal(nn.Module):
    """f(w) = sum_i h_i w_i^2 / 2, whose Hessian is diag(h)."""

    def __init__(self, curvatures):
        super().__init__()
        self.w = nn.Parameter(torch.full((len(curvatures),), 0.1, dtype=torch.float64))
        self.register_buffer("h", torch.tensor(curvatures, dtype=torch.float64))

    def forward(self, inputs):
        return (0.5 * (self.h * self.w**2).sum()).expand(len(inputs))


class OneBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.blocks = nn.ModuleList([block])

    def forward(self, inputs):
        return self.blocks[0](inputs)


class Mean(nn.Module):
    reduction = "mean"

    def forward(self, prediction, target):
        return prediction.mean()


DATA = [(torch.zeros(4, 1), torch.zeros(4))]


def test_residual_of_a_converged_eigenvalue_is_within_the_tolerance():
    found = lambda_max(Diagonal(np.linspace(-10.0, 1.0, 400).tolist()), Mean(), DATA)
    assert found.converged and 0.0 < found.residual <= 1e-3 * found.value
    assert found.value == pytest.approx(1.0, abs=2e-3)


class Module:
    def __init__(self, model):
        self.model, self.criterion, self.device = model, Mean(), torch.device("cpu")


class Trainer:
    is_global_zero = True

    class datamodule:
        @staticmethod
        def measurement_batches(count, split="train", batch_size=512):
            return DATA


def test_an_eigenvalue_that_is_not_known_is_marked_and_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(spectrum, "RESTARTS", 1)
    model = Diagonal((1.0 + np.linspace(0.0, 1e-3, 3000)).tolist())
    with caplog.at_level(logging.WARNING):
        found = lambda_max(model, Mean(), DATA, tolerance=1e-12)
    assert not found.converged
    assert "has not converged" in caplog.text
    measures = Measures(measures=["lambda_max"], images=4, tolerance=1e-12)
    measures.on_train_end(Trainer, Module(model))
    assert measures.results["sharpness/lambda_max_converged"] == 0.0


def test_blocks_report_the_share_that_has_converged():
    blocks = HessianBlocks(images=4)
    blocks.on_train_end(Trainer, Module(OneBlock(Diagonal([1.0, 2.0]))))
    assert blocks.results["blocks_converged"] == 1.0
    assert blocks.results["blocks/last"] == pytest.approx(2.0)
