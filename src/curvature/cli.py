"""The command line around the engine: one clear message per user error, near matches for typos, exit codes."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from curvature.errors import CurvatureError, near_matches

INTERRUPTED_EXIT = 130


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
        task()
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
    return 0


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
        return _with_matches(f"there is no {group or 'config'}={option}", option, _options(group), f"{group} options")
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown and (group_error := "No match in the defaults list" in message):
        key = unknown.group(1)
        return _with_matches(f"there is no config group {key!r}", key, _groups(), "groups") if group_error else message
    if unknown:
        key = unknown.group(1)
        return _with_matches(f"unknown key {key!r}", key, _known_keys(overrides), "nearest")
    return message


def _with_matches(problem: str, word: str, known: list[str], label: str) -> str:
    matches = near_matches(word, known)
    if matches:
        return f"{problem}; did you mean {', '.join(matches)}?"
    listed = ", ".join(known[:30])
    return f"{problem}; {label}: {listed}" if listed else problem


def _options(group: str) -> list[str]:
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
