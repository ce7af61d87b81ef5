"""The upper-case collectives: each starts its non-blocking form and waits for it.

The methods are made by functions, one for each list of arguments that mpi4py has. Every one of them has the
same steps, written out because a call more would cost as much as all the book-keeping: refuse, start,
count, test, wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.plain import Intracomm, Request, Topocomm
from mpiparallel.engine.guard.requests import collective_request
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import wait
from mpiparallel.wire.waits import Part

SUM = MPI.SUM
Method = Callable[..., Any]


def parts(state: CommState, signature: Any, index: int, data: Any) -> list[Part]:
    """Return the parts of a wait for one collective."""
    return [state.collective(signature, index, data)]


def _plain(name: str) -> tuple[Method, Method]:
    """Return the two forms of one without arguments."""
    start = getattr(Intracomm, "I" + name.lower())

    def blocking(self: Any) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append(name)
            if not request.Test():
                wait(request.Test, name, parts, state, name, index, None)
        except BaseException as error:
            broke_off(error, state, name, request, None)
            raise

    def nonblocking(self: Any) -> Request:
        return collective_request(self._state, name, None, start, self)

    return blocking, nonblocking


def _one_buffer(name: str) -> tuple[Method, Method]:
    """Return the two forms of Bcast."""
    start = getattr(Intracomm, "I" + name.lower())

    def blocking(self: Any, buf: Any, root: int = 0) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, buf, root)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append((name, root))
            if not request.Test():
                wait(request.Test, name, parts, state, (name, root), index, buf)
        except BaseException as error:
            broke_off(error, state, name, request, buf)
            raise

    def nonblocking(self: Any, buf: Any, root: int = 0) -> Request:
        return collective_request(self._state, (name, root), buf, start, self, buf, root)

    return blocking, nonblocking


def _rooted(name: str) -> tuple[Method, Method]:
    """Return the two forms of Gather, Scatter and those with counts."""
    start = getattr(Intracomm, "I" + name.lower())

    def blocking(self: Any, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, sendbuf, recvbuf, root)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append((name, root))
            if not request.Test():
                wait(request.Test, name, parts, state, (name, root), index, None)
        except BaseException as error:
            broke_off(error, state, name, request, (sendbuf, recvbuf))
            raise

    def nonblocking(self: Any, sendbuf: Any, recvbuf: Any, root: int = 0) -> Request:
        return collective_request(self._state, (name, root), None, start, self, sendbuf, recvbuf, root)

    return blocking, nonblocking


def _two_buffers(name: str, owner: type = Intracomm) -> tuple[Method, Method]:
    """Return the two forms of Allgather, Alltoall and their like."""
    start = getattr(owner, "I" + name.lower())

    def blocking(self: Any, sendbuf: Any, recvbuf: Any) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, sendbuf, recvbuf)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append(name)
            if not request.Test():
                wait(request.Test, name, parts, state, name, index, None)
        except BaseException as error:
            broke_off(error, state, name, request, (sendbuf, recvbuf))
            raise

    def nonblocking(self: Any, sendbuf: Any, recvbuf: Any) -> Request:
        return collective_request(self._state, name, None, start, self, sendbuf, recvbuf)

    return blocking, nonblocking


def _reduction(name: str) -> tuple[Method, Method]:
    """Return the two forms of Allreduce, Scan and their like."""
    start = getattr(Intracomm, "I" + name.lower())

    def blocking(self: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = SUM) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, sendbuf, recvbuf, op)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append(name)
            if not request.Test():
                wait(request.Test, name, parts, state, name, index, recvbuf)
        except BaseException as error:
            broke_off(error, state, name, request, (sendbuf, recvbuf, op))
            raise

    def nonblocking(self: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = SUM) -> Request:
        return collective_request(self._state, name, recvbuf, start, self, sendbuf, recvbuf, op)

    return blocking, nonblocking


def _rooted_reduction(name: str) -> tuple[Method, Method]:
    """Return the two forms of Reduce."""
    start = getattr(Intracomm, "I" + name.lower())

    def blocking(self: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = SUM, root: int = 0) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, sendbuf, recvbuf, op, root)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append((name, root))
            if not request.Test():
                data = recvbuf if sendbuf is MPI.IN_PLACE else sendbuf
                wait(request.Test, name, parts, state, (name, root), index, data)
        except BaseException as error:
            broke_off(error, state, name, request, (sendbuf, recvbuf, op))
            raise

    def nonblocking(self: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = SUM, root: int = 0) -> Request:
        data = recvbuf if sendbuf is MPI.IN_PLACE else sendbuf
        return collective_request(self._state, (name, root), data, start, self, sendbuf, recvbuf, op, root)

    return blocking, nonblocking


def _counted_reduction(name: str) -> tuple[Method, Method]:
    """Return the two forms of Reduce_scatter."""
    start = getattr(Intracomm, "I" + name.lower())

    def blocking(self: Any, sendbuf: Any, recvbuf: Any, recvcounts: Any = None, op: MPI.Op = SUM) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, sendbuf, recvbuf, recvcounts, op)
            index = state.collectives
            state.collectives = index + 1
            state.recent.append(name)
            if not request.Test():
                wait(request.Test, name, parts, state, name, index, None)
        except BaseException as error:
            broke_off(error, state, name, request, (sendbuf, recvbuf, recvcounts, op))
            raise

    def nonblocking(
        self: Any, sendbuf: Any, recvbuf: Any, recvcounts: Any = None, op: MPI.Op = SUM
    ) -> Request:
        return collective_request(self._state, name, None, start, self, sendbuf, recvbuf, recvcounts, op)

    return blocking, nonblocking


class Collectives:
    """Barrier to Reduce_scatter, blocking or not."""

    __slots__ = ()

    Barrier, Ibarrier = _plain("Barrier")
    Bcast, Ibcast = _one_buffer("Bcast")
    Gather, Igather = _rooted("Gather")
    Gatherv, Igatherv = _rooted("Gatherv")
    Scatter, Iscatter = _rooted("Scatter")
    Scatterv, Iscatterv = _rooted("Scatterv")
    Allgather, Iallgather = _two_buffers("Allgather")
    Allgatherv, Iallgatherv = _two_buffers("Allgatherv")
    Alltoall, Ialltoall = _two_buffers("Alltoall")
    Alltoallv, Ialltoallv = _two_buffers("Alltoallv")
    Alltoallw, Ialltoallw = _two_buffers("Alltoallw")
    Reduce, Ireduce = _rooted_reduction("Reduce")
    Allreduce, Iallreduce = _reduction("Allreduce")
    Scan, Iscan = _reduction("Scan")
    Exscan, Iexscan = _reduction("Exscan")
    Reduce_scatter_block, Ireduce_scatter_block = _reduction("Reduce_scatter_block")
    Reduce_scatter, Ireduce_scatter = _counted_reduction("Reduce_scatter")

    barrier = Barrier


class NeighbourCollectives:
    """Collectives among the neighbours of a topology."""

    __slots__ = ()

    Neighbor_allgather, Ineighbor_allgather = _two_buffers("Neighbor_allgather", Topocomm)
    Neighbor_allgatherv, Ineighbor_allgatherv = _two_buffers("Neighbor_allgatherv", Topocomm)
    Neighbor_alltoall, Ineighbor_alltoall = _two_buffers("Neighbor_alltoall", Topocomm)
    Neighbor_alltoallv, Ineighbor_alltoallv = _two_buffers("Neighbor_alltoallv", Topocomm)
    Neighbor_alltoallw, Ineighbor_alltoallw = _two_buffers("Neighbor_alltoallw", Topocomm)
