"""The configs of many jobs in less time than it takes to submit them."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader


class Composer:
    """Composes the configs of a sweep's jobs; what they have in common only once.

    Hydra first puts together the chosen parts, which takes long, and then sets single values. The parts are kept by
    the overrides that choose them, and configs that differ in the seed alone are one object.

    Args:
        loader: Hydra's.
        config: the config of the whole sweep, with its ``hydra`` node.
    """

    def __init__(self, loader: "ConfigLoader", config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self._parser = OverridesParser.create()
        self._parts: dict[tuple[str, ...], DictConfig] = {}
        self._configs: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job, without ``hydra``, valid until the next call.

        It equals what Hydra makes of the same overrides.
        """
        parsed = list(zip(overrides, self._parser.parse_overrides(list(overrides)), strict=True))
        seeds = [override for _, override in parsed if override.key_or_group == "seed" and self._is_value(override)]
        rest = [(text, override) for text, override in parsed if override not in seeds]
        key = (*(text for text, _ in rest), "seed" * bool(seeds))
        if key not in self._configs:
            self._configs[key] = self._without_seed(rest)
        cfg = self._configs[key]
        for seed in seeds:
            cfg.seed = seed.value()
        return cfg

    def _without_seed(self, parsed: Sequence[tuple[str, Override]]) -> DictConfig:
        values = [override for _, override in parsed if self._is_value(override)]
        parts = self._composed(tuple(text for text, override in parsed if override not in values))
        if any(OmegaConf.select(parts, str(value.key_or_group), default=parts) is parts for value in values):
            # Hydra has the right word for an unknown key.
            parts, values = self._composed(tuple(text for text, _ in parsed)), []
        cfg = copy.deepcopy(parts)
        for value in values:
            OmegaConf.update(cfg, str(value.key_or_group), value.value(), merge=True)
        return cfg

    def _is_value(self, override: Override) -> bool:
        key = str(override.key_or_group)
        if key not in self._is_group:
            self._is_group[key] = bool(self.loader.get_group_options(key))
        plain = override.type == OverrideType.CHANGE and override.package is None and not override.is_sweep_override()
        return plain and not key.startswith("hydra.") and not self._is_group[key]

    def _composed(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._parts:
            cfg = self.loader.load_sweep_config(self.config, list(overrides))
            self._parts[overrides] = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        return self._parts[overrides]
