"""The time of a wrapped step over a plain one: what is compared, and on which images."""

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from curvature.callbacks import step_time
from curvature.callbacks.step_time import StepTime
from curvature.errors import ConfigError
from curvature.optim import SAM

BASE = partial(torch.optim.SGD, lr=0.1)


class Recorded(nn.Linear):
    """A linear model that notes the size of every batch it sees; copies share the notes."""

    def __init__(self):
        super().__init__(3, 2)
        self.seen = []

    def __deepcopy__(self, memo):
        twin = Recorded()
        twin.seen = self.seen
        return twin

    def forward(self, inputs):
        self.seen.append((len(inputs), torch.is_autocast_enabled("cpu")))
        return super().forward(inputs)


class Data:
    batch_size = 32

    @staticmethod
    def measurement_batches(count, split, batch_size):
        return [(torch.zeros(count, 3), torch.zeros(count, dtype=torch.int64))]


@contextmanager
def autocast():
    with torch.autocast("cpu", torch.bfloat16):
        yield


def ended(factory, m=None, world=1, repetitions=10, first=True):
    model = Recorded()
    module = SimpleNamespace(
        model=model, m=m, optimizer_factory=factory, criterion=nn.CrossEntropyLoss(), device=torch.device("cpu")
    )
    trainer = SimpleNamespace(
        datamodule=Data,
        world_size=world,
        is_global_zero=first,
        global_step=0,
        precision_plugin=SimpleNamespace(forward_context=autocast),
    )
    callback = StepTime(repetitions=repetitions)
    callback.on_train_start(trainer, module)
    trainer.global_step = 5
    callback.on_train_batch_end(trainer, module, None, None, 0)
    before = torch.get_rng_state()
    callback.on_train_end(trainer, module)
    assert torch.equal(torch.get_rng_state(), before)
    return callback.results, model.seen


def test_ratio_is_the_median_over_interleaved_pairs(monkeypatch):
    clock = iter([1.0, 9.0] * 2 + [1.0, 2.0, 1.0, 3.0, 2.0, 5.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(step_time, "_timed", lambda step: (step(), next(clock))[1])
    results, seen = ended(partial(SAM, base_optimizer=BASE, rho=0.1))
    assert results["time/sam_over_plain"] == 2.0
    assert results["time/step_ms"] > 0.0
    assert len(seen) == 10 * 3


@pytest.mark.parametrize(("m", "world", "size"), [(None, 1, 32), (None, 4, 8), (2, 4, 2), (16, 4, 8)])
def test_images_are_those_of_one_perturbation_in_the_precision_of_training(m, world, size):
    _, seen = ended(partial(SAM, base_optimizer=BASE, rho=0.1), m, world, repetitions=1)
    assert set(seen) == {(size, True)}


def test_every_process_takes_part():
    assert "time/sam_over_plain" in ended(partial(SAM, base_optimizer=BASE), repetitions=1, first=False)[0]


def test_plain_optimisers_have_no_ratio():
    results, seen = ended(BASE)
    assert set(results) == {"time/step_ms"} and not seen
    with pytest.raises(ConfigError, match="repetitions"):
        StepTime(repetitions=0)
