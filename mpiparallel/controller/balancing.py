"""What the scheduler knows: tables that `balance` and the modules beside it share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from random import Random

from mpiparallel.controller.functions import Functions
from mpiparallel.controller.jobs import Balanced, Job
from mpiparallel.controller.policies import POLICIES
from mpiparallel.controller.pools import Crew, Pool, Queue, Seat, Turns

MAX_ENDED = 50_000  # tasks that others may still name as their dependencies


@dataclass(slots=True)
class Reservation:
    """Engines that are kept free for a gang task."""

    task: Balanced
    crew: Crew
    seats: dict[int, Seat] = field(default_factory=dict)


class Balancing:
    """The tables of one hub's scheduler.

    Parameters
    ----------
    scheme : str
        How engines are chosen; see `policies.POLICIES`.
    hwm : int, optional
        How many tasks an engine may have; 0: any number; None: as many as it has done within milliseconds.

    Attributes
    ----------
    news
        Tasks that have ended and that others wait for: id, whether it went well, where it ran.
    seats_to_fill, pools_to_serve, crews_to_fill
        Where something has changed since `placing.run`.
    """

    def __init__(self, scheme: str, hwm: int | None) -> None:
        if scheme not in POLICIES:
            raise ValueError(f"there is no scheme {scheme!r}; there are {', '.join(POLICIES)}")
        self.policy = POLICIES[scheme]
        self.hwm = hwm
        self.random = Random(0)
        self.numbers = count(1)
        self.turns = Turns()
        self.seats: dict[int, Seat] = {}
        self.crews: dict[str, Crew] = {}
        self.everywhere = Pool(None, self.policy(self.random), self.turns)
        self.pools: dict[frozenset[int], Pool] = {}  # those for some engines only
        self.naming: dict[int, dict[Pool, None]] = {}  # pools by the engines that they name, present or not
        self.hungry: dict[Pool, None] = {}  # pools with tasks that may be called back
        self.functions = Functions()
        self.ended: OrderedDict[str, tuple[bool, tuple[int, ...]]] = OrderedDict()
        self.watches: dict[str, dict[Job, None]] = {}  # who waits for a task
        self.deadlines: list[tuple[float, int, Job | Balanced]] = []  # a heap
        self.timed = 0  # how many of these were still of use when they were looked through
        self.headless: dict[str, Balanced] = {}  # lost on their way; only their clients have the payload
        self.gangs: dict[tuple[int, Pool], Queue] = {}  # gang tasks by size
        self.reserved: Reservation | None = None
        self.gang_placed = 0.0  # when the last one that engines were reserved for was sent
        self.tried = float("-inf")  # when engines were last looked for
        self.look_at_gangs = False
        self.used = 0
        self.nobody_since: float | None = None  # since when tasks wait and there are no engines
        self.told: set[str] = set()  # clients that know it
        self.news: list[tuple[str, bool, tuple[int, ...]]] = []
        self.seats_to_fill: dict[Seat, None] = {}
        self.pools_to_serve: dict[Pool, None] = {}
        self.crews_to_fill: dict[Crew, None] = {}

    def remember(self, task: str, well: bool, engines: tuple[int, ...]) -> None:
        """Note how a task has ended, for those that come after it."""
        self.ended[task] = well, engines
        if len(self.ended) > MAX_ENDED:
            self.ended.popitem(last=False)
        if task in self.watches:
            self.news.append((task, well, engines))

    # ------------------------------------------------------------ pools

    def pool(self, targets: frozenset[int] | None) -> Pool:
        """Return the pool for `targets`, to be given back by `release`."""
        if targets is None:
            return self.everywhere
        found = self.pools.get(targets)
        if found is None:
            found = self.pools[targets] = Pool(targets, self.policy(self.random), self.turns)
            for number in targets:
                self.naming.setdefault(number, {})[found] = None
                if number in self.seats:
                    found.enter(self.seats[number])
        found.uses += 1
        return found

    def release(self, pool: Pool) -> None:
        """Forget a pool that no job names any longer."""
        if pool.targets is None:
            return
        pool.uses -= 1
        if pool.uses:
            return
        del self.pools[pool.targets]
        self.hungry.pop(pool, None)
        self.pools_to_serve.pop(pool, None)
        for number in pool.targets:
            named = self.naming[number]
            del named[pool]
            if not named:
                del self.naming[number]
        for seat in list(pool.seats.values()):
            pool.leave(seat)
            if seat.recall is pool:
                seat.recall = None
