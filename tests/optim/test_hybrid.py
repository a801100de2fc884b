"""Optimisers joined into one behave as they do apart."""

from functools import partial

import pytest
import torch
from timm.optim.lamb import Lamb

from curvature.errors import ConfigError
from curvature.models.heads import GrassmannHead
from curvature.optim.hybrid import Hybrid
from curvature.optim.riemannian_sgd import RiemannianSGD
from curvature.optim.schedules import warmup_cosine

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
ADAMW = partial(torch.optim.AdamW, lr=0.01)
LAMB = partial(Lamb, lr=0.01, weight_decay=0.1, max_grad_norm=1.0)
RSGD = partial(RiemannianSGD, lr=0.3)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), GrassmannHead(8, 3, subspace_dim=2))


def train(model, optimizers, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 5, generator=generator)
        labels = torch.randint(0, 3, (16,), generator=generator)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("default", [SGD, ADAMW, LAMB], ids=["sgd", "adamw", "lamb"])
def test_equals_its_parts(default):
    joined, apart = network(), network()
    train(joined, [Hybrid(joined.named_parameters(), default, {"subspaces": RSGD})], 6)
    train(apart, [RSGD([apart[2].subspaces]), default(apart[0].parameters())], 6)
    for a, b in zip(joined.parameters(), apart.parameters(), strict=True):
        assert torch.equal(a, b)


def test_subspaces_are_never_decayed():
    model = network()
    groups = Hybrid(model.named_parameters(), SGD, {"subspaces": RSGD}).param_groups
    (group,) = [group for group in groups if any(p is model[2].subspaces for p in group["params"])]
    assert "weight_decay" not in group


def test_one_schedule_drives_every_part():
    model = network()
    optimizer = Hybrid(model.named_parameters(), SGD, {"subspaces": RSGD})
    schedule = warmup_cosine(optimizer, max_steps=100, warmup_steps=10)
    for _ in range(55):
        optimizer.step()
        schedule.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == pytest.approx([0.15, 0.05])


@pytest.mark.parametrize("default", [SGD, ADAMW, LAMB], ids=["sgd", "adamw", "lamb"])
def test_resume_is_bitwise(default):
    straight = network()
    train(straight, [Hybrid(straight.named_parameters(), default, {"subspaces": RSGD})], 9)
    first = network()
    optimizer = Hybrid(first.named_parameters(), default, {"subspaces": RSGD})
    train(first, [optimizer], 4)
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = Hybrid(second.named_parameters(), default, {"subspaces": RSGD})
    resumed.load_state_dict(optimizer.state_dict())
    train(second, [resumed], 5, start=4)
    for a, b in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rule_without_parameters_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.special"):
        Hybrid(network().named_parameters(), SGD, {"subspace_typo": RSGD})
    with pytest.raises(ConfigError, match="name"):
        Hybrid(network().parameters(), SGD, {"subspaces": RSGD})
