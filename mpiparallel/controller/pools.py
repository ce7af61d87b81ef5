"""Queues of tasks, and the engines that may have them.

A *seat* is an engine as the scheduler sees it, a *crew* those of a world. Tasks that may go to the same
engines wait in the queue of one *pool*: that of all engines, or one for each distinct set of targets in use.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpiparallel.controller.jobs import Balanced
from mpiparallel.controller.lives import BalancedState
from mpiparallel.controller.policies import Policy

if TYPE_CHECKING:
    from mpiparallel.controller.state import World

# Why an engine takes no task, though it may have little to do.
AWAY = 1  # its world is adrift
HELD = 2  # a gang is to have it
STUCK = 4  # its tasks were called back, as the first one takes long
GANG = 8  # it runs a gang task

_QUEUED = BalancedState.QUEUED


class Crew:
    """The engines of one world."""

    __slots__ = ("idle", "seats", "used", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.seats: dict[int, Seat] = {}
        self.idle: dict[int, Seat] = {}
        self.used: OrderedDict[tuple[int, ...], None] = OrderedDict()  # by gangs, the latest last


class Seat:
    """An engine.

    Attributes
    ----------
    open
        Balanced tasks there, in the order sent.
    direct
        How many other tasks it has.
    expected
        How many seconds all of them may take.
    level
        Its load as the policies were told; -1: no room.
    behind
        The pool that may call tasks back from here.
    recall
        The pool that does so.
    """

    __slots__ = (
        "behind", "closed", "crew", "direct", "expected", "functions", "level", "number", "open", "pools",
        "progress", "recall", "used",
    )  # fmt: skip

    def __init__(self, number: int, crew: Crew) -> None:
        self.number = number
        self.crew = crew
        self.open: dict[str, Balanced] = {}
        self.direct = 0
        self.expected = 0.0
        self.closed = 0
        self.level = -1
        self.used = 0
        self.progress = 0.0  # when it was last heard of, or was given its first task
        self.functions: set[bytes] = set()  # that it was sent
        self.pools: dict[Pool, None] = {}
        self.behind: Pool | None = None
        self.recall: Pool | None = None


class Turn:
    """When a client was last served."""

    __slots__ = ("lines", "stamp")

    def __init__(self) -> None:
        self.stamp = 0
        self.lines = 0


class Line:
    """The tasks of one client in one queue."""

    __slots__ = ("client", "tasks", "turn")

    def __init__(self, client: str, turn: Turn) -> None:
        self.client = client
        self.tasks: deque[Balanced] = deque()
        self.turn = turn


class Turns:
    """The turns of all clients that have tasks in a queue."""

    __slots__ = ("_clients", "stamp")

    def __init__(self) -> None:
        self.stamp = 0
        self._clients: dict[str, Turn] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, client: str) -> Turn:
        turn = self._clients.get(client)
        if turn is None:
            turn = self._clients[client] = Turn()
        turn.lines += 1
        return turn

    def leave(self, client: str, turn: Turn) -> None:
        turn.lines -= 1
        if not turn.lines:
            del self._clients[client]


class Queue:
    """Tasks for the same engines. Clients take turns; the tasks of one keep their order.

    A task that has ended stays until its turn comes, or until half of the queue are such.
    """

    __slots__ = ("_lines", "_order", "_stale", "_turns", "size")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lines: dict[str, Line] = {}
        self._order: deque[Line] = deque()
        self._stale = 0
        self.size = 0

    def push(self, task: Balanced) -> None:
        self._line(task).append(task)
        self.size += 1

    def push_front(self, task: Balanced) -> None:
        self._line(task).appendleft(task)
        self.size += 1

    def _line(self, task: Balanced) -> deque[Balanced]:
        client = task.job.header.client
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = Line(client, self._turns.enter(client))
            self._order.append(line)
        return line.tasks

    def head(self) -> tuple[int, int]:
        """Return what tells whose turn it is among several queues that are not empty: the least is first."""
        task = self.peek()
        return self._order[0].turn.stamp, task.seq

    def peek(self) -> Balanced:
        """Return the next task of a queue that is not empty."""
        while True:
            line = self._order[0]
            tasks = line.tasks
            while tasks:
                if tasks[0].state is _QUEUED:
                    return tasks[0]
                tasks.popleft()
                self._stale -= 1
            self._close(line)

    def pop(self) -> Balanced:
        """Take the next task from a queue that is not empty."""
        task = self.peek()
        order = self._order
        line = order[0]
        line.tasks.popleft()
        self.size -= 1
        turns = self._turns
        turns.stamp += 1
        line.turn.stamp = turns.stamp
        if not self.size:
            self._clear()
        elif not line.tasks:
            self._close(line)
        elif len(order) > 1:
            order.rotate(-1)
        return task

    def remove(self, task: Balanced) -> None:
        """Take a task out that may not be the next."""
        line = self._lines[task.job.header.client]
        line.tasks.remove(task)
        self.size -= 1
        if not self.size:
            self._clear()
        elif not line.tasks:
            self._order.remove(line)
            del self._lines[line.client]
            self._turns.leave(line.client, line.turn)

    def _close(self, line: Line) -> None:
        self._order.popleft()
        del self._lines[line.client]
        self._turns.leave(line.client, line.turn)

    def dropped(self) -> None:
        """Note that a task in here has ended."""
        self.size -= 1
        self._stale += 1
        if self._stale > 16 and self._stale > self.size:
            for line in list(self._order):
                line.tasks = deque(task for task in line.tasks if task.state is _QUEUED)
            for _ in range(len(self._order)):
                if self._order[0].tasks:
                    self._order.rotate(-1)
                else:
                    self._close(self._order[0])
            self._stale = 0
        elif not self.size:
            self._clear()

    def clients(self) -> dict[str, tuple[str, int]]:
        """Return whose tasks wait: their first one, and how many there are at most."""
        return {
            line.client: (next(task.name for task in line.tasks if task.state is _QUEUED), len(line.tasks))
            for line in self._order
            if any(task.state is _QUEUED for task in line.tasks)
        }

    def _clear(self) -> None:
        while self._order:
            self._close(self._order[0])
        self._stale = 0

    def __iter__(self) -> Iterator[Balanced]:
        for line in self._order:
            yield from (task for task in line.tasks if task.state is _QUEUED)


class Pool:
    """Engines that tasks may go to, and the tasks that wait for them.

    Attributes
    ----------
    targets
        Their ids; None: all engines.
    free
        Those with room.
    idle
        How many have nothing to do.
    picky
        Tasks which some of the engines are not to have, by these.
    behind
        Engines whose last task is of this pool and not their only one; who has made no progress for longest
        is first.
    recalls
        How many engines were asked to give tasks back and have not answered.
    uses
        How many jobs name it.
    """

    __slots__ = ("behind", "free", "idle", "picky", "queue", "recalls", "seats", "targets", "uses")

    def __init__(self, targets: frozenset[int] | None, free: Policy, turns: Turns) -> None:
        self.targets = targets
        self.free = free
        self.seats: dict[int, Seat] = {}
        self.idle = 0
        self.queue = Queue(turns)
        self.picky: dict[frozenset[int], Queue] = {}
        self.behind: OrderedDict[Seat, None] = OrderedDict()
        self.recalls = 0
        self.uses = 0

    def enter(self, seat: Seat) -> None:
        self.seats[seat.number] = seat
        seat.pools[self] = None
        if seat.level >= 0:
            self.free.move(seat, -1, seat.level)
            self.idle += seat.level == 0

    def leave(self, seat: Seat) -> None:
        del self.seats[seat.number]
        del seat.pools[self]
        if seat.level >= 0:
            self.free.move(seat, seat.level, -1)
            self.idle -= seat.level == 0

    def queue_of(self, task: Balanced, turns: Turns) -> Queue:
        """Return the queue that a task waits in."""
        if not task.excluded:
            return self.queue
        found = self.picky.get(task.excluded)
        if found is None:
            found = self.picky[task.excluded] = Queue(turns)
        return found

    def tidy(self) -> None:
        """Forget queues of picky tasks that are empty."""
        for excluded in [excluded for excluded, queue in self.picky.items() if not queue.size]:
            del self.picky[excluded]

    @property
    def waiting(self) -> int:
        return self.queue.size + sum(queue.size for queue in self.picky.values())

    def hopeless(self, excluded: frozenset[int]) -> bool:
        """Return whether none of its engines may have a task that is not for `excluded`."""
        return bool(self.seats) and self.seats.keys() <= excluded
