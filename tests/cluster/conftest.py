"""A real Slurm cluster of two nodes for the tests of this folder, started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_harness import Demo, SlurmCluster, start_cluster, stop_cluster
from tracking_support import Server


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = start_cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    stop_cluster(cluster)


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A second cluster, side by side with the first, that the tests of a module may break."""
    cluster = start_cluster(tmp_path_factory.mktemp("own"), MessageTimeout=5)
    yield cluster
    stop_cluster(cluster)


@pytest.fixture
def demo(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Demo]:
    """The demo application on the shared cluster; jobs that a test leaves are cancelled."""
    application = Demo(slurm_cluster, tmp_path)
    yield application
    application.cancel()


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server that the jobs of all tests may log to."""
    server = Server(tmp_path_factory.mktemp("mlflow")).start()
    yield server
    server.stop()
