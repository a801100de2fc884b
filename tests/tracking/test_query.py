import pytest

from curvature.tracking import OFFLINE, Tracker, query
from curvature.tracking.query import MetricPoint, StoreUnreachable, finished_runs, mark_superseded, metric_history
from curvature.tracking.store import client

FINGERPRINTS = [f"{number:064x}" for number in range(120)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store with 119 finished runs, a killed one, one of somebody else and another experiment."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('query')}/mlflow.db"
    mlflow = client(uri)
    experiment = mlflow.create_experiment("sam_vit")

    def add(number, status="FINISHED", experiment=experiment, fingerprint=True):
        tags = {"arm": f"arm{number % 2}", "seed": str(number), "scale": "desk"}
        tags |= {"fingerprint": FINGERPRINTS[number]} if fingerprint else {}
        run_id = mlflow.create_run(experiment, start_time=1_000 + number, tags=tags).info.run_id
        mlflow.log_metric(run_id, "test/accuracy", number / 7, step=2, timestamp=1)
        mlflow.set_terminated(run_id, status)
        return run_id

    for number in reversed(range(len(FINGERPRINTS) - 1)):
        add(number)
    add(len(FINGERPRINTS) - 1, "KILLED")
    add(0, fingerprint=False)
    add(1, experiment=mlflow.create_experiment("other"))
    return uri


def test_all_finished_runs_of_the_experiment_come_oldest_first(uri, monkeypatch):
    monkeypatch.setattr(query, "PAGE", 50)
    found = finished_runs(uri, "sam_vit")
    assert [run.fingerprint for run in found] == FINGERPRINTS[:-1]
    assert [run.seed for run in found] == list(range(119))
    run = found[5]
    assert (run.arm, run.scale, run.status, run.metrics, run.start_time) == (
        "arm1",
        "desk",
        "FINISHED",
        {"test/accuracy": 5 / 7},
        1005,
    )


@pytest.mark.parametrize("count", [0, 1, 16, 17, 100])
def test_any_number_of_fingerprints_can_be_asked_for(uri, count):
    wanted = FINGERPRINTS[10 : 10 + count]
    assert [run.fingerprint for run in finished_runs(uri, "sam_vit", wanted)] == wanted


def test_killed_runs_and_unknown_fingerprints_are_not_found(uri):
    assert finished_runs(uri, "sam_vit", [FINGERPRINTS[-1], "f" * 64]) == []


def test_what_does_not_exist_holds_no_runs(uri, tmp_path):
    assert finished_runs(uri, "no such experiment") == []
    missing = tmp_path / "mlflow.db"
    assert finished_runs(f"sqlite:///{missing}", "sam_vit") == []
    assert not missing.exists(), "asking must not create a store"
    assert finished_runs(OFFLINE, "sam_vit") == []


def test_latest_value_counts_and_superseded_runs_do_not(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    trackers = []
    for number, name in enumerate(["a", "a-again", "b"]):
        tags = {"fingerprint": name[0], "arm": "x", "seed": "0"}
        tracker = Tracker(tmp_path / name, uri, "sam_vit", name, tags, flush_seconds=0.05)
        tracker.start()
        for step in (0, 10, 5):
            tracker.log_metrics({"val/accuracy": step + number / 10}, step)
        assert tracker.finish("FINISHED", timeout_s=60)
        trackers.append(tracker.run_id)
    first, again, other = trackers
    found = finished_runs(uri, "sam_vit")
    assert [(run.run_id, run.metrics["val/accuracy"]) for run in found] == [(again, 10.1), (other, 10.2)]
    assert [run.run_id for run in finished_runs(uri, "sam_vit", superseded=True)] == [first, again, other]
    mark_superseded(uri, again)
    assert [run.run_id for run in finished_runs(uri, "sam_vit")] == [first, other]
    history = metric_history(uri, again, "val/accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.1), (5, 5.1), (10, 10.1)]
    assert isinstance(history[0], MetricPoint) and history[0].timestamp > 1.6e12
    assert metric_history(uri, again, "no such metric") == []


def test_a_dead_server_gives_one_clear_error_without_the_password():
    with pytest.raises(StoreUnreachable, match=r"http://\*\*\*@127\.0\.0\.1:9 cannot be read") as caught:
        finished_runs("http://user:hunter2@127.0.0.1:9", "sam_vit")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StoreUnreachable):
        mark_superseded("http://127.0.0.1:9", "a" * 32)
