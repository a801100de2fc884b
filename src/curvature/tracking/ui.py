"""``python -m curvature.tracking.ui``: open MLflow's user interface on the runs of this checkout, on loopback only."""

import argparse
import os
import socket
import sys
from pathlib import Path

from curvature.tracking import store
from curvature.tracking.deliver import deliver_all
from curvature.tracking.store import FIRST_PORT

PORTS = 100


def main(arguments: list[str] | None = None) -> int:
    """Deliver what is left over, print the address and become the MLflow server.

    Returns:
        1 if there is no store yet or no free port, 0 if the store is a server, which has its own user interface.
    """
    parser = argparse.ArgumentParser(prog="python -m curvature.tracking.ui", description=__doc__)
    parser.add_argument("--outputs", default="outputs", help="what runs were told as outputs= (default: outputs)")
    parser.add_argument("--uri", help="tracking URI (default: MLFLOW_TRACKING_URI, else the sqlite file in outputs)")
    parser.add_argument("--port", type=int, help=f"default: the first free one from {FIRST_PORT}")
    options = parser.parse_args(arguments)
    uri = options.uri or store.default_uri(options.outputs)
    deliver_all(Path(options.outputs), uri)
    if uri.startswith("http"):
        print(f"the tracking server has its own user interface: {store.redact(uri)}")
        return 0
    database = store.sqlite_path(uri)
    if database is not None and not database.exists():
        print(f"error: there are no runs yet: {database} does not exist; make run creates it", file=sys.stderr)
        return 1
    port = options.port or free_port()
    if port is None:
        print(f"error: no free port between {FIRST_PORT} and {FIRST_PORT + PORTS - 1}; use --port", file=sys.stderr)
        return 1
    print(f"MLflow on {store.redact(uri)}: http://127.0.0.1:{port} (Ctrl-C ends it)")
    for experiment in store.client(uri).search_experiments(order_by=["name ASC"]):
        if experiment.name != "Default":
            print(f"  {experiment.name:20} {experiment_page(port, experiment.experiment_id)}")
    sys.stdout.flush()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlflow", *store.ui_arguments(uri, port)])


def experiment_page(port: int, experiment_id: str) -> str:
    """Address of the table of runs; without the query MLflow opens its pages for language-model applications."""
    return f"http://127.0.0.1:{port}/#/experiments/{experiment_id}?workflowType=machine_learning"


def free_port() -> int | None:
    """The first port from :data:`FIRST_PORT` on that nobody listens on at loopback."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return None


if __name__ == "__main__":
    sys.exit(main())
