"""Estimated GPU hours of every recipe of experiment=paper/sam_vit: ``python -m curvature.papers.sam_vit_cost``.

Transformers and Mixers are taken to reach 40 % of an A100's peak in bfloat16, ResNets 20 %; data loading and evaluation
are not included.
"""

from dataclasses import dataclass

from curvature.configs import config_directory
from curvature.models.cost import forward_macs, gpu_hours

UTILISATION = {"vit": 0.4, "mixer": 0.4, "resnet": 0.2}


@dataclass(frozen=True)
class Bill:
    """One recipe: its network's size and the A100-hours of both arms."""

    recipe: str
    parameters: int
    macs: int
    rho: float
    plain_hours: float
    sam_hours: float


def recipes() -> list[str]:
    """Names of the per-model recipes."""
    folder = config_directory() / "recipe"
    families = tuple(f"sam_{family}" for family in UTILISATION)
    names = sorted(path.stem for path in folder.glob("sam_*.yaml"))
    return [name for name in names if name.startswith(families) and name[-1].isdigit()]


def bill(recipe: str) -> Bill:
    """Compose ``experiment=paper/sam_vit recipe=<recipe>``, build its network without memory and count."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from curvature.models.vision import parameter_count

    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose("config", overrides=["experiment=paper/sam_vit", f"recipe={recipe}"])

    def build() -> object:
        return instantiate(cfg.model)

    macs = forward_macs(build, cfg.data.image_shape)  # type: ignore[arg-type]
    images = float(cfg.max_steps) * cfg.data.batch_size
    share = next(value for family, value in UTILISATION.items() if recipe.startswith(f"sam_{family}"))
    plain, sam = (gpu_hours(macs, images, passes, share) for passes in (1, 2))
    return Bill(recipe, parameter_count(build), macs, cfg.rho, plain, sam)  # type: ignore[arg-type]


def main() -> None:
    """Print the bill of every recipe."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="experiment=paper/sam_vit: estimated A100-hours")
    for column in ("recipe", "parameters", "GMAC", "rho", "without SAM", "with SAM"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for name in recipes():
        row = bill(name)
        numbers = f"{row.parameters:,}", f"{row.macs / 1e9:.1f}", f"{row.rho:g}"
        table.add_row(name, *numbers, f"{row.plain_hours:.0f}", f"{row.sam_hours:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
