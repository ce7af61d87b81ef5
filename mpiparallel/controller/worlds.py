"""How worlds come, come back, lose ranks, and go.

A world whose MPI does not survive the death of a rank is here or gone. One that survives goes on without the
ranks that died, whose engines' ids stay dead; when its bridge died it is *adrift* until another of its ranks
connects and says what is left of the requests. Called by `hub`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mpiparallel import __version__
from mpiparallel.controller import again, balance, claims, departed, questions, returning, work
from mpiparallel.controller.lives import EngineEvent, WorldEvent, WorldState
from mpiparallel.controller.state import Engine, Peer, Request, State, World
from mpiparallel.ranges import engines as engines_named
from mpiparallel.wire.messages import (
    Consumed,
    EngineInfo,
    EnginesChanged,
    EnginesLost,
    HelloWorld,
    Message,
    Refused,
    Stop,
    Submit,
    WelcomeWorld,
    msg_id,
)

MAX_ENGINES = 1 << 31
ADRIFT_FOR = 15.0  # seconds that a world has to find a new bridge


# ---------------------------------------------------------------- coming


def problem(state: State, sender: Peer, hello: HelloWorld) -> str:
    """Return why a world cannot be taken in; "" when it can."""
    world = state.worlds.get(hello.name)
    present = state.peers.get(sender)
    size = len(hello.hosts)
    if isinstance(present, World) and present.name != hello.name:
        return f"this connection is world {present.name!r} already"
    if size != len(hello.pids):
        return f"a world of {size} hosts and {len(hello.pids)} processes"
    if hello.held is not None and len(hello.held) != size:
        return f"a world of {size} ranks told what {len(hello.held)} ranks hold"
    if any(rank >= size + bool(hello.bridge_host) for rank in hello.lost):
        return f"a world of {size} ranks has lost rank {max(hello.lost)}"
    if world is not None:
        before = world.hello
        same = (before.hosts, before.pids) == (hello.hosts, hello.pids)
        same = same and (before.bridge_host, before.bridge_pid) == (hello.bridge_host, hello.bridge_pid)
        return "" if same else f"another world is called {hello.name!r}"
    if hello.held is not None:
        return f"world {hello.name!r} has been given up"
    return _problem_with_ids(state, hello.first, size)


def _problem_with_ids(state: State, first: int, size: int) -> str:
    if first < 0:
        first = state.next_engine
    if first + size > MAX_ENGINES:
        return "no engine ids are left"
    if first < state.next_engine:
        for world in state.worlds.values():
            numbers = world.numbers
            if first < numbers.stop and numbers.start < first + size:
                return (
                    f"engine ids {first} to {first + size - 1} were asked for, and {numbers.start} to "
                    f"{numbers.stop - 1} belong to world {world.name!r}, which is still there"
                )
    return ""


def hello(state: State, sender: Peer, hello: HelloWorld, now: float) -> None:
    """Take a world in, or back."""
    world = state.worlds.get(hello.name)
    known = world is not None
    if world is None:
        world = _register(state, sender, hello, now)
        _welcome(state, world)
        state.tell_clients(EnginesChanged([engine.info for engine in world.engines.values()]))
    bridge = world.lost_bridge if world.lost_bridge >= 0 else world.bridge
    engines_lost(state, world, [world.first + rank for rank in hello.lost], "its process died")
    if world.name not in state.worlds:
        state.send(sender, Refused(f"all engines of world {world.name!r} are gone"))
    elif known and world.peer == sender:
        _welcome(state, world)
    elif known:
        _reconnect(state, world, sender, hello, bridge, now)
    world.heard = now


def _welcome(state: State, world: World) -> None:
    numbers = list(world.numbers)
    welcome = WelcomeWorld(
        __version__, state.cluster_id, numbers, state.heartbeat, state.instance, name=world.name
    )
    state.tell(world, welcome)


def _register(state: State, sender: Peer, hello: HelloWorld, now: float) -> World:
    hello = returning.as_before(state, hello)
    first = state.next_engine if hello.first < 0 else hello.first
    world = World(hello.name, sender, hello, now, first=first)
    add(state, world)
    state.lost.pop(hello.engine_set, None)
    state.peers[sender] = world
    balance.engines_came(state, world.engines.values(), now)
    return world


def add(state: State, world: World) -> None:
    """Put a new world and its engines into the tables."""
    hello, first = world.hello, world.first
    world.advance(WorldEvent.REGISTERED)
    size = len(hello.hosts)
    for rank, (host, pid) in enumerate(zip(hello.hosts, hello.pids, strict=True)):
        number = first + rank
        engine = Engine(EngineInfo(number, hello.name, rank, size, host, pid, hello.mpi), world)
        engine.advance(EngineEvent.REGISTERED)
        state.engines[number] = world.engines[number] = engine
        state.gone.pop(number, None)
    state.next_engine = max(state.next_engine, first + size)
    state.worlds[hello.name] = world
    state.changed = True


def _reconnect(state: State, world: World, sender: Peer, hello: HelloWorld, bridge: int, now: float) -> None:
    """Let a world that is known go on over a new connection.

    A world says which requests each rank holds. What it does not hold never came there, and is sent again;
    unless its `bridge` has died: then it may have been done, and its result be lost. Of a world that does not
    say nobody can tell either. What cannot be told fails rather than hangs, and a result that comes
    nevertheless is not passed on. What has not been sent yet is open in any case.
    """
    questions.world_gone(state, world)
    if world.peer is not None:
        del state.peers[world.peer]
        state.send(world.peer, Refused("a newer connection has taken this one's place"))
    state.adrift.pop(world.name, None)
    world.advance(WorldEvent.RECONNECTED)
    world.adrift_reason, world.lost_bridge, world.cut = "", -1, False
    world.peer, world.watched = sender, False
    state.peers[sender] = world
    _welcome(state, world)
    held = hello.held
    if world.restored:
        world.restored = False
        held = [[] for _ in hello.hosts] if held is None else held
        again.adopt(state, world, msgspec.structs.replace(hello, held=held), now)
    for engine in world.engines.values():
        engine.advance(EngineEvent.RECONNECTED)
    balance.back(state, world, held, world.bridge_label(bridge) if bridge in world.dead else "", now)
    if held is None:
        _all_is_lost(state, world)
    else:
        _sort_out(state, world, held, bridge)
    credit, world.credit = world.credit.copy(), type(world.credit)()
    for number, size in credit.items() if held is None else ():
        if number in world.engines:
            state.tell(world, Consumed(number, size))
    work.send_waiting(state, world)
    stopped = [number for number in world.numbers if number not in world.engines and number not in world.dead]
    if stopped:
        state.tell(world, Stop(stopped, reason="they were stopped before"))
    _check_engines(world)
    check_paused(state, now)


def _unsent(world: World) -> set[tuple[str, int]]:
    """Return what waits here for the world to be back: it cannot be lost."""
    return {
        (message.header.request, number)
        for message in world.waiting
        if isinstance(message.header, Submit)
        for number in message.header.engines
    }


def _all_is_lost(state: State, world: World) -> None:
    unsent = _unsent(world)
    for number, engine in list(world.engines.items()):
        for name in list(engine.open):
            if (name, number) not in unsent:
                task = msg_id(name, number)
                why = f"Engine {number} was cut off while running task {task}: its world had to connect again"
                work.fail(state, state.requests[name], number, why, engine)


def _sort_out(state: State, world: World, held: list[list[str]], bridge: int) -> None:
    """Go on with what the ranks of a world hold, and see to what they do not."""
    unsent = _unsent(world)
    lost: list[tuple[Request, int]] = []
    for number, engine in list(world.engines.items()):
        present = frozenset(held[number - world.first])
        late: set[str] = set()  # clients of whom something was lost: what they sent later comes after it
        for name in list(engine.open):
            request = state.requests[name]
            if name in present:
                again.found(state, request.client, number, name)
                continue
            sent = (name, number) not in unsent
            if sent and name in state.missing.get((request.client, number), ()):
                sent = state.missing[request.client, number][name]
            if not sent and (name, number) in unsent and request.client not in late:
                continue
            if sent and bridge in world.dead:
                why = (
                    f"Task {msg_id(name, number)} has failed: its request or its result was lost when "
                    f"{world.bridge_label(bridge)} died"
                )
                work.fail(state, request, number, why, engine)
            else:
                late.add(request.client)
                lost.append((request, number))
        work.write_off(state, engine)
    for request, number in again.lost(state, world, lost):
        why = (
            f"Task {msg_id(request.name, number)} has failed: it was lost on its way, and its client is gone"
        )
        work.fail(state, request, number, why, world.engines[number])


def check_paused(state: State, now: float) -> None:
    """Let balanced tasks be placed again when all worlds are back, or have had the time."""
    if state.paused:
        waiting = any(world.restored for world in state.adrift.values())
        if not waiting or now >= state.paused_until:
            balance.resume(state, now)
            departed.resume(state, now)
            claims.resume(state)


def _check_engines(world: World) -> None:
    if not world.engines and world.state is WorldState.UP:
        world.advance(WorldEvent.LAST_ENGINE_GONE)


# ---------------------------------------------------------------- losing ranks


def engines_lost(state: State, world: World, numbers: Iterable[int], reason: str) -> None:
    """Bury engines of a world that goes on; those that are gone already are passed over."""
    known = range(world.first, world.first + len(world.processes))  # with that of a bridge that is no engine
    numbers = [number for number in numbers if number in known]
    dead = [world.engines[number] for number in numbers if number in world.engines]
    if not world.dead.issuperset(numbers):
        world.dead.update(numbers)
        state.changed = True
    for engine in dead:
        engine.advance(EngineEvent.DIED)
    work.remove_engines(state, dead, "died", reason)
    if dead:
        state.tell_clients(EnginesChanged(removed=[engine.info.id for engine in dead], reason=reason))
        if not world.engines:
            state.note_lost(world, reason)
    if dead and not world.engines and world.state is WorldState.ADRIFT:
        forget(state, world, reason, WorldEvent.LOST)
    else:
        _check_engines(world)


def go_adrift(
    state: State, world: World, reason: str, now: float, bridge: int = -1, cut: bool = False
) -> None:
    """Let a world go on alone: its connection is `cut`, or the process that held it is gone.

    `bridge` is the engine that held it, when that has been buried already.
    """
    assert world.peer is not None
    del state.peers[world.peer]
    world.lost_bridge = bridge if bridge >= 0 else world.bridge
    _set_adrift(state, world, reason, now + (state.patience if cut else ADRIFT_FOR), cut)
    questions.world_gone(state, world)


def _set_adrift(state: State, world: World, reason: str, until: float, cut: bool) -> None:
    world.advance(WorldEvent.BRIDGE_LOST)
    world.adrift_reason, world.adrift_until, world.cut = reason, until, cut
    world.peer, world.watched = None, False
    state.adrift[world.name] = world
    balance.adrift(state, world)


def restore(state: State, world: World, stopped: Iterable[int], now: float) -> None:
    """Put in a world that an earlier run of the controller had, which is to connect again."""
    add(state, world)
    for number in (*world.dead, *stopped):
        if number not in world.numbers:
            continue
        engine = world.engines.pop(number)
        del state.engines[number]
        engine.advance(EngineEvent.DIED)
        state.bury(number, "it died, left or was stopped")
    balance.engines_came(state, world.engines.values(), now)
    world.restored, world.lost_bridge = True, world.bridge
    _set_adrift(state, world, "the controller was started again", now + state.patience, cut=True)


def tick(state: State, now: float) -> None:
    """Give up worlds that have not connected again."""
    check_paused(state, now)
    for world in list(state.adrift.values()):
        if now >= world.adrift_until:
            within = f"{state.patience if world.cut else ADRIFT_FOR:.3g} s"
            what = "it has not" if world.cut else "no other rank has"
            reason = f"{world.adrift_reason}; {what} connected within {within}"
            forget(state, world, reason, WorldEvent.LOST)


def due(state: State) -> float:
    """Return when `tick` has something to do: a time, or infinity."""
    until = min((world.adrift_until for world in state.adrift.values()), default=float("inf"))
    return min(until, state.paused_until) if state.paused else until


# ---------------------------------------------------------------- going


def stop_engines(state: State, numbers: Sequence[int], reason: str) -> None:
    """Tell worlds to end engines, which count as gone from now on; those gone before are passed over."""
    stopped: list[int] = []
    for name, present in work.by_world(state, numbers)[0].items():
        world = state.worlds[name]
        if world.peer is not None:  # else it is told when it has connected again
            state.tell(world, Stop(present, reason=reason))
        engines = [state.engines[number] for number in present]
        for engine in engines:
            engine.advance(EngineEvent.STOPPED)
        work.remove_engines(state, engines, "was stopped", reason)
        stopped += present
        state.changed = True
        _check_engines(world)
    if stopped:
        state.tell_clients(EnginesChanged(removed=stopped, reason=reason))


def job_ended(state: State, world: World, reason: str, returns: bool) -> None:
    """Let a world go whose batch job has ended; or waits for another turn, so that it `returns`."""
    if returns:
        returning.expect(state, world)
        reason = f"{reason}; when the job runs again, they come back as {engines_named(world.numbers)}"
    forget(state, world, reason, WorldEvent.LOST)


def requeued(state: State, hello: HelloWorld) -> None:
    """Let go of a world whose job runs once more, as `hello` says, if that was not noticed before."""
    for world in list(state.worlds.values()) if hello.restarts else ():
        same = (world.hello.job, world.hello.engine_set) == (hello.job, hello.engine_set)
        if same and world.hello.restarts < hello.restarts:
            job_ended(state, world, f"job {hello.job.partition(':')[2]} was requeued", True)


def forget(state: State, world: World, reason: str, event: WorldEvent) -> None:
    """Let a world go, with all its engines."""
    world.advance(event)
    if world.peer is not None:
        del state.peers[world.peer]
    state.adrift.pop(world.name, None)
    del state.worlds[world.name]
    state.changed = True
    engines = list(world.engines.values())
    for engine in engines:
        engine.advance(EngineEvent.WORLD_GONE)
    work.remove_engines(state, engines, "left" if event is WorldEvent.LEFT else "died", reason)
    if engines:
        state.tell_clients(EnginesChanged(removed=[engine.info.id for engine in engines], reason=reason))
        if event is WorldEvent.LOST:
            state.note_lost(world, reason)
    questions.world_gone(state, world)


def lost(state: State, world: World, message: Message) -> None:
    """Take the word of a world for it that some of its ranks have died."""
    header: EnginesLost = message.header  # type: ignore[assignment]
    engines_lost(state, world, header.engines, header.reason)
