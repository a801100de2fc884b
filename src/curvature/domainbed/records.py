"""Records of checkpoints as one columnar table, from DomainBed's result directories or from our runs' logs.

A row is one environment's accuracies at one step of one run. Columns: dataset, algorithm, test_envs (text such as "0"
or "0,2"), trial_seed, hparams_seed, run (a name), step, env, in_acc and out_acc.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = ["dataset", "algorithm", "test_envs", "trial_seed", "hparams_seed", "run", "step", "env", "in_acc", "out_acc"]


@dataclass(frozen=True)
class Imported:
    """What an import found.

    Attributes:
        records: the table.
        truncated: runs whose last line was cut off; the lines before it are used.
        unfinished: runs without DomainBed's ``done`` file.
        unreadable: files without a usable line, with the reason.
    """

    records: pd.DataFrame
    truncated: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def import_domainbed(root: Path) -> Imported:
    """Read every ``results.jsonl`` below ``root``; damage costs the damaged line, never the report."""
    rows: list[tuple[Any, ...]] = []
    found = Imported(pd.DataFrame())
    for path in sorted(root.rglob("results.jsonl")):
        name = str(path.parent.relative_to(root))
        if not (path.parent / "done").exists():
            found.unfinished.append(name)
        lines = path.read_text(errors="replace").splitlines()
        good = 0
        for number, line in enumerate(lines, start=1):
            try:
                rows.extend(_rows(json.loads(line), name))
                good += 1
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                if number == len(lines) and good:
                    found.truncated.append(name)
                else:
                    found.unreadable[f"{name}:{number}"] = str(error)
    return Imported(table(rows), found.truncated, found.unfinished, found.unreadable)


def table(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows in the order of :data:`COLUMNS` as a table with categories for text."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS)
    for name in ("dataset", "algorithm", "test_envs", "run"):
        frame[name] = frame[name].astype("category")
    return frame


def missing_jobs(records: pd.DataFrame, expected: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of expected jobs of which there is no record.

    Args:
        records: the table.
        expected: jobs with the keys dataset, algorithm, test_envs, trial_seed and hparams_seed.
    """
    keys = ["dataset", "algorithm", "test_envs", "trial_seed", "hparams_seed"]
    there = set(records[keys].astype(str).itertuples(index=False, name=None))
    wanted = (tuple(str(job[key]) for key in keys) for job in expected)
    return [" ".join(f"{key}={value}" for key, value in zip(keys, job)) for job in wanted if job not in there]


def _rows(record: Mapping[str, Any], run: str) -> Iterator[tuple[Any, ...]]:
    args = record["args"]
    common = (
        str(args["dataset"]),
        str(args["algorithm"]),
        ",".join(str(env) for env in sorted(args["test_envs"])),
        int(args["trial_seed"]),
        int(args["hparams_seed"]),
        run,
        int(record["step"]),
    )
    env = 0
    found = []
    while f"env{env}_in_acc" in record:
        found.append((*common, env, float(record[f"env{env}_in_acc"]), float(record[f"env{env}_out_acc"])))
        env += 1
    if not found:
        raise KeyError("env0_in_acc")
    yield from found
