"""Balanced tasks as the hub holds them: one by one, and what those of one message have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel.controller.lives import BALANCED, BalancedEvent, BalancedState, advance
from mpiparallel.wire.messages import Balance, Message

if TYPE_CHECKING:
    from mpiparallel.controller.functions import Function
    from mpiparallel.controller.pools import Pool, Seat

Frames = Sequence[Any]


class Job:
    """The tasks of one `Balance`; kept while one of them is open.

    Attributes
    ----------
    header
        As the client sent it.
    common
        The frames that every task gets, without those of the function.
    pool
        The engines that may be chosen; None while that is not known, as its tasks follow others.
    open
        How many of its tasks have not ended.
    parked
        Tasks that wait for the function, or for other tasks.
    after, follow
        Tasks that it still waits for (`dependencies`).
    watching
        Whether it is in the table of those who wait.
    """

    __slots__ = (
        "after", "common", "follow", "function", "header", "open", "parked", "pool", "seq", "watching",
    )  # fmt: skip

    def __init__(self, header: Balance, function: Function, common: Frames, seq: int) -> None:
        self.header = header
        self.function = function
        self.common = common
        self.seq = seq
        self.pool: Pool | None = None
        self.open = 0
        self.parked: list[Balanced] = []
        self.after: set[str] = set()
        self.follow: set[str] = set()
        self.watching = False


class Team:
    """The engines that run a gang task together."""

    __slots__ = ("results", "seats", "waiting")

    def __init__(self, seats: list[Seat]) -> None:
        self.seats = seats  # in ascending order
        self.results: dict[int, Message] = {}  # by engine
        self.waiting = {seat.number for seat in seats}


class Balanced:
    """One balanced task that has not ended.

    Attributes
    ----------
    part
        The frames that it alone gets; None when the hub has been started anew and waits for the client.
    seat
        The engine that it was sent to; a gang task has a `team` instead.
    cost
        How many seconds it is expected to take there.
    excluded
        Engines that are not to have it again.
    failed
        The result of its last try.
    placed
        Whether it has been on an engine.
    aborting
        Whether a client has asked for its end.
    saved
        Whether the store has it, as its client is gone (`departed`).
    """

    __slots__ = (
        "aborting", "cost", "deadline", "excluded", "failed", "job", "name", "number", "part", "placed",
        "retries", "saved", "seat", "seq", "since", "state", "team",
    )  # fmt: skip

    def __init__(self, name: str, number: int, job: Job, part: Frames | None, seq: int, now: float) -> None:
        self.name = name
        self.number = number
        self.job = job
        self.part = part
        self.seq = seq
        self.since = now
        self.state = BalancedState.WAITING
        self.retries = job.header.retries
        self.cost = 0.0
        self.seat: Seat | None = None
        self.team: Team | None = None
        self.excluded: frozenset[int] = _NOTHING
        self.failed: Message | None = None
        self.deadline: float | None = None
        self.placed = False
        self.aborting = False
        self.saved = False

    def advance(self, event: BalancedEvent) -> None:
        self.state = advance(BALANCED, self.state, event)


_NOTHING: frozenset[int] = frozenset()
