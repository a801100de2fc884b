"""A real server that goes away: training does not notice, and nothing is lost or doubled."""

import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from tracking_support import history, rows, runs, wait_until

from curvature.tracking import Tracker, deliver_all
from curvature.tracking.state import Progress


@pytest.fixture
def make(outputs):
    def tracker(uri, experiment):
        tags = {"fingerprint": "f", "arm": "base", "seed": "0"}
        directory = outputs / "runs" / experiment / "abc"
        return Tracker(directory, uri, experiment, "base-s0", tags, {"learning_rate": 0.1}, flush_seconds=0.05)

    return tracker


def log_steps(tracker, first, last, pause=0.0):
    """Log steps and return the longest time that one call took, in seconds."""
    longest = 0.0
    for step in range(first, last):
        begin = time.perf_counter()
        tracker.log_metrics({"train/loss": step / 7, "val/loss": step / 3}, step)
        longest = max(longest, time.perf_counter() - begin)
        time.sleep(pause)
    return longest


def assert_exact(server, experiment, steps, status="FINISHED"):
    ((run_id, found),) = runs(server.database, experiment)
    assert found == status
    assert history(server.database, run_id, "train/loss") == [(step, step / 7) for step in range(steps)]
    assert history(server.database, run_id, "val/loss") == [(step, step / 3) for step in range(steps)]


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_stopped_and_started_mid_run_has_every_metric_once(server, make, number, caplog):
    experiment = f"outage_{number.name}"
    tracker = make(server.uri, experiment)
    tracker.start()
    log_steps(tracker, 0, 300, pause=0.001)
    wait_until(lambda: tracker.run_id, 30)
    run_id = tracker.run_id
    stopper = threading.Thread(target=server.stop, args=(number,))
    stopper.start()
    longest = log_steps(tracker, 300, 1300, pause=0.001)
    stopper.join()
    wait_until(lambda: "training goes on" in caplog.text, 30)
    server.start()
    log_steps(tracker, 1300, 1400, pause=0.001)
    tracker.log_artifact(__file__)
    assert tracker.finish("FINISHED", timeout_s=60)
    assert tracker.run_id == run_id
    assert_exact(server, experiment, 1400)
    assert list(server.folder.glob(f"mlartifacts/**/{run_id}/artifacts/test_outages.py"))
    assert longest < 0.5, "an outage must not be felt in training"


def test_a_server_that_is_down_at_the_start_gets_one_run_with_the_true_start_time(server, make):
    server.stop()
    tracker = make(server.uri, "down_at_start")
    before = int(time.time() * 1000)
    tracker.start()
    log_steps(tracker, 0, 200, pause=0.001)
    begun = int(time.time() * 1000)
    assert tracker.run_id is None
    server.start()
    assert tracker.finish("FINISHED", timeout_s=60)
    assert_exact(server, "down_at_start", 200)
    ((start,),) = rows(server.database, "SELECT start_time FROM runs WHERE run_uuid = ?", tracker.run_id)
    assert before <= start <= begun


@pytest.mark.alone
def test_what_an_outage_at_the_end_leaves_behind_is_delivered_later_once(server, make, outputs):
    tracker = make(server.uri, "down_at_end")
    tracker.start()
    log_steps(tracker, 0, 100)
    wait_until(lambda: tracker.run_id, 30)
    server.stop()
    log_steps(tracker, 100, 200)
    begin = time.monotonic()
    assert tracker.finish("FINISHED", timeout_s=0.5) is False
    assert time.monotonic() - begin < 3
    assert deliver_all(outputs, server.uri) == [tracker.directory]
    server.start()
    assert deliver_all(outputs, server.uri) == []
    assert deliver_all(outputs, server.uri) == []
    assert_exact(server, "down_at_end", 200)


def test_a_run_resumed_after_an_outage_delivers_the_rest_of_the_earlier_start(server, make):
    tracker = make(server.uri, "resumed_later")
    server.stop()
    tracker.start()
    log_steps(tracker, 0, 150)
    assert tracker.finish("KILLED", timeout_s=0.1) is False
    server.start()
    resumed = make(server.uri, "resumed_later")
    resumed.start()
    log_steps(resumed, 100, 250)
    assert resumed.finish("FINISHED", timeout_s=60)
    assert_exact(server, "resumed_later", 250)


@pytest.mark.alone
def test_many_directories_of_a_dead_server_are_given_up_after_the_first(outputs):
    dead = "http://127.0.0.1:9"
    for name in range(20):
        tracker = Tracker(outputs / "runs" / "dead" / str(name), dead, "dead", "x", flush_seconds=10)
        tracker.start()
        assert tracker.finish("FINISHED", timeout_s=0) is False
    begin = time.monotonic()
    assert len(deliver_all(outputs, dead)) == 20
    assert time.monotonic() - begin < 10


@contextmanager
def listening(handle):
    """A TCP server on loopback that passes each connection to ``handle`` in a thread; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.alone
def test_a_server_that_accepts_and_never_answers_is_not_felt(make):
    connections = []
    with listening(connections.append) as port:
        tracker = make(f"http://127.0.0.1:{port}", "silent")
        begin = time.monotonic()
        tracker.start()
        assert time.monotonic() - begin < 1.0
        longest = log_steps(tracker, 0, 2000, pause=0.0005)
        wait_until(lambda: connections, 30)
        begin = time.monotonic()
        assert tracker.finish("FINISHED", timeout_s=0.5) is False
        assert time.monotonic() - begin < 3
        assert longest < 0.5


class Unreliable:
    """A proxy to the server that cuts off the client of every other request with ``mark``, up to ``times`` of them.

    The server sees those all the same, ``delay`` seconds late.
    """

    def __init__(self, server, mark, delay, times):
        self.server, self.mark, self.delay, self.times = server, mark, delay, times
        self.seen = self.cut = 0

    def __call__(self, client):
        request = b""
        while b"\r\n\r\n" not in request:
            if not (data := client.recv(65536)):
                return
            request += data
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")), 0)
        while len(body) < length:
            body += client.recv(65536)
        marked = self.mark in lines[0] + body
        self.seen += marked
        cut = marked and self.seen % 2 == 1 and self.cut < self.times
        if cut:
            self.cut += 1
            client.close()
            time.sleep(self.delay)
        with socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            upstream.sendall(b"\r\n".join([*lines, b"Connection: close", b"", body]))
            while data := upstream.recv(65536):
                if not cut:
                    client.sendall(data)
        if not cut:
            client.close()


@pytest.mark.parametrize(
    ("mark", "delay", "times"),
    [
        (b"/runs/create", 0.0, 1),
        (b"/runs/create", 3.0, 1),
        (b"train/loss", 0.0, 5),
        (b"learning_rate", 0.0, 1),
        (b"/runs/update", 0.0, 1),
        (b"/experiments/create", 0.0, 1),
    ],
    ids=["run", "run-late", "metrics", "params", "status", "experiment"],
)
def test_answers_lost_on_the_way_double_nothing(server, make, mark, delay, times):
    """The server carries the request out, at once or seconds later, but the client never learns of it."""
    experiment = f"lost_{mark.decode().replace('/', '_')}_{delay:g}"
    proxy = Unreliable(server, mark, delay, times)
    with listening(proxy) as port:
        tracker = make(f"http://127.0.0.1:{port}", experiment)
        tracker.start()
        log_steps(tracker, 0, 1000, pause=0.004)
        wait_until(lambda: mark == b"/runs/update" or proxy.cut, 30)
        time.sleep(delay + 1 if delay else 0)
        assert tracker.finish("FINISHED", timeout_s=60)
    assert 1 <= proxy.cut <= times
    assert_exact(server, experiment, 1000)
    ((run_id, _),) = runs(server.database, experiment)
    assert Progress.load(tracker.directory).run_id == run_id
    params = rows(server.database, "SELECT key, value FROM params WHERE run_uuid = ?", run_id)
    assert params == [("learning_rate", "0.1")]
    made = rows(
        server.database,
        "SELECT COUNT(*) FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?",
        experiment,
    )
    assert made == [(2 if delay else 1,)], "only a run made late, unknown to us, has to be deleted again"
