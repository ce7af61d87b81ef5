"""The lower-case collectives: objects are pickled here and travel by non-blocking calls.

mpi4py's own would block in C, and some releases of it duplicate the communicator at the first of these calls
while they hold the GIL (mpi4py #784), which would freeze the courier, too. How an object travels is ours to
choose, as all ranks of a communicator are guarded: where it can be, its size and a short object go together,
in a block of fixed length.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from struct import Struct
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard import reductions
from mpiparallel.engine.guard.plain import Intracomm, Request, Topocomm
from mpiparallel.engine.guard.steps import Steps

BLOCK = 512  # bytes of a block for bcast: a size, and the object if it is that short
SHARE = 128  # bytes of each rank's block in a scatter or an allgather
BYTE, COUNT = MPI.BYTE, MPI.INT64_T
SUM = MPI.SUM
dumps, loads = MPI.pickle.dumps, MPI.pickle.loads
memory = MPI.memory.allocate if hasattr(MPI, "memory") else MPI.buffer.allocate  # of n bytes, not cleared
_size = Struct("<q")
_size_and_more = Struct("<qq")
_Ibcast = Intracomm.Ibcast


def share_bcast(steps: Steps, obj: Any, root: int, rank: int) -> Any:
    """Return the object that `root` has."""
    block = bytearray(BLOCK)
    data: Any = None
    if rank == root:
        data = dumps(obj)
        n = len(data)
        _size.pack_into(block, 0, n)
        if n <= BLOCK - 8:
            block[8 : 8 + n] = data
        steps.run(_Ibcast, (block, BYTE), root)
    else:
        steps.run(_Ibcast, (block, BYTE), root)
        n = _size.unpack_from(block)[0]
    if n <= BLOCK - 8:
        return memoryview(block)[8 : 8 + n]
    if rank != root:
        data = memory(n)
    steps.run(_Ibcast, (data, BYTE), root)
    return data


def share_gather(steps: Steps, obj: Any, root: int, rank: int, size: int) -> Any:
    """Return the pickles of all ranks on `root`, elsewhere None."""
    data = dumps(obj)
    mine = array("q", [len(data)])
    if rank != root:
        steps.run(Intracomm.Igather, (mine, COUNT), None, root)
        steps.run(Intracomm.Igatherv, (data, BYTE), None, root)
        return None
    counts = array("q", bytes(8 * size))
    steps.run(Intracomm.Igather, (mine, COUNT), (counts, 1, COUNT), root)
    into = memory(sum(counts))
    steps.run(Intracomm.Igatherv, (data, BYTE), (into, counts, BYTE), root)
    return pieces(into, counts)


def share_scatter(steps: Steps, objs: Any, root: int, rank: int, size: int) -> Any:
    """Return the pickle of this rank's share of what `root` has."""
    block = bytearray(SHARE)
    if rank != root:
        steps.run(Intracomm.Iscatter, None, (block, BYTE), root)
        n, long = _size_and_more.unpack_from(block)
        if not long:
            return memoryview(block)[16 : 16 + n]
        data = memory(n)
        steps.run(Intracomm.Iscatterv, None, (data, BYTE), root)
        return data
    shares = pickled(objs, size)
    counts = array("q", map(len, shares))
    long = max(counts) > SHARE - 16
    blocks = bytearray(SHARE * size)
    for i, share in enumerate(shares):
        _size_and_more.pack_into(blocks, SHARE * i, len(share), long)
        if not long:
            blocks[SHARE * i + 16 : SHARE * i + 16 + len(share)] = share
    steps.run(Intracomm.Iscatter, (blocks, SHARE, BYTE), (block, BYTE), root)
    if long:
        steps.run(Intracomm.Iscatterv, (b"".join(shares), counts, BYTE), (memory(counts[root]), BYTE), root)
    return shares[root]


def share_allgather(steps: Steps, obj: Any, size: int) -> Any:
    """Return the pickles of all ranks."""
    data = dumps(obj)
    n = len(data)
    block, blocks = bytearray(SHARE), bytearray(SHARE * size)
    _size.pack_into(block, 0, n)
    if n <= SHARE - 8:
        block[8 : 8 + n] = data
    steps.run(Intracomm.Iallgather, (block, BYTE), (blocks, SHARE, BYTE))
    counts = [_size.unpack_from(blocks, start)[0] for start in range(0, SHARE * size, SHARE)]
    if max(counts) <= SHARE - 8:
        view = memoryview(blocks)
        return [view[SHARE * i + 8 : SHARE * i + 8 + n] for i, n in enumerate(counts)]
    into = memory(sum(counts))
    steps.run(Intracomm.Iallgatherv, (data, BYTE), (into, counts, BYTE))
    return pieces(into, counts)


def share_alltoall(
    steps: Steps,
    objs: Any,
    out: int,
    into: int,
    count: Callable[..., Request],
    move: Callable[..., Request],
) -> Any:
    """Return the pickles that others have for this rank; `count` and `move` are the calls to use."""
    shares = pickled(objs, out)
    sizes, counts = array("q", map(len, shares)), array("q", bytes(8 * into))
    steps.run(count, (sizes, 1, COUNT), (counts, 1, COUNT))
    data = memory(sum(counts))
    steps.run(move, (b"".join(shares), sizes, BYTE), (data, counts, BYTE))
    return pieces(data, counts)


def pickled(objs: Any, n: int) -> list[bytes]:
    """Return the pickles of `n` objects."""
    items = [None] * n if objs is None else list(objs)
    if len(items) != n:
        raise ValueError(f"expecting {n} items, got {len(items)}")
    return [dumps(item) for item in items]


def pieces(data: Any, counts: Sequence[int]) -> list[memoryview]:
    """Return the parts of `data` that have these lengths."""
    view = memoryview(data)
    return [view[end - n : end] for n, end in zip(counts, accumulate(counts), strict=True)]


def unpickled(data: Any) -> Any:
    """Return the object of a pickle."""
    return loads(data) if len(data) else None


class ObjectCollectives:
    """bcast to exscan."""

    __slots__ = ()

    def bcast(self: Any, obj: Any, root: int = 0) -> Any:
        """Broadcast an object."""
        with Steps(self, "bcast", ("bcast", root)) as steps:
            data = share_bcast(steps, obj, root, self.rank)
        return unpickled(data)

    def gather(self: Any, sendobj: Any, root: int = 0) -> list[Any] | None:
        """Gather objects."""
        with Steps(self, "gather", ("gather", root)) as steps:
            data = share_gather(steps, sendobj, root, self.rank, self.size)
        return None if data is None else [unpickled(piece) for piece in data]

    def scatter(self: Any, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        """Scatter objects."""
        with Steps(self, "scatter", ("scatter", root)) as steps:
            data = share_scatter(steps, sendobj, root, self.rank, self.size)
        return unpickled(data)

    def allgather(self: Any, sendobj: Any) -> list[Any]:
        """Gather objects to all."""
        with Steps(self, "allgather", "allgather") as steps:
            data = share_allgather(steps, sendobj, self.size)
        return [unpickled(piece) for piece in data]

    def alltoall(self: Any, sendobj: Sequence[Any]) -> list[Any]:
        """Exchange objects between all."""
        with Steps(self, "alltoall", "alltoall") as steps:
            size = self.size
            data = share_alltoall(steps, sendobj, size, size, Intracomm.Ialltoall, Intracomm.Ialltoallv)
        return [unpickled(piece) for piece in data]

    def reduce(self: Any, sendobj: Any, op: Any = SUM, root: int = 0) -> Any:
        """Reduce objects to one."""
        if not reductions.IN_A_TREE:
            with Steps(self, "reduce", ("reduce", root)) as steps:
                data = share_gather(steps, sendobj, root, self.rank, self.size)
            return reductions.reduced(data and [unpickled(piece) for piece in data], op)
        with Steps(self, "reduce", ("reduce", root)) as steps:
            return reductions.reduce(steps, sendobj, op, root, self.rank, self.size)

    def allreduce(self: Any, sendobj: Any, op: Any = SUM) -> Any:
        """Reduce objects, and give the result to all."""
        if not reductions.IN_A_TREE:
            with Steps(self, "allreduce", "allreduce") as steps:
                data = share_allgather(steps, sendobj, self.size)
            return reductions.reduced([unpickled(piece) for piece in data], op)
        with Steps(self, "allreduce", "allreduce") as steps:
            rank = self.rank
            obj = reductions.reduce(steps, sendobj, op, 0, rank, self.size)
            data = share_bcast(steps, obj, 0, rank)
        return unpickled(data)

    def scan(self: Any, sendobj: Any, op: Any = SUM) -> Any:
        """Reduce the objects of the ranks up to this one."""
        return self._scan("scan", reductions.scan, reductions.scanned, sendobj, op)

    def exscan(self: Any, sendobj: Any, op: Any = SUM) -> Any:
        """Reduce the objects of the ranks before this one."""
        return self._scan("exscan", reductions.exscan, reductions.exscanned, sendobj, op)

    def _scan(self: Any, name: str, spread: Any, at_once: Any, sendobj: Any, op: Any) -> Any:
        rank, size = self.rank, self.size
        with Steps(self, name, name) as steps:
            if reductions.IN_A_TREE:
                return spread(steps, sendobj, op, rank, size)
            data = share_gather(steps, sendobj, 0, rank, size)
            results = data and at_once([unpickled(piece) for piece in data], op)
            data = share_scatter(steps, results, 0, rank, size)
        return unpickled(data)


class NeighbourObjectCollectives:
    """Objects for the neighbours of a topology."""

    __slots__ = ()

    def neighbor_allgather(self: Any, sendobj: Any) -> list[Any]:
        """Gather the objects of the neighbours."""
        with Steps(self, "neighbor_allgather", "neighbor_allgather") as steps:
            data = dumps(sendobj)
            mine, counts = array("q", [len(data)]), array("q", bytes(8 * self.indegree))
            steps.run(Topocomm.Ineighbor_allgather, (mine, COUNT), (counts, 1, COUNT))
            into = memory(sum(counts))
            steps.run(Topocomm.Ineighbor_allgatherv, (data, BYTE), (into, counts, BYTE))
        return [unpickled(piece) for piece in pieces(into, counts)]

    def neighbor_alltoall(self: Any, sendobj: list[Any]) -> list[Any]:
        """Exchange objects with the neighbours."""
        with Steps(self, "neighbor_alltoall", "neighbor_alltoall") as steps:
            data = share_alltoall(
                steps,
                sendobj,
                self.outdegree,
                self.indegree,
                Topocomm.Ineighbor_alltoall,
                Topocomm.Ineighbor_alltoallv,
            )
        return [unpickled(piece) for piece in data]
