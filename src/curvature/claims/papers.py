"""Judging whole papers without training anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from curvature.claims.collect import collect
from curvature.claims.files import claims_file, experiment_name, experiment_scale, experiments_folder
from curvature.claims.plan import plan
from curvature.claims.schema import Claims, load
from curvature.claims.scoreboard import Board
from curvature.claims.verdicts import ClaimVerdict, judge
from curvature.configs import config_directory, group_options
from curvature.errors import CurvatureError, with_matches


@dataclass(frozen=True)
class PaperVerdicts:
    """The verdicts of one paper at one scale.

    Attributes:
        experiment: what to give to ``run.py`` as ``experiment=``.
        paper: slug of the paper.
        scale: of the runs: smoke, desk, lab or paper.
        claims: the claims file.
        verdicts: one for each claim, in the file's order.
        uri: of the MLflow store that holds the runs.
    """

    experiment: str
    paper: str
    scale: str
    claims: Claims
    verdicts: list[ClaimVerdict]
    uri: str = ""

    @property
    def page(self) -> str:
        """Name of the paper's page in a report, without suffix."""
        return self.experiment.replace("/", "-")


def committed_paper(board: Board) -> PaperVerdicts:
    """What the result table of a paper says."""
    name = experiment_name(board.folder, board.scale)
    return PaperVerdicts(name, board.folder, board.scale, board.claims, board.verdicts)


def experiments_with_claims(folder: Path | str = "experiments", arguments: Sequence[str] = ()) -> list[str]:
    """Experiments, at any scale, whose claims file exists in ``folder``.

    Args:
        folder: of the papers.
        arguments: of the command line; ``--config-dir`` among them adds experiments.
    """
    names = group_options("experiment", arguments)
    return [name for name in names if claims_file(folder, name.split("/")[-1], experiment_scale(name)).exists()]


def find_claims(experiment: str, cfg: DictConfig, arguments: Sequence[str] = ()) -> Path:
    """The claims file of an experiment.

    Args:
        experiment: e.g. ``sam_vit`` or ``lab/sam_vit``.
        cfg: the composed experiment.
        arguments: as for :func:`experiments_with_claims`.

    Raises:
        CurvatureError: there is none, or it is that of another experiment of the same paper.
    """
    file = claims_file(cfg.experiments, cfg.paper, cfg.scale)
    if file.exists() and experiment.split("/")[-1] == cfg.paper:
        return file
    known = experiments_with_claims(cfg.experiments, arguments)
    if file.exists():
        whose = experiment_name(cfg.paper, cfg.scale)
        problem = f"experiment={experiment} has no claims of its own; experiment={whose} has those of the paper"
        raise CurvatureError(f"{problem}. One run of it: without -m")
    folder = experiments_folder(cfg.experiments) / cfg.paper
    problem = f"experiment={experiment} has no claims: there is no {file.name} in {folder}"
    raise CurvatureError(with_matches(problem, experiment, known, "those that have"))


def compose_experiment(experiment: str, overrides: Sequence[str] = (), added: Sequence[Path] = ()) -> DictConfig:
    """The config of ``experiment``; arguments as for :func:`judge_paper`."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return compose("config", overrides=_line(experiment, overrides, added))


def judge_paper(experiment: str, overrides: Sequence[str] = (), added: Sequence[Path] = ()) -> PaperVerdicts:
    """Judge what has been run of ``experiment``.

    Args:
        experiment: e.g. ``sam_vit`` or ``lab/sam_vit``.
        overrides: further Hydra overrides, e.g. ``outputs=...``.
        added: folders that hold configs as ``conf`` does.

    Raises:
        CurvatureError: an experiment without claims.
    """
    from hydra import compose, initialize_config_dir

    from curvature.tracking import default_uri

    base = _line(experiment, overrides, added)
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose("config", overrides=base)
        claims = load(claims_file(cfg.experiments, cfg.paper, cfg.scale))
        runs = plan(claims, claims.claims, lambda line: compose("config", overrides=line), base)
    uri = cfg.tracking.uri or default_uri(cfg.outputs)
    results = collect(runs, Path(cfg.outputs), cfg.paper, uri)
    verdicts = judge(claims, claims.claims, runs, results, cfg.scale)
    return PaperVerdicts(experiment, cfg.paper, cfg.scale, claims, verdicts, uri)


def _line(experiment: str, overrides: Sequence[str], added: Sequence[Path]) -> list[str]:
    path = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in added)}]"] if added else []
    return [f"experiment={experiment}", *path, *overrides]
