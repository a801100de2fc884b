"""Which files hold a paper's claims, results and verdicts: one set for each scale."""

from pathlib import Path

DESK = "desk"


def experiments_folder(experiments: Path | str) -> Path:
    """The folder itself; a relative one that does not exist here is looked for in the checkout."""
    folder = Path(experiments)
    if not folder.is_absolute() and not folder.is_dir():
        folder = Path(__file__).parents[3] / folder
    return folder


def claims_file(experiments: Path | str, paper: str, scale: str) -> Path:
    """``<experiments>/<paper>/claims.yaml``, or ``claims.<scale>.yaml`` beyond desk scale.

    A relative folder that does not exist here is looked for in the checkout. Smoke runs use the claims of desk scale.
    """
    name = "claims.yaml" if scale in ("smoke", DESK) else f"claims.{scale}.yaml"
    return experiments_folder(experiments) / paper / name


def scale_of(claims: Path) -> str:
    """The scale of a claims file: ``desk``, ``lab`` or ``paper``."""
    return claims.name.removeprefix("claims").removesuffix(".yaml").strip(".") or DESK


def results_file(claims: Path) -> Path:
    """The result table beside a claims file: ``results.csv`` or ``results.<scale>.csv``."""
    return claims.with_name(claims.name.replace("claims", "results", 1)).with_suffix(".csv")


def verdicts_file(claims: Path) -> Path:
    """The page of verdicts beside a claims file: ``verdicts.md`` or ``verdicts.<scale>.md``."""
    return claims.with_name(claims.name.replace("claims", "verdicts", 1)).with_suffix(".md")


def experiment_scale(experiment: str) -> str:
    """The scale of ``sam_vit`` is desk, that of ``lab/sam_vit`` lab."""
    return experiment.split("/")[0] if "/" in experiment else DESK


def experiment_name(paper: str, scale: str) -> str:
    """What to give to ``run.py`` as ``experiment=``."""
    return paper if scale == DESK else f"{scale}/{paper}"
