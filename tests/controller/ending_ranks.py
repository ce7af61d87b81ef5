"""Run by mpiexec (see test_deaths.py): says which processes there are, and rank 1 ends as it is told."""

import ctypes
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

from mpi4py import MPI


def crash() -> None:
    ctypes.string_at(0)


def abort() -> None:
    """As engines do. MPICH's mpiexec may lose what was written just before."""
    print(f"mpiparallel: rank 1 (pid {os.getpid()}) called MPI_Abort(7): here", file=sys.stderr, flush=True)
    time.sleep(0.2)
    MPI.COMM_WORLD.Abort(7)


ENDS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": crash,
    "exit": lambda: os._exit(3),
    "abort": abort,
}

faulthandler.enable()
folder, how = Path(sys.argv[1]), sys.argv[2]
pids = MPI.COMM_WORLD.gather(os.getpid())
if pids is not None:
    (folder / "new").write_text(" ".join(map(str, pids)))
    (folder / "new").rename(folder / "pids")
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    if MPI.COMM_WORLD.rank == 1 and (folder / "go").exists():
        ENDS[how]()
    time.sleep(0.005)
