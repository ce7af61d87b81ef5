"""The same ways under plain mpi4py, and on IPython Parallel's engines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ways import PRELUDE, RANKS, Way

HANGS_AFTER = 5.0  # seconds after which we say that it hangs
INTERRUPT_WITHIN = 3.0  # seconds that Ctrl-C has to help

# What Open MPI wants to hear before it starts more ranks than cores, or anything as root.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
_TELL_PID = 'open(os.path.join(os.environ["STUCK_FOLDER"], f"{rank}"), "w").write(str(os.getpid()))\n'


@dataclass
class Seen:
    """What became of it, in words, and the seconds until something could be used again."""

    what: str
    usable: float | None


def _victims(way: Way) -> list[int]:
    verb, _, whom = way.then.partition(" ")
    return [int(word) for word in whom.split() if word.isdigit()] if verb == "kill" else []


def _wait(ended: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not ended():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# ---------------------------------------------------------------- plain mpi4py


def plain(way: Way) -> Seen:
    """Run the cell as a script under mpiexec, as a person would: look, press Ctrl-C, kill."""
    with tempfile.TemporaryDirectory(prefix="stuck-") as folder:
        script = Path(folder, "script.py")
        script.write_text(f"{PRELUDE}\n{_TELL_PID}\n{way.cell}\n")
        mpiexec = Path(sys.executable).with_name("mpiexec")
        began = time.monotonic()
        job = subprocess.Popen(
            [str(mpiexec), "-n", str(RANKS), sys.executable, str(script)],
            env={**os.environ, **OPEN_MPI, "STUCK_FOLDER": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return _watch_job(way, job, Path(folder), began)
        finally:
            _end_family(job)


def _watch_job(way: Way, job: subprocess.Popen[bytes], folder: Path, began: float) -> Seen:
    victims = _victims(way)
    if victims:
        there = _wait(lambda: len([p for p in folder.glob("[0-9]") if p.read_text()]) == RANKS, 20)
        assert there, "the ranks did not start"
        began = time.monotonic()
        for rank in victims:
            os.kill(int((folder / str(rank)).read_text()), signal.SIGKILL)
    if _wait(lambda: job.poll() is not None, HANGS_AFTER):
        seconds = time.monotonic() - began
        how = "ends as if nothing were wrong" if job.returncode == 0 else "the job is ended, all is lost"
        return Seen(f"{how} ({seconds:.1f} s)", None)
    os.kill(job.pid, signal.SIGINT)
    if _wait(lambda: job.poll() is not None, INTERRUPT_WITHIN):
        return Seen("hangs; Ctrl-C ends the job, all is lost", None)
    return Seen("hangs; Ctrl-C does nothing", None)


def _end_family(job: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(job.pid).children(recursive=True) if job.poll() is None else []
    for process in family:
        if process.is_running():
            process.kill()
    if job.poll() is None:
        job.kill()
    job.wait()


# ---------------------------------------------------------------- IPython Parallel


class IPythonParallel:
    """A cluster of IPython Parallel's, started again whenever a way has spoilt it."""

    def __init__(self) -> None:
        self._cluster: Any = None
        self._client: Any = None

    def start(self) -> None:
        """Start a cluster."""
        import ipyparallel

        self._cluster = ipyparallel.Cluster(n=RANKS, engines="mpi", log_level=50)
        self._client = self._cluster.start_and_connect_sync()
        self._client.wait_for_engines(RANKS, timeout=60, interactive=False)

    def stop(self) -> None:
        if self._cluster is None:
            return
        mine = psutil.Process().children(recursive=True)
        self._client.close()
        try:
            self._cluster.stop_cluster_sync()
        finally:
            for process in mine:  # engines that hang do not go by themselves
                if process.is_running():
                    process.kill()
            self._cluster = None

    def get_stuck(self, way: Way) -> Seen:
        """Run one way; a cluster that cannot be used afterwards is started again."""
        if self._cluster is None:
            self.start()
        view = self._client[:]
        view.execute(PRELUDE, block=True)
        pids = dict(enumerate(view.apply_sync(os.getpid)))
        began = time.monotonic()
        cell = view.execute(way.cell, block=False)
        for rank in _victims(way):
            os.kill(pids[rank], signal.SIGKILL)
        if cell.wait(HANGS_AFTER):
            what = f"{_outcome(cell)} ({time.monotonic() - began:.1f} s)"
        else:
            self._cluster.signal_engines_sync(signal.SIGINT)
            helped = cell.wait(INTERRUPT_WITHIN)
            what = "hangs; an interrupt helps" if helped else "hangs; an interrupt does not help"
        if self._works(pids):
            return Seen(what, time.monotonic() - began)
        self.stop()
        self.start()
        return Seen(f"{what}; to be started again, all is lost", time.monotonic() - began)

    def _works(self, pids: dict[int, int]) -> bool:
        if len(self._client.ids) < RANKS or not all(psutil.pid_exists(pid) for pid in pids.values()):
            return False
        sums = self._client[:].apply_async(_sum_of_ones)
        return bool(sums.wait(HANGS_AFTER)) and sums.successful() and list(sums.get()) == [RANKS] * RANKS


def _sum_of_ones() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(1))


def _outcome(cell: Any) -> str:
    try:
        cell.get()
    except Exception as error:
        return f"told: {type(error).__name__}"
    return "ends as if nothing were wrong"


@contextmanager
def ipython_parallel() -> Iterator[IPythonParallel]:
    """Provide it, and see that nothing is left."""
    peer = IPythonParallel()
    path = os.environ.get("PATH", "")
    os.environ.update(OPEN_MPI, PATH=f"{Path(sys.executable).parent}{os.pathsep}{path}")
    try:
        yield peer
    finally:
        peer.stop()
