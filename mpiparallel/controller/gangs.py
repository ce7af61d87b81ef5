"""Gang tasks: for several engines of one world that have nothing else to do.

They are sent when enough engines are idle at once; until then smaller tasks fill the gaps. So that this does
not go on for ever, engines are reserved for the gang that has waited for longest, once it has done so for a
while or when nothing else is there to be done: these get no more work, and are exchanged for others of the
world that become idle before them.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpiparallel.controller import endings, placing
from mpiparallel.controller.balancing import Balancing, Reservation
from mpiparallel.controller.jobs import Balanced, Team
from mpiparallel.controller.lives import BalancedEvent, BalancedState
from mpiparallel.controller.pools import AWAY, GANG, HELD, Crew, Pool, Queue, Seat
from mpiparallel.controller.state import State
from mpiparallel.wire.messages import Failure, Message, Result

PATIENCE = 0.2  # seconds that a gang lets smaller tasks pass
MAX_USED = 64  # sets of ranks remembered for each world
_LOOK_AT = 16  # of these, when one is looked for


# ---------------------------------------------------------------- queue


def enqueue(state: State, task: Balanced, front: bool = False) -> None:
    """Let a gang task wait for its engines, unless there can be none."""
    table = state.balancing
    header = task.job.header
    pool = task.job.pool
    assert pool is not None
    queue = table.gangs.get((header.ranks, pool))
    if queue is None:
        queue = table.gangs[header.ranks, pool] = Queue(table.turns)
    if front:
        queue.push_front(task)
    else:
        queue.push(task)
    if table.crews and not state.paused and is_impossible(table, task):
        fail_impossible(state, task)
        return
    for crew in table.crews.values():
        if len(crew.idle) >= header.ranks:
            table.crews_to_fill[crew] = None
    table.look_at_gangs = True


def is_impossible(table: Balancing, task: Balanced) -> bool:
    """Return whether no world has enough engines for a gang task."""
    return all(_count(crew, task) < task.job.header.ranks for crew in table.crews.values())


def _count(crew: Crew, task: Balanced) -> int:
    """Return how many engines of a world may run a part of a gang task."""
    pool = task.job.pool
    if pool is None or (pool.targets is None and not task.excluded):
        return len(crew.seats)
    return sum(_may_run(task, pool, seat) for seat in crew.seats.values())


def _may_run(task: Balanced, pool: Pool, seat: Seat) -> bool:
    return pool in seat.pools and seat.number not in task.excluded


def fail_impossible(state: State, task: Balanced) -> None:
    """End a gang task for which no world is big enough."""
    crews = state.balancing.crews.values()
    biggest = max(crews, key=lambda crew: _count(crew, task))
    count = _count(biggest, task)
    text = (
        f"Task {task.name} is for {task.job.header.ranks} engines of one world, and no world has so many: "
        f"of the biggest, {biggest.world.name}, {count} may run it"
    )
    endings.fail(state, task, "ImpossibleDependency", text)


# ---------------------------------------------------------------- placing


def fill(state: State, crew: Crew) -> None:
    """Send gang tasks to the idle engines of a world, the oldest that fits first."""
    table = state.balancing
    while True:
        fitting = [
            (queue.peek().seq, key)
            for key, queue in table.gangs.items()
            if key[0] <= len(crew.idle)
        ]  # fmt: skip
        for _, key in sorted(fitting, key=lambda one: one[0]):
            queue = table.gangs[key]
            seats = _choose(crew, queue.peek())
            if seats:
                task = _take(table, key)
                _place(state, task, crew, seats)
                break
        else:
            return


def _take(table: Balancing, key: tuple[int, Pool]) -> Balanced:
    queue = table.gangs[key]
    task = queue.pop()
    if not queue.size:
        del table.gangs[key]
    return task


def _choose(crew: Crew, task: Balanced) -> list[Seat]:
    """Return idle engines for a gang, if there are enough: a set used before, or neighbours with low ids."""
    ranks = task.job.header.ranks
    pool = task.job.pool
    assert pool is not None
    idle = crew.idle
    for looked_at, used in enumerate(reversed(crew.used)):
        if looked_at >= _LOOK_AT:
            break
        if len(used) == ranks and all(
            number in idle and _may_run(task, pool, idle[number]) for number in used
        ):
            return [idle[number] for number in used]
    numbers = sorted(number for number, seat in idle.items() if _may_run(task, pool, seat))
    if len(numbers) < ranks:
        return []
    for place in range(len(numbers) - ranks + 1):
        if numbers[place + ranks - 1] - numbers[place] == ranks - 1:
            return [idle[number] for number in numbers[place : place + ranks]]
    return [idle[number] for number in numbers[:ranks]]


def _place(state: State, task: Balanced, crew: Crew, seats: list[Seat]) -> None:
    table = state.balancing
    task.advance(BalancedEvent.PLACED)
    task.placed = True
    task.team = Team(seats)
    task.cost = placing.UNKNOWN
    used = tuple(seat.number for seat in seats)
    crew.used[used] = None
    crew.used.move_to_end(used)
    if len(crew.used) > MAX_USED:
        crew.used.popitem(last=False)
    for seat in seats:
        seat.closed = (seat.closed | GANG) & ~HELD
        seat.open[task.name] = task
        seat.expected += task.cost
        seat.progress = state.now
        table.used += 1
        seat.used = table.used
        placing.relist(state, seat)
    placing.send(state, task, seats)
    table.look_at_gangs = True


# ---------------------------------------------------------------- reserving


def consider(state: State, now: float) -> None:
    """Reserve engines for the gang that has waited for longest, when it is time."""
    table = state.balancing
    table.look_at_gangs = False
    held = table.reserved
    if held is not None:
        task = held.task
        if task.state is BalancedState.QUEUED and held.crew.world.peer is not None:
            return
        cancel(state)
    if not table.gangs or state.paused:
        return
    queue = min(table.gangs.values(), key=lambda queue: queue.peek().seq)
    task = queue.peek()
    if now < _ripe(table, task) and _others_wait(table):
        return
    _reserve(state, task)


def _ripe(table: Balancing, task: Balanced) -> float:
    return max(task.since, table.gang_placed) + PATIENCE


def _others_wait(table: Balancing) -> bool:
    return bool(table.everywhere.waiting) or any(pool.waiting for pool in table.pools.values())


def due(state: State) -> float:
    """Return when `consider` has something to do: a time, or infinity."""
    table = state.balancing
    if not table.gangs or table.reserved is not None or state.paused:
        return float("inf")
    queue = min(table.gangs.values(), key=lambda queue: queue.peek().seq)
    return max(_ripe(table, queue.peek()), table.tried + PATIENCE)


def _reserve(state: State, task: Balanced) -> None:
    table = state.balancing
    table.tried = state.now
    ranks = task.job.header.ranks
    pool = task.job.pool
    assert pool is not None
    best: list[Seat] = []
    least = float("inf")
    for crew in table.crews.values():
        if len(crew.seats) < ranks or crew.world.peer is None:
            continue
        seats = [seat for seat in crew.seats.values() if _may_run(task, pool, seat)]
        if len(seats) < ranks:
            continue
        seats.sort(key=lambda seat: (_load(seat), seat.expected, seat.number))
        work = sum(seat.expected for seat in seats[:ranks])
        if work < least:
            least, best = work, seats[:ranks]
    if best:
        table.reserved = Reservation(task, best[0].crew)
        for seat in best:
            _hold(state, table.reserved, seat)


def _load(seat: Seat) -> int:
    return len(seat.open) + seat.direct


def _hold(state: State, held: Reservation, seat: Seat) -> None:
    seat.closed |= HELD
    held.seats[seat.number] = seat
    placing.relist(state, seat)
    state.balancing.seats_to_fill[seat] = None


def _let_go(state: State, held: Reservation, seat: Seat) -> None:
    seat.closed &= ~HELD
    del held.seats[seat.number]
    state.balancing.seats_to_fill[seat] = None


def cancel(state: State) -> None:
    """Give the reserved engines back; another look is taken at once."""
    table = state.balancing
    held = table.reserved
    if held is not None:
        table.reserved = None
        table.look_at_gangs = True
        for seat in list(held.seats.values()):
            _let_go(state, held, seat)


def claim(state: State, seat: Seat) -> None:
    """Take an engine that has become idle for the gang that waits for it; begin when all are there."""
    table = state.balancing
    held = table.reserved
    if held is None or seat.crew is not held.crew or _load(seat):
        return
    task = held.task
    if task.state is not BalancedState.QUEUED:
        cancel(state)
        return
    pool = task.job.pool
    assert pool is not None
    if seat.number not in held.seats:
        busy = [other for other in held.seats.values() if _load(other)]
        if seat.closed or not busy or not _may_run(task, pool, seat):
            return
        _let_go(state, held, max(busy, key=lambda other: (other.expected, other.number)))
        _hold(state, held, seat)
    if any(_load(other) or other.closed & AWAY for other in held.seats.values()):
        return
    seats = [held.seats[number] for number in sorted(held.seats)]
    table.reserved = None
    table.gang_placed = state.now
    key = (task.job.header.ranks, pool)
    queue = table.gangs[key]
    queue.remove(task)
    if not queue.size:
        del table.gangs[key]
    _place(state, task, held.crew, seats)


# ---------------------------------------------------------------- results


def result(state: State, task: Balanced, seat: Seat, message: Message) -> None:
    """Take the result of one engine of a gang; with the last one the task has ended."""
    team = task.team
    assert team is not None
    placing.take_off(seat, task)
    seat.closed &= ~GANG
    team.results[seat.number] = message
    team.waiting.discard(seat.number)
    placing.progress(state, seat, state.now)
    if not team.waiting:
        _end(state, task, team)


def adopt(task: Balanced, seats: list[Seat]) -> None:
    """Make a task that was found on an engine one of these."""
    task.seat, task.team = None, Team(seats)
    for seat in seats:
        seat.closed |= GANG


def engine_gone(state: State, task: Balanced, seat: Seat, reason: str) -> None:
    """Take the death of an engine for its result."""
    failure = Failure("EngineError", reason)
    result(state, task, seat, Message(Result(task.name, seat.number, "error", failure=failure)))


def _end(state: State, task: Balanced, team: Team) -> None:
    results = [team.results[number] for number in sorted(team.results)]
    statuses = [one.header.status for one in results]  # type: ignore[union-attr]
    unmet = [one.header.engine for one in results if placing.is_unmet(one)]  # type: ignore[union-attr]
    if not task.aborting:
        if unmet:
            task.excluded |= frozenset(unmet)
            again(state, task, BalancedEvent.RETURNED, results)
            return
        if "error" in statuses and task.retries:
            task.retries -= 1
            again(state, task, BalancedEvent.RETRIED, results)
            return
        if set(statuses) == {"aborted"}:
            again(state, task, BalancedEvent.RETURNED, results)
            return
    word = next(one for one in ("error", "aborted", "ok") if one in statuses)
    endings.finish(state, task, endings.ENDS[word], results)


def again(state: State, task: Balanced, event: BalancedEvent, results: Iterable[Message]) -> None:
    """Queue a gang task once more; its results are of no use."""
    for one in results:
        endings.drop(state, one)
    placing.requeue(state, task, event)
