"""SAM in two processes through the real Lightning module: which perturbation each arm uses, to float64 accuracy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("sam_ddp_worker.py")


def train(out: Path, devices: int, *options: str) -> list[dict[str, torch.Tensor]]:
    out.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    result = subprocess.run(
        [sys.executable, str(WORKER), str(out), str(devices), *options],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(devices)]


def distance(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    return {m: train(root / f"m{m}", 1, f"m={m}")[0] for m in (2, 4, 8)}


def test_choices_of_m_differ(alone):
    assert distance(alone[4], alone[8]) > 1e-6 and distance(alone[2], alone[4]) > 1e-6


@pytest.mark.parametrize(
    ("options", "m"),
    [((), 4), (("m=2",), 2), (("synchronize",), 8)],
    ids=["local perturbation is m = shard", "smaller m", "synchronised is the global batch"],
)
def test_two_processes_equal_one_with_the_same_m(tmp_path, alone, options, m):
    first, second = train(tmp_path / "ddp", 2, *options)
    assert distance(first, second) == 0.0
    assert distance(first, alone[m]) < 1e-10


def test_groups_of_processes_share_a_perturbation_of_m_images(tmp_path, alone):
    ranks = train(tmp_path / "ddp", 4, "m=4")
    assert all(distance(ranks[0], rank) == 0.0 for rank in ranks)
    assert distance(ranks[0], alone[4]) < 1e-10
