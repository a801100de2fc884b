"""A peer that cannot be imported is a row that says so; the rest of its table is measured all the same."""

import sys

import pytest


@pytest.fixture
def without(monkeypatch):
    """Makes modules fail to import."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def unavailable(rows):
    """Names of the other sides that could not run, whose notes say why."""
    missing = [row for row in rows if row.status == "unavailable"]
    assert all("Error" in row.note for row in missing)
    return {row.against for row in missing}


def test_hessian(load_benchmark, without):
    benchmark = load_benchmark("hessian")
    without("pyhessian", "hessian_eigenthings")
    benchmark.GOALS = (1e-3,)
    rows = benchmark.rows(benchmark.measure(repeats=1))
    assert unavailable(rows) == {benchmark.PYHESSIAN, benchmark.EIGENTHINGS}
    assert {row.against for row in rows if row.ratio} == {benchmark.LOOP, benchmark.CURVLINOPS}


def test_hessian_reaches_its_goals_and_shows_who_does_not(load_benchmark):
    benchmark = load_benchmark("hessian")
    result = benchmark.measure(repeats=1)
    assert not result["unavailable"]
    for goal, sides in result["lambda_max"].items():
        assert all(side["error"] <= float(goal) for side in sides.values())
    assert set(result["missed"]["1e-12"]) == {benchmark.PYHESSIAN}
    assert all(side["error"] < 3 * result["standard_error"] for side in result["trace"].values())


def test_grassmann_step(load_benchmark, without):
    benchmark = load_benchmark("grassmann_step")
    without("geoopt", "pymanopt.manifolds")
    result = benchmark.measure(classes=4, n=32, k=2, rounds=5)
    rows = benchmark.rows(result | {"apart": benchmark.measure_apart(n=32, k=2, classes=4)})
    assert unavailable(rows) == {benchmark.GEOOPT, benchmark.GEOOPT_CANONICAL, benchmark.PYMANOPT}
    assert {row.against for row in rows if row.memory} == {benchmark.SVD, benchmark.FLOOR}


def test_spd_batchnorm(load_benchmark, without):
    benchmark = load_benchmark("spd_batchnorm")
    without("spd_learn", "pyriemann.geometry.base", "ot.gaussian", "geoopt")
    rows = benchmark.rows(benchmark.measure_functions(size=4, batch=3, repetitions=1))
    assert unavailable(rows) == {benchmark.LIE, benchmark.MEAN_VAR, *benchmark.PEERS}
    assert {row.against for row in rows if row.ratio} == {benchmark.SINGLE, "the decompositions it needs"}


def test_sgd_stability(load_benchmark, without):
    benchmark = load_benchmark("sgd_stability")
    without("curvlinops")
    result = benchmark.measure_sharpness(repetitions=1)
    assert result["closed_form_ms"] > 0
    assert len(unavailable(benchmark.rows({"steps": {}, "sharpness": result}))) == 1


def test_policy_gradient(load_benchmark, without):
    benchmark = load_benchmark("policy_gradient")
    without("stable_baselines3")
    product = benchmark.measure_product(repetitions=1)
    assert product["ratio"] > 0 and not product["peers"] and "Error" in product["unavailable"]
    sampling = benchmark.measure_sampling(repetitions=1)
    assert set(sampling["ratios"]) == {benchmark.LOOP} and "Error" in sampling["unavailable"]


def test_head_of_hessian_alignment(load_benchmark, without):
    benchmark = load_benchmark("hessian_alignment")
    without("backpack")
    found = benchmark.head_ratios(16, 8, 3, repeats=1)
    assert set(found["ratios"]) == {benchmark.DOUBLE} and "Error" in found["unavailable"]


def test_cutting_of_hesso(load_benchmark, without):
    benchmark = load_benchmark("hesso")
    without("torch_pruning")
    assert "Error" in benchmark._cutting(1)["unavailable"]


def test_a_loop_selects_what_selection_from_a_table_does(load_benchmark):
    assert load_benchmark("hessian_alignment").selection_ratios(1)["checkpoints"] == 54_000


def test_diffusion_gauge_checks_its_peers(load_benchmark):
    benchmark = load_benchmark("diffusion_gauge")
    rows = benchmark.rows(benchmark.measure(points=3, repeats=1))
    assert not unavailable(rows) and len(rows) == 13
