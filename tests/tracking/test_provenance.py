import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curvature.tracking.provenance import provenance, record

ROOT = Path(__file__).parents[2]


def git(*arguments, cwd):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_tags_name_code_libraries_and_machine():
    import numpy

    tags = provenance()
    assert tags["python"] == platform.python_version()
    assert tags["version.numpy"] == numpy.__version__
    assert tags["hostname"] == platform.node()
    assert re.match(r"\d+ x \S", tags["device"])
    if (ROOT / ".git").exists():
        assert tags["commit"] == git("rev-parse", "HEAD", cwd=ROOT).strip()
        assert tags["dirty"] in ("true", "false")
    assert all(isinstance(value, str) and value for value in tags.values())


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package in a repository of its own."""
    package = tmp_path / "curvature"
    subprocess.run(["cp", "-r", str(ROOT / "src" / "curvature"), str(package)], check=True)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git("init", "-q", cwd=tmp_path)
    git("add", ".", cwd=tmp_path)
    git("commit", "-qm", "all", cwd=tmp_path)
    return tmp_path


def dirty(checkout):
    code = "from curvature.tracking.provenance import provenance as p; t = p(); print(t.get('dirty'), t.get('commit'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=checkout, env={"PYTHONPATH": str(checkout)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_changed_and_untracked_files_make_a_checkout_dirty(checkout):
    commit = git("rev-parse", "HEAD", cwd=checkout).strip()
    assert dirty(checkout) == ["false", commit]
    (checkout / "curvature" / "new.py").write_text("")
    assert dirty(checkout) == ["true", commit]
    (checkout / "curvature" / "new.py").unlink()
    assert dirty(checkout) == ["false", commit]
    with (checkout / "curvature" / "errors.py").open("a") as stream:
        stream.write("\n")
    assert dirty(checkout) == ["true", commit]


def test_a_package_outside_of_a_repository_has_no_commit(checkout):
    subprocess.run(["rm", "-rf", str(checkout / ".git")], check=True)
    assert dirty(checkout) == ["None", "None"]


def test_slurm_ids_are_kept_within_a_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    tags = provenance()
    assert (tags["slurm.job_id"], tags["slurm.array_task_id"]) == ("17", "3")
    assert "slurm.array_job_id" not in tags


def test_every_start_is_recorded(tmp_path):
    path = tmp_path / "provenance.json"
    for starts in (1, 2):
        record(path)
        found = json.loads(path.read_text())
        assert len(found) == starts
        assert provenance().items() <= found[-1].items()
    path.write_text("{torn")
    assert len(json.loads(record(path).read_text())) == 1


@pytest.mark.alone
def test_it_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; import curvature.tracking, curvature.tracking.query, curvature.tracking.ui;"
        "from curvature.tracking.provenance import provenance; b = time.perf_counter(); provenance();"
        "print(time.perf_counter() - b, *({'torch', 'mlflow', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert not heavy
    assert float(seconds) < 2.0 and time.monotonic() - begin < 5.0
