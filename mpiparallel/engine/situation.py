"""What is known, at one moment, of who does what in a world: the input of `deadlock` and `picture`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mpiparallel.wire.waits import Wait


@dataclass
class RankState:
    """What one rank does.

    Parameters
    ----------
    doing
        "running" is user code outside of guarded waits.
    queued
        Number of tasks that wait behind the current one.
    request, wait, line
        Of a rank that is blocked: which request's task it runs, in what it waits, where in user code.
    """

    doing: Literal["running", "blocked", "idle"]
    queued: int = 0
    request: str = ""
    wait: Wait | None = None
    line: str = ""


@dataclass
class RequestState:
    """A request: who has a part in it, and how each part that has ended did so, "ok" or why not."""

    ranks: Collection[int]
    ended: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Situation:
    """What the ranks of a world do, by their numbers in the world as it began.

    `requests` has at least those in which somebody is blocked; `dead` says of ranks whose process is gone how
    it went. A rank that is neither in `ranks` nor in `dead` is taken to be running.
    """

    ranks: dict[int, RankState]
    requests: dict[str, RequestState] = field(default_factory=dict)
    dead: Mapping[int, str] = field(default_factory=dict)

    def waiting(self) -> dict[int, Wait]:
        """Return the wait of each rank that is blocked."""
        return {
            rank: state.wait
            for rank, state in self.ranks.items()
            if state.doing == "blocked" and state.wait is not None and rank not in self.dead
        }

    def outcome(self, rank: int, request: str) -> str:
        """Return how the part of `rank` in `request` has ended: "ok", or why not; empty if it has not."""
        if rank in self.dead:
            return self.dead[rank] or "its process died"
        known = self.requests.get(request)
        return known.ended.get(rank, "") if known is not None else ""

    def over(self, rank: int, request: str) -> bool:
        """Whether `rank`, which is not blocked, will do nothing any more that could help `request` on.

        The parts of one request are one program; who was never part of it may still be sent a task that is
        meant to help.
        """
        if rank in self.dead:
            return True
        state = self.ranks.get(rank)
        if state is None or state.doing != "idle" or state.queued:
            return False
        return bool(self.outcome(rank, request))
