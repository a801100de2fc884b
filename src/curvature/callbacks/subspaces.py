"""Health and geometry of the class subspaces of a :class:`curvature.models.heads.GrassmannHead`."""

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.geometry import grassmann
from curvature.models.heads import GrassmannHead

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SubspaceHealth(pl.Callback):
    """Largest departure from orthonormality after any step, and the largest angle a class turned by in one step.

    ``results`` holds ``subspaces/drift``, max |S^T S - I|, and ``subspaces/turn`` in radians: the length of the
    geodesic, learning rate times the largest singular value of the direction, which overshoots beyond pi/2; for
    optimisers without geodesics the largest principal angle, at most pi/2. Models without a Grassmann head give no
    results.

    Args:
        every_n_steps: how often to look.

    Raises:
        ConfigError: ``every_n_steps`` below 1.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ConfigError("callbacks.health.every_n_steps", every_n_steps, "an integer >= 1")
        self.every_n_steps = every_n_steps
        self.results: dict[str, float] = {}
        self._before: Tensor | None = None
        self._lr = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        head = grassmann_head(pl_module)
        if head is not None and (trainer.global_step + 1) % self.every_n_steps == 0:
            self._before = head.subspaces.detach().clone()
            # The schedule moves on before the batch ends.
            self._lr = float((_riemannian(trainer, head) or {"lr": 0.0})["lr"])

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        head = grassmann_head(pl_module)
        if head is None or self._before is None:
            return
        now = head.subspaces.detach()
        eye = torch.eye(now.shape[-1], dtype=now.dtype, device=now.device)
        group = _riemannian(trainer, head)
        if group is None:
            turn = grassmann.principal_angles(self._before, now).max()
        else:
            direction = trainer.optimizers[0].state[head.subspaces]["momentum_buffer"]
            if group["transport"] == "raw":
                direction = grassmann.project(self._before, direction)
            turn = self._lr * grassmann.speeds(direction).max()
        found = {"subspaces/drift": (now.mT @ now - eye).abs().max(), "subspaces/turn": turn}
        for name, value in found.items():
            self.results[name] = max(self.results.get(name, 0.0), float(value))
        self._before = None

    def state_dict(self) -> dict[str, Any]:
        return dict(self.results)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results.update(state_dict)


class PrincipalAngles(pl.Callback):
    """Principal angles between the subspaces of every two classes, at the end of training, as numbers and a heat map.

    ``results`` holds, for the smallest, the fourth (or the last of fewer) and the largest angle, the mean and standard
    deviation over pairs in degrees (``angles/<which>_mean``, ``_std``), the standard deviation of the smallest angle
    before training (``angles/smallest_std_start``) and the share of pairs whose largest angle exceeds 80 degrees
    (``angles/largest_above_80``). The heat map is logged as ``plots/principal_angles.png``.

    Args:
        classes: at most so many classes, the first ones.

    Raises:
        ConfigError: fewer than two ``classes``.
    """

    def __init__(self, classes: int = 100) -> None:
        if classes < 2:
            raise ConfigError("callbacks.angles.classes", classes, "an integer >= 2")
        self.classes = classes
        self.results: dict[str, float] = {}
        self._start: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        head = grassmann_head(pl_module)
        if head is not None and self._start is None:
            self._start = float(pairwise_angles(head.subspaces[: self.classes])[_pairs(head, self.classes)][:, 0].std())

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = state_dict["start"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        head = grassmann_head(pl_module)
        if head is None or not trainer.is_global_zero:
            return
        table = pairwise_angles(head.subspaces[: self.classes])
        angles = table[_pairs(head, self.classes)]
        for name, index in _chosen(angles.shape[-1]).items():
            self.results[f"angles/{name}_mean"] = float(angles[:, index].mean())
            self.results[f"angles/{name}_std"] = float(angles[:, index].std())
        self.results["angles/smallest_std_start"] = self._start or 0.0
        self.results["angles/largest_above_80"] = float((angles[:, -1] > 80.0).double().mean())
        if trainer.logger is not None:
            tracker: Any = trainer.logger.experiment  # type: ignore[attr-defined]
            tracker.log_figure(angles_figure(table), "plots/principal_angles.png")


def _riemannian(trainer: pl.Trainer, head: GrassmannHead) -> dict[str, Any] | None:
    """The group of Riemannian SGD that trains the subspaces, if they are."""
    groups = trainer.optimizers[0].param_groups if trainer.optimizers and head.subspaces.requires_grad else []
    return next((g for g in groups if "transport" in g and any(p is head.subspaces for p in g["params"])), None)


def grassmann_head(pl_module: Any) -> GrassmannHead | None:
    """The Grassmann head of ``pl_module.model``, or None."""
    return next((part for part in pl_module.model.modules() if isinstance(part, GrassmannHead)), None)


@torch.no_grad()
def pairwise_angles(subspaces: Tensor) -> Tensor:
    """Principal angles in degrees between all pairs of (C, n, k) subspaces, ascending: (C, C, k), in float64."""
    points = subspaces.detach().double().cpu()
    return torch.stack([torch.rad2deg(grassmann.principal_angles(point.expand_as(points), points)) for point in points])


def angles_figure(table: Tensor) -> "Figure":
    """Heat maps of the smallest, the fourth and the largest of (C, C, k) angles in degrees; the diagonal is blank."""
    from matplotlib.figure import Figure

    chosen = _chosen(table.shape[-1])
    figure = Figure(figsize=(4.2 * len(chosen), 3.8), layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for panel, (name, index) in zip(panels, chosen.items(), strict=True):
        values = table[..., index].clone().fill_diagonal_(torch.nan)
        image = panel.imshow(values.numpy(), cmap="viridis")
        panel.set(title=f"{name} principal angle", xlabel="class", ylabel="class")
        figure.colorbar(image, ax=panel, label="degrees", shrink=0.8)
    return figure


def _chosen(k: int) -> dict[str, int]:
    return {"smallest": 0, "fourth": min(3, k - 1), "largest": k - 1}


def _pairs(head: GrassmannHead, classes: int) -> tuple[Tensor, Tensor]:
    count = min(classes, head.num_classes)
    rows, columns = torch.triu_indices(count, count, offset=1)
    return rows, columns
