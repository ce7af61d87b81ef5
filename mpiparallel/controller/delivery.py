"""Results on their way to clients. Called by `work` and `balance` with each Result that ends a task."""

from __future__ import annotations

from mpiparallel.controller.state import State
from mpiparallel.wire.messages import Message


def deliver(state: State, client: str, message: Message) -> None:
    """Send a Result to the client whose task it ends."""
    found = state.clients.get(client)
    if found is None:
        state.counters["results of clients gone"] += 1
        return
    state.send(found.peer, *message)
