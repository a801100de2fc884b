"""Judging whole papers without training anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from curvature.claims.collect import collect
from curvature.claims.plan import claims_file, plan
from curvature.claims.schema import Claims, load
from curvature.claims.verdicts import ClaimVerdict, judge
from curvature.cli import config_directory


@dataclass(frozen=True)
class PaperVerdicts:
    """The verdicts of one paper at one scale.

    Attributes:
        experiment: what to give to ``run.py`` as ``experiment=``.
        config: the composed experiment.
        claims: the claims file.
        verdicts: one for each claim, in the file's order.
        uri: of the MLflow store that holds the runs.
    """

    experiment: str
    config: DictConfig
    claims: Claims
    verdicts: list[ClaimVerdict]
    uri: str

    @property
    def surprises(self) -> list[ClaimVerdict]:
        """Verdicts that differ from the expected ones recorded in the claims file."""
        return [v for v in self.verdicts if v.claim.expected is not None and v.verdict != v.claim.expected]


def experiments_with_claims() -> list[str]:
    """Experiments, at any scale, whose claims file exists."""
    folder = config_directory() / "experiment"
    names = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
    return [name for name in names if claims_file("experiments", name.split("/")[-1], _scale(name)).exists()]


def judge_paper(experiment: str, overrides: Sequence[str] = (), wanted: list[str] | None = None) -> PaperVerdicts:
    """Judge what has been run of ``experiment``.

    Args:
        experiment: e.g. ``sam_vit`` or ``lab/sam_vit``.
        overrides: further Hydra overrides, e.g. ``outputs=...``.
        wanted: ids of the claims to judge; all if ``None``.

    Raises:
        CurvatureError: an id that the claims file does not have.
    """
    from hydra import compose, initialize_config_dir

    from curvature.tracking import default_uri

    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        base = [f"experiment={experiment}", *overrides]
        cfg = compose("config", overrides=base)
        claims = load(claims_file(cfg.experiments, cfg.paper, cfg.scale))
        selected = claims.select(wanted)
        runs = plan(claims, selected, lambda line: compose("config", overrides=line), base)
    uri = cfg.tracking.uri or default_uri(cfg.outputs)
    results = collect(runs, Path(cfg.outputs), cfg.paper, uri)
    return PaperVerdicts(experiment, cfg, claims, judge(claims, selected, runs, results, cfg.scale), uri)


def _scale(experiment: str) -> str:
    return experiment.split("/")[0] if "/" in experiment else "desk"
