"""Engine, Lightning and tracking over a bare PyTorch loop and over a loop in the style of lightning-hydra-template.

    python benchmarks/engine_overhead.py [--repetitions N] [--desk-steps N] [--lab-repetitions N] [--lab-steps N]

All sides train the same model on the same batches with the same optimiser, schedule and thread count, in an order that
rotates. The engine's side includes the metrics of every tenth step, divergence checks and checkpoints. The template's
side is what that template generates: automatic optimisation, torchmetrics for loss and accuracy, ``self.log``, a
checkpoint an epoch, and Lightning's ``MLFlowLogger``. Progress bar, model summary and validation are off on all sides,
and start-up is not counted. Lab size is the ViT of the lab scale on as many tokens, of digits in place of photographs,
in batches of 16 instead of 128: what a loop costs a step does not depend on the batch, so that its share is an upper
one. ``first step`` is the wall time from the start of a fresh process to the end of the first training step.
"""

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import curvature  # noqa: F401  (before torchvision)

# isort: split
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from curvature.benchmark import Row, main, median_ratio

ROOT = Path(__file__).parents[1]
OVERRIDES = [
    "experiment=sam_vit",
    "optimizer=adamw",
    "trainer.limit_val_batches=0",
    "trainer.enable_progress_bar=false",
    "test=false",
    "callbacks.measures=null",
]
SIZES = {"desk": (), "lab": ("model=vit_lab", "model.patch_size=1", "data.batch_size=16")}
LIMIT = 1.25
FIRST = "first step at"
PEERS = {"bare": "bare PyTorch loop", "template": "loop of lightning-hydra-template's style"}


def parts(cfg: Any) -> tuple[pl.LightningModule, torch.optim.Optimizer, Any, Any]:
    """The module, its optimiser and schedule, and the loader of the batches."""
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    module = instantiate(cfg.module)
    optimizer = module.optimizer_factory(module.model.named_parameters())
    schedule = module.schedule_factory(optimizer, max_steps=cfg.max_steps)
    datamodule.stream(cfg.max_steps)
    return module, optimizer, schedule, datamodule.train_dataloader()


def bare_loop(cfg: Any) -> float:
    """Milliseconds per step of a plain training loop over the same parts."""
    module, optimizer, schedule, loader = parts(cfg)
    model, criterion = module.model.train(), module.criterion
    start = time.perf_counter()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        if cfg.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.max_grad_norm, foreach=True)
        optimizer.step()
        schedule.step()
    return 1000.0 * (time.perf_counter() - start) / cfg.max_steps


class TemplateModule(pl.LightningModule):
    """A classifier as that template writes it."""

    def __init__(self, model: torch.nn.Module, criterion: Any, optimizer: Any, schedule: Any, classes: int) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self._optimizer, self._schedule = optimizer, schedule
        self.train_loss = MeanMetric()
        self.train_acc = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, labels = batch
        logits = self.model(inputs)
        loss: torch.Tensor = self.criterion(logits, labels)
        self.train_loss(loss)
        self.train_acc(logits.argmax(1), labels)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        scheduler = {"scheduler": self._schedule, "interval": "step"}
        return {"optimizer": self._optimizer, "lr_scheduler": scheduler}


class Clock(pl.Callback):
    """Wall time from the first batch to the last."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds = time.perf_counter() - self.start


class FirstStep(pl.Callback):
    """Prints the time of day after the first step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            print(FIRST, time.time(), flush=True)


def template_loop(cfg: Any, *callbacks: pl.Callback) -> float:
    """Milliseconds per step of the template's loop over the same parts."""
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import MLFlowLogger

    module, optimizer, schedule, loader = parts(cfg)
    clock, folder = Clock(), Path(cfg.outputs) / f"template-{cfg.seed}"
    trainer = pl.Trainer(
        max_steps=cfg.max_steps,
        accelerator="cpu",
        gradient_clip_val=cfg.max_grad_norm,
        callbacks=[ModelCheckpoint(folder, save_last=True), clock, *callbacks],
        logger=MLFlowLogger("template", tracking_uri=f"sqlite:///{folder}.db", artifact_location=str(folder)),
        default_root_dir=folder,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    classes = cfg.module.num_classes
    trainer.fit(TemplateModule(module.model, module.criterion, optimizer, schedule, classes), loader)
    return 1000.0 * clock.seconds / cfg.max_steps


def engine(cfg: Any) -> float:
    """Milliseconds per step of the same training through the engine, tracking on."""
    from curvature.engine import run

    return run(cfg).metrics["time/step_ms"]


SIDES: dict[str, Callable[[Any], float]] = {"engine": engine, "bare": bare_loop, "template": template_loop}


def compare(
    repetitions: int, overrides: tuple[str, ...], sides: tuple[str, ...] = ("engine", "bare")
) -> dict[str, Any]:
    """Milliseconds per step of each side by round, in rotating order; the round before the first does not count."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as outputs, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for seed in range(repetitions + 1):
            cfg = compose("config", overrides=[*OVERRIDES, *overrides, f"outputs={outputs}", f"seed={seed}"])
            shift = seed % len(sides)
            for side in sides[shift:] + sides[:shift]:
                times[side].append(SIDES[side](cfg))
    return {side: found[1:] for side, found in times.items()}


def begin(side: str) -> None:
    """One training step of the engine or the template at desk size, which prints when it was done."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    overrides = [*OVERRIDES, "max_steps=1", "tracking.finish_seconds=0"]
    if side == "engine":
        overrides.append(f"+callbacks.first._target_={__name__}.FirstStep")
    with tempfile.TemporaryDirectory() as outputs, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, f"outputs={outputs}"])
        if side == "engine":
            engine(cfg)
        else:
            template_loop(cfg, FirstStep())


def seconds_to_first_step(side: str) -> float:
    """Wall time from the start of a process to the end of its first training step."""
    code = f"from {Path(__file__).stem} import begin; begin({side!r})"
    start = time.time()
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(FIRST))
    return float(line.removeprefix(FIRST)) - start


def measure(
    repetitions: int = 5, desk_steps: int = 600, lab_repetitions: int = 4, lab_steps: int = 12, starts: int = 3
) -> dict[str, Any]:
    """Milliseconds per step by size and side, and seconds to the first step.

    Args:
        repetitions: rounds at desk size, interleaved, after one that does not count.
        desk_steps: training steps of a round at desk size.
        lab_repetitions, lab_steps: the same at lab size.
        starts: fresh processes of each side.
    """
    for name in ("mlflow", "alembic", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    rounds = {"desk": (repetitions, desk_steps), "lab": (lab_repetitions, lab_steps)}
    steps = {
        size: compare(rounds[size][0], (f"max_steps={rounds[size][1]}", *overrides), tuple(SIDES))
        for size, overrides in SIZES.items()
    }
    first: dict[str, list[float]] = {"engine": [], "template": []}
    for index in range(starts):
        for side in sorted(first, reverse=index % 2 == 1):
            first[side].append(seconds_to_first_step(side))
    return {"steps": steps, "first_step_s": first}


def rows(result: dict[str, Any]) -> list[Row]:
    """The engine's step over the step of each other loop."""
    found = [
        Row(
            f"engine with tracking, a step at {size} size",
            PEERS[side],
            median_ratio(times["engine"], theirs),
            LIMIT if side == "bare" and size == "desk" else None,
            f"{1000 / statistics.median(times['engine']):.3g} and {1000 / statistics.median(theirs):.3g} steps/s"
            + ("; batches of 16, of which a loop's cost is a larger share than of 128" if size == "lab" else ""),
        )
        for size, times in result["steps"].items()
        for side, theirs in times.items()
        if side != "engine"
    ]
    ours, theirs = result["first_step_s"]["engine"], result["first_step_s"]["template"]
    note = f"{statistics.median(ours):.1f} s, {statistics.median(theirs):.1f} s from the start of a process, desk size"
    return [*found, Row("engine with tracking, first step", PEERS["template"], median_ratio(ours, theirs), None, note)]


if __name__ == "__main__":
    main(__doc__, measure, rows)
