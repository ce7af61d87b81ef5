"""Results on their way to clients, which are kept until they have arrived.

`work` and `balance` call `deliver` with each Result that ends a task. A bridge keeps its Results until they
are `Settled`: when their client has `Received` them, or, for a client that is gone or away, when the store
has them. A client that connects again gets all that it has not received once more, in order, and before
that what its tasks have printed meanwhile.
"""

from __future__ import annotations

from collections import deque

import msgspec

from mpiparallel.controller.state import Client, Kept, State
from mpiparallel.wire.frames import nbytes
from mpiparallel.wire.messages import Message, Notice, Output, Received, Result, Settled, msg_id, split_msg_id

MAX_OUTPUT = 16 << 20  # bytes that are kept for a client that is away


def deliver(state: State, client: str, message: Message, saved: bool = False) -> None:
    """Send a Result to the client whose task it ends; is it `saved`, the store has it as an open one."""
    header: Result = message.header  # type: ignore[assignment]
    engine = state.engines.get(header.engine)
    kept = Kept(message, engine.world.name if engine is not None else "", saved=saved)
    found = state.clients.get(client)
    if found is not None:
        found.unreceived.append(kept)
        state.send(found.peer, header, message.payload)
    elif client in state.away:
        state.away[client].unreceived.append(kept)
    else:
        state.counters["results of clients gone"] += 1
        kept.owed = False
        if not state.storing:
            settle(state, kept.world, header.request, header.engine)
            return
    state.kept.setdefault(header.request, {})[header.engine] = kept


def keep_output(state: State, message: Message) -> None:
    """Keep what a task prints whose client is away; its engine does not wait for that to come back."""
    header: Output = message.header  # type: ignore[assignment]
    client = state.away.get(header.client)
    if client is not None:
        client.output_bytes += len(header.text) + sum(map(nbytes, message.payload))
        if client.output_bytes <= MAX_OUTPUT:
            client.output.append(Message(msgspec.structs.replace(header, size=0), message.payload))
        else:
            client.output_cut = client.output_cut or header.request


def _send_output(state: State, client: Client) -> None:
    for message in client.output:
        state.send(client.peer, *message)
    if client.output_cut:
        text = (
            f"Of {client.output_bytes:,} bytes that were printed while the connection was lost, "
            f"those beyond {MAX_OUTPUT:,} are not shown."
        )
        state.send(client.peer, Notice(client.name, client.output_cut, text))
    client.output, client.output_bytes, client.output_cut = [], 0, ""


def repeat(state: State, client: Client, message: Message) -> None:
    """Send a Result that is settled, from the store."""
    client.unreceived.append(Kept(message, ""))
    state.send(client.peer, *message)


def received(state: State, client: Client, message: Message) -> None:
    """Settle the Results that a client says it has."""
    header: Received = message.header  # type: ignore[assignment]
    unreceived = client.unreceived
    if header.count > len(unreceived):
        state.counters["receipts for what was not sent"] += 1
    for _ in range(min(header.count, len(unreceived))):
        _drop(state, unreceived.popleft())


def stored(state: State, task: str) -> None:
    """Note that the store has the Results of a task: a client that is not there will find them in it."""
    group = state.kept.get(task)
    if group is not None:  # balanced: the task's id is the request that its engines have got
        for engine in list(group):
            _stored(state, task, engine)
        return
    try:
        request, engine = split_msg_id(task)
    except ValueError:
        return
    if engine in state.kept.get(request, ()):
        _stored(state, request, engine)


def _stored(state: State, request: str, engine: int) -> None:
    kept = state.kept[request][engine]
    kept.stored = True
    client = _client_of(request)
    if client not in state.clients or (kept.saved and not kept.owed):
        kept.message = None
        _forget(state, request, engine)
        settle(state, kept.world, request, engine)


def ended_before(state: State, client: Client, request: str, engine: int) -> bool:
    """Send the Result of a task once more, of which its client says that it has none; False: it is lost.

    What is kept has been sent already, when the client connected.
    """
    kept = state.kept.get(request, {}).get(engine)
    if kept is None:
        return find(state, client, msg_id(request, engine))
    if not kept.owed:
        assert kept.message is not None
        kept.owed = True
        client.unreceived.append(kept)
        state.send(client.peer, *kept.message)
    return True


def find(state: State, client: Client, task: str) -> bool:
    """Send the Results of a task that are in the store; return whether there are any."""
    messages = state.find(task)
    for message in messages or ():
        repeat(state, client, message)
    return bool(messages)


def connected(state: State, client: Client) -> None:
    """Send all that a client has not received on its new connection; gangs' Results whole."""
    _send_output(state, client)
    unreceived: dict[Kept, None] = {}
    for kept in client.unreceived:
        if kept.message is None:
            continue
        header: Result = kept.message.header  # type: ignore[assignment]
        group = state.kept.get(header.request, {})
        if group.get(header.engine) is kept and len(group) > 1 and is_balanced(header.request):
            unreceived.update((group[engine], None) for engine in sorted(group))
        else:
            unreceived[kept] = None
    client.unreceived = deque(unreceived)
    for kept in unreceived:
        assert kept.message is not None
        kept.owed = True
        state.send(client.peer, *kept.message)


def went_away(state: State, client: Client) -> None:
    """Settle what the store has for a client whose connection is lost."""
    for kept in client.unreceived:
        if kept.stored:
            _drop(state, kept)
            kept.message = None


def gone(state: State, client: Client) -> None:
    """Let go of the Results for a client that will not connect again: the store has them, or will have."""
    for kept in client.unreceived:
        kept.owed = False
    for kept in client.unreceived:
        if kept.stored or not state.storing:
            _drop(state, kept)
    client.unreceived.clear()


def settle(state: State, world: str, request: str, engine: int) -> None:
    """Have a world told that it need not keep a Result any longer."""
    if world:
        requests, engines = state.settled.setdefault(world, ([], []))
        requests.append(request)
        engines.append(engine)


def flush(state: State) -> None:
    """Send what worlds are to be told of settled Results; one that is adrift sends them once more anyhow."""
    for name, (requests, engines) in state.settled.items():
        world = state.worlds.get(name)
        if world is not None and world.peer is not None:
            state.send(world.peer, Settled(requests, engines))
    state.settled.clear()


def _drop(state: State, kept: Kept) -> None:
    """Settle a Result; those of a gang together, as a client that has some of them asks for all."""
    kept.owed = False
    if kept.message is None or (kept.saved and not kept.stored):
        return
    header: Result = kept.message.header  # type: ignore[assignment]
    group = state.kept.get(header.request, {})
    if group.get(header.engine) is not kept:
        return  # it is a copy from the store
    if len(group) > 1 and is_balanced(header.request):
        if not any(one.owed for one in group.values()):
            for engine in list(group):
                settle(state, group[engine].world, header.request, engine)
            del state.kept[header.request]
        return
    _forget(state, header.request, header.engine)
    settle(state, kept.world, header.request, header.engine)


def _forget(state: State, request: str, engine: int) -> None:
    group = state.kept[request]
    del group[engine]
    if not group:
        del state.kept[request]


def is_balanced(request: str) -> bool:
    """Whether a request, as engines know it, is a balanced task's."""
    return "_" in request.rpartition("-")[2]


def _client_of(request: str) -> str:
    return request.rpartition("-")[0]
