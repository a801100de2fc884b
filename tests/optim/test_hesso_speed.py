"""A HESSO step costs little more than torch's SGD step on 5.9 million parameters, by the benchmark's own code."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "hesso.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("hesso_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_costs_little_more_than_torchs(benchmark, attempts=4):
    """Median ratios of interleaved steps; the best of several attempts, for a machine that is busy otherwise.

    The promise is 1.15 everywhere, which the benchmark judges. While slices shrink, 1.2 to 1.3 were measured on an idle
    AMD EPYC: reading and writing a tenth of the weights once more is most of it. This test guards that at 1.4, half of
    what the released code took.
    """
    limits = {"before": 1.15, "during": 1.4, "after": 1.15}
    best = dict.fromkeys(limits, float("inf"))
    for _ in range(attempts):
        found = benchmark.measure(rounds=25, bases="SGD")
        best = {arm: min(best[arm], found["bases"]["SGD"][arm]["ratio"]) for arm in limits}
        if all(best[arm] <= limits[arm] for arm in limits):
            break
    assert found["parameters"] == 5_912_490
    assert all(best[arm] <= limits[arm] for arm in limits), best
