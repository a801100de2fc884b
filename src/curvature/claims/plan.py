"""Which runs decide which claims: arms times seeds, each run once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from curvature.claims.schema import Claim, Claims
from curvature.fingerprint import fingerprint

Compose = Callable[[list[str]], Any]


@dataclass(frozen=True)
class PlannedRun:
    """One run that some claim needs.

    Attributes:
        arm: name in the claims file.
        value: value of the arm's swept parameter; None if it is not swept.
        seed: run seed.
        fingerprint: content address of the run.
        overrides: Hydra overrides that make it.
    """

    arm: str
    value: float | None
    seed: int
    fingerprint: str
    overrides: list[str] = field(compare=False, repr=False)


def plan(claims: Claims, selected: Sequence[Claim], compose: Compose, overrides: Sequence[str]) -> list[PlannedRun]:
    """Runs that the selected claims need, by arm and seed.

    Args:
        claims: the claims file.
        selected: claims to decide.
        compose: Hydra overrides -> config.
        overrides: given by the user for all arms, the experiment among them. What an arm sets itself wins.
    """
    seeds: dict[str, set[int]] = {}
    for claim in selected:
        for part in claim.decide:
            for arm in part.arms:
                seeds.setdefault(arm, set()).update(claim.seeds or claims.seeds)
    runs: list[PlannedRun] = []
    for arm, wanted in seeds.items():
        entry = claims.arms[arm]
        cfg: Any = None
        for value in entry.values or (None,):
            own = [*entry.overrides, f"arm={arm}"]
            if value is not None:
                own.append(f"{entry.parameter}={value:g}")
            keys = {_key(item) for item in own} | {"seed", "claim"}
            line = [*(item for item in overrides if _key(item) not in keys), *own]
            if cfg is None:
                cfg = compose(line)
            else:
                # What a value changes is known, and composing takes a tenth of a second.
                OmegaConf.update(cfg, _key(own[-1]), _number(own[-1]))
            for seed in sorted(wanted):
                cfg.seed = seed
                runs.append(PlannedRun(arm, value, seed, fingerprint(cfg), [*line, f"seed={seed}"]))
    return runs


def without_data(selected: Sequence[Claim], data_root: Path | str | None) -> list[Claim]:
    """The claims whose folder of data is not under ``data_root``."""
    return [
        claim
        for claim in selected
        if claim.data is not None and (data_root is None or not (Path(data_root) / claim.data).is_dir())
    ]


def _number(override: str) -> int | float:
    """The value of an override as Hydra reads it."""
    text = override.split("=", 1)[1]
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]
