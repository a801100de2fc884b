"""The body of ``report.py``: judging, and what is written of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from curvature.claims.expected import accept
from curvature.claims.files import claims_file, experiments_folder, results_file
from curvature.claims.papers import PaperVerdicts, compose_experiment, experiments_with_claims, judge_paper
from curvature.claims.report import log_report, write_report
from curvature.claims.scoreboard import board_of, boards, scoreboard
from curvature.claims.tables import update_tables
from curvature.claims.terminal import print_verdicts
from curvature.claims.verdicts import ClaimVerdict
from curvature.configs import config_directories, config_directory, split_config_directory
from curvature.errors import ConfigError, CurvatureError, with_matches
from curvature.rundir import write_atomically

OPTIONS = ("strict", "write", "accept", "forget")


@dataclass
class Request:
    """What the command line asks for.

    Attributes:
        experiments: to judge; all that have claims if empty.
        claims: ids of the claims to print and write; all if None.
        overrides: for Hydra.
        options: of :data:`OPTIONS`, those that are true.
    """

    experiments: list[str] = field(default_factory=list)
    claims: list[str] | None = None
    overrides: list[str] = field(default_factory=list)
    options: set[str] = field(default_factory=set)

    @property
    def folder(self) -> str:
        """Where the papers lie."""
        given = [item.partition("=")[2] for item in self.overrides if item.startswith("experiments=")]
        return given[-1] if given else "experiments"


def report(arguments: Sequence[str], usage: str = "") -> int:
    """Judge without training.

    Args:
        arguments: of the command line.
        usage: printed for ``--help``.

    Returns:
        1 if ``report.strict=true`` and a verdict is not the expected one, else 0.

    Raises:
        CurvatureError: an experiment without claims, or an unknown option.
    """
    from curvature.tracking import deliver_all

    if {"--help", "-h"} & set(arguments):
        print(usage.strip())
        return 0
    _, words = split_config_directory(arguments)
    added = [folder for folder in config_directories(arguments) if folder != config_directory()]
    request = _parse(words)
    names = _experiments(request, arguments)
    first = compose_experiment(names[0], request.overrides, added)
    if first.scale == "smoke" and request.options & {"write", "accept"}:
        raise CurvatureError("smoke runs are no evidence: no table and no expected verdict is made of them")
    outputs = Path(first.outputs)
    deliver_all(outputs, first.tracking.uri)
    papers, surprises = [], []
    for name in names:
        paper = judge_paper(name, request.overrides, added)
        wanted = {claim.id for claim in paper.claims.select(request.claims)}
        surprises += [(name, verdict) for verdict in _surprises(paper.verdicts) if verdict.claim.id in wanted]
        paper = _with_committed(paper, request)
        papers.append(paper)
        selected = [verdict for verdict in paper.verdicts if verdict.claim.id in wanted]
        print_verdicts(selected, f"{name}: {paper.claims.paper.title}")
        _announce(name, selected, outputs, "write" in request.options)
        _record(paper, selected, request)
    index = write_report(papers, outputs / "report", boards(experiments_folder(request.folder)))
    for paper in papers:
        log_report(paper.paper, index.parent, paper.uri)
    print(f"report: {index}")
    for name, verdict in surprises:
        if verdict.verdict != "not run" or "strict" in request.options:
            print(f"{name} {verdict.claim.id}: {verdict.verdict}, expected {verdict.claim.expected}")
    return 1 if "strict" in request.options and surprises else 0


def _parse(words: Sequence[str]) -> Request:
    request = Request()
    for word in words:
        key, _, value = word.partition("=")
        if key == "experiment":
            request.experiments = value.split(",")
        elif key == "claim":
            request.claims = value.split(",")
        elif key.startswith("report."):
            name = key.removeprefix("report.")
            if name not in OPTIONS:
                raise CurvatureError(with_matches(f"{word!r} is not an option", name, OPTIONS, "options of report."))
            if value.lower() not in ("true", "false"):
                raise ConfigError(key, value, "true or false")
            if value.lower() == "true":
                request.options.add(name)
            else:
                request.options.discard(name)
        elif not value:
            raise CurvatureError(f"{word!r} is not an option; see python report.py --help")
        else:
            request.overrides.append(word)
    return request


def _experiments(request: Request, arguments: Sequence[str]) -> list[str]:
    known = experiments_with_claims(request.folder, arguments)
    for name in request.experiments:
        if name not in known:
            raise CurvatureError(with_matches(f"experiment={name} has no claims", name, known, "those that have"))
    if request.claims and len(request.experiments) != 1:
        raise CurvatureError(f"claim={','.join(request.claims)} needs one experiment=NAME whose claims they are")
    if not known:
        raise CurvatureError(f"no experiment has a claims file in {request.folder}")
    return request.experiments or known


def _surprises(verdicts: Sequence[ClaimVerdict]) -> list[ClaimVerdict]:
    return [v for v in verdicts if v.claim.expected is not None and v.verdict != v.claim.expected]


def _with_committed(paper: PaperVerdicts, request: Request) -> PaperVerdicts:
    """``paper`` with the committed verdicts of claims whose runs are not in the store."""
    if paper.scale == "smoke" or "forget" in request.options:
        return paper
    board = board_of(claims_file(request.folder, paper.paper, paper.scale))
    return replace(paper, verdicts=board.keep(paper.verdicts))


def _announce(name: str, verdicts: Sequence[ClaimVerdict], outputs: Path, write: bool) -> None:
    kept = [verdict.claim.id for verdict in verdicts if verdict.committed]
    if kept:
        hint = "; their rows are kept, report.forget=true drops them" if write else ""
        print(f"{name}: committed results of {', '.join(kept)}, whose runs are not all in {outputs}{hint}")


def _record(paper: PaperVerdicts, selected: Sequence[ClaimVerdict], request: Request) -> None:
    """Write tables and expected verdicts, where that is asked for."""
    file = claims_file(request.folder, paper.paper, paper.scale)
    if "write" in request.options:
        news = "forget" in request.options or any(v.verdict != "not run" and not v.committed for v in selected)
        # A store that has nothing to say adds no rows either; pages are made anew all the same.
        if news or results_file(file).exists():
            update_tables(selected if news else [], paper.claims, file)
        folder = experiments_folder(request.folder)
        write_atomically(folder / "README.md", scoreboard(folder))
    if "accept" in request.options:
        for line in accept(file):
            print(line)
