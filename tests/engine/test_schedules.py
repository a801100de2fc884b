"""Learning-rate schedules at their corners."""

import math

import pytest
import torch

from curvature.errors import ConfigError
from curvature.optim.schedules import constant, warmup_cosine, warmup_linear


def rates(schedule, steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, max_steps=steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_rises_linearly_peaks_and_reaches_half_at_mid_decay():
    seen = rates(warmup_cosine, 110, warmup_steps=10)
    assert seen[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert max(seen) == pytest.approx(2.0)
    assert seen[60] == pytest.approx(1.0)
    assert seen[-1] == pytest.approx(1.0 + math.cos(math.pi * 0.99))


def test_linear_ends_at_its_factor():
    seen = rates(warmup_linear, 101, warmup_steps=0, end_factor=0.01)
    assert seen[0] == pytest.approx(2.0)
    assert seen[50] == pytest.approx(2.0 * (1 - 0.99 * 50 / 101))


def test_constant():
    assert set(rates(constant, 5)) == {2.0}


@pytest.mark.parametrize("options", [{"warmup_fraction": 1.0}, {"warmup_fraction": -0.1}, {"warmup_steps": 10}])
def test_impossible_warmup_names_the_key(options):
    with pytest.raises(ConfigError, match=f"schedule.{next(iter(options))}"):
        rates(warmup_cosine, 10, **options)
