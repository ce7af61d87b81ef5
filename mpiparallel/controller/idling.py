"""Ends a cluster that nobody uses: one that is forgotten must not burn an allocation for days."""

from __future__ import annotations

from mpiparallel.controller.state import State


def over(state: State, now: float) -> str:
    """Return why the cluster is to end, when it has been idle for long; "" while it goes on.

    It is idle while no client is connected and no task is under way. That counts only when there are engines,
    or have been: a cluster whose job still waits in the queue, or waits there again, costs nobody anything.
    """
    waits = not state.next_engine or (not state.worlds and bool(state.returning))
    patience = state.idle_timeout
    if not patience or state.clients or state.requests or state.balanced or waits:
        state.idle_since = None
        return ""
    if state.idle_since is None:
        state.idle_since = now
    if now - state.idle_since < patience:
        return ""
    return f"it was idle for {patience:g} s, without clients and without work (idle_timeout)"
