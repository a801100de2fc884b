"""The command line around the engine: one clear message per user error, near matches for typos, exit codes."""

import errno
import os
import re
import sys
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from curvature.configs import config_directories, config_directory, group_options
from curvature.errors import CurvatureError, near_matches, with_matches

INTERRUPTED_EXIT = 130
MAKE_ROOM = "once there is room, the same command goes on from there"
MOVE = "choose another folder, e.g. by outputs=FOLDER"
REMEDIES = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EROFS: MOVE,
    errno.EACCES: MOVE,
    errno.EPERM: MOVE,
}


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
        if error.errno not in REMEDIES:
            raise
        problem = "may not use" if error.errno in (errno.EACCES, errno.EPERM) else "cannot write"
        where = error.filename or "the outputs"
        print(f"error: {problem} {where}: {error.strerror}; {REMEDIES[error.errno]}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


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
        return _option_error(group, option, overrides)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown is None:
        return message
    key = unknown.group(1)
    if "No match in the defaults list" in message:
        return _group_error(key, overrides)
    return with_matches(f"unknown key {key!r}", key, _known_keys(overrides), "nearest")


def _option_error(group: str, option: str, overrides: list[str]) -> str:
    known = group_options(group, overrides)
    matches = near_matches(option, known)
    hint = f"; did you mean {', '.join(matches)}?" if matches else ""
    return f"there is no {group or 'config'}={option}{hint}" + _listed(group, known)


def _group_error(group: str, overrides: list[str]) -> str:
    where = next((f"experiment={item[11:]}" for item in overrides if item.startswith("experiment=")), "the config")
    problem = f"config group {group!r} is no part of {where}; +{group}=OPTION adds it"
    return problem + _listed(group, group_options(group, overrides))


def _listed(group: str, options: list[str]) -> str:
    return f"\n{group} can be:" + "".join(f"\n  {name}" for name in options) if options else ""


def _known_keys(overrides: list[str]) -> list[str]:
    """Dotted keys of the config composed from the group choices on the command line alone."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    choices = [item for item in overrides if re.match(r"^[+]?(experiment|debug|model|data|optimizer)=[\w/]+$", item)]
    added = [f"file://{folder}" for folder in config_directories(overrides)[:-1]]
    path = [f"hydra.searchpath=[{','.join(added)}]"] if added else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose("config", overrides=[*path, *choices])
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
