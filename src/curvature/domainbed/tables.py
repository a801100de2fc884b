"""Tables of selected accuracies: n, standard errors with n - 1, t intervals, paired differences to a baseline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from curvature.claims.statistics import mean_effect
from curvature.domainbed.selection import regret, select

FORMATS = ("markdown", "latex", "csv")


def summary(selected: pd.DataFrame) -> pd.DataFrame:
    """Mean test accuracy over trials per rule, data set, algorithm and test domain, and the average over domains.

    The average takes the trials in which every domain is there. Columns: n (trials), mean, sem (of n - 1; nan for a
    single trial), low and high (95 % t interval), missing (trials of the data set that this cell lacks).
    """
    trials: Any = selected.groupby("dataset", observed=True)["trial_seed"].nunique()
    domains: Any = selected.groupby("dataset", observed=True)["test_env"].nunique()
    rows = []
    for (rule, dataset, algorithm), cell in selected.groupby(["rule", "dataset", "algorithm"], observed=True):
        grid = cell.pivot_table(index="trial_seed", columns="test_env", values="test_acc")
        columns = {str(env): grid[env].dropna() for env in grid}
        whole = grid.dropna() if grid.shape[1] == domains[dataset] else grid.iloc[:0]
        columns["average"] = whole.mean(axis=1)
        for env, values in columns.items():
            head = {"rule": rule, "dataset": dataset, "algorithm": algorithm, "test_env": env}
            rows.append(head | _statistics(values.to_numpy()) | {"missing": int(trials[dataset]) - len(values)})
    return pd.DataFrame(rows)


def paired_differences(selected: pd.DataFrame, baseline: str = "ERM", draws: int = 10_000) -> pd.DataFrame:
    """Test accuracy minus the baseline's over the same (trial, test domain), with a bootstrap over these pairs."""
    keys = ["rule", "dataset", "test_env", "trial_seed"]
    base = selected[selected["algorithm"] == baseline].set_index(keys)["test_acc"]
    rows = []
    others = selected[selected["algorithm"] != baseline]
    for (rule, dataset, algorithm), cell in others.groupby(["rule", "dataset", "algorithm"], observed=True):
        values = (cell.set_index(keys)["test_acc"] - base).dropna().to_numpy()
        if len(values) == 0:
            continue
        sample = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
        low, high = np.quantile(sample, [0.025, 0.975]) if len(values) > 1 else (-np.inf, np.inf)
        head = {"rule": rule, "dataset": dataset, "algorithm": algorithm, "pairs": len(values)}
        rows.append(head | {"difference": float(values.mean()), "low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


def render(table: pd.DataFrame, rule: str, dataset: str, form: str = "markdown") -> str:
    """One table of :func:`summary`: algorithms by test domains, in percent, each with its standard error and n.

    Args:
        table: from :func:`summary`.
        rule, dataset: which part of it.
        form: ``markdown``, ``latex`` (booktabs) or ``csv`` (the numbers themselves, unrounded).

    Raises:
        ValueError: an unknown form.
    """
    part = table[(table["rule"] == rule) & (table["dataset"] == dataset)]
    if form == "csv":
        return part.to_csv(index=False)
    if form not in FORMATS:
        raise ValueError(f"{form!r} is none of {', '.join(FORMATS)}")
    envs = [*sorted(e for e in part["test_env"].unique() if e != "average"), "average"]
    body = [
        [str(name), *_cells(rows, envs, form)] for name, rows in part.groupby("algorithm", observed=True, sort=True)
    ]
    head = ["algorithm", *envs]
    if form == "latex":
        lines = [" & ".join(_escaped(text) for text in head) + r" \\"]
        rows = [" & ".join([_escaped(row[0]), *row[1:]]) + r" \\" for row in body]
        top = rf"\begin{{tabular}}{{l{'c' * len(envs)}}}"
        return "\n".join([top, r"\toprule", *lines, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body]) + "\n"


def _cells(rows: pd.DataFrame, envs: Sequence[str], form: str) -> list[str]:
    sign = r"$\pm$" if form == "latex" else "±"
    by_env = rows.set_index("test_env")
    cells = []
    for env in envs:
        if env not in by_env.index or by_env.loc[env, "n"] == 0:
            cells.append("missing")
            continue
        row: Any = by_env.loc[env]
        error = "?" if np.isnan(row["sem"]) else f"{100 * row['sem']:.1f}"
        lack = f", {int(row['missing'])} missing" if row["missing"] else ""
        cells.append(f"{100 * row['mean']:.1f} {sign} {error} (n={int(row['n'])}{lack})")
    return cells


def _escaped(text: str) -> str:
    special = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    return "".join(special.get(character, character) for character in text)


def _statistics(values: Any) -> dict[str, float]:
    if len(values) == 0:
        return {"n": 0, "mean": np.nan, "sem": np.nan, "low": np.nan, "high": np.nan}
    effect = mean_effect(values.tolist())
    sem = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return {"n": len(values), "mean": effect.value, "sem": sem, "low": effect.low, "high": effect.high}


def write(records: pd.DataFrame, folder: Path, baseline: str = "ERM") -> None:
    """Records, selections and tables of all rules as files, each run named by the beginning of its config's hash.

    ``records.csv``; ``selected.csv``, with the run of every selection; ``tables.md`` and ``tables.tex``;
    ``summary.csv``, ``differences.csv`` (paired, to ``baseline``) and ``regret.csv``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    selected = select(records)
    table, gaps = summary(selected), paired_differences(selected, baseline)
    records.to_csv(folder / "records.csv", index=False)
    selected.to_csv(folder / "selected.csv", index=False)
    table.to_csv(folder / "summary.csv", index=False)
    gaps.to_csv(folder / "differences.csv", index=False)
    regret(selected).to_csv(folder / "regret.csv")
    for form, name in (("markdown", "tables.md"), ("latex", "tables.tex")):
        mark = "###" if form == "markdown" else "%"
        cells = table[["rule", "dataset"]].drop_duplicates().itertuples(index=False)
        parts = [f"{mark} {data}, selection: {rule}\n\n{render(table, rule, data, form)}" for rule, data in cells]
        (folder / name).write_text("\n".join(parts))
