"""What a sweep costs per job before it reaches SLURM, against Hydra's own composition, and a sweep that is finished.

    python benchmarks/bookkeeping.py [--jobs N] [--rounds N] [--json FILE]

A sweep of sam_vit over seeds and radii. Both sides start from the same override lines; ours ends with the fingerprint
and the look whether the run is finished, Hydra's with the composed config alone.
"""

import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from curvature.benchmark import Row, interleaved, main, median_ratio
from curvature.cluster.composer import Composer
from curvature.fingerprint import fingerprint
from curvature.rundir import RunDirectory

ROOT = Path(__file__).parents[1]


def measure(jobs: int = 100, rounds: int = 5) -> dict[str, Any]:
    """Seconds by side and round for all jobs.

    Args:
        jobs: five radii times the seeds, a multiple of five.
        rounds: repetitions, interleaved.
    """
    lines = [
        ["experiment=sam_vit", f"rho={rho}", f"seed={seed}"]
        for rho, seed in product((0.01, 0.02, 0.05, 0.1, 0.2), range(jobs // 5))
    ]
    with tempfile.TemporaryDirectory() as outputs, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        sweep = compose("config", overrides=["experiment=sam_vit", f"outputs={outputs}"], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()

        def ours() -> None:
            composer = Composer(loader, sweep)
            for line in lines:
                cfg = composer.compose([*line, f"outputs={outputs}"])
                RunDirectory(cfg.outputs, cfg.paper, fingerprint(cfg)).read()

        def theirs() -> None:
            for line in lines:
                loader.load_sweep_config(sweep, [*line, f"outputs={outputs}"])

        return {"jobs": jobs, "seconds": interleaved({"ours": ours, "hydra": theirs}, rounds)}


def rows(result: dict[str, Any]) -> list[Row]:
    """Cost of a job."""
    ours, theirs = result["seconds"]["ours"], result["seconds"]["hydra"]
    milliseconds = [1000 * statistics.median(side) / result["jobs"] for side in (ours, theirs)]
    note = "{:.1f} and {:.1f} ms per job".format(*milliseconds)
    return [
        Row(
            f"config, fingerprint and state of a job, {result['jobs']} jobs",
            "Hydra's composition of its config alone",
            median_ratio(ours, theirs),
            None,
            note,
        )
    ]


if __name__ == "__main__":
    main(__doc__, measure, rows)
