"""Verdicts on fabricated runs: every kind of decision can be reproduced, contradicted and left open."""

import pytest
from claims_support import claims_of, verdict_of

GREATER = {"kind": "greater", "metric": "m", "better": "a", "worse": "b"}
NOISE = [0.01, -0.02, 0.03, 0.0, -0.01]


def metrics(values):
    return [{"m": value} for value in values]


def shifted(by):
    return {"a": metrics([1.0 + by + e for e in NOISE]), "b": metrics([1.0] * 5)}


@pytest.mark.parametrize(
    ("by", "expected"), [(0.5, "reproduced"), (-0.5, "contradicted"), (0.0, "inconclusive"), (0.01, "inconclusive")]
)
def test_greater(by, expected):
    found = verdict_of(claims_of(GREATER), shifted(by))
    assert found.verdict == expected
    (part,) = found.parts
    assert part.effect.value == pytest.approx(by + sum(NOISE) / 5)
    assert found.seeds == [0, 1, 2, 3, 4]
    assert found.run_ids["a-s3"] == "run-a/None/3"


def test_greater_is_paired_by_seed():
    """A tiny effect under a large seed effect is seen only if seeds are paired."""
    base = [0.0, 10.0, 20.0, 30.0, 40.0]
    values = {"a": metrics([b + 0.1 + e / 100 for b, e in zip(base, NOISE)]), "b": metrics(base)}
    assert verdict_of(claims_of(GREATER), values).verdict == "reproduced"


def test_margin_moves_the_threshold():
    assert verdict_of(claims_of(GREATER | {"margin": 0.4}), shifted(0.5)).verdict == "reproduced"
    assert verdict_of(claims_of(GREATER | {"margin": 0.6}), shifted(0.5)).verdict == "contradicted"


def test_ratio_is_a_geometric_mean():
    values = {"a": metrics([2.0, 8.0, 4.0]), "b": metrics([1.0, 1.0, 1.0])}
    (part,) = verdict_of(claims_of(GREATER | {"statistic": "ratio"}, seeds=3), values).parts
    assert part.effect.value == pytest.approx(4.0)
    assert part.threshold == (1.0,)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_are_inconclusive(seeds):
    values = {"a": metrics([9.0] * seeds), "b": metrics([1.0] * seeds)}
    assert verdict_of(claims_of(GREATER, seeds=seeds), values).verdict == "inconclusive"


def test_missing_runs_are_not_run():
    values = shifted(0.5)
    values["b"].pop()
    found = verdict_of(claims_of(GREATER), values)
    assert found.verdict == "not run"
    assert found.parts[0].detail == "9 of 10 runs finished"
    assert verdict_of(claims_of(GREATER), {}).verdict == "not run"


def test_missing_metric_is_not_testable():
    values = {"a": [{"other": 1.0}] * 5, "b": metrics([1.0] * 5)}
    found = verdict_of(claims_of(GREATER), values)
    assert found.verdict == "not testable"
    assert "m of arm a" in found.parts[0].detail


def test_nan_metric_is_never_a_success():
    values = shifted(0.5)
    values["a"][2] = {"m": float("nan")}
    assert verdict_of(claims_of(GREATER), values).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.9, 1.0, 0.8], "reproduced"), ([0.9, 1.1, 0.8], "contradicted"), ([0.9, float("nan"), 0.8], "contradicted")],
)
def test_bound_holds_in_every_run(values, expected):
    claims = claims_of({"kind": "bound", "value": "m@a", "at_most": 1.0}, seeds=3, arms={"a": []})
    assert verdict_of(claims, {"a": metrics(values)}).verdict == expected


def test_bound_skips_ineligible_runs_and_says_so():
    part = {"kind": "bound", "value": "m@a", "at_most": 1.0, "where": "ok@a"}
    claims = claims_of(part, seeds=4, arms={"a": []})
    rows = [{"m": 0.5, "ok": 1.0}, {"m": 9.0, "ok": 0.0}, {"m": 0.4, "ok": 1.0}, {"m": 0.3, "ok": 1.0}]
    found = verdict_of(claims, {"a": rows})
    assert found.verdict == "reproduced"
    assert found.parts[0].detail == "3 of 4 seeds eligible"
    assert verdict_of(claims, {"a": [row | {"ok": 0.0} for row in rows]}).verdict == "not testable"


def test_a_claim_whose_arms_do_not_meet_its_requirement_is_not_testable():
    claims = claims_of(GREATER, requires=["0.05 - loss@a", "0.05 - loss@b"])

    def judged(losses):
        values = shifted(0.5)
        values["a"] = [row | {"loss": 0.01} for row in values["a"]]
        values["b"] = [row | {"loss": loss} for row, loss in zip(values["b"], losses)]
        return verdict_of(claims, values)

    assert judged([0.01] * 5).verdict == "reproduced"
    for bad in (0.06, float("nan")):
        found = judged([0.01, 0.01, bad, 0.01, bad])
        assert found.verdict == "not testable"
        assert found.parts[0].detail == "requires 0.05 - loss@b > 0: not so with seed 2, 4"
    assert "loss of arm a" in verdict_of(claims, shifted(0.5)).parts[0].detail


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 1.01, 0.99], "reproduced"), ([2.0, 2.01, 1.99], "contradicted"), ([0.0, 1.0, 2.0], "inconclusive")],
)
def test_equal_is_an_equivalence_test(values, expected):
    part = {"kind": "equal", "value": "m@a", "target": 1.0, "tolerance": 0.1}
    assert verdict_of(claims_of(part, seeds=3, arms={"a": []}), {"a": metrics(values)}).verdict == expected


@pytest.mark.parametrize(("power", "expected"), [(-1.0, "reproduced"), (-0.5, "contradicted")])
def test_rate_is_a_log_log_slope(power, expected):
    arms = {"a": {"parameter": "k", "values": [1, 2, 4, 8]}}
    part = {"kind": "rate", "metric": "m", "arm": "a", "interval": [-1.2, -0.8]}
    rows = [{"m": 3 * k**power * (1 + 0.01 * e)} for k in (1, 2, 4, 8) for e in (-1, 0, 1)]
    found = verdict_of(claims_of(part, seeds=3, arms=arms), {"a": rows})
    assert found.verdict == expected
    assert found.parts[0].effect.value == pytest.approx(power, abs=0.01)


@pytest.mark.parametrize(("direction", "expected"), [("increasing", "reproduced"), ("decreasing", "contradicted")])
def test_monotone_has_a_direction(direction, expected):
    arms = {"a": {"parameter": "k", "values": [1, 2, 4, 8]}}
    part = {"kind": "monotone", "metric": "m", "arm": "a", "direction": direction}
    rows = [{"m": k + e} for k in (1, 2, 4, 8) for e in (0.0, 0.1)]
    assert verdict_of(claims_of(part, seeds=2, arms=arms), {"a": rows}).verdict == expected


@pytest.mark.parametrize(("value", "expected"), [(1.0, "reproduced"), (10.0, "contradicted"), (100.0, "contradicted")])
def test_best_restates_a_search_and_a_value_that_failed_is_not_chosen(value, expected):
    arms = {"a": {"parameter": "lr", "values": [1.0, 10.0, 100.0]}}
    part = {"kind": "best", "metric": "m", "arm": "a", "value": value}
    rows = metrics([3.0, 1.0, 2.5, 2.0, 2.0, 2.0, 9.0, float("nan"), 9.0])
    assert verdict_of(claims_of(part, seeds=3, arms=arms), {"a": rows}).verdict == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.2, 1.1, 0.9, 1.3], "reproduced"),
        ([0.9, 1.3, 0.6, 1.2, 0.9], "reproduced"),
        ([0.9, 1.0, 0.9, 1.0, 0.9], "contradicted"),
        ([0.9, float("nan"), 0.9, 1.0, 0.9], "inconclusive"),
    ],
)
def test_not_below_allows_one_standard_error(values, expected):
    part = {"kind": "not_below", "metric": "m", "better": "a", "worse": "b"}
    found = verdict_of(claims_of(part), {"a": metrics(values), "b": metrics([1.0] * 5)})
    assert found.verdict == expected


def test_tuned_compares_each_arm_at_the_value_its_own_search_chose():
    arms = {name: {"parameter": "lr", "values": [1.0, 10.0]} for name in "ab"}
    part = {"kind": "tuned", "metric": "m", "better": "a", "worse": "b", "search": 1}
    rows = {"a": [5.0, 1.0, 1.0, 1.0, 4.0, 9.0, 9.0, 9.0], "b": [3.0, 9.0, 9.0, 9.0, float("nan"), 9.0, 9.0, 9.0]}
    found = verdict_of(claims_of(part, seeds=4, arms=arms), {name: metrics(row) for name, row in rows.items()})
    assert found.verdict == "contradicted" and found.parts[0].effect.value == -8
    assert found.parts[0].detail == "a at 1, b at 1" and list(found.parts[0].values) == ["seed 1", "seed 2", "seed 3"]
    better = {name: metrics(row) for name, row in zip("ab", reversed(rows.values()))}
    assert verdict_of(claims_of(part, seeds=4, arms=arms), better).verdict == "reproduced"


def test_the_weakest_deciding_part_decides_and_informative_ones_do_not():
    holds, fails = GREATER, GREATER | {"better": "b", "worse": "a"}
    assert verdict_of(claims_of(holds, fails), shifted(0.5)).verdict == "contradicted"
    found = verdict_of(claims_of(holds, fails | {"informative": True}), shifted(0.5))
    assert found.verdict == "reproduced"
    assert found.parts[1].verdict == "contradicted"


def test_a_desk_verdict_never_poses_as_the_papers():
    assert "desk scale" in verdict_of(claims_of(GREATER), shifted(0.5)).caveat
    assert verdict_of(claims_of(GREATER), shifted(0.5), scale="paper").caveat == ""
