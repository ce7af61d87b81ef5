"""Worlds in batch jobs: when they end, and that they come back with name and ids when a job is requeued."""

from __future__ import annotations

import msgspec

from mpiparallel.controller.state import MAX_LOST, Peer, State, World
from mpiparallel.wire.messages import HelloWorld, JobEnds, Message


def job_ends(state: State, world: World, message: Message) -> None:
    """Note when the job of a world ends; clients are told when people should know."""
    header: JobEnds = message.header  # type: ignore[assignment]
    world.ends_at = None if header.left is None else state.now + header.left
    if header.why:
        world.ending = header.why
        state.tell_clients(msgspec.structs.replace(header, engines=list(world.engines)))


def tell(state: State, client: Peer, now: float) -> None:
    """Tell a client that has just come of jobs that are about to end."""
    for world in state.worlds.values():
        if world.ending and world.ends_at is not None and world.engines:
            state.send(client, JobEnds(max(0.0, world.ends_at - now), world.ending, list(world.engines)))


def expect(state: State, world: World) -> None:
    """Note that a world is going to come back, when its job runs again."""
    places = state.returning.setdefault(_key(world.hello), [])
    places.append((world.name, world.first))
    state.returning.move_to_end(_key(world.hello))
    if len(state.returning) > MAX_LOST:
        state.returning.popitem(last=False)


def as_before(state: State, hello: HelloWorld) -> HelloWorld:
    """Return the first message of a world with the name and the ids that it had before, if it was here."""
    places = state.returning.get(_key(hello)) if hello.job else None
    if not places:
        return hello
    name, first = places.pop(0)
    if not places:
        del state.returning[_key(hello)]
    held = any(
        first < other.numbers.stop and other.first < first + len(hello.hosts)
        for other in state.worlds.values()
    )
    # The ids may be another's in the meantime, who has asked for them.
    return hello if held or name in state.worlds else msgspec.structs.replace(hello, name=name, first=first)


def _key(hello: HelloWorld) -> tuple[str, str, int]:
    return hello.job, hello.engine_set, len(hello.hosts)
