"""Figures of experiments/sam_vit from its finished runs: ``python -m curvature.papers.sam_vit_figures outputs=DIR``.

``arms.csv``: what every run came to, with the means over seeds printed; ``arms.png``: every seed of every arm, and
``arms_cifar10.png`` of those on CIFAR-10; ``landscape.png``: losses of all arms on one grid of filter-normalised
directions; ``attention.png``: what the class token looks at, from two further runs that are made if they are missing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from curvature.configs import config_directory
from curvature.fingerprint import fingerprint
from curvature.papers.page import Page, finished_page, markdown_of_arms, write_arms
from curvature.rundir import RunDirectory

ARCHITECTURES = {"vit": "ViT", "mixer": "Mixer", "resnet": "ResNet"}
METRICS = {
    "sharpness/lambda_max": "lambda_max",
    "sharpness/average_flatness": "L_N, sigma 0.05",
    "test/accuracy": "test accuracy",
    "test/corrupted_accuracy": "corrupted accuracy",
}
KEPT = (
    "test/accuracy", "test/corrupted_accuracy", "test/adversarial_accuracy", "sharpness/lambda_max",
    "sharpness/average_flatness", "train/final_loss", "norm/weights", "activity/", "time/sam_over_plain", "blocks/",
    "ntk/condition_number", "fine_tuning/mean",
)  # fmt: skip
COLUMNS = {
    "test/accuracy": "test accuracy",
    "test/corrupted_accuracy": "corrupted accuracy",
    "sharpness/lambda_max": "lambda_max",
    "sharpness/average_flatness": "L_N",
    "train/final_loss": "training loss",
    "norm/weights": "weight norm",
    "activity/early": "active, early",
}
IMAGES, RADIUS, POINTS = 256, 1.0, 21
TOKEN = ["model=vit_desk", "model.pool=token", "model.patch_size=2", "callbacks.measures=null"]


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of ``experiment=sam_vit`` with ``overrides``."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return compose("config", overrides=["experiment=sam_vit", *overrides])


def trained(cfg: DictConfig) -> tuple[torch.nn.Module, Any]:
    """The network of a finished run in float64 and its data."""
    from hydra.utils import instantiate

    folder = RunDirectory(cfg.outputs, cfg.paper, fingerprint(cfg))
    weights = torch.load(folder.checkpoints / "weights.pt", weights_only=True)
    model: torch.nn.Module = instantiate(cfg.model)
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items() if name.startswith("model.")})
    data = instantiate(cfg.data)
    data.setup("fit")
    return model.double().eval(), data


def draw_arms(page: Page, path: Path, suffix: str = "") -> None:
    """Points are seeds, bars means; one panel for each metric.

    Args:
        page: the finished runs.
        path: the PNG file.
        suffix: what the names of the arms end with; without any of their runs nothing is drawn.
    """
    arms = {f"{short}-{kind}{suffix}" for short in ARCHITECTURES for kind in ("base", "sam")}
    if not any(run.planned.arm in arms for run in page.runs):
        return
    plt = pyplot()
    figure, panels = plt.subplots(
        1, len(METRICS), figsize=(3.2 * len(METRICS), 3.2), layout="constrained", squeeze=False
    )
    for panel, (metric, label) in zip(panels[0], METRICS.items(), strict=True):
        for place, short in enumerate(ARCHITECTURES):
            for shift, kind, colour in ((-0.2, "base", "tab:gray"), (0.2, "sam", "tab:blue")):
                values = [run.metrics[metric] for run in page.runs if run.planned.arm == f"{short}-{kind}{suffix}"]
                panel.plot([place + shift] * len(values), values, "o", color=colour, alpha=0.5, markersize=4)
                if values:
                    panel.plot(
                        [place + shift - 0.15, place + shift + 0.15], [np.mean(values)] * 2, color=colour, lw=2.5
                    )
        panel.set_xticks(range(len(ARCHITECTURES)), list(ARCHITECTURES.values()))
        panel.set_title(label)
        if metric.startswith("sharpness"):
            panel.set_yscale("log")
    figure.legend(
        handles=[
            plt.Line2D([], [], color=colour, label=label)
            for colour, label in (("tab:gray", "AdamW"), ("tab:blue", "SAM"))
        ],
        loc="outside lower center",
        ncols=2,
    )
    figure.savefig(path, dpi=110)


def draw_landscape(overrides: Sequence[str], path: Path) -> None:
    """Loss of both arms of each architecture, seed 0, on one grid and one colour scale."""
    from curvature.hessian.landscape import loss_surface

    plt = pyplot()
    figure, panels = plt.subplots(2, len(ARCHITECTURES), figsize=(9.5, 6.2), layout="constrained", squeeze=False)
    levels = np.linspace(0.0, 6.0, 25)
    for column, (short, name) in enumerate(ARCHITECTURES.items()):
        for row, (optimizer, label) in enumerate((("adamw", "AdamW"), ("sam", "SAM"))):
            cfg = composed([f"model={short}_desk", f"optimizer={optimizer}", *overrides])
            model, data = trained(cfg)
            batches = [(inputs.double(), labels) for inputs, labels in data.measurement_batches(IMAGES)]
            axis, losses = loss_surface(model, torch.nn.CrossEntropyLoss(), batches, RADIUS, POINTS)
            panel = panels[row][column]
            shown = panel.contourf(axis, axis, losses.T.clamp(max=6.0), levels=levels, cmap="viridis")
            panel.set_title(f"{name}, {label}")
            panel.set_aspect("equal")
    figure.colorbar(shown, ax=panels, label="training loss (6 and above alike)")
    figure.savefig(path, dpi=110)


def draw_attention(overrides: Sequence[str], path: Path, images: int = 8) -> None:
    """Mean attention of the heads of the last block over test images, base above SAM; entropies in the titles."""
    from curvature.engine import run
    from curvature.models.attention import class_attention, entropy

    plt = pyplot()
    figure, panels = plt.subplots(3, images, figsize=(1.3 * images, 4.6), layout="constrained")
    for row, (optimizer, label) in enumerate((("adamw", "AdamW"), ("sam", "SAM")), start=1):
        arm = "vit-token-sam" if optimizer == "sam" else "vit-token-base"
        cfg = composed([*overrides, *TOKEN, f"optimizer={optimizer}", f"arm={arm}"])
        run(cfg)
        model, data = trained(cfg)
        ((pictures, _),) = data.measurement_batches(images, "test")
        maps = class_attention(model, pictures.double()).mean(1)
        everything = [class_attention(model, x.double()).mean(1) for x, _ in data.measurement_batches(1000, "test")]
        nats = float(entropy(torch.cat(everything)).mean())
        side = int(maps.shape[-1] ** 0.5)
        for column in range(images):
            panels[0][column].imshow(pictures[column, 0], cmap="gray")
            panels[row][column].imshow(maps[column].view(side, side), cmap="magma", vmin=0.0, vmax=float(maps.max()))
        panels[row][0].set_ylabel(f"{label}\nentropy {nats:.2f}")
        print(f"{arm}: mean entropy of the class token's attention {nats:.3f} nats, uniform is {np.log(side**2):.3f}")
    for panel in panels.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    figure.savefig(path, dpi=110)


def pyplot() -> Any:
    """Matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def main(arguments: Sequence[str]) -> None:
    """Draw into the folder of the paper's page.

    Args:
        arguments: Hydra overrides, e.g. ``outputs=...``.
    """
    page = finished_page(["experiment=sam_vit", *arguments])
    folder = page.claims.parent
    write_arms(page, folder / "arms.csv", KEPT)
    print(markdown_of_arms(folder / "arms.csv", COLUMNS))
    draw_arms(page, folder / "arms.png")
    draw_arms(page, folder / "arms_cifar10.png", "-cifar10")
    draw_landscape(arguments, folder / "landscape.png")
    draw_attention(arguments, folder / "attention.png")


if __name__ == "__main__":
    main(sys.argv[1:])
