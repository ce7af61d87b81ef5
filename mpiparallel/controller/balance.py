"""The life of balanced tasks: those whose engines the hub chooses.

Called by `hub`, `work` and `worlds`. What an event makes possible is done by `run`, which the hub calls at
the end of each; see `placing`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpiparallel.controller import delivery, dependencies, endings, fleet, gangs, placing
from mpiparallel.controller.fleet import adopt as adopt
from mpiparallel.controller.fleet import adrift as adrift
from mpiparallel.controller.fleet import back as back
from mpiparallel.controller.fleet import busy as busy
from mpiparallel.controller.fleet import ended as ended
from mpiparallel.controller.fleet import engines_came as engines_came
from mpiparallel.controller.fleet import engines_went as engines_went
from mpiparallel.controller.fleet import freed as freed
from mpiparallel.controller.fleet import lost_on_the_way as lost_on_the_way
from mpiparallel.controller.fleet import resume as resume
from mpiparallel.controller.functions import Function
from mpiparallel.controller.jobs import Balanced, Job
from mpiparallel.controller.lives import BalancedEvent, BalancedState
from mpiparallel.controller.pools import Seat
from mpiparallel.controller.state import Client, Engine, State, World
from mpiparallel.wire.messages import (
    NOBODY,
    Abort,
    Balance,
    Failure,
    Lacks,
    Message,
    Refused,
    Result,
    Returned,
    Supply,
    msg_id,
)


def run(state: State) -> None:
    """Do all that the last event has made possible."""
    table = state.balancing
    if table.seats_to_fill or table.pools_to_serve or table.news or table.crews_to_fill or (
        table.look_at_gangs
    ):  # fmt: skip
        placing.run(state)


# ---------------------------------------------------------------- from clients


def submit(state: State, client: Client, message: Message, now: float) -> None:
    """Take the tasks of a request in. Those that are known are passed over."""
    header: Balance = message.header  # type: ignore[assignment]
    problem = _problem(client, message)
    if problem:
        state.counters["refused requests"] += 1
        state.send(client.peer, Refused(problem, header.request))
        return
    take_in(state, message, now)


def take_in(state: State, message: Message, now: float) -> None:
    """Take the tasks of a message in, whose client may be gone: then it comes from the store."""
    header: Balance = message.header  # type: ignore[assignment]
    table = state.balancing
    function = table.functions.pin(header.function)
    frames = message.payload[: header.function_frames]
    woken = table.functions.supply(function, frames) if frames and function.frames is None else []
    job = Job(header, function, message.payload[header.function_frames : header.common], next(table.numbers))
    missing = dependencies.unknown(state, header.after) or dependencies.unknown(state, header.follow)
    job.open = 1  # it stays while its tasks are made: an adopted one may end at once
    tasks = _new_tasks(state, job, message, now)
    job.open -= 1
    if not tasks:
        if not job.open:
            endings.forget_job(state, job)
    else:
        if header.timeout is not None:
            endings.set_deadline(state, job, now + header.timeout)
        if missing:
            job.parked = tasks
            dependencies.fail_job(state, job, "InvalidDependency", f"it needs {missing}, which nobody knows")
        else:
            placing.park_or_queue(state, job, tasks)
            if function.frames is None and header.client in state.clients:
                _ask_for(state, function, header.client)
    for other in woken:
        placing.ready(state, other)


def _problem(client: Client, message: Message) -> str:
    header: Balance = message.header  # type: ignore[assignment]
    if header.client != client.name:
        return f"a request in the name of client {header.client!r} came from {client.name!r}"
    if not header.request.startswith(client.name + "-"):
        return f"request {header.request!r} does not begin with the name of its client and a dash"
    if header.function_frames > header.common or header.common + sum(header.parts) != len(message.payload):
        return f"request {header.request!r} has {len(message.payload)} frames, which is not what it says"
    if header.function_frames and not header.function:
        return f"request {header.request!r} has a function without a digest"
    return ""


def _new_tasks(state: State, job: Job, message: Message, now: float) -> list[Balanced]:
    """Return the tasks of a message that are not known yet, which are so from now on."""
    table = state.balancing
    balanced, ended = state.balanced, table.ended
    header, payload = job.header, message.payload
    request, start, number = header.request, header.common, header.first
    tasks = []
    for count in header.parts:
        name, place = msg_id(request, number), number
        part = payload[start : start + count]
        start += count
        number += 1
        known = balanced.get(name)
        if known is not None and known.part is None and header.again:
            _complete(state, known, job, part)
        elif known is not None or (name in ended and not header.again):
            state.counters["duplicate requests"] += 1
        elif header.again and _has_ended(state, header.client, name):
            continue
        else:
            task = balanced[name] = Balanced(name, place, job, part, next(table.numbers), now)
            job.open += 1
            tasks.append(task)
    return tasks


def _has_ended(state: State, client: str, name: str) -> bool:
    """Send the results of a task once more, of which its client says that it has none, if it has ended."""
    found = state.clients.get(client)
    if found is None:
        return name in state.balancing.ended
    kept = state.kept.get(name)
    if kept is not None:
        for engine in list(kept):
            delivery.ended_before(state, found, name, engine)
        return True
    if delivery.find(state, found, name):
        return True
    if name not in state.balancing.ended:
        return False
    why = f"Task {name} has ended, and its result is not known any more"
    failure = Failure("EngineError", why)
    delivery.deliver(state, client, Message(Result(name, NOBODY, "error", failure=failure)))
    return True


def _complete(state: State, task: Balanced, job: Job, part: Sequence[object]) -> None:
    """Give a task that was adopted its payload."""
    old = task.job
    task.job, task.part, task.retries = job, part, job.header.retries
    job.open += 1
    if job.pool is None:
        job.pool = state.balancing.pool(frozenset(job.header.targets) or None)
    old.open -= 1
    if not old.open:
        endings.forget_job(state, old)
    if state.balancing.headless.pop(task.name, None) is None:
        return
    failed = task.failed
    if failed is not None and not placing.is_unmet(failed):
        if not task.retries:
            placing.give_up(state, task, queued=False)
            return
        task.retries -= 1
    if task.excluded and job.pool.hopeless(task.excluded) and not state.paused:
        placing.give_up(state, task, queued=False)
    else:
        placing.enqueue(state, task)


def abort(state: State, message: Message) -> None:
    """End tasks that have not begun; ask the engines about others. They answer by the results."""
    header: Abort = message.header  # type: ignore[assignment]
    for number in header.engines:
        task = state.balanced.get(msg_id(header.request, number))
        if task is None:
            continue
        if task.state is not BalancedState.OPEN:
            endings.finish(state, task, BalancedEvent.ABORTED, [endings.aborted(task)])
            continue
        task.aborting = True
        seats = task.team.seats if task.team is not None else [task.seat]
        numbers = [seat.number for seat in seats if seat is not None and task.name in seat.open]
        world = seats[0].crew.world  # type: ignore[union-attr]
        state.tell(world, Abort(task.name, numbers))


# ---------------------------------------------------------------- functions


def _ask_for(state: State, function: Function, client: str) -> None:
    """Ask a client for a function, once."""
    if client not in function.asked:
        function.asked.add(client)
        state.balancing.functions.missing[function.digest] = function
        state.send(state.clients[client].peer, Lacks(client, NOBODY, function.digest))


def supply(state: State, client: Client, message: Message) -> None:
    """Take a function that the hub has asked for; an empty one is gone for good."""
    header: Supply = message.header  # type: ignore[assignment]
    table = state.balancing
    function = table.functions.missing.get(header.function)
    if function is None or client.name not in function.asked:
        state.counters["functions nobody asked for"] += 1
    elif message.payload:
        for job in table.functions.supply(function, message.payload):
            placing.ready(state, job)
    else:
        _function_gone(state, function, client.name)


def _function_gone(state: State, function: Function, client: str) -> None:
    function.asked.discard(client)
    for job in [job for job in function.parked if job.header.client == client]:
        text = "its function is neither with the controller nor with its client any longer"
        dependencies.fail_job(state, job, "EngineError", text)


def client_gone(state: State, client: Client) -> None:
    """End tasks of which only this client has the function, or the payload; all others go on."""
    fleet.client_gone(state, client)
    for function in list(state.balancing.functions.missing.values()):
        if client.name in function.asked:
            _function_gone(state, function, client.name)


def client_back(state: State, client: Client) -> None:
    """Ask a client again whose last connection may have swallowed the question."""
    for function in state.balancing.functions.missing.values():
        if client.name in function.asked:
            state.send(client.peer, Lacks(client.name, NOBODY, function.digest))


def lacks(state: State, world: World, engine: int, digest: bytes) -> bool:
    """Answer an engine that lacks a function; return whether the hub could."""
    function = state.balancing.functions.get(digest)
    if function is None or function.frames is None or not digest:
        return False
    state.tell(world, Supply(engine, digest), function.frames)
    return True


# ---------------------------------------------------------------- from engines


def result(state: State, task: Balanced, engine: Engine, message: Message, now: float) -> None:
    """Take a result: it ends the task, or makes it try another engine."""
    header: Result = message.header  # type: ignore[assignment]
    seat = state.balancing.seats.get(engine.info.id)
    if seat is None or seat.open.get(task.name) is not task:
        state.counters["results of tasks not open"] += 1
        if task.team is None or header.engine not in task.team.results:
            endings.drop(state, message)
        return
    engine.completed += 1
    if task.team is not None:
        gangs.result(state, task, seat, message)
        return
    placing.take_off(seat, task)
    placing.progress(state, seat, now)
    status = header.status
    if status == "ok":
        if header.completed is not None and header.started is not None:
            task.job.function.took(header.completed - header.started)
    elif not task.aborting and _goes_on(state, task, seat, message):
        endings.drop(state, message)
        return
    endings.finish(state, task, endings.ENDS[status], [message])


def _goes_on(state: State, task: Balanced, seat: Seat, message: Message) -> bool:
    """Let a task that has failed try another engine; return whether there is hope."""
    header: Result = message.header  # type: ignore[assignment]
    if header.status == "aborted":  # together with another one: it has not begun
        placing.requeue(state, task, BalancedEvent.RETURNED)
        return True
    excluded = task.excluded | {seat.number}
    if task.part is None:
        # Adopted. Whether it may be tried again is known when its client is back; `_complete` goes on.
        task.excluded, task.failed = excluded, message
        placing.requeue(state, task, BalancedEvent.RETURNED)
        return True
    pool = task.job.pool
    assert pool is not None
    if placing.is_unmet(message):
        task.excluded, task.failed = excluded, message
        placing.requeue(state, task, BalancedEvent.RETURNED)
        return True
    if task.retries and not pool.hopeless(excluded):
        task.retries -= 1
        task.excluded, task.failed = excluded, message
        placing.requeue(state, task, BalancedEvent.RETRIED)
        return True
    return False


def returned(state: State, world: World, message: Message, now: float) -> None:
    """Take back tasks that had not begun; they are placed anew."""
    header: Returned = message.header  # type: ignore[assignment]
    seat = state.balancing.seats.get(header.engine)
    if seat is None or seat.crew.world is not world:
        state.counters["messages about engines not in the sender's world"] += 1
        return
    placing.recalled(seat)
    tasks = [seat.open[name] for name in header.tasks if name in seat.open]
    for task in reversed([task for task in tasks if task.team is None]):
        placing.take_back(state, task, seat)
        placing.requeue(state, task, BalancedEvent.RETURNED)
    state.balancing.seats_to_fill[seat] = None


# ---------------------------------------------------------------- time


def tick(state: State, now: float) -> None:
    """Do what time has brought."""
    endings.expire(state, now)
    fleet.expire(state, now)
    placing.recall(state, now)
    gangs.consider(state, now)


def due(state: State) -> float:
    """Return when `tick` has something to do: a time, or infinity."""
    deadlines = state.balancing.deadlines
    deadline = deadlines[0][0] if deadlines else float("inf")
    return min(deadline, placing.recall_due(state), gangs.due(state))
