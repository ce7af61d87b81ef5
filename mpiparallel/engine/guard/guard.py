"""The guard of one rank: what the courier and the executor ask of the guarded communicators."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from mpi4py import MPI
from msgspec import structs

from mpiparallel.engine.generations import base_of, generation_of
from mpiparallel.engine.guard import faults, registry, remains
from mpiparallel.engine.guard.comm import GuardedAnyComm, GuardedComm
from mpiparallel.engine.guard.files import GuardedFile
from mpiparallel.engine.guard.matched import GuardedMessage
from mpiparallel.engine.guard.plain import Comm, Intracomm, module
from mpiparallel.engine.guard.requests import GuardedGrequest, GuardedPrequest, GuardedRequest
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import watch
from mpiparallel.engine.guard.windows import GuardedWin
from mpiparallel.wire.waits import Ledger, Wait

# Where threads come from that never call MPI on guarded communicators.
_HARMLESS = ("mpiparallel.", "IPython.", "ipykernel.", "tqdm.", "zmq.")

RETIRED = 64  # communicators that have been renewed whose ledgers are kept

_retired: OrderedDict[str, Ledger] = OrderedDict()


class Guard:
    """Watches over the MPI calls of user code in this process."""

    def __init__(self, world: GuardedComm) -> None:
        self.world = world
        self._own_threads = {threading.main_thread(), *threading.enumerate()}
        self.can_revoke = _can_revoke()

    # ------------------------------------------------------------ any thread

    def current(self) -> Wait | None:
        """Return what the main thread waits for, if for longer than some hundred microseconds."""
        return watch.current(_members_and_name)

    @property
    def number(self) -> int:
        """The number of the current wait, or of the last one."""
        return watch.number

    def cut(self, number: int, error: BaseException) -> bool:
        """End the wait of this number by raising `error` in it; return whether it still lasts."""
        return watch.cut(number, error)

    def members(self, id: str) -> Sequence[int]:
        """Return the world's ranks of a communicator."""
        return registry.states[id].members

    def ledgers(self, ids: Iterable[str]) -> dict[str, Ledger]:
        """Return what this rank has done on those of the communicators that it has."""
        found = {id: state.ledger() for id in ids if (state := registry.states.get(id)) is not None}
        # Others may still wait on what has been renewed here.
        found.update((id, _retired[id]) for id in ids if id in _retired and id not in found)
        # ... or on what is yet to come here, when this rank is free: nothing has been done on that.
        found.update((id, Ledger()) for id in ids if id not in found and _is_to_come(id))
        if self._others_may_call():
            found = {id: structs.replace(ledger, opaque=True) for id, ledger in found.items()}
        return found

    def _others_may_call(self) -> bool:
        """Whether there are threads of user code: what these will do is not known."""
        own = {*self._own_threads, threading.current_thread()}
        return any(thread not in own and not _harmless(thread) for thread in threading.enumerate())

    def disregard(self, thread: threading.Thread) -> None:
        """Take it that a thread never calls MPI on guarded communicators."""
        self._own_threads.add(thread)

    def ranks_died(self, ranks: Iterable[int]) -> None:
        """End the calls that may wait for these ranks: all. Their communicators have to be renewed."""
        faults.dead.extend(rank for rank in ranks if rank not in faults.dead)
        for state in list(registry.states.values()):
            state.failed = next((rank for rank in faults.dead if rank in state.members), state.failed)
        self.revoke_all(f"rank {faults.dead[-1]} has died")

    def revoke_all(self, reason: str = "it was revoked to end a call that did not hear an interrupt") -> bool:
        """End all calls on guarded communicators, even in C libraries; False where MPI cannot."""
        if not self.can_revoke:
            return False
        for state in list(registry.states.values()):
            for comm in state.objects()[:1] if len(state.members) > 1 else ():
                Comm.Revoke(comm)
                faults.mark_broken(state, reason)
        return True

    # ------------------------------------------------------------ the main thread

    def adopt(self, comm: Any, label: str) -> Any:
        """Guard a plain communicator of some ranks that was made for user code; they all call it `label`."""
        guarded = registry.adopt(comm, label)
        guarded._state.call_it(lambda: "comm")  # as it is named in cells
        return guarded

    def plain(self, comm: Any) -> Any:
        """Return a plain object for a guarded communicator, by which it can be freed."""
        handle = Intracomm()
        registry.set_handle(handle, comm)
        return handle

    def begin_task(self) -> None:
        """Forget what the task before has used."""
        for state in list(registry.states.values()):
            state.begin_task()

    def break_used(self, reason: str) -> None:
        """Mark as broken the communicators that this task has used: its messages could reach the next one."""
        for state in list(registry.states.values()):
            if state.used_by_task:
                faults.mark_broken(state, reason, spoilt=False)

    def take_broken(self) -> list[tuple[str, list[int], list[list[int]]]]:
        """Return id, members and grid of the communicators that have become broken since the last call."""
        broken = [(state.id, list(state.members), state.topology) for state in faults.newly_broken]
        faults.newly_broken.clear()
        return broken

    def all_broken(self) -> list[tuple[str, list[int], list[list[int]]]]:
        """Return id, members and grid of all communicators that are broken now."""
        states = [state for state in list(registry.states.values()) if state.broken is not None]
        return [(state.id, list(state.members), state.topology) for state in states]

    def renew(
        self, id: str, comm: Any, members: Sequence[int], fresh: str | None = None
    ) -> remains.Remainder:
        """Put a new communicator in the place of one that is broken; every reference to it is healed.

        Parameters
        ----------
        comm
            A plain one, with the grid that the old one had.
        members
            The world's numbers of its ranks.
        fresh
            What it is to be called from now on, if not as before.

        Returns
        -------
        Remainder
            What is left of the old one.
        """
        state = registry.states.get(id) or _by_base(id)
        if state is None:
            return remains.Remainder()  # user code has dropped it
        if state.rebuild is not None:
            if list(members) != list(state.members):
                state.broken = "ranks of its graph have died"
                return remains.Remainder()
            comm = state.rebuild(comm)
        remainder = remains.Remainder()
        objects = state.objects()
        if objects and state.id == id and _can_be_cleared(state, objects[0], members):
            remainder = remains.Remainder(self.plain(objects[0]), state.left, state.ledger())
        for known in objects:
            registry.set_handle(known, comm)
        _renewed(state, members, id if fresh is None else fresh)
        return remainder


def _renewed(state: CommState, members: Sequence[int], fresh: str) -> None:
    _retired[state.id] = state.ledger()
    if len(_retired) > RETIRED:
        _retired.popitem(last=False)
    if registry.states.get(state.id) is state:
        del registry.states[state.id]
    if state in faults.newly_broken:
        faults.newly_broken.remove(state)
    state.id, state.members = fresh, tuple(members)
    state.rank = state.members.index(registry.world.rank)
    state.generation += 1
    state.broken, state.failed = None, -1
    state.forget()
    registry.states[fresh] = state


def _can_be_cleared(state: CommState, comm: Any, members: Sequence[int]) -> bool:
    """Whether a broken communicator may be freed, once what was left on it has been completed."""
    special = state.spoilt or state.opaque or state.topology or state.rebuild is not None
    return not special and list(members) == list(state.members) and Comm.__ne__(comm, registry.world.comm)


def _is_to_come(id: str) -> bool:
    """Whether a communicator that this rank has is going to be renewed under that id."""
    state = _by_base(id)
    return state is not None and generation_of(id) > generation_of(state.id)


def _by_base(id: str) -> CommState | None:
    """Return the state of a communicator of which only another generation is known by that id."""
    base = base_of(id)
    return next((state for state in list(registry.states.values()) if base_of(state.id) == base), None)


def _members_and_name(id: str) -> tuple[Sequence[int], str] | None:
    state = registry.states.get(id)
    return None if state is None else (state.members, state.name)


def _harmless(thread: threading.Thread) -> bool:
    """Whether a thread runs code of ours, or of a library that has nothing to do with MPI."""
    target = getattr(thread, "_target", None)  # what a plain Thread runs, while it does
    module = getattr(type(thread) if target is None else target, "__module__", None) or ""
    loop = getattr(target, "__self__", None)  # where a bound method runs
    return module.startswith(_HARMLESS) or (loop is not None and loop is _loop_of_scripts())


def _loop_of_scripts() -> Any:
    """Return the event loop on which IPython runs ``%%bash`` and its kin, in a thread that stays."""
    if "IPython.core.magics.script" not in sys.modules:
        return None
    shell = sys.modules["IPython"].get_ipython()
    magics = shell.magics_manager.registry.get("ScriptMagics") if shell is not None else None
    return getattr(magics, "event_loop", None)


def _can_revoke() -> bool:
    comm = MPI.COMM_SELF.Dup()
    try:
        comm.Revoke()
    except NotImplementedError:
        comm.Free()
        return False
    return True


def install(comm: Intracomm) -> Guard:
    """Guard `comm`, a plain communicator, as the world of user code. Collective.

    `mpi4py.MPI` then has guarded ``COMM_WORLD``, ``COMM_SELF``, communicator classes, ``Request``, ``Win``
    and their like.
    """
    world = registry.world
    world.comm, world.group, world.rank = MPI.COMM_WORLD, comm.Get_group(), comm.Get_rank()
    world.private = comm.Dup()
    world.private.Set_name("mpiparallel")
    members = range(comm.Get_size())
    plain_self = MPI.COMM_SELF
    guarded = registry.adopt_as(comm, CommState("world", members, lambda: "MPI.COMM_WORLD"))
    guard = Guard(guarded)
    own = registry.adopt_as(
        plain_self, CommState(f"self.{world.rank}", [world.rank], lambda: "MPI.COMM_SELF")
    )
    world.state, world.self_state = guarded._state, own._state
    module.COMM_WORLD, module.COMM_SELF = guarded, own
    module.Comm = GuardedAnyComm
    for plain, ours in registry.guarded.items():
        setattr(module, plain.__name__, ours)
    module.Request, module.Prequest, module.Grequest = GuardedRequest, GuardedPrequest, GuardedGrequest
    module.Message, module.Win, module.File = GuardedMessage, GuardedWin, GuardedFile
    return guard
