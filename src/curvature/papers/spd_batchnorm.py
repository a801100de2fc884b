"""Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry (Wang et al., CVPR 2025)."""

from typing import Any

import torch
from torch import Tensor, nn

from curvature.data.order import InOrder
from curvature.models.spdnet import GBWBatchNorm
from curvature.models.spdnet.facts import conditioning, facts
from curvature.training.classifier import Classifier

MEASURED_AT_ONCE = 500


class SPDBatchNorm(Classifier):
    """Classification of covariances; which batch norm is the model's business.

    During training ``train/folded`` is the share of samples that left the domain of the exponential map, where folding
    is silent. Results: its mean over the run as ``norm/folded``; distances of the learned metric and bias from the
    identity and the scale as ``norm/...``; conditioning of all training matrices as ``data/...``, where the examples
    are matrices.

    Args:
        facts_seed: also evaluate the statements of :mod:`curvature.models.spdnet.facts` with this seed; None does not.
        **options: see :class:`curvature.training.classifier.Classifier`.
    """

    folded: Tensor

    def __init__(self, facts_seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.facts_seed = facts_seed
        self.results: dict[str, float] = {}
        self.register_buffer("folded", torch.zeros((), dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        norms = self._norms()
        if norms:
            share = torch.stack([norm.folded for norm in norms]).mean()
            self.folded += share
            self.log_step({"train/folded": share})
        return loss

    @torch.no_grad()
    def on_train_end(self) -> None:
        norms = self._norms()
        if norms:
            self.results["norm/folded"] = float(self.folded) / self.max_steps
            for name in ("metric", "bias"):
                moved = [_from_identity(getattr(norm, name)) for norm in norms]
                self.results[f"norm/{name}_moved"] = max(moved)
            scales = [float(norm.scale) for norm in norms if norm.dispersion]
            if scales:
                self.results["norm/scale"] = min(scales)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        examples, _ = data.measurement_batches(1)[0]
        if examples.dim() == 4 and examples.shape[-1] == examples.shape[-2] and examples.dtype == torch.float64:
            train = data.splits["train"]
            batches = InOrder(len(train), MEASURED_AT_ONCE)
            self.results |= conditioning(train.examples(batch.indices)[0].flatten(0, 1) for batch in batches)
        if self.facts_seed is not None:
            self.results |= facts(self.facts_seed)

    def _norms(self) -> list[GBWBatchNorm]:
        return [layer for layer in self.model.modules() if isinstance(layer, GBWBatchNorm)]


def _from_identity(matrix: Tensor | nn.Parameter) -> float:
    return float(torch.linalg.matrix_norm(matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)))
