"""The second evaluation of a step leaves no trace in random generators and batch-norm statistics."""

from functools import partial

import pytest
import torch
from torch import nn

from curvature.optim import GSAM, SAM, frozen_batch_norm

SGD = partial(torch.optim.SGD, lr=0.1)


def noisy_problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))
    inputs, labels = torch.randn(20, 6), torch.randint(3, (20,))

    def closure(rows=slice(None)):
        loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
        loss.backward()
        return loss

    return model, closure


@pytest.mark.parametrize("make", [partial(SAM, rho=0.1), partial(GSAM, rho_max=0.1)])
@pytest.mark.parametrize("chunks", [1, 2])
def test_generators_end_as_after_one_evaluation(make, chunks):
    model, closure = noisy_problem()
    rows = [slice(i * 20 // chunks, (i + 1) * 20 // chunks) for i in range(chunks)]
    torch.manual_seed(7)
    for part in rows:
        closure(part)
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    make(model.parameters(), SGD).step([partial(closure, part) for part in rows])
    assert torch.equal(torch.get_rng_state(), expected)


def test_generators_are_replayed_even_if_the_second_evaluation_draws_more():
    model, closure = noisy_problem()
    optimizer, draws = SAM(model.parameters(), SGD), []

    def greedy():
        draws.append(torch.rand(()).item())
        if optimizer.current_pass.perturbed:
            torch.rand(100)
        return closure()

    torch.manual_seed(7)
    torch.rand(())
    closure()
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    optimizer.step(greedy)
    assert draws[0] == draws[1]
    assert torch.equal(torch.get_rng_state(), expected)


def test_replay_can_be_turned_off():
    model, _ = noisy_problem()
    draws = []

    def closure():
        draws.append(torch.rand(()).item())
        model[0](torch.ones(6)).sum().backward()

    SAM(model.parameters(), SGD, replay_rng=False).step(closure)
    assert draws[0] != draws[1]


class Normalised(nn.Module):
    """Every kind of batch normalisation in one network."""

    def __init__(self):
        super().__init__()
        from timm.layers import BatchNormAct2d

        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), BatchNormAct2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, momentum=None), nn.Linear(16, 3))
        self.fixed = nn.ModuleDict(
            {"batch": nn.BatchNorm1d(3), "instance": nn.InstanceNorm1d(3, track_running_stats=True)}
        )
        self.plain = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, inputs):
        outputs = self.fixed["batch"](self.head(self.features(inputs)))
        return self.plain(self.fixed["instance"](outputs[..., None])[..., 0])

    def train(self, mode=True):
        super().train(mode)
        self.fixed.eval()
        return self


def buffers(model):
    return {name: b.clone() for name, b in model.named_buffers()}


def test_frozen_batch_norm_normalises_by_the_batch_and_records_nothing():
    torch.manual_seed(0)
    model, inputs = Normalised().train(), torch.randn(12, 1, 6, 6)
    before = buffers(model)
    with frozen_batch_norm(model):
        frozen = model(inputs)
    torch.testing.assert_close(buffers(model), before, atol=0, rtol=0)
    assert torch.equal(model(inputs), frozen)
    after = buffers(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("fixed")}
    with pytest.raises(ZeroDivisionError), frozen_batch_norm(model):
        raise ZeroDivisionError
    assert model.head[1].track_running_stats
    assert not model.plain.track_running_stats


@pytest.mark.parametrize("chunks", [1, 2])
def test_scope_records_statistics_at_w_only(chunks):
    torch.manual_seed(0)
    model, inputs = Normalised().train(), torch.randn(12, 1, 6, 6)
    rows = torch.arange(12).chunk(chunks)
    expected = Normalised().train()
    expected.load_state_dict(model.state_dict())
    for part in rows:
        expected(inputs[part])

    optimizer = SAM(model.parameters(), SGD, rho=0.5)

    def closure():
        with optimizer.scope(model):
            loss = model(inputs[rows[optimizer.current_pass.chunk]]).square().mean()
            loss.backward()
        return loss

    optimizer.step(closure, weights=[1.0] * chunks)
    torch.testing.assert_close(buffers(model), buffers(expected), atol=0, rtol=0)
    with optimizer.scope(model):
        model(inputs)
    assert model.features[1].num_batches_tracked == chunks + 1
