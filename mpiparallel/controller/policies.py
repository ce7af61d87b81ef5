"""How an engine is chosen among those with room.

Each keeps its own record of these engines and is told when the load of one changes (`move`): -1 stands for no
room. Nothing here looks through all engines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from random import Random
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mpiparallel.controller.pools import Seat

NOBODY_EXCLUDED: frozenset[int] = frozenset()
_TRIES = 32  # draws of `Weighted` before it takes what it has


class Policy(Protocol):
    """Chooses among the engines with room."""

    def move(self, seat: Seat, old: int, new: int) -> None:
        """Note that the load of `seat` was `old` and is `new`."""

    def pick(self, excluded: Container[int] = NOBODY_EXCLUDED) -> Seat | None:
        """Return the engine that is next, if there is one."""


class LeastLoad:
    """The one with the fewest open tasks; among equals the one that has become so last.

    An engine that has just ended a task is awake. To take idle ones in turn would wake one from its nap for
    each call of a loop, which takes ten times as long as the call.
    """

    def __init__(self, _random: Random) -> None:
        self._levels: dict[int, OrderedDict[Seat, None]] = {}
        self._low = 0
        self._count = 0

    def move(self, seat: Seat, old: int, new: int) -> None:
        if old >= 0:
            del self._levels[old][seat]
            self._count -= 1
        if new >= 0:
            level = self._levels.get(new)
            if level is None:
                level = self._levels[new] = OrderedDict()
            level[seat] = None
            if old < 0:
                level.move_to_end(seat, last=False)  # new ones, and those that had long tasks: in turn
            self._count += 1
            if new < self._low:
                self._low = new

    def pick(self, excluded: Container[int] = NOBODY_EXCLUDED) -> Seat | None:
        if not self._count:
            return None
        while not self._levels.get(self._low):
            self._low += 1
        if not excluded:
            return next(reversed(self._levels[self._low]))
        for number in sorted(self._levels):
            for seat in reversed(self._levels[number]):
                if seat.number not in excluded:
                    return seat
        return None


class LeastRecent:
    """The one that was not used for longest."""

    def __init__(self, _random: Random) -> None:
        self._seats: OrderedDict[Seat, None] = OrderedDict()

    def move(self, seat: Seat, old: int, new: int) -> None:
        if new < 0:
            del self._seats[seat]
        elif old < 0:
            self._seats[seat] = None
        elif new > old:
            self._seats.move_to_end(seat)

    def pick(self, excluded: Container[int] = NOBODY_EXCLUDED) -> Seat | None:
        for seat in self._seats:
            if seat.number not in excluded:
                return seat
        return None


class PlainRandom:
    """Any."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._seats: list[Seat] = []
        self._places: dict[Seat, int] = {}

    def move(self, seat: Seat, old: int, new: int) -> None:
        if new < 0:
            place, last = self._places.pop(seat), self._seats.pop()
            if last is not seat:
                self._seats[place] = last
                self._places[last] = place
        elif old < 0:
            self._places[seat] = len(self._seats)
            self._seats.append(seat)

    def pick(self, excluded: Container[int] = NOBODY_EXCLUDED) -> Seat | None:
        if excluded:
            return self._pick_but(excluded)
        return self._draw() if self._seats else None

    def _pick_but(self, excluded: Container[int]) -> Seat | None:
        count = len(self._seats)
        start = self._random.randrange(count) if count else 0
        for place in range(start, start + count):
            if self._seats[place % count].number not in excluded:
                return self._seats[place % count]
        return None

    def _any(self) -> Seat:
        return self._seats[int(self._random.random() * len(self._seats))]

    def _draw(self) -> Seat:
        return self._any()


class TwoBin(PlainRandom):
    """Of any two the one that was not used for longer."""

    def _draw(self) -> Seat:
        one, other = self._any(), self._any()
        return one if one.used <= other.used else other


class Weighted(PlainRandom):
    """Of two, drawn with weights that fall with the load, the one with less to do."""

    def _draw(self) -> Seat:
        one, other = self._one(), self._one()
        return one if one.level <= other.level else other

    def _one(self) -> Seat:
        for _ in range(_TRIES):
            seat = self._any()
            if self._random.random() * (1 + seat.level) < 1.0:
                break
        return seat


POLICIES: dict[str, type[LeastLoad] | type[LeastRecent] | type[PlainRandom]] = {
    "leastload": LeastLoad,
    "lru": LeastRecent,
    "plainrandom": PlainRandom,
    "twobin": TwoBin,
    "weighted": Weighted,
    "pure": LeastRecent,  # IPython Parallel's name for ZeroMQ's own, which takes them in turn
}
