"""Stop a run whose loss is no longer a number."""

from typing import Any

import pytorch_lightning as pl
import torch

from curvature.errors import CurvatureError


class Diverged(CurvatureError):
    """A loss or a weight became NaN or infinite.

    Args:
        step: the optimiser step (counted from 1) where this was seen.
        what: what is not finite.
    """

    def __init__(self, step: int, what: str = "the training loss") -> None:
        self.step, self.what = step, what
        super().__init__(f"{what} at step {step} is not finite; checkpoints taken before are kept")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.what)


def check_weights(module: torch.nn.Module, step: int) -> None:
    """Raises :class:`Diverged` if a parameter of ``module`` holds NaN or infinity; one look at the device."""
    parameters = [p.detach() for p in module.parameters() if p.numel() and p.is_floating_point()]
    if parameters and not torch.isfinite(torch.stack([p.sum(dtype=torch.float64) for p in parameters])).all():
        raise Diverged(step, "a weight")


class StopOnDivergence(pl.Callback):
    """Raises :class:`Diverged` when a training loss was NaN or infinite, or the final weights are.

    The first bad step is tracked on the loss's device; the host looks every ``check_every_n_steps`` steps and, through
    :meth:`check`, before each checkpoint, so that no checkpoint is ever taken after a bad step.

    Args:
        check_every_n_steps: at least 1; on the CPU every step is checked, where looking costs nothing.
    """

    def __init__(self, check_every_n_steps: int = 50) -> None:
        self.check_every_n_steps = check_every_n_steps
        self._first_bad: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        step = trainer.global_step
        if loss.device.type == "cpu":
            if not torch.isfinite(loss):
                raise Diverged(step)
            return
        bad = torch.where(torch.isfinite(loss), torch.inf, float(step))
        self._first_bad = bad if self._first_bad is None else torch.minimum(self._first_bad, bad)
        if step % self.check_every_n_steps == 0:
            self.check()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check()
        check_weights(pl_module, trainer.global_step)

    def check(self) -> None:
        """Look at what was tracked since the last look.

        Raises:
            Diverged: with the first bad step.
        """
        if self._first_bad is None:
            return
        first, self._first_bad = float(self._first_bad), None
        if first != float("inf"):
            raise Diverged(int(first))
