"""The guarded communicators that live: their states by id, and how plain ones become guarded."""

from __future__ import annotations

import ctypes
import weakref
import zlib
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.faults import mark_broken
from mpiparallel.engine.guard.plain import Comm, Group, Message
from mpiparallel.engine.guard.remains import kept
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import nothing_known, wait

GROUP_TAG = 1

states: weakref.WeakValueDictionary[str, CommState] = weakref.WeakValueDictionary()
guarded: dict[type, type] = {}  # mpi4py's class -> ours; filled by `comm`


class _World:
    """The world as it began."""

    comm: Any = None  # mpi4py's own
    group: Any = None
    private: Any = None  # a duplicate for messages of ours
    rank = 0
    state: Any = None  # of MPI.COMM_WORLD
    self_state: Any = None  # of MPI.COMM_SELF


world = _World()


def members_of(comm: Any) -> list[int]:
    """Return the world's numbers of the ranks of a communicator."""
    group = Comm.Get_group(comm)
    try:
        return list(Group.Translate_ranks(group, list(range(group.Get_size())), world.group))
    finally:
        group.Free()


def adopt(comm: Any, label: str) -> Any:
    """Guard a communicator that all its ranks call `label`; one that is null stays as it is."""
    if not comm:
        return comm
    members = members_of(comm)
    state = CommState(f"{label}.{min(members)}", members)
    return adopt_as(comm, state)


def adopt_as(comm: Any, state: CommState) -> Any:
    """Guard a communicator with a given state."""
    plain = type(comm)
    if plain in guarded:
        comm = plain.__new__(guarded[plain], comm)
    return register(comm, state)


def register(comm: Any, state: CommState) -> Any:
    """Let a guarded object stand for a state."""
    state.add(comm)
    state.rank = state.members.index(world.rank)
    states[state.id] = state
    return comm


def state_of(comm: Any) -> CommState | None:
    """Return the state of a plain communicator that has the same handle as a guarded one."""
    for state in list(states.values()):
        if any(Comm.__eq__(known, comm) for known in state.objects()):
            return state
    return None


def unknown(comm: Any) -> CommState:
    """Return a state for a communicator that has no name which its ranks agree on."""
    state = CommState("", members_of(comm) if comm else ())
    state.rank = Comm.Get_rank(comm) if comm else -1
    state.opaque = True
    return state


def drop(comm: Any) -> None:
    """Forget a communicator that was freed."""
    state: CommState = comm._state
    if states.get(state.id) is state:
        del states[state.id]
    comm._state = CommState("", ())


def set_handle(comm: Any, new: Any) -> None:
    """Make an object stand for another MPI communicator."""
    ctypes.memmove(MPI._addressof(comm), MPI._addressof(new), MPI._sizeof(new))


def meet_in_group(comm: Any, group: Group, tag: int) -> str:
    """Wait for the members of a group, which alone call, and return what they call their communicator.

    A dissemination barrier (Hensgen, Finkel, Manber 1988) of messages on our own duplicate of the world.
    """
    state: CommState = comm._state
    members = list(Group.Translate_ranks(group, list(range(group.Get_size())), world.group))
    key = tuple(members)
    made = state.groups[key] = state.groups.get(key, 0) + 1
    label = f"{state.id}/group{tag}-{made}-{zlib.crc32(repr(members).encode()):x}"
    if world.rank not in members:
        return label
    here, distance = members.index(world.rank), 1
    held: list[Any] = []
    try:
        while distance < len(members):
            to, source = members[(here + distance) % len(members)], members[here - distance]
            held.append(Comm.isend(world.private, label, to, GROUP_TAG))
            while _message_from(source, held) != label:
                pass  # left over from a call that was broken off
            distance *= 2
        for request in held:
            if not request.Test():
                wait(request.Test, "Create_group", nothing_known)
    except BaseException as error:
        kept.append(held)
        mark_broken(state, f"Create_group was broken off by {type(error).__name__}")
        raise
    return label


def _message_from(source: int, held: list[Any]) -> Any:
    message = wait(lambda: Comm.improbe(world.private, source, GROUP_TAG), "Create_group", nothing_known)
    request = Message.irecv(message)
    held.append(request)
    if not request.Get_status():
        wait(request.Get_status, "Create_group", nothing_known)
    return request.wait()
