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
    [{"arm": "b"}, {"force": True}, {"tracking": {"uri": "x"}}, {"trainer": {"devices": [3], "precision": "32-true"}}],
)
def test_ignores_what_cannot_change_the_result(change):
    assert address(**change) == address()


def test_the_number_of_processes_counts_where_there_is_more_than_one():
    def processes(devices, nodes):
        return address(trainer={"devices": devices, "num_nodes": nodes, "precision": "32-true"})

    assert processes(1, 1) == address(), "what one process has run keeps its address"
    assert len({processes(1, 1), processes(2, 1), processes(4, 1)}) == 3
    assert processes(4, 1) == processes(2, 2) == processes([0, 2, 4, 6], 1)


def test_address_of_a_committed_single_process_run_stays():
    """A literal, so that no change of the rules makes finished runs unknown by accident."""
    cfg = OmegaConf.create({**BASE, "module": {"m": None}, "trainer": {**BASE["trainer"], "num_nodes": 1}})
    assert fingerprint(cfg) == "9e47da9a1c09bf744d050d5fca3d3c21b5754af8904969f45a105b8e9e14aa9c"


def test_resolves_interpolations():
    assert address(lr="${seed}") == address(lr=0)


def test_list_of_ignored_keys_is_short():
    assert len(CANNOT_CHANGE_RESULT) <= 30


def test_config_is_left_alone():
    cfg = OmegaConf.create(BASE)
    canonical(cfg)
    assert cfg == OmegaConf.create(BASE)
