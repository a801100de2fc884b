"""Our own training runs as records: from their directories (``metrics.jsonl``) or from MLflow."""

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from curvature.domainbed.records import Imported, table
from curvature.rundir import FINISHED

COLORED = ("p90_", "p80_", "-90_")
"""Environments of Colored MNIST in DomainBed's order; those of all other data sets are in the order of their names."""

Series = dict[str, dict[int, float]]
"""Metric -> step -> value."""


def import_runs(outputs: Path | str, paper: str) -> Imported:
    """Read every run below ``outputs/runs/<paper>``.

    A run of ``hydra/sweeper=domainbed`` says which data set, algorithm and hyper-parameter seed it is of. Of others the
    algorithm is the method's class, the data set that of the data module, and hyper-parameter seeds are given to their
    different settings in order of appearance.

    Returns:
        ``records``, whose ``run`` is the beginning of the fingerprint; ``unfinished``, runs that have not finished and
        whose records are used all the same; and ``unreadable``, runs without records, with the reason.
    """
    from curvature.tracking.wal import records

    runs: list[tuple[str, dict[str, str], Series]] = []
    unfinished, unreadable = [], {}
    for path in sorted((Path(outputs) / "runs" / paper).glob("*/run.json")):
        name = path.parent.name
        try:
            status = json.loads(path.read_text())["status"]
            parameters = _parameters(path.with_name("config.yaml"))
        except (OSError, ValueError, KeyError) as error:
            unreadable[name] = f"{type(error).__name__}: {error}"
            continue
        if ".superseded" in name:
            continue
        series: Series = {}
        for record in records(path.with_name("metrics.jsonl")):
            series.setdefault(record["key"], {})[record["step"]] = float(record["value"])
        if status != FINISHED:
            unfinished.append(name)
        runs.append((name, parameters, series))
    return _imported(runs, unfinished, unreadable)


def import_mlflow(uri: str, experiment: str) -> Imported:
    """The same from the finished runs of an MLflow experiment.

    Args:
        uri: tracking URI.
        experiment: name of the experiment, the paper's slug.

    Raises:
        curvature.tracking.query.StoreUnreachable: the store does not answer.
    """
    from curvature.tracking.query import finished_runs, metric_history

    runs = []
    for run in finished_runs(uri, experiment):
        wanted = [name for name in run.metrics if _split(name) is not None]
        series = {name: {p.step: p.value for p in metric_history(uri, run.run_id, name)} for name in wanted}
        runs.append((run.fingerprint[:12], run.params, series))
    return _imported(runs, [], {})


def _imported(
    runs: Iterable[tuple[str, Mapping[str, str], Series]], unfinished: list[str], unreadable: dict[str, str]
) -> Imported:
    number = _numbering()
    rows: list[tuple[Any, ...]] = []
    for name, parameters, series in runs:
        found = list(_rows(name, parameters, series, number))
        if not found:
            unreadable[name] = "no accuracies on held-out parts: data.holdout_fraction is 0, or it was not evaluated"
        rows.extend(found)
    return Imported(table(rows), [], unfinished, unreadable)


def _rows(
    run: str, parameters: Mapping[str, str], series: Series, number: Callable[[Mapping[str, str]], int]
) -> Iterator[tuple[Any, ...]]:
    keyed = {parts: values for name, values in series.items() if (parts := _split(name)) is not None}
    names = [name for name in _ordered({name for name, _ in keyed}) if (name, "out") in keyed and (name, "in") in keyed]
    if not names:
        return
    test_envs = ",".join(str(env) for env in sorted(ast.literal_eval(parameters["data.test_envs"])))
    identity = _dataset(parameters), _algorithm(parameters), test_envs, int(parameters["data.trial_seed"])
    head = (*identity, number(parameters), run)
    for env, name in enumerate(names):
        inside, outside = keyed[name, "in"], keyed[name, "out"]
        for step in sorted(inside.keys() & outside.keys()):
            yield (*head, step, env, inside[step], outside[step])


def _split(metric: str) -> tuple[str, str] | None:
    """``<domain>/<part>/accuracy`` as (domain, part)."""
    domain, _, rest = metric.rpartition("/accuracy")[0].rpartition("/")
    return (domain, rest) if domain and rest in ("in", "out") and metric.endswith("/accuracy") else None


def _ordered(names: set[str]) -> list[str]:
    return list(COLORED) if names == set(COLORED) else sorted(names)


def _algorithm(parameters: Mapping[str, str]) -> str:
    return parameters.get("domainbed.algorithm") or parameters["method._target_"].rpartition(".")[2]


def _dataset(parameters: Mapping[str, str]) -> str:
    if found := parameters.get("domainbed.dataset") or parameters.get("data.name"):
        return found
    return parameters["data._target_"].rpartition(".")[2]


def _numbering() -> Callable[[Mapping[str, str]], int]:
    """The hyper-parameter seed of a run's parameters, or the number of its setting among those of its algorithm."""
    seen: dict[tuple[str, str], dict[tuple[Any, ...], int]] = {}

    def number(parameters: Mapping[str, str]) -> int:
        if (seed := parameters.get("domainbed.hparams_seed")) is not None:
            return int(seed)
        own = ("lr", "weight_decay", "l2", "max_steps", "data.batch_size", "method.", "model.")
        setting = tuple(item for item in sorted(parameters.items()) if item[0].startswith(own))
        known = seen.setdefault((_dataset(parameters), _algorithm(parameters)), {})
        return known.setdefault(setting, len(known))

    return number


def _parameters(path: Path) -> dict[str, str]:
    """A resolved config as MLflow holds it: dotted key -> text."""
    from omegaconf import OmegaConf

    def flat(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
        if not isinstance(node, dict):
            yield prefix[:-1], str(node)
            return
        for key, value in node.items():
            yield from flat(value, f"{prefix}{key}.")

    return dict(flat(OmegaConf.to_container(OmegaConf.load(path)), ""))
