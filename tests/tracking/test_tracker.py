import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tracking_support import history, rows, runs, wait_until

from curvature.errors import ConfigError
from curvature.tracking import OFFLINE, NullTracker, Tracker, default_uri, deliver_all, supersede
from curvature.tracking.deliver import deliver
from curvature.tracking.query import finished_runs


@pytest.fixture
def make(outputs):
    def tracker(name="a" * 12, uri=None, **options):
        options = {"tags": {"fingerprint": name, "arm": "base", "seed": "0"}, "flush_seconds": 0.05} | options
        return Tracker(
            outputs / "runs" / "sam_vit" / name, uri or default_uri(outputs), "sam_vit", "base-s0", **options
        )

    return tracker


def database(outputs):
    return outputs / "mlflow.db"


def params(outputs, run_id):
    return dict(rows(database(outputs), "SELECT key, value FROM params WHERE run_uuid = ?", run_id))


def tags(outputs, run_id):
    return dict(rows(database(outputs), "SELECT key, value FROM tags WHERE run_uuid = ?", run_id))


def test_a_run_is_in_mlflow_with_metrics_params_tags_artifacts_and_times(outputs, make, tmp_path):
    tracker = make(params={"lr": 0.1, "model.depth": 2, "nothing": None, "long": "x" * 7000, "list": [1, 2]})
    tracker.start()
    for step in range(2500):
        tracker.log_metrics({"train/loss": 1 / (step + 1)}, step)
    tracker.log_metrics({"test/loss": math.nan, "odd name (%)!": 1.0}, 2500)
    note = tmp_path / "note.txt"
    note.write_text("outside the run directory")
    tracker.log_artifact(note, "notes/today")
    figure = Figure()
    tracker.log_figure(figure, "plots/curve.png")
    assert tracker.finish("FINISHED", timeout_s=60)

    ((run_id, status),) = runs(database(outputs), "sam_vit")
    assert (run_id, status) == (tracker.run_id, "FINISHED")
    assert history(database(outputs), run_id, "train/loss") == [(step, 1 / (step + 1)) for step in range(2500)]
    assert rows(database(outputs), "SELECT is_nan FROM metrics WHERE key = 'test/loss'") == [(1,)]
    assert history(database(outputs), run_id, "odd name ____") == [(2500, 1.0)]
    logged = params(outputs, run_id)
    assert logged == {"lr": "0.1", "model.depth": "2", "nothing": "None", "long": "x" * 6000, "list": "[1, 2]"}
    assert {"arm": "base", "attempt": "1", "mlflow.runName": "base-s0"}.items() <= tags(outputs, run_id).items()
    ((start, end),) = rows(database(outputs), "SELECT start_time, end_time FROM runs WHERE run_uuid = ?", run_id)
    assert start < end < start + 120_000

    root = outputs / "mlartifacts" / "sam_vit" / run_id / "artifacts"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {"notes/today/note.txt", "plots/curve.png", "params.json"}
    assert json.loads((root / "params.json").read_text())["long"] == "x" * 7000
    assert not (Path.cwd() / "mlruns").exists()


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(outputs, make):
    tracker = make(params={"lr": 0.1})
    tracker.start()
    for step in range(10):
        tracker.log_metrics({"train/loss": float(step)}, step)
    assert tracker.finish("KILLED", timeout_s=60)
    first = tracker.run_id
    assert runs(database(outputs), "sam_vit") == [(first, "KILLED")]

    resumed = make(params={"lr": 0.2, "new": 1}, tags={"fingerprint": "a" * 12, "hostname": "other"})
    resumed.start()
    assert resumed.run_id == first
    wait_until(lambda: runs(database(outputs), "sam_vit") == [(first, "RUNNING")], 30)
    for step in range(5, 20):
        resumed.log_metrics({"train/loss": float(step)}, step)
    assert resumed.finish("FINISHED", timeout_s=60)
    assert runs(database(outputs), "sam_vit") == [(first, "FINISHED")]
    assert history(database(outputs), first, "train/loss") == [(step, float(step)) for step in range(20)]
    assert params(outputs, first) == {"lr": "0.1"}
    assert {"hostname": "other", "attempt": "2"}.items() <= tags(outputs, first).items()


def test_repeated_steps_keep_the_value_logged_first(outputs, make):
    tracker = make()
    tracker.start()
    tracker.log_metrics({"train/loss": 1.0, "val/loss": 1.0}, 3)
    tracker.log_metrics({"train/loss": 2.0, "test/loss": 2.0}, 3)
    assert tracker.finish("FINISHED", timeout_s=60)
    for name, value in {"train/loss": 1.0, "val/loss": 1.0, "test/loss": 2.0}.items():
        assert history(database(outputs), tracker.run_id, name) == [(3, value)]


def test_an_artifact_logged_again_replaces_the_first(outputs, make):
    tracker = make()
    tracker.start()
    file = tracker.directory / "config.yaml"
    file.write_text("a: 1")
    tracker.log_artifact(file)
    wait_until(lambda: tracker.run_id, 30)
    kept = outputs / "mlartifacts" / "sam_vit" / tracker.run_id / "artifacts" / "config.yaml"
    wait_until(kept.exists, 30)
    file.write_text("a: 2, later")
    tracker.log_artifact(file)
    assert tracker.finish("FINISHED", timeout_s=60)
    assert kept.read_text() == "a: 2, later"


def test_a_directory_of_files_keeps_its_layout(outputs, make, tmp_path):
    report = tmp_path / "report"
    (report / "plots").mkdir(parents=True)
    (report / "index.html").write_text("<h1>verdicts</h1>")
    (report / "plots" / "a.png").write_bytes(b"png")
    tracker = make()
    tracker.start()
    tracker.log_directory(report, "report")
    assert tracker.finish("FINISHED", timeout_s=60)
    root = outputs / "mlartifacts" / "sam_vit" / tracker.run_id / "artifacts" / "report"
    assert (root / "index.html").exists() and (root / "plots" / "a.png").exists()


def test_an_offline_run_is_delivered_later_with_its_own_times(outputs, make):
    tracker = make(uri=OFFLINE, params={"lr": 0.1})
    tracker.start()
    for step in range(30):
        tracker.log_metrics({"train/loss": float(step)}, step)
    assert tracker.finish("FINISHED") is False
    assert tracker.run_id is None and not database(outputs).exists()
    assert deliver_all(outputs) == []
    ((run_id, status),) = runs(database(outputs), "sam_vit")
    assert status == "FINISHED"
    assert history(database(outputs), run_id, "train/loss") == [(step, float(step)) for step in range(30)]
    assert params(outputs, run_id) == {"lr": "0.1"}
    intent = json.loads((tracker.directory / "tracking.json").read_text())
    times = rows(database(outputs), "SELECT start_time, end_time FROM runs")
    assert times == [(intent["start_time"], intent["end_time"])]
    before = database(outputs).stat().st_mtime_ns
    assert deliver_all(outputs) == []
    assert database(outputs).stat().st_mtime_ns == before, "a second delivery must not touch the store"


def test_a_run_deleted_in_mlflow_is_made_anew_with_everything(outputs, make):
    from curvature.tracking.store import client

    tracker = make(params={"lr": 0.1})
    tracker.start()
    tracker.log_metrics({"train/loss": 1.0}, 0)
    assert tracker.finish("KILLED", timeout_s=60)
    deleted = tracker.run_id
    client(default_uri(outputs)).delete_run(deleted)
    resumed = make(params={"lr": 0.1})
    resumed.start()
    resumed.log_metrics({"train/loss": 2.0}, 1)
    assert resumed.finish("FINISHED", timeout_s=60)
    ((run_id, status),) = runs(database(outputs), "sam_vit")
    assert run_id != deleted and status == "FINISHED"
    assert history(database(outputs), run_id, "train/loss") == [(0, 1.0), (1, 2.0)]
    assert params(outputs, run_id) == {"lr": "0.1"}


def test_another_store_gets_the_whole_run(outputs, make, tmp_path):
    first = make()
    first.start()
    first.log_metrics({"train/loss": 1.0}, 0)
    assert first.finish("KILLED", timeout_s=60)
    elsewhere = tmp_path / "other" / "mlflow.db"
    second = make(uri=f"sqlite:///{elsewhere}")
    second.start()
    second.log_metrics({"train/loss": 2.0}, 1)
    assert second.finish("FINISHED", timeout_s=60)
    assert history(elsewhere, second.run_id, "train/loss") == [(0, 1.0), (1, 2.0)]


def test_a_superseded_run_is_marked_and_not_found_again(outputs, make):
    tracker = make()
    tracker.start()
    tracker.log_metrics({"test/accuracy": 0.5}, 0)
    assert tracker.finish("FINISHED", timeout_s=60)
    replaced = tracker.run_id
    supersede(tracker.directory.rename(tracker.directory.with_name("aside")))
    wait_until(lambda: tags(outputs, replaced).get("superseded") == "true", 30)
    again = make()
    again.start()
    again.log_metrics({"test/accuracy": 0.75}, 0)
    assert again.finish("FINISHED", timeout_s=60)
    assert again.run_id != replaced
    (found,) = finished_runs(default_uri(outputs), "sam_vit")
    assert found.run_id == again.run_id and found.metrics == {"test/accuracy": 0.75}
    assert len(finished_runs(default_uri(outputs), "sam_vit", superseded=True)) == 2


def test_delivering_a_directory_that_is_none_or_complete_does_nothing(outputs, make, tmp_path):
    assert deliver(tmp_path) is True
    assert deliver_all(tmp_path / "nowhere") == []
    supersede(tmp_path)
    tracker = make()
    tracker.start()
    assert tracker.finish("FAILED", timeout_s=60)
    assert deliver(tracker.directory) is True
    assert runs(database(outputs), "sam_vit") == [(tracker.run_id, "FAILED")]


def test_a_live_run_is_left_to_itself(outputs, make):
    tracker = make()
    tracker.start()
    wait_until(lambda: tracker.run_id, 30)
    assert deliver_all(outputs) == [tracker.directory]
    assert runs(database(outputs), "sam_vit") == [(tracker.run_id, "RUNNING")]
    assert tracker.finish("FINISHED", timeout_s=60)
    assert deliver_all(outputs) == []


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "/tmp/x.db", "sqlite:x.db", "ftp://server"])
def test_an_unusable_uri_is_refused_before_anything_is_made(make, outputs, uri):
    with pytest.raises(ConfigError, match=r"tracking\.uri=.*sqlite:///path"):
        make(uri=uri)
    assert not outputs.exists()


def test_passwords_of_uris_stay_off_the_disk(outputs, make):
    secret = "http://user:hunter2@127.0.0.1:9"
    tracker = make(uri=secret, params={"tracking.uri": secret})
    tracker.start()
    tracker.log_metrics({"a": 1.0}, 0)
    wait_until(lambda: (tracker.directory / "delivery.json").exists(), 30)
    assert tracker.finish("FINISHED", timeout_s=0.1) is False
    written = [path for path in outputs.rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert not any(b"hunter2" in path.read_bytes() for path in written)
    assert deliver(tracker.directory) is False, "without the password nothing is tried"


def test_the_null_tracker_has_the_whole_interface(tmp_path):
    public = {name for name in vars(Tracker) if not name.startswith("_")}
    assert public <= {name for name in dir(NullTracker) if not name.startswith("_")}
    tracker = NullTracker()
    tracker.start()
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.sync()
    assert tracker.finish("FINISHED") is True and tracker.run_id is None
