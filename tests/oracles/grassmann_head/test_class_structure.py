"""Class separation and intra-class variability against their definitions and at their corners (float64)."""

import math

import pytest
import torch
from torch.nn import functional as F

from curvature.geometry.class_structure import class_separation, intra_class_variability


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 5 + [1] * 9 + [2] * 3)
    return torch.randn(17, 6, dtype=torch.float64, generator=generator) + labels[:, None], labels


def test_separation_equals_the_double_loop(data):
    features, labels = data
    unit = F.normalize(features, dim=-1)
    within = total = 0.0
    for c in range(3):
        for d in range(3):
            distances = [1 - float(x @ y) for x in unit[labels == c] for y in unit[labels == d]]
            mean = sum(distances) / len(distances)
            total += mean / 9
            within += mean / 3 if c == d else 0.0
    assert class_separation(features, labels) == pytest.approx(1 - within / total, abs=1e-12)


def test_variability_equals_the_double_loop(data):
    features, labels = data
    unit = F.normalize(features, dim=-1)
    means = []
    for c in range(3):
        members = unit[labels == c]
        pairs = [(i, j) for i in range(len(members)) for j in range(len(members)) if i != j]
        means.append(sum(math.degrees(math.acos(float(members[i] @ members[j]))) for i, j in pairs) / len(pairs))
    assert intra_class_variability(features, labels) == pytest.approx(sum(means) / 3, abs=1e-9)


def test_collapsed_orthogonal_classes():
    labels = torch.arange(4).repeat(3)
    features = torch.eye(4, dtype=torch.float64)[labels] * 7.0
    assert class_separation(features, labels) == pytest.approx(1.0)
    assert intra_class_variability(features, labels) == pytest.approx(0.0, abs=1e-5)


def test_labels_that_say_nothing():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(6000, 5, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (6000,), generator=generator)
    assert abs(class_separation(features, labels)) < 0.01
    assert intra_class_variability(features, labels) == pytest.approx(90.0, abs=0.5)
