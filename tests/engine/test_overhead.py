"""What the engine costs beyond a bare training loop, through the benchmark's own code; how soon the command answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from curvature.benchmark import median_ratio

ROOT = Path(__file__).parents[2]
LIMIT = 1.25
FAST = ("max_steps=100", "tracking.finish_seconds=5")
HEAVY = ("torch", "mlflow", "timm", "pytorch_lightning", "scipy", "pandas")


@pytest.mark.alone
def test_engine_and_logging_cost_at_most_a_quarter_of_a_desk_step(load_benchmark):
    """Median ratio of wall times over interleaved pairs; several attempts, for a machine that is busy otherwise."""
    benchmark = load_benchmark("engine_overhead")
    ratios = []
    while len(ratios) < 4 and (not ratios or ratios[-1] > LIMIT):
        times = benchmark.compare(2, FAST)
        ratios.append(median_ratio(times["engine"], times["bare"]))
    print("ratios", ratios)
    assert ratios[-1] <= LIMIT, ratios


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["experiment=?"],
        ["experiment=sam_vitt"],
        ["experiment=sam_vit", "optimizr.rho=1"],
        ["experiment=sam_vit", "lr=-1"],
        ["experiment=sam_vit", "data_root=/does/not/exist"],
        ["experiment=sam_vit", "trainer.devices=auto"],
        ["-m", "experiment=sam_vit", "lr=-1"],
    ],
    ids=" ".join,
)
def test_what_needs_no_training_imports_nothing_heavy(arguments):
    code = (
        f"import sys, runpy\nsys.argv = ['run.py', *{arguments!r}]\n"
        "try: runpy.run_path('run.py', run_name='__main__')\nexcept SystemExit: pass\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "HEAVY []" in result.stdout, result.stdout + result.stderr
