"""`current_comm`: the communicator of just the ranks that run the task. The ranks' side of `gangs`.

The couriers make it while user code runs, and keep it for the next task on the same ranks; so it costs a
look into a table but for the first time. User code finds it under the name ``comm``, too (`Current.at_hand`).
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from mpiparallel.engine.executor import Executor
from mpiparallel.engine.world import World
from mpiparallel.error import PeerFailed
from mpiparallel.wire.between import Drop, Made, Want
from mpiparallel.wire.messages import Message, Submit

if TYPE_CHECKING:
    from mpiparallel.engine.guard import Guard

ASK_AGAIN = 0.2  # seconds; a leader that dies forgets what it was asked
LOOK_EVERY = 0.01  # seconds between looks at who has died

Places = tuple[int, ...]


class _Late:
    """Stands for the communicator of the task that runs, in code that was not expected to use one."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current.comm(), name)


class _Kept:
    """One communicator: plain as the courier made it, until the main thread gives it to user code."""

    __slots__ = ("comm", "label", "lost", "plain")

    def __init__(self, plain: Any, label: str, lost: int) -> None:
        self.plain, self.label, self.lost = plain, label, lost
        self.comm: Any = None


class Current:
    """What tasks of this rank have their own communicators from.

    Parameters
    ----------
    world, executor
    guard
        None when MPI is not guarded here.
    first
        The id of the first engine.
    post
        Takes messages for the leader.
    """

    def __init__(
        self,
        world: World,
        executor: Executor,
        guard: Guard | None,
        first: int,
        post: Callable[[Message], None],
    ) -> None:
        self._world, self._executor, self._guard = world, executor, guard
        self._first, self._post = first, post
        self._kept: dict[Places, _Kept] = {}
        self._failed: dict[Places, int] = {}  # the numbers of those that could not be made
        self._arrived = threading.Condition()
        executor.gang_comm = self.comm_of
        executor.verbs.give_comm(self.at_hand)

    # ------------------------------------------------------------ user code

    def comm(self) -> Any:
        """Return the communicator of the task that runs."""
        header = self._executor.current
        if header is None or not self._executor.busy:
            raise RuntimeError("current_comm() works in a task of an engine only, and none runs here now")
        return self.comm_of(header)

    def comm_of(self, header: Submit) -> Any:
        """Return the communicator of the ranks that have a part in a request, in engine order."""
        if len(header.engines) == 1:
            return MPI.COMM_SELF
        places = tuple(sorted(engine - self._first for engine in header.engines))
        kept = self._kept.get(places)
        if kept is None or kept.comm is None:
            if list(places) == self._world.places:
                return MPI.COMM_WORLD
            kept = self._wait(places)
        return kept.comm

    def at_hand(self, header: Submit, certain: bool) -> Any:
        """Return what the name ``comm`` gives in a request.

        Parameters
        ----------
        certain
            Whether user code is seen to use it. Otherwise a communicator that would have to be made, which
            takes the couriers of all ranks, is made when it is asked for something.
        """
        n_engines, alive = len(header.engines), self._world.alive
        if n_engines == len(alive) - (alive[0] < self._world.shift):
            return MPI.COMM_WORLD
        if n_engines > 1 and not certain:
            return _Late(self)
        return self.comm_of(header)

    def _wait(self, places: Places) -> _Kept:
        ask_at = 0.0
        waited = 0.0
        with self._arrived:
            while places not in self._kept:
                dead = set(places).intersection(self._world.lost_places)
                if dead:
                    raise PeerFailed(min(dead), "its process died", "this rank came to current_comm()")
                if waited >= ask_at:
                    ask_at = waited + ASK_AGAIN
                    failed = self._failed.get(places, 0)
                    self._post(Message(Want(list(places), failed)))
                self._arrived.wait(LOOK_EVERY)
                waited += LOOK_EVERY
            return self._adopt(self._kept[places])

    def _adopt(self, kept: _Kept) -> _Kept:
        if kept.comm is None:
            kept.comm = kept.plain
            if self._guard is not None:
                kept.comm = self._guard.adopt(kept.plain, kept.label)
        return kept

    # ------------------------------------------------------------ the courier

    def made(self, order: Made, take: Callable[[int], Any]) -> None:
        """Keep a communicator that the couriers have made, for the tasks that come."""
        places = tuple(order.members)
        try:
            plain = take(order.made)
        except LookupError:
            with self._arrived:
                self._failed[places] = order.made
            return
        with self._arrived:
            kept = self._kept[places] = _Kept(plain, f"ranks{order.made}", order.lost)
            self._failed.pop(places, None)
            self._arrived.notify_all()
        # Before anybody can ask what this rank has done on it, or have it renewed.
        self._executor.put(lambda: self._adopt_in_turn(kept))

    def _adopt_in_turn(self, kept: _Kept) -> None:
        with self._arrived:
            self._adopt(kept)

    def drop(self, order: Drop) -> None:
        """Let a communicator go that no open request needs, between two tasks."""
        self._executor.put(lambda: self._free(tuple(order.members)))

    def _free(self, places: Places) -> None:
        with self._arrived:
            kept = self._kept.pop(places, None)
        if kept is None:
            return
        self._adopt(kept)
        if self._guard is None:
            if sys.getrefcount(kept.comm) <= 3:  # ours, twice, and the argument
                kept.comm.Free()
            return
        state, handle = weakref.ref(kept.comm._state), self._guard.plain(kept.comm)
        broken = kept.comm._state.broken
        kept.comm = kept.plain = None
        # Who holds on to it goes on with it; and MPI may still write into what was broken off.
        if state() is None and broken is None:
            handle.Free()

    def after_loss(self) -> None:
        """Forget what was made before the last death: it was revoked."""
        n_lost = len(self._world.lost)
        with self._arrived:
            self._kept = {places: kept for places, kept in self._kept.items() if kept.lost >= n_lost}
            self._failed.clear()


_current: Current | None = None  # of this process


def install(current: Current) -> None:
    """Let `current_comm` work in this process."""
    global _current
    _current = current


def current_comm() -> Any:
    """Return a communicator of just the ranks that run this task, in engine order.

    That are the ranks of a gang, or the engines of the view that was told to `apply` or `execute`; if these
    are all of their world it is ``MPI.COMM_WORLD``. Each rank may call it at any time in the task: it does
    not wait for the others.

    Raises
    ------
    RuntimeError
        Outside of a task, or where there is no engine.
    """
    if _current is None:
        raise RuntimeError("current_comm() works in tasks on engines only: this process is none")
    return _current.comm()
