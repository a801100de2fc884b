"""Run every benchmark of this folder, each in a process of its own, and put all rows into one table.

    python benchmarks/run.py [NAME ...] [--write] [--tracking-uri URI]

Each writes ``outputs/benchmarks/<name>.json``; the whole is printed, and logged to the MLflow experiment ``benchmarks``
with the records and the growth plots. ``--write`` renews ``benchmarks/README.md`` and ``growth.png`` from all records
that there are. A benchmark that fails is named at the end, and the exit code is 1: a peer that cannot be imported is
never a win. So does a promise that is missed. With a CUDA device the benchmarks that can use it run there too, in
float32 and, where training steps are timed, under bfloat16 autocast; their records are ``<name>.cuda.json`` and so on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from curvature.benchmark import Row, markdown, print_rows
from curvature.tracking import default_uri, store

FOLDER = Path(__file__).parent
RECORDS = FOLDER.parent / "outputs" / "benchmarks"
ON_GPU = {
    "--device cuda": ("sam_step", "grassmann_step", "hesso", "lml_diffusion"),
    "--device cuda --bf16": ("sam_step",),
}
INTRODUCTION = """# Benchmarks

Ratios are costs, ours over the other side's, medians over interleaved repetitions in one process: below one we are
ahead. `holds` and `missed` refer to the limit, which is what was promised before; memory is a ratio of peaks.
`python benchmarks/run.py --write` renews the table, `make bench` prints it; one file a paper says what is timed.
"""
REASONS = """## Behind, and why

- `lambda_max` against power iteration: a Krylov space of at least 20 dimensions and a measured residual, where the
  loop stops once its value changes by less than 1e-3. The notes have what each reached. The loop finds the eigenvalue
  of largest magnitude, which need not be the largest.
- `trace` against curvlinops: the same estimator, with products in reverse mode twice. curvlinops goes forward over
  reverse, which is wrong by per cents for the LayerNorms of timm's transformers on torch 2.13.
- A whole step of the exact diagonal against one of the probe loop, on Colored MNIST: the gradient of the loss, which
  both need, is most of ours. What the penalty adds is 14 times cheaper.
- Riemannian SGD against SGD: bound by memory, with more passes over it, and products and decompositions besides.
  Ratios to the SVD form and to geoopt vary from 1.2 to 2.5 with what else uses the memory of a shared machine.
  pymanopt is measured apart, because its copies empty the caches for whoever comes next.
- Bures-Wasserstein batch norm: the floor counts decompositions only, which use no memory to speak of, so that this
  ratio grows as well where the machine is shared (2.0 to 2.6 measured, with 4.9 to 6.0 for single operations).
- Affine-invariant distance against pyriemann: ours has a gradient, and floors eigenvalues; it computes eigenvectors
  for that.
- HESSO, a step that scores: once a period. Search space and slimming: every node group is proved on float64 copies,
  once a training; torch-pruning proves nothing, see `experiments/hesso/zoo.md`.
- LML, a corrected step: the correction is the method; it is nothing beside an evaluation of the network.
- A metric until it is stored: written to disk first and delivered by another process, exactly once and in the order
  of the steps. The training thread waits a thousandth of what Lightning's logger takes.
- PyHessian and hessian-eigenthings are on no package index we could reach; PyHessian's loop is written out.
"""


def main() -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != Path(__file__).stem)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}; all by default")
    parser.add_argument("--write", action="store_true", help="renew benchmarks/README.md")
    parser.add_argument("--tracking-uri", help="MLflow; by default the store of runs")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        print(f"error: {', '.join(unknown)}: choose from {', '.join(known)}", file=sys.stderr)
        return 1
    failed = [name for name in options.names or known for how in settings(name) if not measured(name, how)]
    paths = [path for path in sorted(RECORDS.glob("*.json")) if path.stem.split(".")[0] in known]
    records = {path.stem: json.loads(path.read_text()) for path in paths}
    rows = {name: [Row(**row) for row in record["rows"]] for name, record in records.items()}
    print_rows([row for own in rows.values() for row in own], "benchmarks")
    pictures = RECORDS / "growth.png"
    if "growth" in records:
        sys.path.insert(0, str(FOLDER))
        from growth import plot

        plot(RECORDS / "growth.json", pictures)
    if options.write:
        write(rows, records, pictures)
    log(rows, options.tracking_uri)
    missed = [f"{name}: {row.what} against {row.against}" for name, own in rows.items() for row in own if missing(row)]
    for title, found in (("failed", failed), ("missed or unavailable", missed)):
        if found:
            print(f"{title}: {'; '.join(found)}", file=sys.stderr)
    return 1 if failed or missed else 0


def missing(row: Row) -> bool:
    """A promise that is not kept, or that could not be tested."""
    return row.limit is not None and row.status in ("missed", "unavailable")


def settings(name: str) -> list[str]:
    """Options with which a benchmark runs on this machine: none, and those for its GPU."""
    return ["", *(how for how, names in ON_GPU.items() if name in names and torch.cuda.is_available())]


def measured(name: str, how: str) -> bool:
    """Run one benchmark; whether it ended well."""
    record = ".".join([name, *(word.strip("-") for word in how.split() if word != "--device")])
    print(f"== {record}", flush=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(FOLDER / f"{name}.py"), *how.split(), "--json", str(RECORDS / f"{record}.json")]
    return subprocess.run(command, cwd=FOLDER.parent).returncode == 0


def write(rows: dict[str, list[Row]], records: dict[str, Any], pictures: Path) -> None:
    """Renew the committed table."""
    text = [INTRODUCTION]
    for name, own in rows.items():
        facts = ", ".join(f"{key} {value}" for key, value in records[name]["machine"].items())
        text.append(f"## {name}\n\n{facts}\n\n{markdown(own)}")
    text.append(REASONS)
    if pictures.exists():
        (FOLDER / pictures.name).write_bytes(pictures.read_bytes())
        text.append("## Growth\n\n![Cost of each hot path over its size, log-log](growth.png)\n")
    (FOLDER / "README.md").write_text("\n".join(text))


def log(rows: dict[str, list[Row]], uri: str | None) -> None:
    """One MLflow run with every ratio as a metric and the records as artifacts."""
    uri = uri or default_uri(FOLDER.parent / "outputs")
    client = store.client(uri)
    experiment = client.get_experiment_by_name("benchmarks")
    if experiment is None:
        root = store.artifact_root(uri, FOLDER.parent / "outputs")
        location = None if root is None else (root / "benchmarks").as_uri()
        experiment = client.get_experiment(client.create_experiment("benchmarks", artifact_location=location))
    run = client.create_run(experiment.experiment_id, run_name="benchmarks", tags={"kind": "benchmark"})
    for name, own in rows.items():
        for row in own:
            if row.ratio is not None:
                key = "".join(
                    c if c.isalnum() or c in "_-./ " else " " for c in f"{name}/{row.what} over {row.against}"
                )
                client.log_metric(run.info.run_id, key[:250], row.ratio)
    client.log_artifacts(run.info.run_id, str(RECORDS))
    client.set_terminated(run.info.run_id)


if __name__ == "__main__":
    sys.exit(main())
