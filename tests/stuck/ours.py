"""Get stuck in one of the `ways` on engines of ours, and see how one gets out of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ways import PRELUDE, RANKS, Way

from mpiparallel.error import IPythonError

if TYPE_CHECKING:
    from mpiparallel import AsyncResult, Client

PATIENCE = 15.0  # seconds after which a way counts as one that hangs


@dataclass
class Outcome:
    """How it went.

    Attributes
    ----------
    told
        Seconds until the person had the error; None: never.
    text
        What the error says.
    usable
        Seconds until a collective on all engines worked again; None: never.
    kept
        On how many of the four ranks the variables from before were there still.
    unharmed
        Ranks whose part ended without an error.
    """

    told: float | None
    text: str
    usable: float | None = None
    kept: int = 0
    unharmed: frozenset[int] = frozenset()


def get_stuck(rc: Client, way: Way) -> Outcome:
    """Run one way on the four engines of `rc`."""
    first = min(rc.ids)
    pids = {engine - first: info.pid for engine, info in _engines(rc).items()}
    rc[:].execute(PRELUDE, block=True)
    began = time.monotonic()
    cell = rc[:].execute(way.cell, block=False)
    if way.then:
        _await_standstill(rc)
        began = time.monotonic()
        _act(rc, way.then, first, pids)
    if "SIGSTOP" in way.name:
        # One sees where it stands, and lets it go on.
        assert _until(lambda: "stopped by a signal" in str(rc.where())), f"nobody says so:\n{rc.where()}"
        os.kill(pids[3], signal.SIGCONT)
    outcome = _told(cell, began)
    outcome.usable = _usable(rc, began, {RANKS, RANKS - len(way.dies)} - {0})
    outcome.kept = _kept(rc, first)
    return outcome


def _engines(rc: Client) -> dict[int, Any]:
    return {engine: rc._connection.engines[engine] for engine in rc.ids}


def _await_standstill(rc: Client) -> None:
    """Wait until every rank has been in its cell, and where it is, for a moment."""

    def at_standstill() -> bool:
        places = rc.where().places
        return all(
            place.state == "stuck" or (place.state in ("running", "blocked") and place.seconds > 0.3)
            for place in places
        )

    if not _until(at_standstill):
        raise AssertionError(f"the ranks never sat there:\n{rc.where()}")


def _act(rc: Client, what: str, first: int, pids: dict[int, int]) -> None:
    verb, _, whom = what.partition(" ")
    ranks = [int(word) for word in whom.split() if word.isdigit()] or list(pids)
    if verb == "interrupt":
        rc.interrupt([first + rank for rank in ranks])
    else:
        for rank in ranks:
            os.kill(pids[rank], signal.SIGKILL)


def _told(cell: AsyncResult, began: float) -> Outcome:
    if not cell.wait(PATIENCE):
        return Outcome(None, "")
    told = time.monotonic() - began
    text, unharmed = "", frozenset()
    try:
        cell.get()
    except Exception as error:
        lines = getattr(error, "render_traceback", list)()
        text = "\n".join([str(error), *lines])
    replies = cell.get(return_exceptions=True)
    unharmed = frozenset(rank for rank, reply in enumerate(replies) if not isinstance(reply, Exception))
    return Outcome(told, text, unharmed=unharmed)


def _usable(rc: Client, began: float, expected: set[int]) -> float | None:
    """Wait until a collective works on as many engines as expected; return how long it took since `began`.

    Those who survive go on by themselves, or all are started again.
    """

    def works() -> bool:
        n = len(rc.ids)
        if n not in expected:
            return False
        try:
            rc[:].execute("ones = comm.allreduce(1)", block=False).get(PATIENCE)
            return bool(rc[:]["ones"] == [n] * n)
        except IPythonError:  # engines may be on their way out, or in
            return False

    return time.monotonic() - began if _until(works) else None


def _kept(rc: Client, first: int) -> int:
    kept = 0
    for engine in rc.ids:
        try:
            kept += rc[engine]["kept"] == 100 + engine - first
        except IPythonError:  # the name is gone with the process that had it
            continue
    return kept


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
