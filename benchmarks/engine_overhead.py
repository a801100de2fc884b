"""Engine, Lightning and tracking over a bare PyTorch loop: same model, same batches, same optimiser, same thread count.

    python benchmarks/engine_overhead.py [--json FILE] [--repetitions N]

Ratio of the wall time per training step, medians over interleaved repetitions in one process. The engine's side
includes metrics logging every 10 steps, the progress callback, divergence checks and checkpoints; validation is off on
both sides, start-up is not counted.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OVERRIDES = ["experiment=sam_vit", "trainer.limit_val_batches=0", "trainer.enable_progress_bar=false", "test=false"]


def bare_loop(cfg: Any) -> float:
    """Milliseconds per step of a plain training loop over the same parts."""
    import curvature  # noqa: F401  (before torchvision)

    # isort: split
    import pytorch_lightning as pl
    import torch
    from hydra.utils import instantiate

    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    module = instantiate(cfg.module)
    model, criterion = module.model.train(), module.criterion
    optimizer = module.optimizer_factory(model.named_parameters())
    schedule = module.schedule_factory(optimizer, max_steps=cfg.max_steps)
    datamodule.stream(cfg.max_steps)
    start = time.perf_counter()
    for inputs, labels in datamodule.train_dataloader():
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        if cfg.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.max_grad_norm, foreach=True)
        optimizer.step()
        schedule.step()
    return 1000.0 * (time.perf_counter() - start) / cfg.max_steps


def engine(cfg: Any) -> float:
    """Milliseconds per step of the same training through the engine, tracking on."""
    from curvature.engine import run

    return run(cfg).metrics["time/step_ms"]


def measure(repetitions: int = 5, arm: tuple[str, ...] = ("optimizer=adamw",)) -> dict[str, float]:
    """Median milliseconds per step of both sides and the median ratio; ``arm`` holds further overrides."""
    from hydra import compose, initialize_config_dir

    bare, ours = [], []
    with tempfile.TemporaryDirectory() as outputs, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for seed in range(repetitions + 1):
            cfg = compose("config", overrides=[*OVERRIDES, *arm, f"outputs={outputs}", f"seed={seed}"])
            bare.append(bare_loop(cfg))
            ours.append(engine(cfg))
    ratios = [b / a for a, b in zip(bare[1:], ours[1:], strict=True)]
    return {
        "bare_ms": statistics.median(bare[1:]),
        "engine_ms": statistics.median(ours[1:]),
        "ratio": statistics.median(ratios),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    result = measure(arguments.repetitions)
    json.dump(result, sys.stdout, indent=1)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
