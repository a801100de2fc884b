"""The config groups of the SAM family make the optimisers that their names promise."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from curvature.errors import ConfigError
from curvature.optim import GSAM, SAM
from curvature.papers.sam_vit import SamViT

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["experiment=sam_vit", *overrides])


def built(*overrides):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return model, instantiate(composed(*overrides).optimizer)(model.named_parameters())


def steps(model, optimizer, count=3):
    inputs, labels = torch.ones(5, 3), torch.tensor([0, 1, 0, 1, 1])

    def closure():
        with optimizer.scope(model):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
        return loss

    return [float(optimizer.step(closure)) for _ in range(count)]


def test_asam_is_sam_in_units_of_the_weights():
    model, optimizer = built("optimizer=asam", "lr=0.1")
    assert type(optimizer) is SAM
    assert (optimizer.adaptive, optimizer.rho, optimizer.eta, optimizer.adaptive_scope) == (True, 0.5, 0.01, "weight")
    assert optimizer.max_grad_norm == 1.0 and isinstance(optimizer.base_optimizer, torch.optim.AdamW)
    losses = steps(model, optimizer)
    assert losses[-1] < losses[0]
    plain, other = built("optimizer=sam", "optimizer.rho=0.5", "lr=0.1")
    steps(plain, other)
    assert not torch.equal(plain[0].weight, model[0].weight)


def test_gsam_takes_its_peak_rate_from_the_config():
    model, optimizer = built("optimizer=gsam", "lr=0.1", "optimizer.rho_min=0.2")
    assert type(optimizer) is GSAM
    assert (optimizer.rho, optimizer.rho_min, optimizer.alpha, optimizer.lr_max) == (0.6, 0.2, 0.6, 0.1)
    assert optimizer.radius() == pytest.approx(0.6)
    optimizer.param_groups[0]["lr"] = 0.05
    assert optimizer.radius() == pytest.approx(0.4)
    losses = steps(model, optimizer)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("m", "processes", "works"),
    [
        (2, 4, True),
        (4, 4, True),
        (8, 4, True),
        (16, 4, True),
        (12, 4, False),
        (3, 4, False),
        (32, 4, False),
        (0, 1, False),
    ],
)
def test_m_divides_the_batch_of_a_device_or_is_that_of_equal_groups(m, processes, works):
    class Data:
        batch_size = 16
        num_classes = 2

        @staticmethod
        def measurement_batches(count, split, batch_size):
            return [(torch.zeros(count, 3), torch.zeros(count, dtype=torch.int64))]

    cfg = composed()
    module = SamViT(
        m=m,
        model=nn.Linear(3, 2),
        optimizer=instantiate(cfg.optimizer),
        schedule=instantiate(cfg.schedule),
        num_classes=2,
        max_steps=10,
    )
    if works:
        module.check_data(Data, processes)
    else:
        with pytest.raises(ConfigError, match=rf"module.m={m} .*{16 // processes}"):
            module.check_data(Data, processes)
