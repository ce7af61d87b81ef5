"""Tells clients that their balanced tasks wait for engines when there are none: nobody waits unknowingly."""

from __future__ import annotations

from mpiparallel.controller.state import State
from mpiparallel.wire.messages import Notice

TOLD_AFTER = 2.0  # seconds without engines: those that are started again come back within them, mostly


def tick(state: State, now: float) -> None:
    """Look whether tasks wait in vain; tell each client once for each time without engines."""
    table = state.balancing
    if table.seats:
        table.nobody_since, table.told = None, set()
        return
    waiting: dict[str, tuple[str, int]] = {}
    for queue in (table.everywhere.queue, *table.gangs.values()):
        for client, (request, count) in queue.clients().items():
            waiting[client] = request, waiting.get(client, ("", 0))[1] + count
    if not waiting:
        table.nobody_since = None
        return
    if table.nobody_since is None:
        table.nobody_since = now
    if now - table.nobody_since < TOLD_AFTER:
        return
    why = f" (the last one: {next(reversed(state.gone.values()))})" if state.gone else ""
    for client, (request, count) in waiting.items():
        found = state.clients.get(client)
        if found is None or client in table.told:
            continue
        table.told.add(client)
        tasks = "1 task waits" if count == 1 else f"{count} tasks wait"
        text = f"{tasks} for engines, and there are none{why}. They run when engines come; abort() ends them"
        state.send(found.peer, Notice(client, request, text))
