"""Requests that clients send again: after a loss of their connection, of a world's, or of the controller.

Called by `work` and `worlds`. A request that was lost on its way to a world is not kept here: its client has
it, and is asked by `Resend`. Until it comes, what the same client sends to that engine has to wait, too, as
the order would change: the client is asked for that as well. `State.missing` names all these.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpiparallel.controller import balance, delivery
from mpiparallel.controller.lives import TaskEvent, TaskState
from mpiparallel.controller.state import Client, Engine, Request, State, World
from mpiparallel.wire.messages import Failure, HelloWorld, Message, Resend, Result, Submit, msg_id


def to_send(state: State, client: Client, request: Request, header: Submit) -> list[int]:
    """Return the places of engines that are yet to get their part of a request which is sent once more.

    What has ended is answered again, if that answer may be lost.
    """
    places = []
    for place, number in enumerate(header.engines):
        task = request.tasks.get(number)
        if task is None:
            if not delivery.find(state, client, msg_id(request.name, number)):
                places.append(place)
        elif task is TaskState.OPEN:
            if request.name in state.missing.get((client.name, number), ()):
                places.append(place)
        elif not delivery.ended_before(state, client, request.name, number):
            why = f"Task {msg_id(request.name, number)} has ended, and its result is not known any more"
            lost = Result(request.name, number, "error", failure=Failure("EngineError", why))
            delivery.deliver(state, client.name, Message(lost))
    return places


def must_wait(state: State, client: Client, engine: Engine, header: Submit) -> bool:
    """Whether a request may not be sent now: earlier ones of its client were lost and are to come first.

    It is not kept: the client is asked to send it again.
    """
    key = client.name, engine.info.id
    missing = state.missing.get(key)
    if engine.world.peer is None:
        # What is sent again for a world that is adrift may be there already: it will say so.
        if header.again or missing:
            state.missing.setdefault(key, {}).setdefault(header.request, header.again)
            return True
        return False
    if missing is None:
        return False
    if header.request in missing:
        found(state, *key, header.request)
        return False
    missing[header.request] = False
    return True


def found(state: State, client: str, engine: int, request: str) -> None:
    """Note that a request need not be sent again."""
    missing = state.missing.get((client, engine))
    if missing is not None and missing.pop(request, None) is not None and not missing:
        del state.missing[client, engine]


def lost(state: State, world: World, tasks: Iterable[tuple[Request, int]]) -> list[tuple[Request, int]]:
    """Have requests sent again that were lost on their way; return those that nobody can send again."""
    nobody = []
    resend: dict[str, list[int]] = {}
    for request, number in sorted(tasks, key=lambda task: task[0].number):
        if state.client(request.client) is None:
            nobody.append((request, number))
        else:
            state.missing.setdefault((request.client, number), {})[request.name] = False
            resend.setdefault(request.name, []).append(number)
    for name, engines in resend.items():
        client = state.clients.get(state.requests[name].client)
        if client is not None:  # else it sends again all that it waits for when it is back
            state.send(client.peer, Resend(name, engines))
    return nobody


def of_client(state: State, client: Client) -> list[tuple[Request, int]]:
    """Return the tasks that only this client could send again."""
    return [
        (state.requests[name], engine)
        for (owner, engine), names in state.missing.items()
        if owner == client.name
        for name in names
    ]


def adopt(state: State, world: World, hello: HelloWorld, now: float) -> None:
    """Take over what a world holds of requests that an earlier run of the controller has sent there."""
    assert hello.held is not None
    for number, engine in world.engines.items():
        for name in hello.held[number - world.first]:
            if name in engine.open:
                continue
            owner = hello.owners.get(name, "") or name.rpartition("-")[0]
            if delivery.is_balanced(name):
                balance.adopt(state, name, owner, number, now)
                expect(state, owner, now)
                continue
            request = state.requests.get(name) or state.finished.get(name)
            if request is not None and number in request.tasks:
                continue
            request = state.requests.get(name) or state.finished.take(name)
            if request is None:
                request = Request(name, owner, {}, 0, "", number=state.requests_made)
                state.requests_made += 1
            state.requests[name] = request
            request.tasks[number] = TaskState.NEW
            request.advance(number, TaskEvent.SENT)
            request.open += 1
            engine.open[name] = None
            balance.busy(state, engine)
            expect(state, owner, now)


def expect(state: State, name: str, now: float) -> None:
    """Count a client of an earlier run of the controller as away: it may connect again."""
    if state.client(name) is None:
        state.away[name] = Client(name, None, "", 0, now, away_since=now)
