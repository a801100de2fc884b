"""The facts of :mod:`curvature.alignment.facts` for heads on pictures instead of random features."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from curvature.alignment.domain import Domain
from curvature.alignment.facts import estimator_facts, identity_facts, moment_facts, transfer_facts
from curvature.data.domains import DomainDataModule
from curvature.models.mlp import HeadedNetwork


class PictureFacts:
    """All facts, with the first two training environments as domains; a call takes a seed and returns metrics by name.

    Features are the leading principal components of both environments' pictures together, each with variance one.
    The transfer measure uses three of them, of all pictures; heads have standard normal parameters on all of them, of
    60 and 45 pictures that the seed chooses, with the pictures' labels where there are two classes.

    Args:
        data: environments, not yet set up.
        features: number of components, at least 3.
    """

    def __init__(self, data: DomainDataModule, features: int = 12) -> None:
        data.setup()
        batches = [split.examples(np.arange(len(split))) for split in data.training[:2]]
        pictures = [inputs.flatten(1).double() for inputs, _ in batches]
        everything = torch.cat(pictures)
        mean = everything.mean(0)
        _, scales, components = torch.linalg.svd(everything - mean, full_matrices=False)
        basis = components[:features].mT / scales[:features] * len(everything) ** 0.5
        self.features = [(part - mean) @ basis for part in pictures]
        self.labels = [labels for _, labels in batches]

    def __call__(self, seed: int) -> dict[str, float]:
        found = transfer_facts(seed, self._inputs)
        for facts in (moment_facts, identity_facts, estimator_facts):
            found |= facts(seed, self._heads)
        return found

    def _inputs(self, generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        source, target = (features[:, :3].numpy() for features in self.features)
        return source, target

    def _heads(self, classes: int, seed: int) -> tuple[HeadedNetwork, list[Domain]]:
        generator = torch.Generator().manual_seed(seed)
        width = self.features[0].shape[1]
        network = HeadedNetwork(nn.Identity(), nn.Linear, width, classes).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        domains = []
        for features, labels, size in zip(self.features, self.labels, (60, 45)):
            rows = torch.randperm(len(features), generator=generator)[:size]
            drawn = torch.randint(0, max(classes, 2), (size,), generator=generator)
            domains.append(Domain(features[rows], network.head(features[rows]), labels[rows] if classes < 3 else drawn))
        return network, domains
