"""Requests on their way to worlds, and results, output and functions on their way back.

Called by `hub`, whose tables (`state`) these functions change. Each takes the sender, which the hub knows to
be of the right kind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec

from mpiparallel.controller import again, balance, claims, delivery
from mpiparallel.controller.lives import TaskEvent, TaskState
from mpiparallel.controller.records import Record
from mpiparallel.controller.state import Client, Engine, Request, State, World
from mpiparallel.wire.messages import (
    NOBODY,
    Abort,
    Answer,
    Consumed,
    Failure,
    Lacks,
    Message,
    Notice,
    Output,
    Refused,
    Resend,
    Result,
    Signal,
    Submit,
    Supply,
    msg_id,
)

_ENDS = {"ok": TaskEvent.OK, "error": TaskEvent.ERROR, "aborted": TaskEvent.ABORTED}


# ---------------------------------------------------------------- from clients


def submit(state: State, client: Client, message: Message) -> None:
    """Send a request to the worlds of its engines; answer for engines that are not there."""
    header: Submit = message.header  # type: ignore[assignment]
    name = header.request
    request = state.requests.get(name)
    if request is not None or name in state.finished:
        if not header.again:
            # Not refused: that would end the request which this is a copy of.
            state.counters["duplicate requests"] += 1
            return
        if request is None:
            request = state.finished.take(name)
            assert request is not None
    problem = _problem(client, header)
    if problem:
        state.counters["refused requests"] += 1
        state.send(client.peer, Refused(problem, name))
        if request is not None and not request.open:
            state.finished.add(request)
        return
    if request is None:
        request = Request(name, client.name, {}, 0, header.verb, number=state.requests_made)
        state.requests_made += 1
    request.verb, request.label, request.submitted = header.verb, header.label, header.submitted
    places = again.to_send(state, client, request, header) if header.again else range(len(header.engines))
    state.requests[name] = request
    _open(state, client, request, message, places)
    if not request.open and state.requests.pop(name, None) is not None:
        state.finished.add(request)  # nothing was new


def _open(state: State, client: Client, request: Request, message: Message, places: Iterable[int]) -> None:
    """Send a request to the engines at `places` among its engines."""
    header: Submit = message.header  # type: ignore[assignment]
    name = request.name
    worlds: dict[str, list[int]] = {}  # places in header.engines by world
    absent, later = [], []
    for place in places:
        number = header.engines[place]
        new = number not in request.tasks
        if new:
            request.tasks[number] = TaskState.NEW
            request.open += 1
        engine = state.engines.get(number)
        if engine is None:
            absent.append(number)
            continue
        if new:
            request.advance(number, TaskEvent.SENT)
            engine.open[name] = None
            balance.busy(state, engine)
        if (state.missing or header.again) and again.must_wait(state, client, engine, header):
            if engine.world.peer is not None:
                later.append(number)
            continue
        worlds.setdefault(engine.world.name, []).append(place)
    for number in _forward(state, message, worlds):
        state.missing.setdefault((client.name, number), {})[name] = False
    if later:
        state.send(client.peer, Resend(name, later))
    for number in absent:
        fail(state, request, number, absence(state, number))


def _problem(client: Client, header: Submit) -> str:
    if header.client != client.name:
        return f"a request in the name of client {header.client!r} came from {client.name!r}"
    if not header.request.startswith(client.name + "-"):
        return f"request {header.request!r} does not begin with the name of its client and a dash"
    return "" if header.engines else f"request {header.request!r} names no engines"


def absence(state: State, engine: int) -> str:
    """Return what people are told of an engine that is not up."""
    if engine in state.gone:
        return f"Engine {engine} is gone: {state.gone[engine]}"
    if engine < state.next_engine:
        return f"Engine {engine} is gone: it died, left or was stopped"
    return f"Engine {engine} does not exist; there have been {state.next_engine} engines so far"


def _no_room(engine: Engine) -> str:
    world = engine.world
    return (
        f"Engine {engine.info.id} cannot take more now: its world has no bridge ({world.adrift_reason}), and "
        f"{len(world.waiting)} messages wait for a new one already"
    )


def _forward(state: State, message: Message, worlds: dict[str, list[int]]) -> list[int]:
    """Send each world its piece of a request; return the engines whose world could not take it."""
    header: Submit = message.header  # type: ignore[assignment]
    full = []
    whole = any(len(places) == len(header.engines) for places in worlds.values())  # for one world
    starts = [] if whole else _starts(header)
    for name, places in worlds.items():
        piece = message if whole else _piece(message, places, starts)
        if not state.tell(state.worlds[name], *piece):
            full += [header.engines[place] for place in places]
    return full


def _starts(header: Submit) -> list[int]:
    """Return where in the payload the part of each engine begins."""
    return [0, *accumulate(header.parts)] if header.parts else [0] * len(header.engines)


def _piece(message: Message, places: list[int], starts: list[int]) -> Message:
    """Return the part of a request for the engines at `places` among its engines."""
    header: Submit = message.header  # type: ignore[assignment]
    engines = [header.engines[place] for place in places]
    parts = [header.parts[place] for place in places] if header.parts else []
    payload = list(message.payload[: header.common])
    for place, count in zip(places, parts, strict=bool(parts)):
        start = header.common + starts[place]
        payload.extend(message.payload[start : start + count])
    return Message(msgspec.structs.replace(header, engines=engines, parts=parts), payload)


def send_waiting(state: State, world: World) -> None:
    """Send what was kept for the new bridge, for the engines that are up still."""
    kept, world.waiting, world.waiting_bytes = world.waiting, deque(), 0
    for message in kept:
        header = message.header
        if isinstance(header, Submit):
            up = [
                place
                for place, number in enumerate(header.engines)
                if number in world.engines
                and header.request not in state.missing.get((header.client, number), ())
            ]
            if len(up) < len(header.engines):
                if not up:
                    continue
                message = _piece(message, up, _starts(header))
        state.tell(world, *message)


def by_world(state: State, engines: Iterable[int]) -> tuple[dict[str, list[int]], list[int]]:
    """Return the engines that are up by the name of their world, and those that are not up."""
    worlds: dict[str, list[int]] = {}
    missing = []
    for number in engines:
        engine = state.engines.get(number)
        if engine is None:
            missing.append(number)
        else:
            worlds.setdefault(engine.world.name, []).append(number)
    return worlds, missing


def abort(state: State, _client: Client, message: Message) -> None:
    """Pass an abort on for the tasks that are open; the engines answer by the tasks' results."""
    header: Abort = message.header  # type: ignore[assignment]
    request = state.requests.get(header.request)
    if request is None:
        balance.abort(state, message)
        return
    engines = [number for number in header.engines if request.tasks.get(number) is TaskState.OPEN]
    for number in engines if state.missing else ():
        if request.name in state.missing.get((request.client, number), ()):
            aborted = Result(request.name, number, "aborted")
            _close(state, request, state.engines[number], TaskEvent.ABORTED, Message(aborted))
    for name, numbers in by_world(state, engines)[0].items():
        state.tell(state.worlds[name], Abort(header.request, numbers))


def signal(state: State, client: Client, message: Message) -> None:
    """Pass a signal on to the engines that are up; the answer names those that are not."""
    header: Signal = message.header  # type: ignore[assignment]
    worlds, missing = by_world(state, header.engines)
    problems = [absence(state, number) for number in missing]
    for name, numbers in worlds.items():
        if not state.tell(state.worlds[name], Signal(numbers, header.signum)):
            problems += [_no_room(state.engines[number]) for number in numbers]
    failure = Failure("EngineError", "; ".join(problems[:10])) if problems else None
    state.send(client.peer, Answer(header.query, None, failure))


def consumed(state: State, client: Client, message: Message) -> None:
    """Give an engine its output credit back: not more than it has used."""
    header: Consumed = message.header  # type: ignore[assignment]
    engine = state.engines.get(header.engine)
    debt = client.debts.get(header.engine)
    if engine is None or debt is None:
        return
    old = min(header.size, debt.written_off)
    debt.written_off -= old
    size = min(header.size - old, debt.unconsumed)
    debt.unconsumed -= size
    state.settle(client, engine)
    if size:
        state.tell(engine.world, Consumed(header.engine, size))


def supply(state: State, client: Client, message: Message) -> None:
    """Pass a function on to the engine that asked for it."""
    header: Supply = message.header  # type: ignore[assignment]
    if header.engine == NOBODY:
        balance.supply(state, client, message)
        return
    engine = state.engines.get(header.engine)
    debt = client.debts.get(header.engine)
    if engine is None or debt is None or header.function not in debt.lacks:
        state.counters["functions nobody asked for"] += 1
        return
    debt.lacks.discard(header.function)
    state.settle(client, engine)
    state.tell(engine.world, header, message.payload)


# ---------------------------------------------------------------- from worlds


def _engine_of(state: State, world: World, number: int) -> Engine | None:
    engine = world.engines.get(number)
    if engine is None:
        # Of another world, or stopped: what was open on it has been answered.
        state.counters["messages about engines not in the sender's world"] += 1
    return engine


def result(state: State, world: World, message: Message) -> None:
    """Pass a result on, if its task is open: then it is the first."""
    header: Result = message.header  # type: ignore[assignment]
    engine = _engine_of(state, world, header.engine)
    task = state.balanced.get(header.request)
    if engine is not None and task is not None:
        balance.result(state, task, engine, message, state.now)
        return
    if engine is None or header.request not in engine.open:
        if engine is not None:
            state.counters["results of tasks not open"] += 1
        if header.engine not in state.kept.get(header.request, ()):
            delivery.settle(state, world.name, header.request, header.engine)
        return
    request = state.requests[header.request]
    _close(state, request, engine, _ENDS[header.status], message)


def _close(state: State, request: Request, engine: Engine | None, event: TaskEvent, message: Message) -> None:
    """End a task by the Result in `message`."""
    header: Result = message.header  # type: ignore[assignment]
    number = header.engine
    request.advance(number, event)
    request.open -= 1
    record = Record(
        msg_id(request.name, number), request.client, request.verb, request.label, request.submitted, 0,
        [number], header.status, header.started, header.completed, header.failure, [message],
    )  # fmt: skip
    state.journal.append(record)
    delivery.deliver(state, request.client, message)
    if state.missing:
        again.found(state, request.client, number, request.name)
    balance.ended(state, record.task, header.status == "ok", number)
    if engine is not None:
        del engine.open[request.name]
        engine.completed += 1
        balance.freed(state, engine)
    if not request.open:
        del state.requests[request.name]
        state.finished.add(request)


def fail(state: State, request: Request, number: int, reason: str, engine: Engine | None = None) -> None:
    """End a task without its engine."""
    header = Result(request.name, number, "error", failure=Failure("EngineError", reason))
    _close(state, request, engine, TaskEvent.ENGINE_GONE, Message(header))


def fail_all(state: State, engine: Engine, what: str, reason: str) -> None:
    """End all open tasks of `engine`; `what` says what became of it."""
    number = engine.info.id
    for name in list(engine.open):
        why = f"Engine {number} {what} while running task {msg_id(name, number)}: {reason}"
        fail(state, state.requests[name], number, why, engine)


def output(state: State, world: World, message: Message) -> None:
    """Pass output on; that of a client who is not there is consumed here, so that the engine can go on."""
    header: Output = message.header  # type: ignore[assignment]
    engine = _engine_of(state, world, header.engine)
    if engine is None:
        return
    client = state.clients.get(header.client)
    if client is None:
        claims.printed(state, header)
        delivery.keep_output(state, message)
        if header.size:
            state.tell(world, Consumed(header.engine, header.size))
        return
    if header.size:
        state.debt(client, engine).unconsumed += header.size
    state.send(client.peer, header, message.payload)


def lacks(state: State, world: World, message: Message) -> None:
    """Ask the client for a function; for one who is gone the answer is that the function is, too."""
    header: Lacks = message.header  # type: ignore[assignment]
    engine = _engine_of(state, world, header.engine)
    if engine is None:
        return
    if balance.lacks(state, world, header.engine, header.function):
        return
    client = state.client(header.client)
    if client is None:
        state.tell(world, Supply(header.engine, header.function))
        return
    state.debt(client, engine).lacks.add(header.function)
    if client.peer is not None:  # else it is asked when it is back
        state.send(client.peer, header, message.payload)


def notice(state: State, _world: World, message: Message) -> None:
    """Pass a notice on to the client that it is for, if it is there."""
    header: Notice = message.header  # type: ignore[assignment]
    client = state.clients.get(header.client)
    if client is not None:
        state.send(client.peer, header, message.payload)


# ---------------------------------------------------------------- when somebody goes


def release(state: State, client: Client, *, keep_lacks: bool = False) -> None:
    """Pay what a client owes to engines: what was on its way to it is lost.

    With `keep_lacks` the client is asked again for functions: now if it is back already, or when it is.
    """
    for number, debt in list(client.debts.items()):
        engine = state.engines[number]
        if debt.unconsumed:
            state.tell(engine.world, Consumed(number, debt.unconsumed))
        debt.unconsumed = debt.written_off = 0
        for function in debt.lacks:
            if keep_lacks and client.peer is not None:
                state.send(client.peer, Lacks(client.name, number, function))
            elif not keep_lacks:
                state.tell(engine.world, Supply(number, function))
        if not keep_lacks:
            debt.lacks.clear()
        state.settle(client, engine)


def write_off(state: State, engine: Engine) -> None:
    """Forget what clients owe an engine that has lost all that was on its way, and begins anew.

    What they consume of before is not passed on; functions it will ask for again.
    """
    for name in list(engine.debtors):
        client = state.client(name)
        assert client is not None
        debt = client.debts[engine.info.id]
        debt.written_off += debt.unconsumed
        debt.unconsumed = 0
        debt.lacks.clear()
        state.settle(client, engine)


def remove_engines(state: State, engines: Sequence[Engine], what: str, reason: str) -> None:
    """Take engines, whose state says already that they are not up, out of the tables."""
    _remove(state, engines, what, reason)
    balance.engines_went(state, engines, what, reason, state.now)


def _remove(state: State, engines: Sequence[Engine], what: str, reason: str) -> None:
    for engine in engines:
        fail_all(state, engine, what, reason)
        for name in list(engine.debtors):
            state.write_off(state.client(name), engine)  # type: ignore[arg-type]
        state.bury(engine.info.id, f"it {what}: {reason}")
        del state.engines[engine.info.id]
        del engine.world.engines[engine.info.id]
