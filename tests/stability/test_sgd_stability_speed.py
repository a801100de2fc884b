"""Speed targets of batched replicas and of exact sharpness, through the benchmark's own code; ratios within one run."""

import pytest


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("sgd_stability")


def test_a_replica_step_costs_at_most_a_tenth_of_an_autograd_step(benchmark):
    results = benchmark.measure_steps(repetitions=5)
    assert len(results) == 2
    for name, measured in results.items():
        assert measured["ratio"] <= 0.1, name


def test_exact_sharpness_is_at_least_five_times_faster_than_a_hundred_probes(benchmark):
    measured = benchmark.measure_sharpness(repetitions=2)
    assert (measured["samples"], measured["parameters"]) == (300, 10_100)
    assert measured["exact_disagreement"] < 1e-10
    assert measured["speedup"] >= 5
    assert measured["estimate_relative_error"] > 1e-6
