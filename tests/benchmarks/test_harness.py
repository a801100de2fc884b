"""Rows and their statuses, the fit of growth, and records that say where they come from."""

import json
import re
import time

import pytest
import torch

from curvature import benchmark
from curvature.benchmark import Row, growth, markdown, plot_growth, print_rows, save


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Row("a", "b", 0.9), "ahead"),
        (Row("a", "b", 0.95), "level"),
        (Row("a", "b", 1.05), "level"),
        (Row("a", "b", 1.06), "behind"),
        (Row("a", "b", None), "unavailable"),
        (Row("a", "b", float("nan"), 1.0), "unavailable"),
        (Row("a", "b", 1.0, 1.0), "holds"),
        (Row("a", "b", 1.01, 1.0), "missed"),
        (Row("a", "b", 0.1, 1.0, quoted=True), "quoted"),
        (Row("a", "b", 2.0, 1.0, quoted=True), "quoted"),
        (Row("a", "b", None, 1.0, quoted=True), "unavailable"),
        (Row("a", "b", 0.7, 1.25, least=0.75), "below"),
        (Row("a", "b", 0.8, 1.25, least=0.75), "holds"),
        (Row("a", "b", 1.3, 1.25, least=0.75), "missed"),
        (Row("a", "b", None, failed=True), "failed"),
    ],
)
def test_status(row, status, capsys):
    assert row.status == status
    print_rows([row], "table")
    assert status[:4] in capsys.readouterr().out


def test_markdown_has_memory_and_one_line_a_row():
    text = markdown([Row("x|y", "peer", 1.234, 2.0, "first\nsecond", memory=0.5)], lambda row: " (1)")
    assert text.splitlines()[2] == r"| x\|y | peer | 1.23 | 2 | 0.5 | holds (1) | first second |"


def test_growth_fits_the_largest_sizes(monkeypatch, tmp_path):
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "process_time", lambda: clock["now"])

    def make(size):
        def act():
            clock["now"] += 1.0 + 1e-3 * size**2

        return act

    sizes = [2**e for e in range(3, 13)]
    found = growth(make, sizes, rounds=2)
    assert found["fitted"] == 5
    assert found["exponent"] == pytest.approx(2.0, abs=0.01)
    assert found["seconds"] == pytest.approx([1 + 1e-3 * size**2 for size in sizes])
    plot_growth({"a": found | {"over": "size", "theory": 2.0}}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert growth(make, sizes[:6], rounds=1)["fitted"] == 4
    with pytest.raises(ValueError, match="at least 4 sizes"):
        growth(make, sizes[:3])


def test_a_record_says_where_it_comes_from(tmp_path):
    path = tmp_path / "records" / "table.json"
    save(path, [Row("a", "b", 1.0, quoted=True)], {"x": 1})
    record = json.loads(path.read_text())
    assert Row(**record["rows"][0]) == Row("a", "b", 1.0, quoted=True)
    assert record["result"] == {"x": 1}
    assert record["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", record["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert {"processor", "cores", "memory", "gpu"} == set(record["machine"])


def test_outside_of_a_checkout_a_record_has_no_commit_and_is_not_clean(monkeypatch):
    monkeypatch.setattr(benchmark, "checkout", lambda *_: {})
    found = benchmark.origin()
    assert found["commit"] == "unknown" and found["dirty"]
