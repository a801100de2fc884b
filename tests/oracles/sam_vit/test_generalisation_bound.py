"""SAM's bound: by hand, and which way each quantity moves it."""

import math

import pytest

from curvature.errors import ConfigError
from curvature.hessian.bound import generalisation_bound

BASE = {"worst_loss": 0.5, "weight_norm": 30.0, "rho": 0.15, "parameters": 40_000, "examples": 300, "delta": 0.05}


def test_by_hand():
    n = 3
    found = generalisation_bound(2.0, weight_norm=3.0, rho=1.0, parameters=1, examples=n, delta=0.5)
    inside = math.log(1 + 9 * (1 + math.sqrt(math.log(n))) ** 2) + 4 * math.log(n / 0.5)
    assert found == pytest.approx(2.0 + math.sqrt(inside / 2), rel=1e-14)
    assert generalisation_bound(2.0, 0.0, 1.0, 1, 3, 0.5) == pytest.approx(2.0 + math.sqrt(2 * math.log(6)), rel=1e-14)


@pytest.mark.parametrize(
    ("name", "sign"),
    [("worst_loss", 1), ("weight_norm", 1), ("rho", -1), ("parameters", 1), ("examples", -1), ("delta", -1)],
)
def test_monotone_in_everything(name, sign):
    values = [generalisation_bound(**BASE | {name: type(BASE[name])(BASE[name] * f)}) for f in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=sign < 0) and len(set(values)) == 4


def test_it_is_vacuous_at_desk_scale():
    assert generalisation_bound(**BASE) > 10 * math.log(10)


@pytest.mark.parametrize(("key", "value"), [("rho", 0.0), ("parameters", 0), ("examples", 1), ("delta", 1.0)])
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        generalisation_bound(**BASE | {key: value})
