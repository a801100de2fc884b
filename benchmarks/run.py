"""Run every benchmark of this folder, each in a process of its own, and put all rows into one table.

    python benchmarks/run.py [NAME ...] [--reuse] [--write] [--tracking-uri URI]

Each writes ``outputs/benchmarks/<name>.json``; the tables are printed, and logged to the MLflow experiment
``benchmarks`` with the records and the growth plots. With a CUDA device the benchmarks that can use it run there too,
in float32 and, where training steps are timed, under bfloat16 autocast; their records are ``<name>.cuda.json`` and so
on, and may be copied here from another machine. A record is deleted before its benchmark runs again; one that fails
leaves a record that says so.

``--write`` renews ``benchmarks/README.md`` and ``growth.png`` from the records of all benchmarks, which must be of one
commit without changes on top. ``--reuse`` measures only what has no such record yet.

The exit code is 1 if a benchmark failed, a promise was missed or could not be tested, or we are behind without a reason
in ``benchmarks/reasons.yaml``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import yaml

from curvature.benchmark import FAILED, WRITTEN, Row, markdown, plot_growth, print_rows, save
from curvature.tracking import default_uri, store
from curvature.tracking.provenance import checkout, provenance

FOLDER = Path(__file__).parent
RECORDS = FOLDER.parent / "outputs" / "benchmarks"
REASONS: list[dict[str, str]] = yaml.safe_load((FOLDER / "reasons.yaml").read_text())
"""Why a row is behind: ``table``, ``what`` and ``against`` are patterns for its names, ``why`` is the reason."""

ON_GPU = {
    "--device cuda": ("sam_step", "grassmann_step", "hesso", "lml_diffusion"),
    "--device cuda --bf16": ("sam_step",),
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Environment of every benchmark, so that peers on NumPy get no more threads than torch."""

INTRODUCTION = """# Benchmarks

Ratios are costs, ours over the other side's, on one CPU thread unless a table's title names a GPU: below one we are
ahead. All sides take turns in one process; a ratio is the median over rounds of the ratio within a round. Exceptions:
the rounds of Riemannian SGD are blocks of five steps, what is compared with a fixed rate or with a share of something
much larger is a ratio of medians, and growth is an exponent over the theoretical one. Memory is a ratio of peaks of
tensors.

`holds` and `missed` refer to the limit, which is what was promised before. Without one a row is `ahead`, `behind`, or
`level` within 5 %, by which arms that do the same differ from run to run. `quoted` figures of the other side were
published and not measured here: they count for nothing. `below`: grows more slowly than theory says, because constant
costs still show. `failed` and `unavailable` say why in the note. A number behind a status is that of the reason below.

`make bench` prints the tables, `python benchmarks/run.py --write` renews this page; what is timed is said in the file
of the table's name.
"""


def main() -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != Path(__file__).stem)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}; all by default")
    parser.add_argument("--reuse", action="store_true", help="keep clean records of the present commit")
    parser.add_argument("--write", action="store_true", help="renew benchmarks/README.md")
    parser.add_argument("--tracking-uri", help="MLflow; by default the store of runs")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(known)):
        return refused(f"{', '.join(unknown)}: choose from {', '.join(known)}")
    code = checkout(FOLDER, WRITTEN)
    if options.write and code.get("dirty") != "false":
        return refused("--write needs a checkout without changes: commit them first")
    chosen = options.names or known
    discard(chosen, code.get("commit") if options.reuse else None)
    for name in chosen:
        for how in settings(name):
            measure(name, how)
    records = load(known if options.write else chosen)
    if options.write and (faults := obstacles(records, known)):
        return refused(f"benchmarks/README.md is left as it is: {'; '.join(faults)}")
    rows = {name: [Row(**row) for row in record["rows"]] for name, record in records.items()}
    for name, own in rows.items():
        print_rows(own, f"{name}: {origin_of(records[name])}")
    growth = records.get("growth", {}).get("result")
    if growth:
        plot_growth(growth, RECORDS / "growth.png")
    if options.write:
        (FOLDER / "README.md").write_text(page(records, rows))
        if growth:
            shutil.copyfile(RECORDS / "growth.png", FOLDER / "growth.png")
    log(records, rows, options.tracking_uri)
    found = problems(rows)
    for title, names in found.items():
        print(f"{title}: {'; '.join(names)}", file=sys.stderr)
    return 1 if found else 0


def refused(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 1


def problems(rows: dict[str, list[Row]]) -> dict[str, list[str]]:
    """What makes the exit code 1: title -> rows."""
    found: dict[str, list[str]] = {}
    for name, own in rows.items():
        for row in own:
            what = f"{name}: {row.what} against {row.against}"
            if row.status == FAILED:
                found.setdefault("failed", []).append(f"{name}: {row.note}")
            elif row.limit is not None and row.status in ("missed", "unavailable"):
                found.setdefault("missed or unavailable", []).append(what)
            if needs_reason(row) and reason(name, row) is None:
                found.setdefault("behind, and no reason is written", []).append(what)
    return found


def settings(name: str) -> list[str]:
    """Options with which a benchmark runs on this machine: none, and those for its GPU."""
    return ["", *(how for how, names in ON_GPU.items() if name in names and torch.cuda.is_available())]


def record_of(name: str, how: str) -> Path:
    """Where a benchmark with these options leaves its record."""
    return RECORDS / ".".join([name, *(word.strip("-") for word in how.split() if word != "--device"), "json"])


def load(names: Sequence[str]) -> dict[str, Any]:
    """Table -> its record, for all records that there are of these benchmarks."""
    paths = [path for path in sorted(RECORDS.glob("*.json")) if path.name.split(".")[0] in names]
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in paths}


def discard(names: Sequence[str], commit: str | None) -> None:
    """Delete the records of these benchmarks, but for clean ones of ``commit`` that did not fail."""
    for name, record in load(names).items():
        clean = record.get("dirty") is False and record["result"] is not None
        if commit is None or record.get("commit") != commit or not clean:
            (RECORDS / f"{name}.json").unlink()


def measure(name: str, how: str) -> None:
    """Run one benchmark unless its record is there; if it fails, its record says why."""
    path = record_of(name, how)
    if path.exists():
        return
    print(f"== {path.stem}", flush=True)
    command = [sys.executable, str(FOLDER / f"{name}.py"), *how.split(), "--json", str(path)]
    last = "no message"
    with subprocess.Popen(
        command, cwd=FOLDER.parent, env=os.environ | ONE_THREAD, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    if process.returncode != 0 or not path.exists():
        why = f"{last} (exit code {process.returncode})"
        save(path, [Row("the whole table", "", None, note=why, failed=True)], None)


def obstacles(records: dict[str, Any], known: Sequence[str]) -> list[str]:
    """Why these records are not one set of tables."""
    found = []
    if missing := [name for name in known if name not in records]:
        found.append(f"no record of {', '.join(missing)}")
    if unclean := [name for name, record in records.items() if record.get("dirty", True)]:
        found.append(f"changes on top of a commit, or no commit: {', '.join(unclean)}")
    commits: dict[str, list[str]] = {}
    for name, record in records.items():
        commits.setdefault(record.get("commit", "unknown"), []).append(name)
    if len(commits) > 1:
        parts = (f"{commit[:7]} ({', '.join(names)})" for commit, names in commits.items())
        found.append(f"records of several commits: {', '.join(parts)}")
    return found


def needs_reason(row: Row) -> bool:
    return row.status in ("behind", "missed")


def reason(name: str, row: Row) -> str | None:
    """What :data:`REASONS` says of ``row`` of a table, for the case that it is behind."""
    names = {"table": name.split(".")[0], "what": row.what, "against": row.against}
    fitting = (entry for entry in REASONS if all(fnmatchcase(names[key], entry.get(key, "*")) for key in names))
    return next((entry["why"].strip() for entry in fitting), None)


def page(records: dict[str, Any], rows: dict[str, list[Row]]) -> str:
    """The committed page: all tables, the reasons that they need, and the growth plots."""
    used: list[str] = []

    def number(name: str, row: Row) -> str:
        why = reason(name, row) if needs_reason(row) else None
        if why is None:
            return ""
        if why not in used:
            used.append(why)
        return f" ({used.index(why) + 1})"

    text = [INTRODUCTION]
    for name, own in rows.items():
        table = markdown(own, lambda row, name=name: number(name, row))
        text.append(f"## {name}\n\n{origin_of(records[name])}\n\n{table}")
    text += ["## Behind, and why\n", *(f"{index}. {why}" for index, why in enumerate(used, start=1)), ""]
    if records.get("growth", {}).get("result"):
        text.append("## Growth\n\n![Cost of each hot path over its size, log-log](growth.png)\n")
    return "\n".join(text)


def origin_of(record: dict[str, Any]) -> str:
    """One line: date, commit, machine, versions."""
    commit = record["commit"][:7] + ("-dirty" if record["dirty"] else "")
    machine, versions = record["machine"], record["versions"]
    shown = f"{record['date']}, commit {commit}, {machine['processor']}, {machine['cores']} cores, {machine['memory']}"
    return f"{shown}, GPU {machine['gpu']}; " + ", ".join(f"{name} {version}" for name, version in versions.items())


def log(records: dict[str, Any], rows: dict[str, list[Row]], uri: str | None) -> None:
    """One MLflow run with every ratio as a metric, the records as artifacts, and tags that say where they come from."""
    uri = uri or default_uri(FOLDER.parent / "outputs")
    client = store.client(uri)
    experiment = client.get_experiment_by_name("benchmarks")
    if experiment is None:
        root = store.artifact_root(uri, FOLDER.parent / "outputs")
        location = None if root is None else (root / "benchmarks").as_uri()
        experiment = client.get_experiment(client.create_experiment("benchmarks", artifact_location=location))
    run = client.create_run(experiment.experiment_id, run_name="benchmarks", tags=tags(records))
    for name, own in rows.items():
        for row in own:
            if row.ratio is not None:
                client.log_metric(run.info.run_id, metric(name, row, own), row.ratio)
        client.log_artifact(run.info.run_id, str(RECORDS / f"{name}.json"))
    if records.get("growth", {}).get("result"):
        client.log_artifact(run.info.run_id, str(RECORDS / "growth.png"))
    client.set_terminated(run.info.run_id)


def metric(name: str, row: Row, rows: Sequence[Row]) -> str:
    """Name of a row's metric: what is against what, with the note where that does not tell it from others."""
    label = f"{row.what} over {row.against}"
    if sum((other.what, other.against) == (row.what, row.against) for other in rows) > 1:
        label += f", {row.note}"
    return "".join(c if c.isalnum() or c in "_-./ " else " " for c in f"{name}/{label}")[:250]


def tags(records: dict[str, Any]) -> dict[str, str]:
    """Provenance of this process, with commit, date, machine and versions that the records name."""
    named: dict[str, set[str]] = {}
    for record in records.values():
        facts = {"commit": record["commit"], "date": record["date"], "dirty": str(record["dirty"]).lower()}
        facts |= {f"machine.{key}": value for key, value in record["machine"].items()}
        facts |= {f"version.{package}": version for package, version in record["versions"].items()}
        for key, value in facts.items():
            named.setdefault(key, set()).add(value)
    return {"kind": "benchmark"} | provenance() | {key: ", ".join(sorted(values)) for key, values in named.items()}


if __name__ == "__main__":
    sys.exit(main())
