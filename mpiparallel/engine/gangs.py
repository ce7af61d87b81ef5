"""Communicators for sets of ranks that run tasks together: which there are. The leader's side of `current`.

A set that has an open request keeps its communicator, so that all parts of a request find the same one.
Beyond `MAX_SETS` those that have not been used for longest are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from mpiparallel.wire.between import Drop, Made, Want
from mpiparallel.wire.messages import AnyHeader

MAX_SETS = 128

Places = tuple[int, ...]


class Gangs:
    """The sets of ranks that have a communicator of their own.

    Parameters
    ----------
    make
        Called with the places of the ranks: begin a communicator, return its number.
    tell
        Called with (place, header) to send a message to a rank.
    in_use
        Called with the places of a set: whether it has an open request.
    """

    def __init__(
        self,
        make: Callable[[Sequence[int]], int],
        tell: Callable[[int, AnyHeader], None],
        in_use: Callable[[Places], bool],
        max_sets: int = MAX_SETS,
    ) -> None:
        self._make, self._tell, self._in_use = make, tell, in_use
        self._max_sets = max_sets
        self._kept: OrderedDict[Places, int] = OrderedDict()
        self._alive: set[int] = set()
        self._n_lost = 0

    def alive(self, places: Iterable[int], n_lost: int) -> None:
        """Note who is alive, after `n_lost` deaths. What there was is lost."""
        self._alive, self._n_lost = set(places), n_lost
        self._kept.clear()

    def want(self, order: Want) -> None:
        """Have a communicator made for a set, unless there is one."""
        places = tuple(sorted(order.members))
        number = self._kept.get(places)
        if number is not None and number != order.failed:
            self._kept.move_to_end(places)
            return
        if len(places) < 2 or set(places) == self._alive or not self._alive.issuperset(places):
            return
        self._kept[places] = number = self._make(places)
        self._kept.move_to_end(places)
        for place in places:
            self._tell(place, Made(list(places), number, self._n_lost))
        self._drop_old()

    def _drop_old(self) -> None:
        if len(self._kept) <= self._max_sets:
            return
        for old in list(self._kept)[:-1]:
            if not self._in_use(old):
                del self._kept[old]
                for place in old:
                    self._tell(place, Drop(list(old)))
                if len(self._kept) <= self._max_sets:
                    return
