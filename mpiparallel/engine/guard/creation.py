"""Communicators that are derived from guarded ones, and what ends them.

MPI makes most of them by blocking calls only. So the ranks meet in a barrier that can be interrupted, and
make the call when all of them are there. The id of the new communicator follows from its parent's id, the
number of the call among the parent's collectives, and the first of its members: all members know these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard import registry
from mpiparallel.engine.guard.collectives import parts
from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.plain import Cartcomm, Comm, Group, Intracomm
from mpiparallel.engine.guard.requests import GuardedRequest
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import wait


def meet(comm: Any, name: str) -> str:
    """Wait for all ranks to come to this call, and return what it is called among those on `comm`."""
    state: CommState = comm._state
    if state.broken:
        state.refuse(name)
    request = None
    try:
        request = Intracomm.Ibarrier(comm)
        index = begin(state, name)
        if not request.Test():
            wait(request.Test, name, parts, state, name, index, None)
    except BaseException as error:
        broke_off(error, state, name, request, None)
        raise
    return f"{state.id}/{index}"


def begin(state: CommState, name: str) -> int:
    """Count a collective."""
    index = state.collectives
    state.collectives = index + 1
    state.recent.append(name)
    return index


def _all_meet(name: str, plain: Callable[..., Any]) -> Any:
    """Return a guarded form of a call that makes a communicator for some or all ranks."""

    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        label = meet(self, name)
        return registry.adopt(plain(self, *args, **kwargs), label)

    return make


def _copy(name: str, plain: Callable[..., Any]) -> Any:
    """Return a guarded form of a call that makes a communicator like the old one."""

    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        label = meet(self, name)
        new = registry.adopt(plain(self, *args, **kwargs), label)
        _copy_topology(self._state, new._state)
        return new

    return make


def _copy_topology(old: CommState, new: CommState) -> None:
    new.topology, new.rebuild = old.topology, old.rebuild


def _all_meet_only(name: str, plain: Callable[..., Any]) -> Any:
    """Return a guarded form of a collective call whose result is not guarded."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        meet(self, name)
        self._state.opaque = True
        return plain(self, *args, **kwargs)

    return call


def _graph(name: str, plain: Callable[..., Any]) -> Any:
    """Return a guarded form of a call that makes a graph, which can be made once more when that breaks."""

    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        label = meet(self, name)
        new = registry.adopt(plain(self, *args, **kwargs), label)
        if new:
            new._state.rebuild = lambda comm: plain(comm, *args, **kwargs)
        return new

    return make


class Creation:
    """Dup, Split, Create and their kin; Free and Disconnect."""

    __slots__ = ()

    Dup = _copy("Dup", Comm.Dup)
    Dup_with_info = _copy("Dup_with_info", Comm.Dup_with_info)
    Clone = _copy("Clone", Comm.Clone)
    Create = _all_meet("Create", Comm.Create)
    Split = _all_meet("Split", Comm.Split)
    Split_type = _all_meet("Split_type", Comm.Split_type)
    Create_graph = _graph("Create_graph", Intracomm.Create_graph)
    Create_dist_graph = _graph("Create_dist_graph", Intracomm.Create_dist_graph)
    Create_dist_graph_adjacent = _graph("Create_dist_graph_adjacent", Intracomm.Create_dist_graph_adjacent)
    Create_intercomm = _all_meet_only("Create_intercomm", Intracomm.Create_intercomm)
    Spawn = _all_meet_only("Spawn", Intracomm.Spawn)
    Spawn_multiple = _all_meet_only("Spawn_multiple", Intracomm.Spawn_multiple)
    Accept = _all_meet_only("Accept", Intracomm.Accept)
    Connect = _all_meet_only("Connect", Intracomm.Connect)

    def Create_cart(self: Any, dims: Any, periods: Any = None, reorder: bool = False) -> Any:
        """Create a communicator with a Cartesian topology."""
        label = meet(self, "Create_cart")
        new = registry.adopt(Intracomm.Create_cart(self, dims, periods, reorder), label)
        return with_topology(new)

    def Create_group(self: Any, group: Group, tag: int = 0) -> Any:
        """Create a communicator of the ranks in `group`, which alone take part."""
        state: CommState = self._state
        if state.broken:
            state.refuse("Create_group")
        label = registry.meet_in_group(self, group, tag)
        return registry.adopt(Intracomm.Create_group(self, group, tag), label)

    def Idup(self: Any, info: MPI.Info | None = None) -> Any:
        """Begin to duplicate the communicator."""
        return self._idup("Idup", Comm.Idup, info)

    def Idup_with_info(self: Any, info: MPI.Info) -> Any:
        """Begin to duplicate the communicator with hints."""
        return self._idup("Idup_with_info", Comm.Idup_with_info, info)

    def _idup(self: Any, name: str, start: Callable[..., Any], info: MPI.Info | None) -> Any:
        state: CommState = self._state
        if state.broken:
            state.refuse(name)
        new, plain = start(self, info)
        index = begin(state, name)
        request = GuardedRequest(plain)
        request._state, request._part = state, (parts, state, name, index, None)
        # Its handle may be known only when the request is complete: so the ranks are the parent's.
        new = registry.adopt_as(new, CommState(f"{state.id}/{index}", state.members))
        _copy_topology(state, new._state)
        return new, request

    def Shrink(self: Any) -> Any:
        """Return a communicator of the ranks that live."""
        state: CommState = self._state
        return registry.adopt(Comm.Shrink(self), f"{state.id}/shrunk{state.generation}")

    def Free(self: Any) -> None:
        """Free the communicator."""
        self._end(Comm.Free)

    def Disconnect(self: Any) -> None:
        """Free the communicator when all that is under way on it has ended."""
        if not self._state.broken:
            meet(self, "Disconnect")
        self._end(Comm.Disconnect)

    def _end(self: Any, plain: Callable[[Any], None]) -> None:
        state: CommState = self._state
        if state is registry.world.state or state is registry.world.self_state:
            plain(registry.world.comm)  # MPI's error
        elif state.broken:
            registry.set_handle(self, MPI.COMM_NULL)  # MPI still works on what was broken off
        else:
            plain(self)
        if not self:
            registry.drop(self)


class CartCreation:
    """What only Cartesian communicators can do."""

    __slots__ = ()

    def Sub(self: Any, remain_dims: Any) -> Any:
        """Return the grid of lower dimension that this rank is in."""
        label = meet(self, "Sub")
        return with_topology(registry.adopt(Cartcomm.Sub(self, remain_dims), label))


def with_topology(comm: Any) -> Any:
    """Let a Cartesian communicator know its shape."""
    if comm:
        dims, periods, _ = Cartcomm.Get_topo(comm)
        comm._state.topology = [list(dims), [int(period) for period in periods]]
    return comm
