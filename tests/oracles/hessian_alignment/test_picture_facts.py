"""The facts hold for heads on pictures as they do for random features."""

import pytest
import torch

from curvature.alignment.pictures import PictureFacts
from curvature.data.colored_digits import ColoredDigits


@pytest.fixture(scope="module")
def facts():
    return PictureFacts(ColoredDigits(balance="as_described"), features=8)


def test_components_have_variance_one_and_are_uncorrelated(facts):
    features = torch.cat(facts.features)
    moments = features.mT @ features / len(features)
    torch.testing.assert_close(moments, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-9)


def test_closed_forms_and_identities_hold_on_pictures(facts):
    found = facts(0)
    for name, value in found.items():
        if name.startswith(("moments/", "identities/")) or name == "estimator/hgp":
            assert value < 1e-10, name
    assert 0 < found["transfer/limit"] <= found["transfer/bound"]
    assert found["estimator/slope"] == pytest.approx(-0.5, abs=0.05)
    assert facts(1)["transfer/limit"] != found["transfer/limit"]
