"""Communicators of some of the ranks, made while the couriers run. A part of `Mail`.

The leader decides and tells the ranks; all come to the orders in the leader's order. To make a communicator
blocks until the slowest courier is there, which may be never, when user code keeps the GIL. So all that take
part say that they are ready for order number k; then the leader says "go". How it is made depends on the
world:

- Where a death ends the world anyway, the members call `Create_group`. Others have no part in it, and nobody
  waits for an earlier order of others.
- Where the world survives, Open MPI's `Create_group` would not return when a member dies. So everybody
  passes the "go" on to all, in case the leader dies meanwhile; then all take part. Until the first death,
  they call `Create` on a communicator that is kept for this: it ends with an error when a rank dies, at
  least for some, and these revoke it, which frees the others. After a death all shrink ``COMM_WORLD``, and
  the lowest of those who came says what it is to be: the shrunk one itself, or a part of it. (Not always, as
  Open MPI 5.0 hangs in one of a thousand shrinks, in its search for a number, when user code is in MPI too.)

Known: Open MPI 5.0 crashes when it hears of a death in the microseconds in which it completes a
communicator. So the leader waits a moment after each: all ranks should have heard of it, and several often
die together.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.world import World

NEW_GROUP, OLD_GROUP, NEW_COMM, READY, GO = 2, 3, 4, 5, 6  # tags
WORLD_GROUP = 1  # the group of all ranks; 0 means "no broadcast"
MAX_GROUPS = 16  # communicators kept for sets of targets
SETTLE = 0.1  # seconds after a death in which no communicator is begun


class CommLost(LookupError):
    """This communicator could not be made: a rank died."""


class Groups:
    """The communicators that this rank has with some others.

    Parameters
    ----------
    world
    tell
        Called with (ranks, tag, numbers): send these numbers to these ranks.
    """

    def __init__(self, world: World, tell: Callable[[Sequence[int], int, list[int]], None]) -> None:
        self._world, self._tell = world, tell
        self._kept: OrderedDict[tuple[int, ...], int] = OrderedDict()  # by the leader: ranks -> number
        self._comms: dict[int, Any] = {WORLD_GROUP: world.cast}
        self._made: dict[int, Any] = {}  # not taken yet; None: lost
        self._last = WORLD_GROUP  # the highest number in use
        self._orders: dict[int, tuple[int, Sequence[int]]] = {}  # k -> number, ranks
        self._ready: dict[int, set[int]] = {}  # k -> who is ready
        self._done = 0  # the orders that were carried out
        self._last_death = -SETTLE
        # Where new communicators come from until the first death; nothing else is done on it.
        self._source: Any = world.everyone.Dup() if world.survives else None

    def __getitem__(self, number: int) -> Any:
        return self._comms[number]

    # ------------------------------------------------------------ on the leader

    def of(self, others: Sequence[int]) -> int:
        """Return the number of the communicator of this rank and `others`, made when it is new.

        0 means that there is none. Worlds that survive have none but that of all ranks, until one dies: to
        make one takes all ranks, and longer than to send one by one.
        """
        world, kept = self._world, self._kept
        ranks = tuple(sorted({world.rank, *others}))
        if len(ranks) == world.size:
            return WORLD_GROUP
        if world.survives:
            return 0
        if ranks in kept:
            kept.move_to_end(ranks)
            return kept[ranks]
        if len(kept) >= MAX_GROUPS:
            old, number = kept.popitem(last=False)
            self._tell(old, OLD_GROUP, [number])
            self._comms.pop(number).Disconnect()
        number = kept[ranks] = self._next()
        self._tell(ranks, NEW_GROUP, [number, *ranks])
        self._comms[number] = self._create(number, ranks)
        return number

    def new_comm(self, ranks: Sequence[int]) -> int:
        """Begin a communicator that somebody is to own."""
        world, number = self._world, self._next()
        k = 1 + max(self._orders, default=self._done)
        if not world.survives:
            self._done = max(self._done, k)
        self._orders[k] = (number, ranks)
        self._ready[k] = {world.rank}
        self._tell(world.alive if world.survives else ranks, NEW_COMM, [k, number, *ranks])
        return number

    def _next(self) -> int:
        self._last += 1
        return self._last

    def progress(self) -> bool:
        """Begin what all are ready for; return whether there was anything."""
        if not self._world.survives:
            ready = [k for k, ranks in self._ready.items() if ranks.issuperset(self._orders[k][1])]
            for k in ready:
                self._go(k, shrink=False)
            return bool(ready)
        k = self._done + 1
        if k not in self._ready or not self._ready[k].issuperset(self._world.alive):
            return False
        if time.monotonic() - self._last_death > SETTLE:
            self._go(k, bool(self._world.lost))
        return True

    # ------------------------------------------------------------ on all ranks

    def told(self, source: int, tag: int, numbers: Sequence[int]) -> int:
        """Do what another rank says; return the number of the communicator for this rank that it begins."""
        k = number = numbers[0]
        if tag == OLD_GROUP:
            self._comms.pop(number).Disconnect()
        elif tag == NEW_GROUP:
            self._comms[number] = self._create(number, numbers[1:])
        elif tag == READY:
            self._ready.get(k, set()).add(source)
        elif tag == GO:
            if k > self._done or not self._world.survives:
                self._go(k, bool(numbers[1]))
        else:
            return self._ordered(source, *numbers)
        return 0

    def _ordered(self, source: int, k: int, number: int, *ranks: int) -> int:
        self._last = max(self._last, number)
        if k > self._done or not self._world.survives:
            self._orders[k] = (number, ranks)
            self._tell([source], READY, [k])
        else:
            self._made[number] = None  # another leader has used up this k
        return number if self._world.rank in ranks else 0

    def _go(self, k: int, shrink: bool) -> None:
        world = self._world
        # From the leader alone where the others would come to it before what the leader said earlier.
        self._ready.pop(k, None)
        wanted, ranks = self._orders.pop(k, (0, ()))
        if world.survives or world.rank == world.leader:
            self._tell(world.alive if world.survives else ranks, GO, [k, int(shrink)])
        self._done = max(self._done, k)
        if not world.survives:
            if world.rank in ranks:
                self._made[wanted] = self._create(wanted, ranks)
            return
        if world.rank in ranks:
            self._made[wanted] = None  # until we know better
        try:
            if shrink:
                self._make(world.everyone.Shrink(), wanted, ranks)
            else:
                self._split_off(wanted, ranks)
        except MPI.Exception:
            # Another rank died just now: that will be noticed, and who needs it begins another.
            if not shrink:
                world.source.Revoke()  # frees those that wait for us in there

    def _split_off(self, wanted: int, ranks: Sequence[int]) -> None:
        """Make a communicator while nobody has died."""
        everybody = self._world.source.Get_group()
        group = everybody.Incl(list(ranks))
        try:
            if made := self._world.source.Create(group):
                self._made[wanted] = made
        finally:
            group.Free()
            everybody.Free()

    def _make(self, comm: Any, wanted: int, ranks: Sequence[int]) -> None:
        """Make of `comm` what its lowest rank wants."""
        text = array("q", bytes(8 * (2 + self._world.size)))
        if comm.rank == 0:
            text[: 2 + len(ranks)] = array("q", [wanted, len(ranks), *ranks])
        comm.Bcast([text, MPI.INT64_T], 0)
        number, members = text[0], list(text[2 : 2 + text[1]])
        everybody, living = self._world.everyone.Get_group(), comm.Get_group()
        places = everybody.Translate_ranks(members, living)
        if number and MPI.UNDEFINED not in places:
            if list(places) == list(range(comm.size)):
                self._made[number] = comm
            else:
                group = living.Incl(places)
                if made := comm.Create(group):
                    self._made[number] = made
                group.Free()
        everybody.Free()
        living.Free()

    def is_decided(self, number: int) -> bool:
        """Whether a communicator is there, or lost."""
        return number in self._made

    def take(self, number: int) -> Any:
        """Hand over a communicator begun by `new_comm`.

        Raises
        ------
        CommLost
            If there is none by this number here.
        """
        comm = self._made.pop(number, None)
        if comm is None:
            raise CommLost(f"communicator {number} could not be made: a rank died")
        return comm

    def forget(self, new_leader: bool) -> None:
        """Go on after deaths: what a leader that died has begun comes to nothing."""
        self._last_death = time.monotonic()
        self._world.source.Revoke()
        if new_leader:
            self._made.update((number, None) for number, _ in self._orders.values())
            self._orders.clear()

    def _create(self, number: int, ranks: Sequence[int]) -> Any:
        everybody = self._world.cast.Get_group()
        group = everybody.Incl(list(ranks))
        try:
            return self._world.cast.Create_group(group, number % 32768)
        finally:
            group.Free()
            everybody.Free()
