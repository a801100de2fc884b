"""What is said of a part: its value beside its limit, never the difference under the value's name."""

import math

import pytest
from claims_support import claims_of, verdict_of

from curvature.claims.effects import effect_pieces, effect_text, part_text, shown

SWEPT = {"a": {"parameter": "lr", "values": [1.0, 10.0]}}


def part_of(decide, values, seeds=3, arms=None):
    arms = arms or {"a": []}
    claims = claims_of(decide, seeds=seeds, arms=arms)
    rows = {name: [{"m": value} for value in values[name]] for name in arms}
    return verdict_of(claims, rows).parts[0]


@pytest.mark.parametrize(
    ("decide", "values", "text"),
    [
        ({"at_most": 1e-12}, [2.94e-15, 1.75e-15, 2e-15], "2.94e-15 (at most 1e-12; 3 seeds: 1.75e-15 to 2.94e-15)"),
        ({"at_most": 0.05}, [0.0, 0.0, 0.0], "0 (at most 0.05; the same in 3 seeds)"),
        ({"at_most": -0.9}, [-1.0, -0.8, -1.0], "-0.8 (at most -0.9; 3 seeds: -1 to -0.8)"),
        ({"at_most": 1.0, "tolerance": 0.001}, [1.0005, 1.0, 1.0], "1 (at most 1.001; 3 seeds: 1 to 1)"),
        ({"at_most": 1.0, "tolerance": 0.001}, [1.0018, 1.0, 1.0], "1.002 (at most 1.001; 3 seeds: 1 to 1.002)"),
        ({"at_most": 1.0}, [0.5, math.nan, 0.6], "nan (at most 1; 3 seeds: 0.5 to nan)"),
        ({"at_most": 1.0}, [0.5], "0.5 (at most 1; 1 seed)"),
    ],
)
def test_a_bound_shows_its_worst_value_and_its_limit(decide, values, text):
    part = part_of({"kind": "bound", "value": "m@a"} | decide, {"a": values}, seeds=len(values))
    assert effect_text(part) == text
    assert part.threshold == (decide["at_most"] + decide.get("tolerance", 0.0),)


def test_a_bound_with_a_measured_limit_says_that_it_shows_the_difference():
    decide = {"kind": "bound", "value": "m@a", "at_most": "2 * m@b", "tolerance": 0.5}
    part = part_of(decide, {"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 2.0]}, arms={"a": [], "b": []})
    assert part.kind == "excess" and part.verdict == "reproduced"
    assert effect_text(part) == "value minus limit 0 (at most 0.5; 3 seeds: -1 to 0)"


def test_the_range_over_seeds_leaves_out_those_that_are_not_eligible():
    decide = {"kind": "bound", "value": "m@a", "at_most": 1.0, "where": "2.5 - m@a"}
    part = part_of(decide, {"a": [0.1, 0.2, 9.0, 0.3]}, seeds=4)
    assert effect_text(part) == "0.3 (at most 1; 3 seeds: 0.1 to 0.3)"


def test_a_search_shows_its_lead():
    decide = {"kind": "best", "metric": "m", "arm": "a", "value": 10.0}
    part = part_of(decide, {"a": [1.0, 1.0, 1.0, 3.5, 3.5, 3.5]}, arms=SWEPT)
    assert effect_text(part) == "2.5 (at least 0; 6 runs)"


def test_a_rule_without_an_interval_shows_what_it_asks_for():
    decide = {"kind": "not_below", "metric": "m", "better": "a", "worse": "b"}
    part = part_of(decide, {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]}, arms={"a": [], "b": []})
    assert effect_text(part) == "0 [-2.48, 2.48] (at least -0.577)"


def test_an_effect_shows_its_interval_and_a_part_its_role():
    decide = {"kind": "positive", "value": "m@a", "name": "x", "informative": True}
    deciding = {"kind": "positive", "value": "m@a"}
    rows = {"a": [{"m": value} for value in (1.0, 1.1, 1.2)]}
    part = verdict_of(claims_of(decide, deciding, seeds=3, arms={"a": []}), rows).parts[0]
    assert part_text(part) == "x: 1.1 [0.852, 1.35] (informative, reproduced)"
    assert effect_pieces(part) == ["1.1", "[0.852, 1.35]"], "no line breaks inside a piece"
    assert effect_text(part_of(deciding, {"a": []})) == "—"


def test_rounding_never_crosses_the_limit():
    assert shown(0.05004, 0.05) == "0.05004"
    assert shown(0.04996, 0.05) == "0.04996"
    assert shown(0.05, 0.05) == "0.05"
    assert shown(0.0312345, 0.05) == "0.0312"
