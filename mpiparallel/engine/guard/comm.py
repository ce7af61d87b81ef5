"""The guarded communicators: mpi4py's classes with the guarded methods in front."""

from __future__ import annotations

from array import array
from typing import Any

from mpi4py import MPI

from mpiparallel.engine import evidence
from mpiparallel.engine.guard import registry
from mpiparallel.engine.guard.classes import FromHandle, StandIn
from mpiparallel.engine.guard.collectives import Collectives, NeighbourCollectives
from mpiparallel.engine.guard.creation import CartCreation, Creation
from mpiparallel.engine.guard.exchange import Exchanges
from mpiparallel.engine.guard.objects import NeighbourObjectCollectives, ObjectCollectives
from mpiparallel.engine.guard.plain import (
    Cartcomm,
    Comm,
    Distgraphcomm,
    Graphcomm,
    Intracomm,
    Topocomm,
    module,
)
from mpiparallel.engine.guard.receives import Receives
from mpiparallel.engine.guard.sends import NeighbourPersistentRequests, PersistentRequests, Sends
from mpiparallel.engine.guard.waiting import nothing_known, wait

# Attributes that MPI itself gives to COMM_WORLD, and to no duplicate of it.
_OF_THE_WORLD = {
    getattr(MPI, name)
    for name in ("TAG_UB", "IO", "WTIME_IS_GLOBAL", "UNIVERSE_SIZE", "APPNUM", "LASTUSEDCODE")
    if getattr(MPI, name, MPI.KEYVAL_INVALID) != MPI.KEYVAL_INVALID
}


class _Guarded(
    FromHandle, Collectives, ObjectCollectives, Sends, Receives, Exchanges, PersistentRequests, Creation
):
    """What guarded intracommunicators of all kinds share. `_state` is what this rank knows of it."""

    __slots__ = ()

    def __new__(cls, comm: Comm | None = None) -> Any:
        """Stand for the same communicator as `comm`."""
        base: Any = super()
        self = base.__new__(cls, comm)
        state = getattr(comm, "_state", None)
        if state is not None:
            state.add(self)
        return self

    def __getattr__(self, name: str) -> Any:
        """Find out about a communicator that was not made by way of ours."""
        if name != "_state":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        state = registry.state_of(self)
        if state is None:
            # One that other code has made: calls can be interrupted, but nothing is known of it.
            state = registry.unknown(self)
        state.add(self)
        return state

    def __reduce__(self: Any) -> Any:
        """Pickle the world by its name, as mpi4py does."""
        for name in ("COMM_WORLD", "COMM_SELF"):
            comm: Any = getattr(MPI, name)
            if self is comm:
                return name
            if self._state is comm._state:
                return type(self), (comm,)
        return Comm.__reduce__(self)

    @classmethod
    def _of(cls, comm: Any) -> Any:
        return registry.guarded.get(type(comm), type(comm))(comm)

    def free(self: Any) -> None:
        """Free the communicator, unless it is null or one that MPI has made."""
        if not self or self is module.COMM_WORLD or self is module.COMM_SELF:
            return
        if self._state in (registry.world.state, registry.world.self_state):
            registry.set_handle(self, MPI.COMM_NULL)
        else:
            self.Free()

    def Get_attr(self: Any, keyval: int) -> Any:
        """Return an attribute."""
        if keyval in _OF_THE_WORLD and self._state is registry.world.state:
            return Comm.Get_attr(registry.world.comm, keyval)
        return Comm.Get_attr(self, keyval)

    def Agree(self: Any, flag: int) -> int:
        """Return the bitwise AND of the flags of all ranks that live."""
        buffer = array("i", [flag])
        request = Comm.Iagree(self, buffer)
        if not request.Test():
            wait(request.Test, "Agree", nothing_known)
        return buffer[0]

    def Abort(self: Any, errorcode: int = 0) -> None:
        """End all processes of the world, and say who did it."""
        evidence.tell(f"called MPI_Abort({errorcode})")
        Comm.Abort(self, errorcode)


class GuardedAnyComm(FromHandle, Comm, metaclass=StandIn, stands_for=Comm):
    """Stands in for the class of all communicators; what it makes from handles is guarded."""

    @classmethod
    def _of(cls, comm: Any) -> Any:
        return registry.guarded.get(type(comm), type(comm))(comm)


class GuardedComm(_Guarded, Intracomm, metaclass=StandIn, stands_for=Intracomm):
    """An intracommunicator whose calls can be interrupted, and which can say what it waits for."""


class _GuardedTopology(
    NeighbourCollectives, NeighbourObjectCollectives, NeighbourPersistentRequests, _Guarded
):
    __slots__ = ()


class GuardedTopocomm(_GuardedTopology, Topocomm, metaclass=StandIn, stands_for=Topocomm):
    """A communicator with a topology."""


class GuardedCartcomm(CartCreation, _GuardedTopology, Cartcomm, metaclass=StandIn, stands_for=Cartcomm):
    """A communicator with a Cartesian topology."""


class GuardedGraphcomm(_GuardedTopology, Graphcomm, metaclass=StandIn, stands_for=Graphcomm):
    """A communicator with a graph."""


class GuardedDistgraphcomm(_GuardedTopology, Distgraphcomm, metaclass=StandIn, stands_for=Distgraphcomm):
    """A communicator with a distributed graph."""


registry.guarded.update(
    {
        cls.stands_for: cls
        for cls in (GuardedComm, GuardedTopocomm, GuardedCartcomm, GuardedGraphcomm, GuardedDistgraphcomm)
    }
)
