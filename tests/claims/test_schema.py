"""Claims files: what is wrong is named by file, claim and field; expressions compute and never execute."""

import math
from pathlib import Path

import pytest
import yaml
from claims_support import PAPER

from curvature.claims.expression import Expression
from curvature.claims.files import claims_file
from curvature.claims.papers import experiments_with_claims
from curvature.claims.schema import ClaimsError, load

ROOT = Path(__file__).parents[2]


def content():
    claim = {
        "id": "C7",
        "statement": "s",
        "source": "x",
        "reported": {"text": "r"},
        "decide": {"kind": "greater", "metric": "m", "better": "a", "worse": "b"},
    }
    return {"paper": dict(PAPER), "seeds": [0, 1, 2], "arms": {"a": [], "b": []}, "claims": [claim]}


def written(tmp_path, change):
    value = content()
    change(value)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def test_a_whole_file_loads(tmp_path):
    claims = load(written(tmp_path, lambda value: None))
    assert [claim.id for claim in claims.select(["C7"])] == ["C7"]
    with pytest.raises(ClaimsError, match="C8"):
        claims.select(["C8"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v["claims"][0].pop("source"), ["claim C7.source"]),
        (lambda v: v["claims"][0].update(sauce="x"), ["claim C7.sauce", "did you mean", "source"]),
        (lambda v: v["claims"][0]["decide"].update(better="sam"), ["C7", "unknown arm 'sam'"]),
        (lambda v: v["claims"][0]["decide"].update(kind="bigger"), ["claim C7", "bigger"]),
        (lambda v: v["claims"][0].pop("decide"), ["claim C7", "not_runnable"]),
        (lambda v: v["claims"][0]["decide"].update(informative=True), ["claim C7", "not informative"]),
        (lambda v: v["claims"][0].update(requires=["m@c"]), ["claim C7", "'c'"]),
        (lambda v: v["claims"].append(dict(v["claims"][0])), ["claim ids repeat", "C7"]),
        (lambda v: v["arms"].update(idle=[]), ["idle"]),
        (lambda v: v["arms"].update(a={"parameter": "k"}), ["parameter and values"]),
        (
            lambda v: (
                v.update(arms={"a": {"parameter": "lr", "values": [1, 2]}}),
                v["claims"][0].update(decide={"kind": "best", "metric": "m", "arm": "a", "value": 3}),
            ),
            ["C7", "3 is not among the values"],
        ),
        (
            lambda v: (
                v.update(arms={a: {"parameter": "lr", "values": list(range(n))} for a, n in (("a", 2), ("b", 3))}),
                v["claims"][0].update(
                    decide={"kind": "tuned", "metric": "m", "better": "a", "worse": "b", "search": 1}
                ),
            ),
            ["C7", "as many values"],
        ),
        (
            lambda v: (
                v.update(seeds=[0, 1], arms={a: {"parameter": "lr", "values": [1, 2]} for a in "ab"}),
                v["claims"][0].update(
                    decide={"kind": "tuned", "metric": "m", "better": "a", "worse": "b", "search": 2}
                ),
            ),
            ["C7", "search=2 leaves none of 2 seeds"],
        ),
        (lambda v: v.update(seeds="many"), ["seeds"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, expected):
    path = written(tmp_path, change)
    with pytest.raises(ClaimsError) as error:
        load(path)
    for text in [str(path), *expected]:
        assert text in str(error.value)


def test_unsafe_yaml_is_not_executed(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(f"paper: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    with pytest.raises(ClaimsError, match="not YAML"):
        load(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"", b"[1, 2]", b"claims: 3", b"paper: {title", b"claims: [3, {id: [1]}]"], ids=repr
)
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "claims.yaml"
    path.write_bytes(content)
    with pytest.raises(ClaimsError) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_claims_file_that_is_a_directory_is_named(tmp_path):
    with pytest.raises(ClaimsError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("experiment", experiments_with_claims())
def test_committed_claims_files_follow_the_schema(experiment):
    scale, _, paper = experiment.rpartition("/")
    claims = load(claims_file(ROOT / "experiments", paper, scale or "desk"))
    assert claims.claims
    assert len(claims.seeds) >= 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * x/y@a - z@b-c ** 2", 2 * 3.0 - 25.0),
        ("log(x/y@a)", math.log(3.0)),
        ("-abs(z@b-c) / 4", -1.25),
        ("1.5", 1.5),
    ],
)
def test_expressions_compute(text, value):
    assert Expression(text)({"a": {"x/y": 3.0}, "b-c": {"z": 5.0}}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "x@a.real.conjugate()", "x@a if 1 else 2", "open(x@a)", "m", "[1]"]
)
def test_expressions_are_arithmetic_only(text):
    with pytest.raises(ValueError, match="arithmetic"):
        Expression(text)({"a": {"x": 1.0}, "a.real.conjugate": {"x": 1.0}})


def test_impossible_arithmetic_is_nan():
    assert math.isnan(Expression("1 / x@a")({"a": {"x": 0.0}}))
    assert math.isnan(Expression("log(x@a)")({"a": {"x": -1.0}}))
