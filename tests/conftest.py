"""Fixtures for all tests: a state folder of our own, one real cluster, a look at what is left at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import processes_of, wait_until

pytest.register_assert_rewrite("commands")

if TYPE_CHECKING:
    from mpiparallel import Client, Cluster

ENGINES = 4


@pytest.fixture(scope="session", autouse=True)
def state_dir() -> Iterator[Path]:
    """Keep tests away from the user's own clusters, and see that nothing is left running or on disk."""
    for name in [name for name in os.environ if name.startswith(("MPIPARALLEL_", "IPP_"))]:
        if not name.startswith("MPIPARALLEL_TEST_"):  # meant for tests
            del os.environ[name]
    state = Path(tempfile.mkdtemp(prefix="mpiparallel-tests-"))
    os.environ["MPIPARALLEL_STATE"] = str(state)
    yield state
    wait_until(lambda: not processes_of(state))
    running = [" ".join(process.cmdline()) for process in processes_of(state)]
    left = [str(path) for path in state.rglob("*") if not path.is_dir()]
    shutil.rmtree(state)
    assert not running, f"left running: {running}"
    assert not left, f"left on disk: {left}"


@pytest.fixture(autouse=True)
def no_threads_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads of ours behind."""
    before = set(threading.enumerate())
    yield

    def left() -> list[str]:
        new = [one.name for one in threading.enumerate() if one not in before]
        # A watcher lives as long as the process that it watches, which may be a shared cluster's.
        return [name for name in new if name.startswith("mpiparallel")]

    assert wait_until(lambda: not left(), 2.0), f"threads left: {left()}"


class _SharedCluster:
    """One cluster for all tests, made when the first asks for it and again when a test has broken it."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None

    def get(self) -> Cluster:
        from mpiparallel import Cluster

        if self.cluster is not None and not self._whole(self.cluster):
            self.stop()
        if self.cluster is None:
            self.cluster = Cluster(n=ENGINES, cluster_id="tests")
            self.cluster.start_and_connect_sync().close()
        return self.cluster

    def stop(self) -> None:
        if self.cluster is not None:
            self.cluster.stop_cluster_sync()
            self.cluster = None

    @staticmethod
    def _whole(cluster: Cluster) -> bool:
        if cluster.controller is None or not cluster.controller.running:
            return False
        with cluster.connect_client_sync() as client:
            return client.ids == list(range(ENGINES))


@pytest.fixture(scope="session")
def _shared_cluster(state_dir: Path) -> Iterator[_SharedCluster]:
    shared = _SharedCluster()
    yield shared
    shared.stop()


@pytest.fixture
def cluster(_shared_cluster: _SharedCluster) -> Cluster:
    """A running cluster of four engines, shared by all tests."""
    return _shared_cluster.get()


@pytest.fixture
def rc(cluster: Cluster) -> Iterator[Client]:
    """A client of the shared cluster; the engines' namespaces are empty before the test."""
    with cluster.connect_client_sync() as client:
        client.clear(block=True)
        yield client
