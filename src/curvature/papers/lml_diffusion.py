"""Diffusion sampling with a second-order Levenberg-Marquardt-Langevin correction (Wang et al., ICCV 2025)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from curvature.errors import ConfigError
from curvature.samplers.features import FeatureNet, fit_features
from curvature.samplers.study import README_LAMBDAS, Arm, arms_of, compare, scheduler

CALIBRATION = 512
GRID = 64


class LMLDiffusion(pl.LightningModule):
    """Trains a noise predictor once, then samples with every arm from the same noise and compares them by FID.

    Training is the plain noise-prediction loss on the linear schedule of 1000 steps, with an exponential moving
    average of the weights that warms up as ``(1 + n) / (10 + n)``. Testing samples with the averaged weights; final
    metrics are ``fid/<arm>/nfe_<steps>`` on the features of a small classifier, against all images there are, and
    ``features/accuracy`` of that classifier on test images. Grids of samples are logged as ``samples/nfe_<steps>.png``.

    Args:
        model: maps (images (B, C, H, W), timesteps (B,)) to noise.
        optimizer: factory taking named parameters.
        schedule: factory taking the optimiser and ``max_steps``.
        max_steps: optimiser steps of the whole run.
        arms: see :func:`curvature.samplers.study.arms_of`.
        steps: numbers of model calls.
        samples: per arm and number of calls.
        seed: of the sampling noise.
        ema_decay: largest decay of the moving average.
        feature_steps: optimiser steps of the classifier.
        batch_size: samples drawn at a time.

    Raises:
        ConfigError: a number out of range, or arms that cannot be built.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        max_steps: int,
        arms: Mapping[str, Mapping[str, Any]],
        steps: Sequence[int],
        samples: int,
        seed: int,
        ema_decay: float = 0.999,
        feature_steps: int = 1500,
        batch_size: int = 2000,
    ) -> None:
        super().__init__()
        if not 0.0 <= ema_decay < 1.0:
            raise ConfigError("module.ema_decay", ema_decay, "a number in [0, 1)")
        if samples < 2 or not steps or min(steps) < 1:
            raise ConfigError("module.samples", samples, "at least 2, with module.steps of at least 1")
        self.model = model
        self.optimizer_factory, self.schedule_factory = optimizer, schedule
        self.max_steps, self.steps, self.samples, self.seed = max_steps, list(steps), samples, seed
        self.arms, self.feature_steps, self.batch_size = arms_of(arms), feature_steps, batch_size
        if any(arm.options.get("readme_lamb") for arm in self.arms.values()) and not set(steps) <= set(README_LAMBDAS):
            raise ConfigError("module.steps", list(steps), f"of {list(README_LAMBDAS)}, where readme_lamb is set")

        def average(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
            decay = min(ema_decay, (1 + int(count)) / (10 + int(count)))
            return torch.lerp(value, mean, decay)

        self.averaged = AveragedModel(model, avg_fn=average)
        self.averaged.requires_grad_(False)
        self.register_buffer("abar", scheduler(Arm("ddim"), 1, 1).alphas_cumprod.clone(), persistent=False)
        self.results: dict[str, float] = {}

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Raises ConfigError if optimiser or schedule cannot be built; arguments as for classifiers."""
        self.configure_optimizers()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.model.named_parameters())
        schedule = self.schedule_factory(optimizer, max_steps=self.max_steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(self.model, batch[0])
        if self.logger is not None and self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore
            self.logger.log_metrics({"train/loss": float(loss.detach())}, self.trainer.global_step)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.averaged.update_parameters(self.model)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            loss = self._loss(self.averaged, batch[0])
        self.log("val/loss", loss, logger=False, batch_size=len(batch[0]))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing an image at a time; see :meth:`on_test_epoch_end`."""

    def on_test_epoch_end(self) -> None:
        with torch.inference_mode(False):
            distance = self._distance()
        shape = self.trainer.datamodule.image_shape  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, *shape, generator=generator).to(self.device)
        calibration = torch.randn(min(CALIBRATION, self.samples), *shape, generator=generator).to(self.device)
        for count in self.steps:
            grids = {}
            for name, found in compare(self._predict, self.arms, count, noise, calibration):
                images = found.clamp(-1, 1)
                distance.reset()
                if images.isfinite().all():
                    distance.update(images, real=False)
                    self.results[f"fid/{name}/nfe_{count}"] = float(distance.compute())
                    self.results[f"variance/{name}/nfe_{count}"] = float(images.var(0).sum())
                self.results[f"finite/{name}/nfe_{count}"] = float(found.isfinite().float().mean())
                grids[name] = images[:GRID].cpu()
            if self.logger is not None:
                tracker = self.logger.experiment  # type: ignore[attr-defined]
                tracker.log_figure(_figure(grids, count), f"samples/nfe_{count}.png")

    @torch.no_grad()
    def _predict(self, x: Tensor, timestep: int) -> Tensor:
        parts = [
            self.averaged(part, torch.full((len(part),), timestep, device=part.device))
            for part in x.split(self.batch_size)
        ]
        return torch.cat(parts)

    def _loss(self, model: nn.Module, images: Tensor) -> Tensor:
        assert isinstance(self.abar, Tensor)
        timesteps = torch.randint(len(self.abar), (len(images),), device=images.device)
        noise = torch.randn_like(images)
        abar = self.abar[timesteps].view(-1, *[1] * (images.ndim - 1))
        return nn.functional.mse_loss(model(abar.sqrt() * images + (1 - abar).sqrt() * noise, timesteps), noise)

    def _distance(self) -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        splits = {}
        for name, split in datamodule.splits.items():
            batches = datamodule.measurement_batches(len(split), name)
            splits[name] = (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            net = FeatureNet(datamodule.image_shape, datamodule.num_classes)
            fit_features(net, *splits["train"], self.feature_steps)
        images, labels = splits["test"]
        self.results["features/accuracy"] = float((net.head(net(images)).argmax(1) == labels).float().mean())
        distance = FrechetInceptionDistance(net, reset_real_features=False).to(self.device)
        for images, _ in splits.values():
            for part in images.split(self.batch_size):
                distance.update(part.to(self.device), real=True)
        return distance


def _figure(grids: Mapping[str, Tensor], steps: int) -> Any:
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    figure = Figure(figsize=(3 * min(4, len(grids)), 3.2 * -(-len(grids) // 4)), layout="constrained")
    panels = figure.subplots(-(-len(grids) // 4), min(4, len(grids)), squeeze=False).flat
    for panel in panels:
        panel.axis("off")
    for panel, (name, images) in zip(figure.axes, grids.items()):
        panel.imshow(
            make_grid(images.nan_to_num(0.0), nrow=8, padding=1, normalize=True, value_range=(-1, 1)).permute(1, 2, 0)
        )
        panel.set_title(f"{name}, {steps} calls", fontsize="small")
    return figure
