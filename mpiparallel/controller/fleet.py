"""The engines of the scheduler: how they come, go, are away for a while, and what becomes of their tasks."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from mpiparallel.controller import endings, gangs, placing
from mpiparallel.controller.jobs import Balanced, Job
from mpiparallel.controller.lives import BalancedEvent, BalancedState
from mpiparallel.controller.pools import AWAY, Crew, Pool, Seat
from mpiparallel.controller.state import Client, Engine, State, World
from mpiparallel.wire.messages import Balance, split_msg_id

CLIENT_PATIENCE = 60.0  # seconds that a client has to come back before a task of its own ends by an error

# ---------------------------------------------------------------- coming and going


def busy(state: State, engine: Engine) -> None:
    """Note that an engine has one more task that the hub has not chosen it for."""
    seat = state.balancing.seats[engine.info.id]
    seat.direct += 1
    seat.expected += placing.UNKNOWN
    placing.relist(state, seat)


def freed(state: State, engine: Engine) -> None:
    """Note that an engine has one less of these."""
    seat = state.balancing.seats[engine.info.id]
    seat.direct -= 1
    if seat.open or seat.direct:
        seat.expected -= placing.UNKNOWN
    else:
        seat.expected = 0.0
    placing.progress(state, seat, state.now)


def ended(state: State, task: str, well: bool, engine: int) -> None:
    """Note how a direct task has ended, which balanced ones may wait for."""
    if task in state.balancing.watches:
        state.balancing.news.append((task, well, (engine,)))


def engines_came(state: State, engines: Iterable[Engine], now: float) -> None:
    """Give new engines their share."""
    table = state.balancing
    for engine in engines:
        crew = table.crews.get(engine.world.name)
        if crew is None:
            crew = table.crews[engine.world.name] = Crew(engine.world)
        number = engine.info.id
        seat = table.seats[number] = crew.seats[number] = Seat(number, crew)
        seat.progress = now
        table.everywhere.enter(seat)
        for pool in table.naming.get(number, ()):
            pool.enter(seat)
        table.seats_to_fill[seat] = None
    table.look_at_gangs = bool(table.gangs)


def engines_went(state: State, engines: Sequence[Engine], what: str, reason: str, now: float) -> None:
    """Let engines go. What they surely had not begun is queued again; the rest needs retries."""
    table = state.balancing
    seats = [seat for engine in engines if (seat := table.seats.pop(engine.info.id, None)) is not None]
    if table.reserved is not None and any(seat.crew is table.reserved.crew for seat in seats):
        gangs.cancel(state)
    pools = {pool: None for seat in seats for pool in seat.pools}
    for seat in seats:
        seat.closed |= AWAY
        placing.relist(state, seat)
        placing.leave_behind(table, seat)
        placing.recalled(seat)
        for pool in list(seat.pools):
            pool.leave(seat)
        del seat.crew.seats[seat.number]
        if not seat.crew.seats:
            del table.crews[seat.crew.world.name]
            table.crews_to_fill.pop(seat.crew, None)
    for seat in seats:
        _lose_all(state, seat, what, reason)
        table.seats_to_fill.pop(seat, None)
    if not state.paused:
        for pool in pools:
            _check_pool(state, pool)
        _check_gangs(state)


def _lose_all(state: State, seat: Seat, what: str, reason: str) -> None:
    """Take the open tasks off an engine that is gone."""
    tasks = list(seat.open.values())
    for place, task in reversed(list(enumerate(tasks))):
        why = f"Engine {seat.number} {what} while running task {task.name}: {reason}"
        if place and not task.aborting and task.team is None:  # they run in the order sent
            placing.take_off(seat, task)
            task.excluded -= {seat.number}
            placing.requeue(state, task, BalancedEvent.RETURNED)
        else:
            _lose(state, task, seat, why)
    placing.leave_behind(state.balancing, seat)


def _lose(state: State, task: Balanced, seat: Seat, why: str) -> None:
    """Let a task that was lost with its engine try another one, or end it."""
    if task.team is not None:
        gangs.engine_gone(state, task, seat, why)
        return
    placing.take_off(seat, task)
    task.excluded -= {seat.number}
    if task.retries and not task.aborting:
        task.retries -= 1
        placing.requeue(state, task, BalancedEvent.RETRIED)
    else:
        endings.fail(state, task, "EngineError", why)


def _check_pool(state: State, pool: Pool) -> None:
    """End the tasks of a pool whose engines are all gone, or excluded."""
    table = state.balancing
    if pool.targets is not None and table.pools.get(pool.targets) is not pool:
        return  # the last of them has ended
    if pool.targets is not None and not pool.seats:
        numbers = ", ".join(map(str, sorted(pool.targets)[:10]))
        text = f"all engines that it may run on are gone (engines {numbers})"
        queues = [pool.queue, *pool.picky.values()]
        queues += [queue for key, queue in table.gangs.items() if key[1] is pool]
        for task in [task for queue in queues for task in queue]:
            endings.fail(state, task, "ImpossibleDependency", f"Task {task.name}: {text}")
        return
    for excluded in list(pool.picky):
        if excluded in pool.picky and pool.hopeless(excluded):
            for task in list(pool.picky[excluded]):
                placing.give_up(state, task)


def _check_gangs(state: State) -> None:
    """End gang tasks for which no world is big enough any longer."""
    table = state.balancing
    if table.crews:
        for task in [task for queue in table.gangs.values() for task in queue]:
            if gangs.is_impossible(table, task):
                gangs.fail_impossible(state, task)


def adrift(state: State, world: World) -> None:
    """Give the engines of a world that has no connection nothing more."""
    crew = state.balancing.crews.get(world.name)
    for seat in crew.seats.values() if crew else ():
        seat.closed |= AWAY
        placing.recalled(seat)
        placing.relist(state, seat)
    state.balancing.look_at_gangs = True


def back(state: State, world: World, held: Sequence[Container[str]] | None, dead: str, now: float) -> None:
    """Let a world that has a connection again go on.

    `held` says which tasks each rank has. What it was sent besides did not arrive, and is queued again;
    unless its bridge is `dead`: then results may be lost, and it needs retries. So it does when nobody knows
    (None).
    """
    crew = state.balancing.crews.get(world.name)
    for seat in list(crew.seats.values()) if crew else ():
        seat.closed &= ~AWAY
        placing.recalled(seat)
        present = held[seat.number - world.first] if held is not None else ()
        lost = [task for task in seat.open.values() if task.name not in present]
        for task in reversed(lost):
            if held is not None and not dead:
                lost_on_the_way(state, task.name, now, seat.number)
                continue
            why = f"Task {task.name} has failed: it was lost when {dead} died"
            if held is None:
                why = f"Engine {seat.number} was cut off while running task {task.name}"
            _lose(state, task, seat, why)
        placing.progress(state, seat, now)


# ---------------------------------------------------------------- after a restart


def client_gone(state: State, client: Client) -> None:
    """End tasks that only this client could have sent again, or whose function only it has."""
    table = state.balancing
    for task in [task for task in table.headless.values() if task.job.header.client == client.name]:
        if not _end_by_its_error(state, task):
            text = f"Task {task.name} was lost on its way, and its client is gone"
            endings.fail(state, task, "EngineError", text)


def expire(state: State, now: float) -> None:
    """End adopted tasks that have failed and whose client has not come back to say what then."""
    for task in list(state.balancing.headless.values()):
        if now - task.since > CLIENT_PATIENCE:
            _end_by_its_error(state, task)


def _end_by_its_error(state: State, task: Balanced) -> bool:
    if task.failed is None or placing.is_unmet(task.failed):
        return False
    endings.finish(state, task, BalancedEvent.HOPELESS, [task.failed])
    return True


def adopt(state: State, name: str, client: str, engine: int, now: float) -> None:
    """Take in a task that is unknown here and that an engine holds; a second engine of it makes it a gang's.

    Its payload is with its client, who will send it once more.
    """
    seat = state.balancing.seats[engine]
    task = state.balanced.get(name)
    if task is None:
        request, number = split_msg_id(name)
        function = state.balancing.functions.pin(b"")
        header = Balance(request, client, "apply", [0], number)
        job = Job(header, function, (), next(state.balancing.numbers))
        job.open = 1
        task = Balanced(name, number, job, None, next(state.balancing.numbers), now)
        task.advance(BalancedEvent.READY)
        task.advance(BalancedEvent.PLACED)
        state.balanced[name] = task
        task.seat = seat
    elif task.state is not BalancedState.OPEN:
        # Its client was back first. It is there already, and must not be sent anywhere.
        task = state.balanced[name] = endings.replaced(state, task)
        task.advance(BalancedEvent.READY)
        task.advance(BalancedEvent.PLACED)
        task.seat = seat
        if task.job.header.ranks > 1:
            gangs.adopt(task, [seat])
    elif name in seat.open or (task.part is not None and task.job.header.ranks == 1):
        return
    else:
        seats = task.team.seats if task.team is not None else [task.seat]
        numbers = sorted([*(one.number for one in seats if one is not None), engine])
        gangs.adopt(task, [state.balancing.seats[one] for one in numbers])
    task.placed, task.cost = True, placing.UNKNOWN
    seat.open[name] = task
    seat.expected += task.cost
    seat.progress = now
    placing.relist(state, seat)


def lost_on_the_way(state: State, name: str, now: float, engine: int | None = None) -> None:
    """Queue a task again that was sent and did not arrive. A part of a gang's has failed."""
    task = state.balanced.get(name)
    if task is None or task.state is not BalancedState.OPEN:
        return
    if task.team is not None:
        for seat in [seat for seat in task.team.seats if engine is None or seat.number == engine]:
            why = f"Task {name} was lost on its way to engine {seat.number}"
            if name in seat.open:
                gangs.engine_gone(state, task, seat, why)
        return
    assert task.seat is not None
    placing.take_back(state, task, task.seat)
    placing.requeue(state, task, BalancedEvent.RETURNED)


def resume(state: State, now: float) -> None:
    """Begin to place tasks: all worlds that were awaited are there, or given up."""
    table = state.balancing
    state.paused = False
    table.seats_to_fill.update(dict.fromkeys(table.seats.values()))
    table.look_at_gangs = True
    for pool in list(table.pools.values()):
        _check_pool(state, pool)
    _check_gangs(state)
