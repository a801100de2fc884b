"""Whatever file of an interrupted run is damaged, the same command recovers; what cannot be written is said clearly."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

CONF = Path(__file__).parents[2] / "conf"
SMALL = [
    "experiment=sam_vit",
    "+debug=smoke",
    "tracking=offline",
    "tracking.flush_seconds=0.05",
    "max_steps=6",
    "checkpoint.every_n_steps=2",
    "callbacks.measures=null",
    "callbacks.step_time=null",
]


def config(outputs):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*SMALL, f"outputs={outputs}"])


def train(outputs):
    from curvature.engine import run

    result = run(config(outputs))
    assert result.status == "FINISHED"
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


def run_directory(outputs):
    (path,) = [path for path in (outputs / "runs" / "sam_vit").iterdir() if path.is_dir()]
    return path


def logged(outputs):
    lines = (run_directory(outputs) / "metrics.jsonl").read_text(errors="replace").splitlines()
    return [line for line in lines if '"train/loss"' in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Outputs of a run as a kill after step 4 leaves them, and the metrics it ends with."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    metrics = train(outputs)
    directory = run_directory(outputs)
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"status": "RUNNING"}))
    return outputs, metrics


def overwrite(name, content):
    def damage(directory):
        (directory / name).write_bytes(content)

    return damage


def truncate(name):
    def damage(directory):
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return damage


def scramble_log(directory):
    """Lines that are no JSON, and JSON that is no metric, between good ones."""
    path = directory / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    bad = [b"\xff\xfe\x00garbage\n", b"[]\n", b'{"key": 3, "value": 1, "step": 1, "timestamp": 1, "attempt": 1}\n']
    bad += [b'{"key": "train/loss", "value": 1.0, "step": "x", "timestamp": 1, "attempt": 1}\n', b"\n"]
    path.write_bytes(b"".join([*lines[:2], *bad, *lines[2:], b'{"key": "train/lo']))


def another_archive(directory):
    import torch

    torch.save({"somebody": "else's"}, directory / "checkpoints" / "last.ckpt")


DAMAGES = {
    "run.json cut": truncate("run.json"),
    "run.json of another shape": overwrite("run.json", b'{"attempt": "two", "metrics": [1], "status": 7}'),
    "metrics.jsonl scrambled": scramble_log,
    "tracking.json cut": truncate("tracking.json"),
    "tracking.json of another shape": overwrite("tracking.json", b'{"uri": 3}'),
    "config.yaml garbage": overwrite("config.yaml", b"\xff\xfe: ["),
    "last.ckpt cut": truncate("checkpoints/last.ckpt"),
    "last.ckpt is something else": another_archive,
    "last.ckpt empty": overwrite("checkpoints/last.ckpt", b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_recovered_from(tmp_path, undisturbed, damage):
    outputs, expected = tmp_path / "outputs", undisturbed[1]
    shutil.copytree(undisturbed[0], outputs)
    damage(run_directory(outputs))
    assert train(outputs) == expected
    assert json.loads((run_directory(outputs) / "run.json").read_text())["status"] == "FINISHED"
    steps = [json.loads(line)["step"] for line in logged(outputs) if '"step": "x"' not in line]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("kilobytes", [16, 400, 1000])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on_when_there_is_room(mounted, undisturbed, kilobytes):
    outputs = mounted(f"size={kilobytes}k")
    with pytest.raises(OSError, match="No space left on device"):
        train(outputs)
    assert not list(outputs.rglob("*.tmp")), "what is half written is removed"
    mounted("size=64m")
    assert train(outputs) == undisturbed[1]


def refused(disk, *overrides):
    """Standard error of a command that cannot write to ``disk``; nothing of it is a traceback."""
    command = [sys.executable, "run.py", *overrides, *SMALL, f"outputs={disk}/outputs"]
    result = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_outputs_that_cannot_be_written_are_one_clear_error(mounted):
    disk = mounted("ro")
    errors = refused(disk)
    assert "error: cannot write" in errors and str(disk) in errors


@pytest.mark.parametrize("kilobytes", [4, 400])
def test_a_full_disk_is_one_clear_error_on_the_command_line(mounted, kilobytes):
    disk = mounted(f"size={kilobytes}k")
    errors = refused(disk)
    assert f"error: cannot write {disk}" in errors
    assert "No space left on device" in errors and "the same command goes on" in errors


@pytest.mark.parametrize("sweep", [["claim=C2"], ["hydra/sweeper=basic", "seed=0,1"]], ids=["claims", "basic"])
def test_a_sweep_into_outputs_that_cannot_be_written_is_one_clear_error(mounted, sweep):
    disk = mounted("ro")
    errors = refused(disk, "-m", *sweep)
    assert "Read-only file system" in errors and str(disk) in errors
