"""The targets for the cost of a step on class subspaces, through the benchmark's own code: ratios within one run."""

import pytest
import torch

from curvature.geometry import grassmann


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("grassmann_step")


def test_faster_than_the_svd_form_and_geoopt(benchmark, attempts=3):
    for _ in range(attempts):
        arms = benchmark.measure(classes=1000, n=384, k=8, rounds=10)["arms"]
        ratios = [arms[name]["ratio"] for name in (benchmark.SVD, benchmark.GEOOPT)]
        if min(ratios) >= 1.5:
            return
    pytest.fail(f"SVD form and geoopt take only {ratios} times as long")


def test_the_svd_form_is_the_same_update(benchmark):
    generator = torch.Generator().manual_seed(0)
    point = grassmann.random_point(20, 32, 4, generator=generator)
    gradient = 0.1 * torch.randn(20, 32, 4, generator=generator)
    ours, reference = benchmark._ours(point.clone(), gradient), benchmark._svd(point.clone(), gradient)
    for _ in range(7):
        ours()
        reference()
    mine = ours.__self__.param_groups[0]["params"][0].detach()
    moved = reference.state["point"]
    torch.testing.assert_close(mine @ mine.mT, moved @ moved.mT, atol=1e-5, rtol=0)
    assert (mine @ mine.mT - point @ point.mT).abs().max() > 0.01


def test_little_of_a_resnet50d_training_step(benchmark):
    share = benchmark.share_of_training_step(images=1, repetitions=1)
    assert share["flops"] < 0.05
    assert share["measured"] < 0.05
