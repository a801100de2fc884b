"""A parameter under two names is one parameter to the optimiser."""

import pytest
import torch
from torch import nn

from curvature.optim import HESSO
from curvature.optim.hesso.layout import GroupLayout
from curvature.pruning import build_search_space


class Twice(nn.Module):
    """Two layers with one weight; their outputs are added."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
        self.right.weight = self.left.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head((self.left(x) + self.right(x.flip(1))).relu())


@pytest.fixture
def space():
    torch.manual_seed(0)
    model = Twice().double()
    space = build_search_space(model, torch.randn(2, 6, dtype=torch.float64))
    assert space.size == 8
    return space


def test_lengths_and_norms_count_it_once(space):
    layout, weight = GroupLayout(space), space.model.left.weight.detach()
    assert layout.lengths().tolist() == [6.0] * 8
    torch.testing.assert_close(layout.inner(layout.values(), layout.values()), weight.square().sum(1))


def shares_left(model, steps=4):
    """Sorted factors that the weights of the first layer have been multiplied with, after each step."""
    space = build_search_space(model, torch.randn(2, 6, dtype=torch.float64))
    weight = next(model.parameters())
    start, left = weight.detach().clone(), []
    optimizer = HESSO(space, lr=0.0, target_group_sparsity=0.5, pruning_steps=steps)
    for _ in range(steps):
        model(torch.randn(5, 6, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        left.append(sorted((weight.detach() / start)[:, 0].tolist()))
    return left


def test_it_shrinks_once_a_step(space):
    plain = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)).double()
    for tied, single in zip(shares_left(space.model), shares_left(plain), strict=True):
        assert tied == pytest.approx(single)
    assert single == [0.0] * 4 + [1.0] * 4
    assert space.model.right.weight is space.model.left.weight
