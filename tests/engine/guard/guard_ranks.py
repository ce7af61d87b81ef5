"""Run by mpiexec (see test_guard.py): ranks use guarded communicators, are interrupted, and go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from mpiparallel.engine import guard
from mpiparallel.engine.guard import registry
from mpiparallel.error import CommunicatorBroken

PLAIN = MPI.COMM_WORLD.Dup()  # nothing guards this one
RANK, SIZE = PLAIN.rank, PLAIN.size
LONG = np.zeros(1_000_000)  # longer than any message that MPI sends before somebody takes it


def when_blocked(act: Callable[[guard.Guard], None], g: guard.Guard, seen: list[Any]) -> threading.Thread:
    """Call `act` as soon as the main thread has registered a new wait."""
    before = g.number

    def run() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            wait = g.current()
            if wait is not None and wait.number > before:
                seen.append(wait)
                act(g)
                return
            time.sleep(0.0005)

    thread = threading.Thread(target=run)
    g.disregard(thread)
    thread.start()
    return thread


def interrupt(g: guard.Guard) -> None:
    """Do what Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def together() -> None:
    """Wait for all ranks, outside of the guard."""
    PLAIN.Barrier()


def renew_all(g: guard.Guard) -> None:
    """Renew what is broken on any rank."""
    mine = g.take_broken()
    everybody = {entry[0]: (entry[1], entry[2]) for entries in PLAIN.allgather(mine) for entry in entries}
    for number, id in enumerate(sorted(everybody)):
        members, topology = everybody[id]
        if members != list(range(SIZE)):
            assert members == [RANK] or RANK not in members, (id, members)
            if RANK in members:
                g.renew(id, registry.world.private.Split(RANK), members, f"{id}~{number}")
            else:
                registry.world.private.Split(MPI.UNDEFINED)
            continue
        comm = PLAIN.Dup()
        if topology:
            comm = comm.Create_cart(topology[0], [bool(period) for period in topology[1]])
        g.renew(id, comm, members, f"{id}~{number}")


def lonely_calls(comm: Any, cart: Any) -> dict[str, Callable[[], Any]]:
    """Return calls that do not end on rank 0 while no other rank takes part."""
    one, all_ = np.zeros(1), np.zeros(SIZE)
    last = SIZE - 1
    counts = [1] * SIZE
    bytes_w = (one, ([8] * SIZE, [0] * SIZE), [MPI.BYTE] * SIZE)
    many_w = (all_, ([8] * SIZE, [8 * i for i in range(SIZE)]), [MPI.BYTE] * SIZE)
    n = 2  # neighbours on the ring
    return {
        "Barrier": lambda: comm.Barrier(),
        "barrier": lambda: comm.barrier(),
        "Bcast": lambda: comm.Bcast(one, last),
        "Gather": lambda: comm.Gather(one, all_, 0),
        "Gatherv": lambda: comm.Gatherv(one, [all_, counts, None, MPI.DOUBLE], 0),
        "Scatter": lambda: comm.Scatter(None, one, last),
        "Scatterv": lambda: comm.Scatterv(None, one, last),
        "Allgather": lambda: comm.Allgather(one, all_),
        "Allgatherv": lambda: comm.Allgatherv(one, [all_, counts, None, MPI.DOUBLE]),
        "Alltoall": lambda: comm.Alltoall(all_, np.zeros(SIZE)),
        "Alltoallv": lambda: comm.Alltoallv(
            [all_, counts, None, MPI.DOUBLE], [np.zeros(SIZE), counts, None, MPI.DOUBLE]
        ),
        "Alltoallw": lambda: comm.Alltoallw(bytes_w, many_w),
        "Reduce": lambda: comm.Reduce(one, np.zeros(1), MPI.SUM, 0),
        "Allreduce": lambda: comm.Allreduce(one, np.zeros(1)),
        "Allreduce in place": lambda: comm.Allreduce(MPI.IN_PLACE, one),
        "Reduce_scatter": lambda: comm.Reduce_scatter(all_, one, counts),
        "Reduce_scatter_block": lambda: comm.Reduce_scatter_block(all_, one),
        "bcast": lambda: comm.bcast(None, last),
        "gather": lambda: comm.gather(1),
        "scatter": lambda: comm.scatter(None, last),
        "allgather": lambda: comm.allgather(1),
        "alltoall": lambda: comm.alltoall([1] * SIZE),
        "reduce": lambda: comm.reduce(1),
        "allreduce": lambda: comm.allreduce(1, max),
        "scan": lambda: comm.scan(1),
        "exscan": lambda: comm.exscan(1),
        "Send": lambda: comm.Send(LONG, last),
        "Ssend": lambda: comm.Ssend(one, last),
        "send": lambda: comm.send(LONG, last),
        "ssend": lambda: comm.ssend(1, last),
        "Recv": lambda: comm.Recv(one, last, 7),
        "Recv any": lambda: comm.Recv(one),
        "recv": lambda: comm.recv(None, last, 7),
        "recv any": lambda: comm.recv(),
        "recv buf": lambda: comm.irecv(None, last).wait(),
        "Sendrecv": lambda: comm.Sendrecv(one, last, 0, np.zeros(1), last),
        "Sendrecv_replace": lambda: comm.Sendrecv_replace(one, last, 0, last),
        "sendrecv": lambda: comm.sendrecv(1, last, 0, None, last),
        "Probe": lambda: comm.Probe(last, 7),
        "probe": lambda: comm.probe(),
        "Mprobe": lambda: comm.Mprobe(last, 7),
        "mprobe": lambda: comm.mprobe(),
        "Message.Probe": lambda: MPI.Message.Probe(comm),
        "Wait": lambda: comm.Irecv(one, last).Wait(),
        "Wait for all": lambda: comm.Ibarrier().Wait(),
        "wait": lambda: comm.isend(LONG, last).wait(),
        "Waitall": lambda: MPI.Request.Waitall([comm.Irecv(one, last), comm.Isend(LONG, last)]),
        "waitall": lambda: MPI.Request.waitall([comm.irecv(None, last), comm.isend(LONG, last)]),
        "Waitany": lambda: MPI.Request.Waitany([comm.Irecv(one, last), comm.Irecv(all_)]),
        "waitany": lambda: MPI.Request.waitany([comm.irecv(None, last)]),
        "Waitsome": lambda: MPI.Request.Waitsome([comm.Irecv(one, last), comm.Isend(LONG, last)]),
        "waitsome": lambda: MPI.Request.waitsome([comm.irecv(None, last)]),
        "Dup": lambda: comm.Dup(),
        "Split": lambda: comm.Split(0),
        "Split_type": lambda: comm.Split_type(MPI.COMM_TYPE_SHARED),
        "Create": lambda: comm.Create(comm.group),
        "Create_group": lambda: comm.Create_group(comm.group),
        "Create_cart": lambda: comm.Create_cart([SIZE]),
        "Disconnect": lambda: comm.Disconnect(),
        "Win.Create": lambda: MPI.Win.Create(one, comm=comm),
        "Win.Allocate": lambda: MPI.Win.Allocate(8, comm=comm),
        "File.Open": lambda: MPI.File.Open(comm, "/dev/null"),
        "Neighbor_allgather": lambda: cart.Neighbor_allgather(one, np.zeros(n)),
        "Neighbor_allgatherv": lambda: cart.Neighbor_allgatherv(
            one, [np.zeros(n), [1] * n, None, MPI.DOUBLE]
        ),
        "Neighbor_alltoall": lambda: cart.Neighbor_alltoall(np.zeros(n), np.zeros(n)),
        "neighbor_allgather": lambda: cart.neighbor_allgather(1),
        "neighbor_alltoall": lambda: cart.neighbor_alltoall([1] * n),
        "Sub": lambda: cart.Sub([True]),
    }


CLEAN = {
    "Sendrecv",
    "Recv",
    "Recv any",
    "recv",
    "recv any",
    "Probe",
    "probe",
    "Mprobe",
    "mprobe",
    "Message.Probe",
}


def interrupts() -> None:
    """Ctrl-C ends each call; the communicator is healed in place, wherever it is referred to."""
    g = guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    cart = comm.Create_cart([SIZE], [True])
    for name, call in lonely_calls(comm, cart).items():
        if RANK == 0:
            seen: list[Any] = []
            thread = when_blocked(interrupt, g, seen)
            try:
                call()
                raise AssertionError(f"{name} ended")
            except KeyboardInterrupt:
                thread.join()
            assert seen and seen[0].parts, (name, seen)
            assert g.current() is None
            used = cart if "eighbor" in name or name == "Sub" else comm
            if name in CLEAN:
                assert g.take_broken() == [], name
                assert used._state.broken is None
            else:
                assert used._state.broken, name
                try:
                    used.Barrier()
                    raise AssertionError(f"{name} left the communicator as if nothing had happened")
                except CommunicatorBroken as error:
                    assert "KeyboardInterrupt" in str(error) and "renewed" in str(error), error
        together()
        renew_all(g)
        total = comm.allreduce(RANK)
        assert total == SIZE * (SIZE - 1) // 2, (name, total)
        assert MPI.COMM_WORLD is comm and comm._state.broken is None
        assert cart.neighbor_allgather(RANK) == [(RANK - 1) % SIZE, (RANK + 1) % SIZE]


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](*sys.argv[2:])
        together()
        print(f"rank {RANK} fine", flush=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
