"""Score networks: which field is a gradient, equal parameters, Jacobians, and training that learns the score."""

import pytest
import torch

from curvature.errors import ConfigError
from curvature.samplers.gauge import asymmetry, reverse_flow
from curvature.samplers.score_nets import LearnedScore, ScoreNet, fit_score
from curvature.samplers.targets import GaussianMixture, ring

F64 = torch.float64


def learned(conservative, dim=3):
    torch.manual_seed(0)
    target = GaussianMixture(torch.randn(4, dim, dtype=F64), torch.full((dim,), 0.01, dtype=F64))
    return LearnedScore(target, ScoreNet(dim, 0.5, conservative, (16, 16)).double())


@pytest.mark.parametrize("t", [0.1, 1.0, 20.0])
def test_only_the_conservative_field_is_a_gradient_and_both_have_the_same_parameters(t):
    x = torch.randn(20, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    free, conservative = learned(False), learned(True)
    assert asymmetry(conservative, x, t).max() < 1e-13
    assert asymmetry(free, t * x, t).median() > 1e-4
    shapes = [[p.shape for p in field.net.parameters()] for field in (free, conservative)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("conservative", [False, True])
def test_jacobian_is_that_of_the_field(conservative):
    field = learned(conservative)
    x = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    value, jacobian = field.field_and_jacobian(x, 0.3)
    h = 1e-6 * torch.eye(3, dtype=F64)
    columns = [(field.field_and_jacobian(x + e, 0.3)[0] - field.field_and_jacobian(x - e, 0.3)[0]) / 2e-6 for e in h]
    torch.testing.assert_close(jacobian, torch.stack(columns, 2), rtol=1e-6, atol=1e-6)
    assert not value.requires_grad and not jacobian.requires_grad


@pytest.mark.parametrize("conservative", [False, True])
def test_training_learns_the_score_and_its_flow_samples(conservative):
    target = ring(5, 1.0, 0.3)
    generator = torch.Generator().manual_seed(0)
    remainders = []
    for steps in (1, 400):
        field = fit_score(target, conservative, 0, 5.0, 0.2, steps)
        x = target.noised(1.0, 0.5).sample(300, generator)
        exact = target.score(x, 1.0, 0.5)
        error = field.field_and_jacobian(x, 0.5)[0] - exact
        remainders.append(float(error.square().sum() / exact.square().sum()))
    assert remainders[1] < 0.6 * remainders[0]
    flow = reverse_flow(field, target.noised(1.0, 5.0).sample(200, generator), 5.0, 0.2, 30)
    assert abs(float(flow.samples.square().sum(1).mean()) - 1.26) < 0.2
    again = fit_score(target, conservative, 0, 5.0, 0.2, 3)
    twin = fit_score(target, conservative, 0, 5.0, 0.2, 3)
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), twin.net.parameters()))


def test_bad_arguments():
    with pytest.raises(ConfigError, match="variance"):
        ScoreNet(2, 0.0)
