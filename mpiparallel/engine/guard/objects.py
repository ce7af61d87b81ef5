"""The lower-case collectives: objects are pickled here and travel by non-blocking calls.

mpi4py's own would block in C, and some releases of it duplicate the communicator at the first of these calls
while they hold the GIL (mpi4py #784), which would freeze the courier, too. How an object travels is ours to
choose, as all ranks of a communicator are guarded: its size and a short object go together, in a block of
fixed length; long ones follow by themselves.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from struct import Struct
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard import reductions
from mpiparallel.engine.guard.collectives import parts
from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.plain import Intracomm, Topocomm
from mpiparallel.engine.guard.steps import Steps
from mpiparallel.engine.guard.waiting import wait

BLOCK = 240  # bytes of a block for bcast: a size, and the object if that short; Open MPI is fast up to 256
SHARE = 128  # bytes of each rank's block in other calls
BYTE, COUNT = MPI.BYTE, MPI.INT64_T
SUM = MPI.SUM
dumps, loads = MPI.pickle.dumps, MPI.pickle.loads
memory = MPI.memory.allocate if hasattr(MPI, "memory") else MPI.buffer.allocate  # of n bytes, not cleared
_size = Struct("<q")
_Ibcast = Intracomm.Ibcast


def share_bcast(steps: Steps, obj: Any, root: int) -> Any:
    """Return the pickle of the object that `root` has."""
    block = bytearray(BLOCK)
    data: Any = None
    here = steps.state.rank == root
    if here:
        data = dumps(obj)
        _fill(block, 0, BLOCK, data)
    steps.run(_Ibcast, block, root)
    n = _size.unpack_from(block)[0]
    if n <= BLOCK - 8:
        return block[8 : 8 + n]
    if not here:
        data = memory(n)
    steps.run(_Ibcast, (data, BYTE), root)
    return data


def share_gather(steps: Steps, obj: Any, root: int) -> Any:
    """Return the pickles of all ranks on `root`, elsewhere None."""
    data = dumps(obj)
    block = bytearray(SHARE)
    _fill(block, 0, SHARE, data)
    if steps.state.rank != root:
        steps.run(Intracomm.Igather, block, None, root)
        if len(data) > SHARE - 8:
            steps.finish(steps.start_bytes(data, root))
        return None
    blocks = bytearray(SHARE * len(steps.state.members))
    steps.run(Intracomm.Igather, block, blocks, root)
    return _collected(steps, blocks, {root: data})


def share_scatter(steps: Steps, objs: Any, root: int) -> Any:
    """Return the pickle of this rank's share of what `root` has."""
    block = bytearray(SHARE)
    if steps.state.rank != root:
        steps.run(Intracomm.Iscatter, None, block, root)
        n = _size.unpack_from(block)[0]
        if n <= SHARE - 8:
            return block[8 : 8 + n]
        data = memory(n)
        steps.receive_bytes(data, root)
        return data
    blocks, shares = _blocks(objs, len(steps.state.members))
    steps.run(Intracomm.Iscatter, blocks, block, root)
    _send_long(steps, shares, root)
    return shares[root]


def share_alltoall(steps: Steps, objs: Any) -> Any:
    """Return the pickles that all ranks have for this one."""
    here, size = steps.state.rank, len(steps.state.members)
    blocks, shares = _blocks(objs, size)
    into = bytearray(SHARE * size)
    steps.run(Intracomm.Ialltoall, blocks, into)
    sends = _start_long(steps, shares, here)
    found = _collected(steps, into, {here: shares[here]})
    for request in sends:
        steps.finish(request)
    return found


def _fill(block: bytearray, start: int, length: int, data: bytes) -> None:
    """Write a size into a block, and the data if there is room."""
    n = len(data)
    _size.pack_into(block, start, n)
    if n <= length - 8:
        block[start + 8 : start + 8 + n] = data


def _blocks(objs: Any, size: int) -> tuple[bytearray, list[bytes]]:
    """Return a block for each rank, and the pickles."""
    shares = pickled(objs, size)
    blocks = bytearray(SHARE * size)
    for i, share in enumerate(shares):
        _fill(blocks, SHARE * i, SHARE, share)
    return blocks, shares


def _start_long(steps: Steps, shares: list[bytes], here: int) -> list[Any]:
    """Begin to send what did not go into blocks."""
    return [
        steps.start_bytes(share, rank)
        for rank, share in enumerate(shares)
        if len(share) > SHARE - 8 and rank != here
    ]


def _send_long(steps: Steps, shares: list[bytes], here: int) -> None:
    for request in _start_long(steps, shares, here):
        steps.finish(request)


def _collected(steps: Steps, blocks: bytearray, own: dict[int, bytes]) -> list[Any]:
    """Return the pickles that blocks hold; those that were too long come by themselves."""
    found: list[Any] = []
    for rank in range(len(blocks) // SHARE):
        start = SHARE * rank
        n = _size.unpack_from(blocks, start)[0]
        if n <= SHARE - 8:
            found.append(blocks[start + 8 : start + 8 + n])
        elif rank in own:
            found.append(own[rank])
        else:
            data = memory(n)
            steps.receive_bytes(data, rank)
            found.append(data)
    return found


def share_allgather(steps: Steps, obj: Any) -> Any:
    """Return the pickles of all ranks."""
    data = dumps(obj)
    block, blocks = bytearray(SHARE), bytearray(SHARE * len(steps.state.members))
    _fill(block, 0, SHARE, data)
    steps.run(Intracomm.Iallgather, block, blocks)
    counts = [_size.unpack_from(blocks, start)[0] for start in range(0, len(blocks), SHARE)]
    if max(counts) <= SHARE - 8:
        return [blocks[SHARE * i + 8 : SHARE * i + 8 + n] for i, n in enumerate(counts)]
    into = memory(sum(counts))
    steps.run(Intracomm.Iallgatherv, (data, BYTE), (into, counts, BYTE))
    return pieces(into, counts)


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
        state = self._state
        if state.broken:
            state.refuse("bcast")
        block = bytearray(BLOCK)
        data: Any = None
        request = None
        if state.rank == root:
            data = dumps(obj)
            _fill(block, 0, BLOCK, data)
        try:
            request = _Ibcast(self, block, root)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append(("bcast", root))
            if not request.Test():
                wait(request.Test, "bcast", parts, state, ("bcast", root), index, None)
        except BaseException as error:
            broke_off(error, state, "bcast", request, block)
            raise
        n = _size.unpack_from(block)[0]
        if n <= BLOCK - 8:
            return unpickled(block[8 : 8 + n])
        with Steps(self, "bcast", ("bcast", root), index) as steps:
            if data is None:
                data = memory(n)
            steps.run(_Ibcast, (data, BYTE), root)
        return unpickled(data)

    def gather(self: Any, sendobj: Any, root: int = 0) -> list[Any] | None:
        """Gather objects."""
        with Steps(self, "gather", ("gather", root)) as steps:
            data = share_gather(steps, sendobj, root)
        return None if data is None else [unpickled(piece) for piece in data]

    def scatter(self: Any, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        """Scatter objects."""
        with Steps(self, "scatter", ("scatter", root)) as steps:
            data = share_scatter(steps, sendobj, root)
        return unpickled(data)

    def allgather(self: Any, sendobj: Any) -> list[Any]:
        """Gather objects to all."""
        with Steps(self, "allgather", "allgather") as steps:
            data = share_allgather(steps, sendobj)
        return [unpickled(piece) for piece in data]

    def alltoall(self: Any, sendobj: Sequence[Any]) -> list[Any]:
        """Exchange objects between all."""
        with Steps(self, "alltoall", "alltoall") as steps:
            data = share_alltoall(steps, sendobj)
        return [unpickled(piece) for piece in data]

    def reduce(self: Any, sendobj: Any, op: Any = SUM, root: int = 0) -> Any:
        """Reduce objects to one."""
        with Steps(self, "reduce", ("reduce", root)) as steps:
            if reductions.IN_A_TREE:
                return reductions.reduce(steps, sendobj, op, root)
            data = share_gather(steps, sendobj, root)
        return reductions.reduced(data and [unpickled(piece) for piece in data], op)

    def allreduce(self: Any, sendobj: Any, op: Any = SUM) -> Any:
        """Reduce objects, and give the result to all."""
        with Steps(self, "allreduce", "allreduce") as steps:
            if reductions.IN_A_TREE:
                obj = reductions.reduce(steps, sendobj, op, 0)
                data = share_bcast(steps, obj, 0)
            else:
                data = share_allgather(steps, sendobj)
        if reductions.IN_A_TREE:
            return unpickled(data)
        return reductions.reduced([unpickled(piece) for piece in data], op)

    def scan(self: Any, sendobj: Any, op: Any = SUM) -> Any:
        """Reduce the objects of the ranks up to this one."""
        return _scan(self, "scan", reductions.scan, reductions.scanned, sendobj, op)

    def exscan(self: Any, sendobj: Any, op: Any = SUM) -> Any:
        """Reduce the objects of the ranks before this one."""
        return _scan(self, "exscan", reductions.exscan, reductions.exscanned, sendobj, op)


def _scan(
    comm: Any, name: str, spread: Callable[..., Any], at_once: Callable[..., Any], obj: Any, op: Any
) -> Any:
    with Steps(comm, name, name) as steps:
        if reductions.IN_A_TREE:
            return spread(steps, obj, op)
        data = share_gather(steps, obj, 0)
        results = data and at_once([unpickled(piece) for piece in data], op)
        data = share_scatter(steps, results, 0)
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
            shares = pickled(sendobj, self.outdegree)
            sizes, counts = array("q", map(len, shares)), array("q", bytes(8 * self.indegree))
            steps.run(Topocomm.Ineighbor_alltoall, (sizes, 1, COUNT), (counts, 1, COUNT))
            into = memory(sum(counts))
            steps.run(Topocomm.Ineighbor_alltoallv, (b"".join(shares), sizes, BYTE), (into, counts, BYTE))
        return [unpickled(piece) for piece in pieces(into, counts)]
