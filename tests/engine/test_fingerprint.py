"""The content address depends on what changes the result and on nothing else."""

import pytest
from omegaconf import OmegaConf

from curvature.fingerprint import CANNOT_CHANGE_RESULT, canonical, fingerprint

BASE = {"paper": "toy", "seed": 0, "lr": 0.1, "trainer": {"devices": 1, "precision": "32-true"}, "arm": "a"}


def address(**changes):
    return fingerprint(OmegaConf.create({**BASE, **changes}))


def test_is_64_hex_digits_and_stable_across_processes():
    assert address() == fingerprint(OmegaConf.create(dict(reversed(BASE.items()))))
    assert len(address()) == 64


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.2}, {"new": None}, {"trainer": {"precision": "bf16-mixed"}}])
def test_changes_with_what_changes_the_result(change):
    assert address(**change) != address()


@pytest.mark.parametrize(
    "change",
    [{"arm": "b"}, {"force": True}, {"tracking": {"uri": "x"}}, {"trainer": {"devices": 8, "precision": "32-true"}}],
)
def test_ignores_what_cannot_change_the_result(change):
    assert address(**change) == address()


def test_resolves_interpolations():
    assert address(lr="${seed}") == address(lr=0)


def test_list_of_ignored_keys_is_short():
    assert len(CANNOT_CHANGE_RESULT) <= 30


def test_config_is_left_alone():
    cfg = OmegaConf.create(BASE)
    canonical(cfg)
    assert cfg == OmegaConf.create(BASE)
