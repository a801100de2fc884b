"""Closed forms of m-sharpness (sheet sam_vit, oracle 7)."""

from functools import partial

import pytest
import torch
from torch import nn

from curvature.optim import SAM

RHO = 0.2


def regression(count=6, features=4):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, features, generator=generator, dtype=torch.float64)
    targets = torch.randn(count, generator=generator, dtype=torch.float64)
    return inputs, targets, nn.Parameter(torch.randn(features, generator=generator, dtype=torch.float64))


def direction(step):
    """The gradient that reaches the base optimiser: minus the move of SGD with learning rate 1."""
    inputs, targets, w = regression()
    start = w.detach().clone()
    optimizer = SAM([w], partial(torch.optim.SGD, lr=1.0), rho=RHO)

    def closure(rows):
        def evaluate():
            loss = 0.5 * (inputs[rows] @ w - targets[rows]).square().mean()
            loss.backward()
            return loss

        return evaluate

    loss = step(optimizer, closure)
    whole = 0.5 * (inputs @ start - targets).square().mean()
    torch.testing.assert_close(loss.detach(), whole, atol=1e-10, rtol=0)
    return start - w.detach()


def by_hand(chunks):
    """sum_c (m_c / B) grad L_c(w + rho g_c / ||g_c||), written out for the squared loss."""
    inputs, targets, w = regression()
    total = torch.zeros_like(w)
    for rows in chunks:
        x, y = inputs[rows], targets[rows]
        gradient = x.T @ (x @ w - y) / len(x)
        total += len(x) / len(inputs) * x.T @ (x @ (w + RHO * gradient / gradient.norm()) - y) / len(x)
    return total.detach()


def test_single_examples_give_the_gradient_of_the_robust_squared_loss():
    inputs, targets, w = regression()
    residuals = (inputs @ w - targets).detach()
    lengths = inputs.norm(dim=1)
    expected = ((residuals + RHO * residuals.sign() * lengths)[:, None] * inputs).mean(0)
    robust = 0.5 * ((inputs @ w - targets).abs() + RHO * lengths).square().mean()
    torch.testing.assert_close(expected, torch.autograd.grad(robust, w)[0], atol=1e-10, rtol=0)
    found = direction(lambda optimizer, closure: optimizer.step([closure([i]) for i in range(6)]))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_chunks_of_m_average_the_steps_of_virtual_devices(m):
    chunks = [list(range(i, i + m)) for i in range(0, 6, m)]
    found = direction(lambda optimizer, closure: optimizer.step([closure(rows) for rows in chunks]))
    torch.testing.assert_close(found, by_hand(chunks), atol=1e-10, rtol=0)


def test_one_chunk_of_the_whole_batch_is_sam_bit_for_bit():
    whole = direction(lambda optimizer, closure: optimizer.step(closure(list(range(6)))))
    assert torch.equal(direction(lambda optimizer, closure: optimizer.step([closure(list(range(6)))])), whole)
    assert not torch.allclose(by_hand([[0, 1, 2], [3, 4, 5]]), whole, atol=1e-3)


def test_unequal_chunks_count_by_their_size():
    chunks = [[0, 1, 2, 3], [4, 5]]
    found = direction(lambda optimizer, closure: optimizer.step([closure(c) for c in chunks], weights=[4, 2]))
    torch.testing.assert_close(found, by_hand(chunks), atol=1e-10, rtol=0)


def test_one_closure_may_read_its_chunk_from_the_optimizer():
    chunks = [[0, 1, 2, 3], [4, 5]]

    def step(optimizer, closure):
        return optimizer.step(lambda: closure(chunks[optimizer.current_pass.chunk])(), weights=[4, 2])

    torch.testing.assert_close(direction(step), by_hand(chunks), atol=1e-10, rtol=0)
