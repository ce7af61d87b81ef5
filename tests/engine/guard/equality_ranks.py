"""Run by mpiexec (see test_guard.py): calls give on a guarded communicator what they give on a plain one."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from mpiparallel.engine import guard

PLAIN = MPI.COMM_WORLD.Dup()
RANK, SIZE = PLAIN.rank, PLAIN.size
TYPES = (np.float64, np.int32, np.complex128, np.uint8)
LONG = "x" * 100_000
OBJECTS: list[Callable[[int], Any]] = [
    lambda rank: rank,
    lambda rank: {"rank": rank, "more": ["text"] * rank},
    lambda rank: LONG[: 1 + 40_000 * rank],
    lambda rank: np.arange(10.0) * rank,
    lambda rank: None,
]


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal, arrays included."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def buffers(comm: Any, root: int, dtype: Any) -> dict[str, Callable[[], Any]]:
    """Return upper-case collectives; each call returns what was received."""
    one = np.arange(3).astype(dtype) + RANK + 1
    many = np.arange(3 * SIZE).astype(dtype) + RANK
    counts = [rank + 1 for rank in range(SIZE)]
    mine = np.arange(counts[RANK]).astype(dtype) + RANK
    kind = MPI._typedict[np.dtype(dtype).char]
    here = root == RANK

    def into(call: Callable[[np.ndarray], None], shape: int) -> Callable[[], Any]:
        def run() -> Any:
            target = np.zeros(shape, dtype)
            call(target)
            return target

        return run

    def in_place(call: Callable[[np.ndarray], None], start: np.ndarray) -> Callable[[], Any]:
        def run() -> Any:
            target = start.copy()
            call(target)
            return target

        return run

    total = sum(counts)
    found = {
        "Bcast": in_place(lambda t: comm.Bcast(t, root), one),
        "Bcast with a type": in_place(lambda t: comm.Bcast([t, kind], root=root), one),
        "Gather": into(lambda t: comm.Gather(one, t if here else None, root), 3 * SIZE),
        "Gatherv": into(lambda t: comm.Gatherv(mine, [t, counts, None, kind] if here else None, root), total),
        "Scatter": into(lambda t: comm.Scatter(many if here else None, t, root), 3),
        "Scatterv": into(
            lambda t: comm.Scatterv([np.arange(total).astype(dtype), counts, None, kind], t, root),
            counts[RANK],
        ),
        "Allgather": into(lambda t: comm.Allgather(one, t), 3 * SIZE),
        "Allgather in place": in_place(lambda t: comm.Allgather(MPI.IN_PLACE, t), many),
        "Allgatherv": into(lambda t: comm.Allgatherv(mine, [t, counts, None, kind]), total),
        "Alltoall": into(lambda t: comm.Alltoall(many, t), 3 * SIZE),
        "Alltoallv": into(
            lambda t: comm.Alltoallv([many, [3] * SIZE, None, kind], [t, [3] * SIZE, None, kind]), 3 * SIZE
        ),
        "Alltoallw": into(
            lambda t: comm.Alltoallw(
                [many, ([3] * SIZE, [3 * t.itemsize * i for i in range(SIZE)]), [kind] * SIZE],
                [t, ([3] * SIZE, [3 * t.itemsize * i for i in range(SIZE)]), [kind] * SIZE],
            ),
            3 * SIZE,
        ),
    }
    for label, op in (("sum", MPI.SUM), ("product", MPI.PROD)):
        found |= {
            f"Reduce {label}": into(lambda t, op=op: comm.Reduce(one, t if here else None, op, root), 3),
            f"Allreduce {label}": into(lambda t, op=op: comm.Allreduce(one, t, op), 3),
            f"Allreduce {label} in place": in_place(
                lambda t, op=op: comm.Allreduce(MPI.IN_PLACE, t, op=op), one
            ),
            f"Scan {label}": into(lambda t, op=op: comm.Scan(one, t, op), 3),
            f"Exscan {label}": into(lambda t, op=op: comm.Exscan(one, t, op), 3),
            f"Reduce_scatter_block {label}": into(lambda t, op=op: comm.Reduce_scatter_block(many, t, op), 3),
            f"Reduce_scatter {label}": into(
                lambda t, op=op: comm.Reduce_scatter(np.arange(total).astype(dtype), t, counts, op),
                counts[RANK],
            ),
        }
    return found


def objects(comm: Any, root: int, make: Callable[[int], Any]) -> dict[str, Callable[[], Any]]:
    """Return lower-case collectives."""
    mine, here = make(RANK), root == RANK
    everybody = [make(rank) for rank in range(SIZE)]
    return {
        "bcast": lambda: comm.bcast(mine if here else None, root),
        "gather": lambda: comm.gather(mine, root=root),
        "scatter": lambda: comm.scatter(everybody if here else None, root),
        "scatter of nothing": lambda: comm.scatter(None, root),
        "allgather": lambda: comm.allgather(mine),
        "alltoall": lambda: comm.alltoall(everybody),
        "barrier": lambda: comm.barrier(),
        "sendrecv": lambda: comm.sendrecv(mine, (RANK + 1) % SIZE, 5, None, (RANK - 1) % SIZE, 5),
    }


def reductions(comm: Any, root: int) -> dict[str, Callable[[], Any]]:
    """Return reductions with functions whose results depend on the order."""

    def joined(a: str, b: str) -> str:
        return f"({a}+{b})"

    name = f"r{RANK}"
    return {
        "reduce": lambda: comm.reduce(name, joined, root),
        "allreduce": lambda: comm.allreduce(name, op=joined),
        "scan": lambda: comm.scan(name, joined),
        "exscan": lambda: comm.exscan(name, joined),
        "allreduce of numbers": lambda: comm.allreduce(0.1 * RANK),
        "reduce of arrays": lambda: comm.reduce(np.arange(50_000.0) * RANK, MPI.SUM, root),
        "MAXLOC": lambda: comm.allreduce((RANK % 2, RANK), MPI.MAXLOC),
    }


def messages(comm: Any) -> dict[str, Callable[[], Any]]:
    """Return exchanges around the ring, with what their statuses say."""
    right, left = (RANK + 1) % SIZE, (RANK - 1) % SIZE

    def told(status: MPI.Status) -> Any:
        return status.Get_source(), status.Get_tag(), status.Get_count(MPI.BYTE), status.Get_error()

    def buffer(send: str, receive: Callable[[Any, MPI.Status], Any], n: int) -> Callable[[], Any]:
        def run() -> Any:
            out, into, status = np.full(n, RANK + 1.0), np.zeros(n), MPI.Status()
            request = getattr(comm, send)(out, right, 3)
            receive(into, status)
            request.Wait()
            return into, told(status)

        return run

    def pickled(send: str, receive: Callable[[MPI.Status], Any]) -> Callable[[], Any]:
        def run() -> Any:
            status = MPI.Status()
            request = getattr(comm, send)({"from": RANK}, right, 4)
            value = receive(status)
            request.wait()
            return value, told(status)

        return run

    def by_message(into: Any, status: MPI.Status) -> None:
        comm.Mprobe(left, 3).Recv(into, status)

    def exchange(into: Any, status: MPI.Status) -> None:
        comm.Sendrecv(np.full(4, 9.0 + RANK), right, 8, into, left, 8)
        comm.Recv(into, left, 3, status)

    def replaced() -> Any:
        data, status = np.full(20_000, float(RANK)), MPI.Status()
        comm.Sendrecv_replace(data, right, 6, left, 6, status)
        return data, told(status)

    def nowhere() -> Any:
        status, data = MPI.Status(), np.zeros(1)
        comm.Send(data, MPI.PROC_NULL)
        comm.Recv(data, MPI.PROC_NULL, status=status)
        comm.Sendrecv(data, MPI.PROC_NULL, 0, data, MPI.PROC_NULL)
        return comm.recv(source=MPI.PROC_NULL), told(status)

    return {
        "Recv": buffer("Isend", lambda into, status: comm.Recv(into, left, 3, status), 4),
        "Recv of any": buffer("Isend", lambda into, status: comm.Recv(into, status=status), 4),
        "Recv of much": buffer("Issend", lambda into, status: comm.Recv(into, left, status=status), 100_000),
        "Irecv": buffer("Isend", lambda into, status: comm.Irecv(into, left, 3).Wait(status), 4),
        "Waitall": buffer("Isend", lambda into, s: MPI.Request.Waitall([comm.Irecv(into, left)], [s]), 4),
        "Waitany": buffer("Isend", lambda into, s: MPI.Request.Waitany([comm.Irecv(into, left)], s), 4),
        "Mprobe": buffer("Isend", by_message, 4),
        "Sendrecv": buffer("Isend", exchange, 4),
        "Sendrecv_replace": replaced,
        "recv": pickled("isend", lambda status: comm.recv(None, left, 4, status)),
        "recv of any": pickled("issend", lambda status: comm.recv(status=status)),
        "irecv": pickled("isend", lambda status: comm.irecv(None, left, 4).wait(status)),
        "mprobe": pickled("isend", lambda status: comm.mprobe(left, 4).recv(status)),
        "probe": pickled("isend", lambda status: (comm.probe(left, 4), comm.recv(None, left, 4, status))),
        "waitall": pickled("isend", lambda status: MPI.Request.waitall([comm.irecv(None, left)], [status])),
        "nowhere": nowhere,
    }


def compare(what: str, sides: list[dict[str, Callable[[], Any]]]) -> int:
    """Run each call on both sides; return how many there were."""
    for name in sides[0]:
        plain, guarded = (side[name]() for side in sides)
        assert same(plain, guarded), f"{name} {what}: {plain!r:.200} became {guarded!r:.200}"
        PLAIN.Barrier()
    return len(sides[0])


def refused(comm: Any) -> None:
    """Name a root that there is not."""
    comm.bcast(1, SIZE)


def main() -> None:
    guard.install(MPI.COMM_WORLD)
    comms = [PLAIN, MPI.COMM_WORLD]
    n = 0
    for root in {0, SIZE - 1}:
        for dtype in TYPES:
            n += compare(f"of {dtype.__name__}, root {root}", [buffers(comm, root, dtype) for comm in comms])
        for number, make in enumerate(OBJECTS):
            n += compare(f"of object {number}, root {root}", [objects(comm, root, make) for comm in comms])
        n += compare(f"root {root}", [reductions(comm, root) for comm in comms])
    n += compare("", [messages(comm) for comm in comms])
    for comm in comms:
        for wrong, error in (
            (lambda comm: comm.alltoall([1] * (SIZE + 1)), ValueError),
            (refused, MPI.Exception),
        ):
            try:
                wrong(comm)
                raise AssertionError(f"no {error.__name__}")
            except error:
                PLAIN.Barrier()
    assert n > 150
    print(f"rank {RANK} fine", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
