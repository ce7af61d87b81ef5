"""How clients come, come back, and go.

A client whose connection is lost is *away* for a while: its tasks run on and their results are kept for it.
Called by `hub`.
"""

from __future__ import annotations

from mpiparallel import __version__
from mpiparallel.controller import again, balance, delivery, departed, questions, returning, work
from mpiparallel.controller.records import Departed
from mpiparallel.controller.state import Client, Peer, State
from mpiparallel.wire.messages import Hello, Refused, Welcome, msg_id

AWAY_FOR = 3600.0  # seconds for which results are kept for a client whose connection is lost


def hello(state: State, sender: Peer, hello: Hello, now: float) -> None:
    """Take a client in, or back."""
    client = state.client(hello.name)
    if client is None:
        client = state.clients[hello.name] = Client(hello.name, sender, hello.host, hello.pid, now)
    replaced = client.peer != sender
    if replaced:
        _replace(state, client, sender)
        client.host, client.pid = hello.host, hello.pid
    client.heard, state.idle_since = now, None
    state.peers[sender] = client
    engines = [engine.info for engine in state.engines.values()]
    state.send(sender, Welcome(__version__, state.cluster_id, engines, state.heartbeat, state.instance))
    returning.tell(state, sender, now)
    if replaced:
        # What was on its way to the old connection is lost: output, results, and questions for functions.
        work.release(state, client, keep_lacks=True)
        balance.client_back(state, client)
        delivery.connected(state, client)


def _replace(state: State, client: Client, sender: Peer) -> None:
    if client.peer is None:
        state.clients[client.name] = state.away.pop(client.name)
    else:
        del state.peers[client.peer]
        state.send(client.peer, Refused("a newer connection has taken this one's place"))
    client.peer, client.watched = sender, False


def send_away(state: State, client: Client, now: float) -> None:
    """Let go of a client's connection."""
    if state.storing:
        state.journal.append(Departed(client.name))
    del state.peers[client.peer], state.clients[client.name]
    client.peer, client.watched, client.away_since = None, False, now
    state.away[client.name] = client
    work.release(state, client, keep_lacks=True)
    delivery.went_away(state, client)
    questions.client_gone(state, client)
    departed.leave(state, client.name)


def forget(state: State, client: Client) -> None:
    """Let a client go. Its tasks run on, and the store gets their results."""
    if state.storing:
        state.journal.append(Departed(client.name))
    if client.peer is None:
        del state.away[client.name]
    else:
        del state.peers[client.peer], state.clients[client.name]
    work.release(state, client)
    balance.client_gone(state, client)
    for request, engine in again.of_client(state, client):
        why = f"Task {msg_id(request.name, engine)} was lost on its way, and its client is gone"
        work.fail(state, request, engine, why, state.engines[engine])
    delivery.gone(state, client)
    questions.client_gone(state, client)
    departed.leave(state, client.name)


def tick(state: State, now: float) -> None:
    """Forget clients that have been away for long."""
    for client in list(state.away.values()):
        if now - client.away_since < AWAY_FOR:
            break
        forget(state, client)
