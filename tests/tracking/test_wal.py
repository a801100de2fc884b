import json
import math
import subprocess
import sys
import time

import pytest

from curvature.tracking.wal import WriteAheadLog, read, records


def pairs(path):
    return [(r["key"], r["step"], r["value"]) for r in records(path)]


def test_records_come_back_bit_for_bit_with_step_time_and_attempt(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = WriteAheadLog(path, attempt=3)
    values = [0.1, 1 / 3, -1e-320, 1.7976931348623157e308, 5, True]
    for step, value in enumerate(values):
        log.add({"train/loss": value}, step, timestamp=1000 + step)
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"key": "train/loss", "value": float(v), "step": s, "timestamp": 1000 + s, "attempt": 3}
        for s, v in enumerate(values)
    ]


def test_not_a_number_and_infinities_survive(tmp_path):
    log = WriteAheadLog(tmp_path / "metrics.jsonl", attempt=1)
    log.add({"a": math.nan, "b": math.inf, "c": -math.inf}, 0, 0)
    log.close()
    nan, inf, minus = (value for _, _, value in pairs(log.path))
    assert math.isnan(nan) and (inf, minus) == (math.inf, -math.inf)


def test_nothing_is_on_disk_before_flush_and_everything_after(tmp_path):
    log = WriteAheadLog(tmp_path / "metrics.jsonl", attempt=1)
    log.add({"a": 1.0}, 0, 0)
    assert log.path.read_bytes() == b""
    assert log.flush() == log.path.stat().st_size > 0


def test_a_step_logged_twice_keeps_its_first_value_also_after_reopening(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = WriteAheadLog(path, attempt=1)
    for step in (0, 5, 10, 5, 3, 3, 10):
        log.add({"a": float(step)}, step, 0)
    log.close()
    log = WriteAheadLog(path, attempt=2)
    for step in (0, 3, 4, 5, 10, 11):
        log.add({"a": -1.0}, step, 0)
    log.add({"b": 1.0}, 5, 0)
    log.close()
    assert pairs(path) == [("a", s, float(s)) for s in (0, 5, 10, 3)] + [("a", 4, -1.0), ("a", 11, -1.0), ("b", 5, 1.0)]


def test_any_torn_end_is_repaired_and_only_the_torn_record_is_logged_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = WriteAheadLog(path, attempt=1)
    for step in range(3):
        log.add({"train/loss": step / 7}, step, step)
    log.close()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        log = WriteAheadLog(path, attempt=1)
        assert log.size == path.stat().st_size == whole[:length].rfind(b"\n") + 1
        for step in range(3):
            log.add({"train/loss": step / 7}, step, step)
        log.close()
        assert path.read_bytes() == whole


def test_a_tail_of_zeros_as_power_failures_leave_is_repaired(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = WriteAheadLog(path, attempt=1)
    log.add({"a": 1.0}, 0, 0)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 5_000_000)
    WriteAheadLog(path, attempt=2).close()
    assert path.read_bytes() == whole


def test_damaged_lines_in_the_middle_are_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = b'{"key": "a", "value": 1.0, "step": %d, "timestamp": 0, "attempt": 1}\n'
    path.write_bytes(good % 0 + b'\xff\xfe{"key"\n' + b"[1]\n" + b'{"key": "a"}\n' + good % 1)
    assert pairs(path) == [("a", 0, 1.0), ("a", 1, 1.0)]


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_reading_in_parts_gives_every_record_once(tmp_path, limit):
    log = WriteAheadLog(tmp_path / "metrics.jsonl", attempt=1)
    for step in range(100):
        log.add({"a": step / 3, "b": -step}, step, 0)
    log.close()
    found, offset = [], 0
    while True:
        batch, end = read(log.path, offset, limit)
        assert len(batch) <= limit
        if end == offset:
            break
        found, offset = found + batch, end
    assert found == list(records(log.path)) and len(found) == 200
    assert offset == log.path.stat().st_size


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from curvature.tracking.wal import WriteAheadLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = WriteAheadLog(Path(sys.argv[1]), attempt=1)
log.add({"a": 0.0}, 0, 0)
size = log.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
log.add({"a": 1.0, "b": 1.0}, 1, 1)
try:
    log.flush()
except OSError:
    assert log.path.stat().st_size == size, "half written"
else:
    raise SystemExit("the limit did not hold")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.close()
"""


def test_a_full_disk_leaves_no_half_record_and_loses_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], check=True)
    assert pairs(path) == [("a", 0, 0.0), ("a", 1, 1.0), ("b", 1, 1.0)]


@pytest.mark.alone
def test_logging_costs_microseconds(tmp_path):
    log = WriteAheadLog(tmp_path / "metrics.jsonl", attempt=1)
    metrics = {f"train/m{i}": 0.5 for i in range(5)}
    best = math.inf
    for repeat in range(5):
        begin = time.perf_counter()
        for step in range(2000 * repeat, 2000 * (repeat + 1)):
            log.add(metrics, step, 0)
        best = min(best, (time.perf_counter() - begin) / 2000)
    assert best < 50e-6
