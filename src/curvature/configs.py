"""Where Hydra finds configs: the ``conf`` folder of the checkout, and folders added on the command line."""

import sys
from collections.abc import Sequence
from pathlib import Path


def config_directory() -> Path:
    """The ``conf`` directory of the checkout this package is installed from (editable install)."""
    return Path(__file__).parents[2] / "conf"


def config_directories(arguments: Sequence[str] | None = None) -> list[Path]:
    """:func:`config_directory`, after the folder that ``--config-dir`` adds.

    Args:
        arguments: of the command line; by default those of this process.
    """
    added, _ = split_config_directory(sys.argv[1:] if arguments is None else arguments)
    return [*added, config_directory()]


def split_config_directory(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folder of ``--config-dir FOLDER``, ``--config-dir=FOLDER`` or ``-cd FOLDER``, if any, and the other words."""
    added: list[Path] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            value = value if equals else next(words, "")
            added = [Path(value).absolute()] if value else added
        else:
            rest.append(word)
    return added, rest


def group_options(group: str, arguments: Sequence[str] | None = None) -> list[str]:
    """What a config group can be set to, e.g. the experiments at all scales; empty if there is no such group.

    Args:
        group: e.g. ``optimizer``. Options of ``hydra/...`` that installed plugins bring count too.
        arguments: of the command line; by default those of this process.
    """
    folders = [folder / group for folder in config_directories(arguments)]
    found = {str(path.relative_to(folder).with_suffix("")) for folder in folders for path in folder.rglob("*.yaml")}
    return sorted(found | (_plugin_options(group) if group.startswith("hydra/") else set()))


def _plugin_options(group: str) -> set[str]:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    return set(ConfigLoaderImpl(create_config_search_path(str(config_directory()))).get_group_options(group))
