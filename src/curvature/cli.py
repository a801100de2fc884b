"""The command line around the engine: one clear message per user error, near matches for typos, exit codes."""

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from curvature.errors import CurvatureError, near_matches

INTERRUPTED_EXIT = 130
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(task: Callable[[], object]) -> int:
    """Run ``task`` (a ``@hydra.main`` function) and turn what it raises into an exit code.

    Returns:
        0 on success, 1 on a user error (shown as one message), 130 when stopped by a signal.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from curvature.callbacks.interrupt import Interrupted

    # Hydra would print its own shortened trace and exit; with this it lets the exception through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Joblib workers and DDP children see the same flag, and nothing else changes.
    try:
        code = task()
    except Interrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED_EXIT
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT
    except CurvatureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (*UNWRITABLE, errno.EACCES, errno.EPERM):
            raise
        problem = "cannot write" if error.errno in UNWRITABLE else "may not use"
        where = error.filename or "the outputs"
        print(f"error: {problem} {where}: {error.strerror}; the same command goes on from there", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def report(arguments: list[str]) -> int:
    """Judge without training; the body of ``report.py``, whose docstring says what it takes.

    Returns:
        1 if ``report.strict=true`` and a verdict is not the expected one, else 0.

    Raises:
        CurvatureError: an experiment without claims, or an unknown option.
    """
    from curvature.claims.expected import accept
    from curvature.claims.papers import PaperVerdicts, experiments_with_claims, judge_paper
    from curvature.claims.plan import claims_file
    from curvature.claims.report import log_report, write_report
    from curvature.claims.scoreboard import scoreboard
    from curvature.claims.tables import print_verdicts, update_tables
    from curvature.tracking import deliver_all

    options = {"strict": False, "write": False, "accept": False}
    experiments: list[str] = []
    overrides: list[str] = []
    wanted: list[str] | None = None
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "experiment":
            experiments = value.split(",")
        elif key == "claim":
            wanted = value.split(",")
        elif key.startswith("report.") and key.removeprefix("report.") in options:
            options[key.removeprefix("report.")] = value.lower() == "true"
        elif key.startswith("report.") or not value:
            raise CurvatureError(f"{argument!r} is not an option; see python -c 'import report; help(report)'")
        else:
            overrides.append(argument)
    known = experiments_with_claims()
    for name in experiments:
        if name not in known:
            raise CurvatureError(_with_matches(f"experiment={name} has no claims", name, known, "those that have"))
    if wanted and len(experiments) != 1:
        raise CurvatureError(f"claim={','.join(wanted)} needs one experiment=NAME whose claims they are")
    papers: list[PaperVerdicts] = []
    for name in experiments or known:
        paper = judge_paper(name, overrides, wanted)
        if not papers:
            deliver_all(Path(paper.config.outputs), paper.config.tracking.uri)
            paper = judge_paper(name, overrides, wanted)
        if paper.config.scale == "smoke" and (options["write"] or options["accept"]):
            raise CurvatureError("smoke runs are no evidence: no table and no expected verdict is made of them")
        papers.append(paper)
        print_verdicts(paper.verdicts, f"{name}: {paper.claims.paper.title}")
    if not papers:
        raise CurvatureError("no experiment has a claims file")
    outputs = Path(papers[0].config.outputs)
    index = write_report(papers, outputs / "report")
    for paper in papers:
        log_report(paper.config.paper, index.parent, paper.uri)
        claims = claims_file(paper.config.experiments, paper.config.paper, paper.config.scale)
        if options["write"]:
            table = claims.with_name(claims.name.replace("claims", "results", 1)).with_suffix(".csv")
            page = claims.with_name(claims.name.replace("claims", "verdicts", 1)).with_suffix(".md")
            update_tables(paper.verdicts, [claim.id for claim in paper.claims.claims], table, page)
            (claims.parents[1] / "README.md").write_text(scoreboard(claims.parents[1]))
        if options["accept"]:
            for line in accept(claims):
                print(line)
    print(f"report: {index}")
    surprises = [(paper.experiment, verdict) for paper in papers for verdict in paper.surprises]
    for name, verdict in surprises:
        print(f"{name} {verdict.claim.id}: {verdict.verdict}, expected {verdict.claim.expected}")
    return 1 if options["strict"] and surprises else 0


def config_directory() -> Path:
    """The ``conf`` directory of the checkout this package is installed from (editable install)."""
    return Path(__file__).parents[2] / "conf"


def explain(error: Exception, overrides: list[str]) -> str:
    """Hydra's message for ``error``, with the nearest existing keys or options for what was not found.

    Args:
        error: what Hydra or OmegaConf raised while composing.
        overrides: the command line it was given.
    """
    message = str(error).strip()
    missing = re.search(r"Could not find '([^']+)'", message) or re.search(r"In .*: Could not load '([^']+)'", message)
    if missing:
        group, _, option = missing.group(1).rpartition("/")
        return _option_error(group, option)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown and (group_error := "No match in the defaults list" in message):
        key = unknown.group(1)
        return _with_matches(f"there is no config group {key!r}", key, _groups(), "groups") if group_error else message
    if unknown:
        key = unknown.group(1)
        return _with_matches(f"unknown key {key!r}", key, _known_keys(overrides), "nearest")
    return message


def _option_error(group: str, option: str) -> str:
    known = group_options(group)
    matches = near_matches(option, known)
    hint = f"; did you mean {', '.join(matches)}?" if matches else ""
    listed = "".join(f"\n  {name}" for name in known)
    return f"there is no {group or 'config'}={option}{hint}" + (f"\n{group} can be:{listed}" if known else "")


def _with_matches(problem: str, word: str, known: list[str], label: str) -> str:
    matches = near_matches(word, known)
    if matches:
        return f"{problem}; did you mean {', '.join(matches)}?"
    return f"{problem}; {label}: {', '.join(known)}" if known else problem


def group_options(group: str) -> list[str]:
    """What a config group can be set to, e.g. the experiments at all scales; empty if there is no such group."""
    folder = config_directory() / group
    if not folder.is_dir():
        return []
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def _groups() -> list[str]:
    root = config_directory()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir())


def _known_keys(overrides: list[str]) -> list[str]:
    """Dotted keys of the config composed from the group choices on the command line alone."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    choices = [item for item in overrides if re.match(r"^[+]?(experiment|debug|model|data|optimizer)=[\w/]+$", item)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose("config", overrides=choices)
    return _keys(cfg)


def _keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in cfg:
        path = f"{prefix}{key!s}"
        found.append(path)
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not OmegaConf.is_missing(cfg, key) and not node._is_none():
            found += _keys(node, f"{path}.")
    return found
