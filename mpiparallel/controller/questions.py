"""Questions to worlds: what are these engines doing?

A client's `Where` is split by world; each world is asked under a ticket of its own, and the client gets one
`Answer` with a Place for each engine it asked about, in the order asked, as lists (``msgspec.convert(value,
list[Place])``). Whoever does not answer in time is reported as stuck. Called by `hub`.
"""

from __future__ import annotations

import msgspec

from mpiparallel.controller import work
from mpiparallel.controller.state import Asked, Client, Question, State, World
from mpiparallel.wire.messages import Answer, Failure, Message, Where, Whereabouts
from mpiparallel.wire.waits import Place

PATIENCE = 2.0  # seconds that a world has to answer
LOOK_AFTER = 0.5  # ... after which another process may look at its bridge
MAX_ASKED = 10_000  # questions to worlds that may be open
_TICKETS = 1 << 31

SILENT = "its bridge does not answer"


def where(state: State, client: Client, question: Where, now: float) -> None:
    """Ask the worlds of these engines; answer at once when there is nobody to ask."""
    engines = list(dict.fromkeys(question.engines))
    worlds, missing = work.by_world(state, engines)
    if len(state.asked) + len(worlds) > MAX_ASKED:
        state.counters["questions turned away"] += 1
        reason = f"{len(state.asked)} questions wait for answers of worlds already: try again later"
        state.send(client.peer, Answer(question.query, failure=Failure("EngineError", reason)))
        return
    asked = Question(client.name, question.query, engines, now + PATIENCE)
    asked.places.update((number, _gone(state, number)) for number in missing)
    for name, numbers in worlds.items():
        world = state.worlds[name]
        if world.peer is None:
            _fill(state, asked, numbers, _no_bridge(world))
            continue
        ticket = state.next_ticket = (state.next_ticket + 1) % _TICKETS
        state.asked[ticket] = Asked(asked, name, numbers, now)
        asked.waiting += 1
        state.send(world.peer, Where(numbers, ticket))
    if not asked.waiting:
        _answer(state, asked)


def whereabouts(state: State, world: World, message: Message) -> None:
    """Take the answer of a world."""
    header: Whereabouts = message.header  # type: ignore[assignment]
    asked = state.asked.get(header.query)
    if asked is None or asked.world != world.name:
        state.counters["answers to questions not open"] += 1
        return
    wanted = set(asked.engines)
    for place in header.places:
        if place.engine in wanted:
            asked.question.places[place.engine] = place
    _close(state, header.query, "its world did not say")


def silent(state: State, now: float) -> list[World]:
    """Return the worlds that owe an answer for so long that somebody may look what is the matter."""
    names: dict[str, None] = {}
    for asked in state.asked.values():
        if now - asked.since < LOOK_AFTER:
            break  # all others are younger
        names[asked.world] = None
    return [state.worlds[name] for name in names]


def saw(state: State, world: World, seen: Place) -> None:
    """Take what somebody else saw of an engine of a silent world: it stands unless the world answers."""
    for asked in state.asked.values():
        if asked.world == world.name and seen.engine in asked.engines:
            asked.question.places[seen.engine] = _with_work(state, seen)


def tick(state: State, now: float) -> None:
    """Give up on worlds that have not answered in time."""
    late = []
    for ticket, asked in state.asked.items():
        if asked.question.deadline > now:
            break
        late.append(ticket)
    for ticket in late:
        _close(state, ticket, SILENT)


def due(state: State, now: float) -> float:
    """Return when a look at a silent world, or `tick`, is due next: a time, or infinity."""
    oldest = next(iter(state.asked.values()), None)
    if oldest is None:
        return float("inf")
    look = oldest.since + LOOK_AFTER
    return look if look > now else oldest.question.deadline


def world_gone(state: State, world: World) -> None:
    """Answer for a world that will not: it is gone, or has no bridge."""
    for ticket in [ticket for ticket, asked in state.asked.items() if asked.world == world.name]:
        _close(state, ticket, _no_bridge(world))


def client_gone(state: State, client: Client) -> None:
    """Forget what a client has asked."""
    for ticket in [ticket for ticket, asked in state.asked.items() if asked.question.client == client.name]:
        del state.asked[ticket]


def _no_bridge(world: World) -> str:
    return f"its world has no bridge: {world.adrift_reason}" if world.adrift_reason else SILENT


def _close(state: State, ticket: int, detail: str) -> None:
    """End the part of one world; the question is answered with its last part."""
    asked = state.asked.pop(ticket)
    question = asked.question
    _fill(state, question, asked.engines, detail)
    question.waiting -= 1
    if not question.waiting:
        _answer(state, question)


def _fill(state: State, question: Question, engines: list[int], detail: str) -> None:
    for number in engines:
        if number not in question.places:
            question.places[number] = _with_work(state, Place(number, "stuck", detail=detail))


def _with_work(state: State, place: Place) -> Place:
    """Return `place` with what the hub knows of the engine's work."""
    engine = state.engines.get(place.engine)
    if engine is None or not engine.open:
        return place
    first = next(iter(engine.open))
    client = state.requests[first].client
    return msgspec.structs.replace(place, request=first, client=client, queued=len(engine.open) - 1)


def _answer(state: State, question: Question) -> None:
    client = state.clients.get(question.client)
    if client is None:
        return
    places = [
        question.places[number] if number in state.engines else _gone(state, number)
        for number in question.engines
    ]
    state.send(client.peer, Answer(question.query, msgspec.to_builtins(places)))


def _gone(state: State, engine: int) -> Place:
    return Place(engine, "gone", detail=work.absence(state, engine))
