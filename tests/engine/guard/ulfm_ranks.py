"""Run by ``mpiexec --with-ft ulfm`` (see test_guard.py): ranks die or are stuck in C."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback

import numpy as np
from mpi4py import MPI

from mpiparallel.engine import guard
from mpiparallel.error import CommunicatorBroken, PeerFailed

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size


def killed() -> None:
    """A rank dies; the others are freed from what they wait in, and are told which one it was."""
    WORLD.Set_errhandler(MPI.ERRORS_RETURN)
    g = guard.install(WORLD)
    comm = MPI.COMM_WORLD
    comm.Barrier()
    if RANK == 1:
        for other in (0, 2):  # one that is in the barrier yet would fail in there
            WORLD.recv(source=other)
        os.kill(os.getpid(), signal.SIGKILL)
    WORLD.send("out of the barrier", 1)
    try:
        comm.Recv(np.zeros(1), 1)
        raise AssertionError("the dead have sent something")
    except PeerFailed as error:
        assert error.rank == 1 and "died" in error.error, error
    assert [entry[0] for entry in g.take_broken()] == ["world"]
    try:
        comm.Barrier()
        raise AssertionError("not broken")
    except CommunicatorBroken as error:
        assert "died" in str(error), error
    survivors = MPI.Intracomm.plain(comm).Shrink()
    g.renew("world", survivors, [rank for rank in range(SIZE) if rank != 1], "world~1")
    assert comm.allgather(RANK) == [rank for rank in range(SIZE) if rank != 1]
    assert comm.allreduce(1, lambda a, b: a + b) == SIZE - 1


def stuck() -> None:
    """A rank is in a call inside C that no signal reaches; its courier revokes the communicator."""
    WORLD.Set_errhandler(MPI.ERRORS_RETURN)
    g = guard.install(WORLD)
    assert g.can_revoke
    plain = WORLD.Dup()
    comm = MPI.COMM_WORLD
    if RANK == 0:
        about_to = threading.Event()

        def courier() -> None:
            about_to.wait()  # whether it is inside already makes no difference
            assert g.revoke_all()

        thread = threading.Thread(target=courier)
        thread.start()
        about_to.set()
        try:
            MPI.Intracomm.plain.Barrier(comm)
            raise AssertionError("the barrier ended")
        except MPI.Exception as error:
            assert error.Get_error_class() == MPI.ERR_REVOKED, error
        thread.join()
        assert comm._state.broken
        for rank in range(1, SIZE):
            plain.send("the end", rank)
    else:
        plain.recv()  # who leaves would end the barrier, too


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]]()
        print(f"rank {RANK} fine", flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # MPI.Finalize would wait for the dead
