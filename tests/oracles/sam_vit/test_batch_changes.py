"""Attacks, augmentation and the contrastive loss against what is known in closed form."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import nn

from curvature.data.augment import CropAndFlip
from curvature.errors import ConfigError
from curvature.training.adversarial import ProjectedGradient
from curvature.training.batches import drawn_from

EPS = 0.1


def linear_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 2)).double()


@pytest.mark.parametrize(("steps", "size"), [(1, 2 * EPS), (10, None)], ids=["FGSM", "PGD"])
def test_the_worst_case_of_a_linear_model_is_found(steps, size):
    """For two classes it is x - eps sign(w_y - w_other), cut off at the range of pixels."""
    model = linear_model()
    images, labels = torch.rand(6, 1, 3, 3).double() * 2 - 1, torch.tensor([0, 1, 0, 1, 1, 0])
    attacked = ProjectedGradient(EPS, steps, size)(model, nn.CrossEntropyLoss(), images, labels)
    weight = model[2].weight.detach()
    direction = (weight[labels] - weight[1 - labels]).sign().view_as(images)
    assert torch.equal(attacked, (images - EPS * direction).clamp(-1, 1))
    assert model.training and model[1].training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attacked_images_stay_in_the_ball_and_in_the_range():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(100, 3))
    images, labels = torch.rand(8, 1, 5, 5) * 2 - 1, torch.arange(8) % 3
    attacked = ProjectedGradient(EPS, 10)(network, nn.CrossEntropyLoss(), images, labels)
    assert (attacked - images).abs().max() <= EPS * (1 + 1e-5)
    assert attacked.abs().max() <= 1.0
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(network(x), labels).item() for x in (images, attacked)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize(("options", "key"), [({"eps": -1}, "eps"), ({"eps": 1, "steps": 0}, "steps")])
def test_impossible_attacks_are_refused(options, key):
    with pytest.raises(ConfigError, match=f"adversary.{key}"):
        ProjectedGradient(**options)


def test_draws_are_a_function_of_their_numbers_and_leave_no_trace():
    device = torch.device("cpu")

    def draw(*numbers):
        with drawn_from("test", *numbers, device=device):
            return torch.rand(3)

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = draw(0, 5, 0)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, draw(0, 5, 0))
    assert not torch.equal(first, draw(0, 5, 1)) and not torch.equal(first, draw(1, 5, 0))


def test_moves_of_one_pixel_uncover_the_background():
    image = torch.full((1, 1, 4, 4), 0.5)
    seeds = np.arange(90)
    moved = CropAndFlip(padding=1, flip=False, fill=-1.0)(image.expand(90, 1, 4, 4), seeds)
    uncovered = (moved == -1.0).sum((1, 2, 3))
    assert set(uncovered.tolist()) == {0, 4, 7}
    counts = [(uncovered == number).sum().item() for number in (0, 4, 7)]
    assert counts == [10, 40, 40]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_supervised_contrastive_loss_of_two_orthogonal_classes(temperature):
    """One positive at similarity 1 and two negatives at 0 for each anchor: log(1 + 2 exp(-1/T))."""
    features = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    loss = SupConLoss(temperature=temperature)(features, torch.tensor([0, 0, 1, 1]))
    assert loss.item() == pytest.approx(math.log1p(2 * math.exp(-1 / temperature)), rel=1e-6)
