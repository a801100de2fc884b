"""One writer per run; run.json is never half written."""

import multiprocessing
import subprocess
import sys
import time

import pytest

from curvature.rundir import RunDirectory, RunLocked


def test_update_merges_and_survives_a_torn_file(tmp_path):
    run = RunDirectory(tmp_path, "toy", "ab" * 32)
    run.update(status="RUNNING")
    run.update(attempt=1)
    assert run.read() == {"status": "RUNNING", "attempt": 1}
    (run.path / "run.json").write_text('{"status": "RUN')
    assert run.read() == {}


def hold(outputs, ready):
    with RunDirectory(outputs, "toy", "ab" * 32).locked():
        ready.set()
        time.sleep(60)


def test_second_process_is_told_who_holds_the_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    try:
        assert ready.wait(30)
        run = RunDirectory(tmp_path, "toy", "ab" * 32)
        with pytest.raises(RunLocked, match=f"process {holder.pid} on "), run.locked():
            pass
    finally:
        holder.kill()
        holder.join()
    with run.locked():
        pass


def test_set_aside_keeps_what_was_there(tmp_path):
    run = RunDirectory(tmp_path, "toy", "ab" * 32)
    run.update(status="FINISHED")
    moved = run.set_aside()
    assert not run.path.exists()
    assert (moved / "run.json").exists()
    run.update(status="FINISHED")
    assert run.set_aside() != moved


def test_importing_the_frame_is_free_of_torch():
    code = "import sys, curvature.engine, curvature.rundir, curvature.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
