"""The targets for the cost of a SAM step, through the benchmark's own code."""

import os
import sys

import pytest


@pytest.fixture(scope="module")
def sam_step(load_benchmark):
    return load_benchmark("sam_step")


def assert_within(sam_step, size, most, repetitions, attempts=3):
    """A busy machine may spoil a measurement, so one of a few has to meet the target."""
    for _ in range(attempts):
        result = sam_step.measure(size, repetitions)
        ours, peer = result["arms"][sam_step.OURS], result["arms"].get(sam_step.PEER)
        if ours["ratio"] <= most and (peer is None or ours["own_ms"] <= peer["own_ms"]):
            break
    assert ours["ratio"] <= most
    if peer is None:
        reason = f"no comparison: {result['unavailable'][sam_step.PEER]}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    assert ours["own_ms"] <= peer["own_ms"]


def test_desk_step(sam_step):
    assert_within(sam_step, "desk", most=2.3, repetitions=40)


@pytest.mark.slow
def test_lab_step(sam_step):
    assert_within(sam_step, "lab", most=2.1, repetitions=5)


def test_an_arm_that_cannot_be_imported_is_reported(sam_step, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    result = sam_step.measure("desk", 2)
    assert "pytorch_optimizer" in result["unavailable"][sam_step.PEER]
    assert set(result["arms"]) == {sam_step.PLAIN, sam_step.FLOOR, sam_step.OURS}
