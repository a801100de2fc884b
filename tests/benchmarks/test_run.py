"""The script that runs all benchmarks: no stale record, no lost failure, and a reason for every row that is behind."""

import json
import re
import sys
from pathlib import Path

import pytest

from curvature.benchmark import Row

PAGE = Path(__file__).parents[2] / "benchmarks" / "README.md"
GOOD = """
from curvature.benchmark import Row, main
def measure(rounds: int = 1): return {}
def rows(result): return [Row("ours", "peer", 0.5)]
main("", measure, rows)
"""
BAD = """
import sys
print("first", file=sys.stderr)
raise SystemExit("peer is broken")
"""


@pytest.fixture
def run(load_benchmark, tmp_path, monkeypatch):
    """``run.py`` over two benchmarks of its own, one of which fails."""
    module = load_benchmark("run")
    folder, records = tmp_path / "benchmarks", tmp_path / "outputs" / "benchmarks"
    folder.mkdir()
    records.mkdir(parents=True)
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setattr(module, "RECORDS", records)
    return module


def record(rows=(), commit="a" * 40, dirty=False, result=1):
    machine = {"processor": "P", "cores": "2", "memory": "8 GiB", "gpu": "none"}
    origin = {"commit": commit, "dirty": dirty, "date": "2026-01-01", "machine": machine, "versions": {"torch": "2"}}
    return {"rows": [vars(row) for row in rows], "result": result} | origin


def test_a_failed_benchmark_replaces_its_old_record(run, tmp_path, monkeypatch, capsys):
    old = record([Row("stale", "peer", 0.1)])
    for name in ("good", "bad", "bad.cuda"):
        (run.RECORDS / f"{name}.json").write_text(json.dumps(old))
    monkeypatch.setattr(sys, "argv", ["run.py", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"])
    assert run.main() == 1
    shown = capsys.readouterr()
    assert "stale" not in shown.out
    assert "failed: bad: peer is broken (exit code 1)" in shown.err
    assert sorted(path.name for path in run.RECORDS.iterdir()) == ["bad.json", "good.json"]
    (row,) = json.loads((run.RECORDS / "bad.json").read_text())["rows"]
    assert Row(**row).status == "failed"
    client = run.store.client(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("benchmarks")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics == {"good/ours over peer": 0.5}
    assert {"commit", "dirty", "date", "machine.processor", "version.torch", "hostname"} <= set(found.data.tags)


def test_only_clean_records_of_the_present_commit_are_reused(run):
    here, there = "a" * 40, "b" * 40
    records = {
        "good": record(commit=here),
        "good.cuda": record(commit=there),
        "bad": record(commit=here, dirty=True),
        "bad.cuda": record(commit=here, result=None),
        "other": record(commit=there),
    }
    for name, content in records.items():
        (run.RECORDS / f"{name}.json").write_text(json.dumps(content))
    run.discard(["good", "bad"], here)
    assert sorted(path.stem for path in run.RECORDS.iterdir()) == ["good", "other"]
    run.discard(["good", "bad"], None)
    assert sorted(path.stem for path in run.RECORDS.iterdir()) == ["other"]


def test_the_page_is_not_written_from_changes_or_from_several_commits(run, monkeypatch, capsys):
    a, b = record(commit="a" * 40), record(commit="b" * 40)
    assert run.obstacles({"x": a, "y": a}, ["x", "y"]) == []
    assert run.obstacles({"x": a}, ["x", "y"]) == ["no record of y"]
    assert run.obstacles({"x": a, "y": b}, ["x", "y"]) == ["records of several commits: aaaaaaa (x), bbbbbbb (y)"]
    assert "changes on top of a commit, or no commit: y" in run.obstacles({"x": a, "y": record(dirty=True)}, ["x", "y"])
    old_format = {"rows": [], "machine": {"commit": "abc"}, "result": 1}
    assert run.obstacles({"x": old_format}, ["x"])
    monkeypatch.setattr(run, "checkout", lambda *_: {"commit": "a" * 40, "dirty": "true"})
    monkeypatch.setattr(sys, "argv", ["run.py", "--write"])
    assert run.main() == 1
    assert "commit them first" in capsys.readouterr().err
    assert not (run.FOLDER / "README.md").exists()


def test_the_page_is_written_from_clean_records_of_one_commit(run, monkeypatch, capsys):
    commit = "a" * 40
    path = {"sizes": [1, 2, 4, 8], "seconds": [1, 2, 4, 8], "fitted": 4, "exponent": 1, "factor": 1}
    growth = {"sorting": path | {"over": "numbers", "theory": 1.0}}
    (run.FOLDER / "growth.py").write_text("")
    tables = {"good": record([Row("a", "b", 0.5, memory=0.25)]), "bad": record(), "growth": record(result=growth)}
    for name, content in tables.items():
        (run.RECORDS / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr(run, "checkout", lambda *_: {"commit": commit, "dirty": "false"})
    monkeypatch.setattr(run, "log", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["run.py", "--reuse", "--write"])
    assert run.main() == 0
    text = (run.FOLDER / "README.md").read_text()
    assert "| a | b | 0.5 |  | 0.25 | ahead |  |" in text and "(growth.png)" in text
    assert (run.FOLDER / "growth.png").stat().st_size > 1000
    (run.FOLDER / "README.md").unlink()
    (run.RECORDS / "bad.json").write_text(json.dumps(record(commit="b" * 40)))
    monkeypatch.setattr(run, "measure", lambda *_: None)
    assert run.main() == 1
    assert "left as it is: no record of bad" in capsys.readouterr().err
    assert not (run.FOLDER / "README.md").exists()


def test_the_page_numbers_the_reasons_that_it_needs(run, monkeypatch):
    monkeypatch.setattr(
        run,
        "REASONS",
        [{"table": "x", "what": "unused", "why": "no"}, {"table": "x", "what": "slow*", "why": "Since."}],
    )
    rows = [Row("slow step", "peer", 2.0), Row("fast step", "peer", 0.5), Row("slower", "peer", 3.0, 2.5)]
    text = run.page({"x.cuda": record()}, {"x.cuda": rows})
    assert "| slow step | peer | 2 |  |  | behind (1) |" in text
    assert "| slower | peer | 3 | 2.5 |  | missed (1) |" in text
    assert "\n1. Since.\n" in text and "\n2. " not in text
    assert "2026-01-01, commit aaaaaaa, P, 2 cores, 8 GiB, GPU none; torch 2" in text
    assert run.problems({"y": rows})["behind, and no reason is written"] == [
        "y: slow step against peer",
        "y: slower against peer",
    ]


def test_rows_of_equal_names_are_different_metrics(run):
    rows = [Row("a", "b", 1.0, note="small"), Row("a", "b", 1.0, note="large"), Row("c", "b", 1.0, note="small")]
    assert [run.metric("t", row, rows) for row in rows] == ["t/a over b  small", "t/a over b  large", "t/c over b"]


def test_every_row_of_the_committed_page_that_is_behind_has_a_reason(load_benchmark):
    run = load_benchmark("run")
    behind = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        name, _, body = section.partition("\n")
        for line in re.findall(r"^\| .*", body, flags=re.MULTILINE):
            what, against, ratio, limit, _, status, _ = (
                cell.strip() for cell in re.split(r"(?<!\\)\|", line.removeprefix("|").removesuffix("|"))
            )
            if re.match("behind|missed", status):
                row = Row(what, against, float(ratio), float(limit) if limit else None)
                behind.append((name, row))
    assert behind
    assert [(name, row) for name, row in behind if run.reason(name, row) is None] == []


def test_reasons_name_causes_and_known_tables(load_benchmark):
    run = load_benchmark("run")
    known = {path.stem for path in PAGE.parent.glob("*.py")}
    for entry in run.REASONS:
        assert entry["table"] in known, entry
        assert entry["why"] and set(entry) <= {"table", "what", "against", "why"}
        assert not re.search(r"\d times|\d to \d", entry["why"]), entry
