"""Subspaces in two processes: equal bit for bit on both, and equal to one process with the global batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).with_name("grassmann_ddp_worker.py")


def train(out: Path, devices: int, transport: str) -> list[dict[str, torch.Tensor]]:
    out.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    result = subprocess.run(
        [sys.executable, str(WORKER), str(out), str(devices), transport],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(devices)]


def test_ranks_stay_identical_and_equal_one_process(tmp_path):
    first, second = train(tmp_path / "two", 2, "projection")
    (alone,) = train(tmp_path / "one", 1, "projection")
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in first:
        torch.testing.assert_close(first[name], alone[name], atol=1e-9, rtol=0)
    bases = first["head.subspaces"]
    eye = torch.eye(3, dtype=torch.float64)
    assert (bases.mT @ bases - eye).abs().max() < 1e-12
