"""The systems that are compared: each starts four engines on this machine and gives a client."""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import Any

import psutil

ENGINES = 4
MARK = "MPIPARALLEL_BENCHMARK"

# What Open MPI wants to hear before it starts more ranks than cores, or anything as root. Our own
# launcher says so by itself.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@contextmanager
def environment(**changes: str):
    """Change the environment for what is started meanwhile."""
    before = dict(os.environ)
    # The peer looks for mpiexec on the PATH, and a wheel puts it beside the interpreter.
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{before.get('PATH', '')}"
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Side:
    """One of the systems. Its processes are found again by a mark in their environment."""

    def __init__(
        self, name: str, module: str, cluster_options: dict[str, Any], environ: dict[str, str]
    ) -> None:
        self.name, self.module, self.cluster_options = name, module, cluster_options
        self.folder = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        self.environ = {**environ, "IPYTHONDIR": self.folder.name, "MPIPARALLEL_STATE": self.folder.name}
        self.client: Any = None

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def start(self) -> float:
        """Start the engines and a client; return the seconds it took until all were there."""
        self.token = secrets.token_hex(8)
        with environment(**self.environ, **{MARK: self.token}):
            self.cluster = importlib.import_module(self.module).Cluster(n=ENGINES, **self.cluster_options)
            began = time.perf_counter()
            self.client = self.cluster.start_and_connect_sync()
            self.client.wait_for_engines(ENGINES, timeout=120, interactive=False)
            return time.perf_counter() - began

    def stop(self) -> None:
        if self.client is not None:
            with environment(**self.environ):
                self.client.close()
                self.cluster.stop_cluster_sync()
            self.client = None
            psutil.wait_procs(self.processes(), timeout=10)  # the next measurement wants the cores

    def processes(self) -> list[psutil.Process]:
        """Return every process of this cluster, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == self.token:
                    found.append(process)
            except psutil.Error:
                continue  # it ended just now, or is somebody else's
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time that its processes have used so far."""
        used = 0.0
        for process in self.processes():
            try:
                used += sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        return used


def settle(sides: list[Side], patience: float = 10.0) -> None:
    """Wait until no side is still busy with what came before, so that none is measured beside the other."""
    deadline = time.monotonic() + patience
    before = [side.cpu_seconds() for side in sides]
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = [side.cpu_seconds() for side in sides]
        if all(after - earlier < 0.05 for after, earlier in zip(now, before, strict=True)):
            return
        before = now


def both() -> list[Side]:
    """Return ours and, where it is installed, IPython Parallel."""
    ours = Side("mpiparallel", "mpiparallel", {}, {})
    peer = Side("IPython Parallel", "ipyparallel", {"engines": "mpi", "log_level": 40}, OPEN_MPI)
    return [ours, peer] if peer.is_installed else [ours]


def bare_mpiexec(rounds: int = 3) -> float:
    """Return the seconds that mpiexec takes by itself to run four ranks which initialise MPI and end."""
    times = []
    for _ in range(rounds):
        with environment(**OPEN_MPI):
            began = time.perf_counter()
            subprocess.run(
                ["mpiexec", "-n", str(ENGINES), sys.executable, "-c", "from mpi4py import MPI"],
                check=True,
                stdin=subprocess.DEVNULL,
                timeout=120,
            )
            times.append(time.perf_counter() - began)
    return statistics.median(times)
