"""DomainBed's rules of model selection, over a columnar table of records, all in one pass.

* ``training``: in each run the checkpoint with the largest mean held-out accuracy of the training domains (the earliest
  of equals), then the best run over hyper-parameters.
* ``oracle``: the last checkpoint of each run; the best by the test domain's held-out accuracy.
* ``loo``: leave one domain out; the validation accuracy of (hparams, step) is the mean over v of the accuracy on v of
  the run that left out both the test domain and v. A step for which any v is missing is dropped.
* ``last``: the last checkpoint at hyper-parameter seed 0, or the smallest there is; no selection.

Reported is the test domain's ``in`` accuracy. Equals over hyper-parameters go to the last group, as in DomainBed.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RULES = ("training", "oracle", "loo", "last")
CELL = ["dataset", "algorithm", "test_env", "trial_seed"]
_FOUND = ["hparams_seed", "step", "val_acc", "test_acc", "run"]
_GROUP = ["dataset", "algorithm", "trial_seed", "hparams_seed", "test_envs"]


def select(records: pd.DataFrame) -> pd.DataFrame:
    """Selected checkpoints by every rule.

    Args:
        records: from :mod:`curvature.domainbed.records`.

    Returns:
        One row per rule and cell (:data:`CELL`), with columns hparams_seed, step, val_acc, test_acc and run.
    """
    wide, pairs = _checkpoints(records)
    single = wide[wide["count"] == 1]
    single = single.assign(test_env=single["test_envs"].astype(str).astype(int)) if len(single) else single
    if single.empty:
        return pd.DataFrame(columns=["rule", *CELL, *_FOUND])
    last = single.loc[single.groupby([*_GROUP], observed=True)["step"].idxmax()]
    found = {
        "training": _best(single.assign(val_acc=single["train_out"])),
        "oracle": _best(last.assign(val_acc=last["test_out"])),
        "loo": _best(_left_out(pairs, single)),
        "last": last.assign(val_acc=np.nan).sort_values([*CELL, "hparams_seed"]).groupby(CELL, observed=True).head(1),
    }
    columns = [*CELL, *_FOUND]
    parts = [frame[columns].assign(rule=rule) for rule, frame in found.items() if len(frame)]
    joined = pd.concat(parts, ignore_index=True)
    return joined[["rule", *columns]].sort_values(["rule", *CELL], ignore_index=True)


def regret(selected: pd.DataFrame) -> pd.DataFrame:
    """Oracle's test accuracy minus each other rule's, per cell: what selection without test data costs."""
    wide = selected.pivot_table(index=CELL, columns="rule", values="test_acc", observed=True)
    oracle = wide.pop("oracle") if "oracle" in wide else np.nan
    return wide.rsub(oracle, axis=0)


def _checkpoints(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per run and step: mean out accuracy of the training domains, test domain's in and out accuracy.

    Also the rows of test domains in runs that left out two.
    """
    frame = records.reset_index(drop=True)
    texts = frame["test_envs"].astype("category")
    members = [[int(env) for env in text.split(",")] for text in texts.cat.categories]
    width = int(frame["env"].max()) + 1 if len(frame) else 1
    held = np.zeros((len(members), width), dtype=bool)
    for row, envs in zip(held, members):
        row[[env for env in envs if env < width]] = True
    codes, env = texts.cat.codes.to_numpy(), frame["env"].to_numpy()
    is_test = held[codes, env]
    run = _codes(frame, [*_GROUP, "step"])
    _, first, index = np.unique(run, return_index=True, return_inverse=True)
    checkpoints = frame.loc[first, [*_GROUP, "step", "run"]].reset_index(drop=True)
    checkpoints["count"] = held.sum(1)[codes[first]]
    quantities = ("train_out", "out_acc", ~is_test), ("test_acc", "in_acc", is_test), ("test_out", "out_acc", is_test)
    for name, column, where in quantities:
        weights = where.astype(float)
        total = np.bincount(index, frame[column].to_numpy() * weights, len(first))
        amount = np.bincount(index, weights, len(first))
        checkpoints[name] = np.divide(total, amount, out=np.full(len(first), np.nan), where=amount > 0)
    pairs = frame[is_test & (held.sum(1)[codes] == 2)]
    return checkpoints, pairs[[*_GROUP, "step", "env", "in_acc"]]


def _codes(frame: pd.DataFrame, keys: list[str]) -> NDArray[np.int64]:
    """One integer per row, equal where all ``keys`` are."""
    combined = np.zeros(len(frame), dtype=np.int64)
    for key in keys:
        codes, values = pd.factorize(frame[key])
        combined = combined * len(values) + codes
    return combined


def _best(frame: pd.DataFrame) -> pd.DataFrame:
    """Earliest best step of each run, then the last of the best hyper-parameters."""
    if frame.empty:
        return frame
    ordered = frame.dropna(subset=["val_acc"]).sort_values("step", kind="stable")
    runs = ordered.loc[ordered.groupby([*CELL, "hparams_seed"], observed=True)["val_acc"].idxmax()]
    ordered = runs.sort_values("hparams_seed", ascending=False, kind="stable")
    return ordered.loc[ordered.groupby(CELL, observed=True)["val_acc"].idxmax()]


def _left_out(pairs: pd.DataFrame, single: pd.DataFrame) -> pd.DataFrame:
    """Checkpoints of single runs with the accuracy that runs without two domains validate them by."""
    if pairs.empty:
        return single.iloc[:0].assign(val_acc=np.nan)
    texts = pairs["test_envs"].astype("category").cat.remove_unused_categories().cat
    total = np.array([sum(int(env) for env in text.split(",")) for text in texts.categories])
    validated = pairs.assign(test_env=total[texts.codes] - pairs["env"])
    keys = ["dataset", "algorithm", "trial_seed", "hparams_seed", "test_env", "step"]
    means = validated.groupby(keys, observed=True)["in_acc"].agg(["mean", "count"]).reset_index()
    domains = single.groupby("dataset", observed=True)["test_env"].max() + 1
    both = pd.concat([domains, pairs.groupby("dataset", observed=True)["env"].max() + 1], axis=1).max(axis=1)
    complete = means[means["count"] == means["dataset"].map(both).astype(int) - 1]
    return single.merge(complete.rename(columns={"mean": "val_acc"}).drop(columns="count"), on=keys)
