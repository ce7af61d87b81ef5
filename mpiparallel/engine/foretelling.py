"""Foretells the end of the batch job that a world is in. Owned by the rank that holds the bridge.

The batch system is asked when the world begins, every few minutes as limits are changed, before anybody is
warned, and when it has sent its signal: ahead of the time limit (``sbatch --signal=B:USR1@60``), or because
the job has to make room for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from mpiparallel import batchjob
from mpiparallel.batchjob import BatchJob
from mpiparallel.wire.messages import JobEnds

ASK_EVERY = 300.0
SURE_FOR = 30.0  # seconds for which an answer is good enough to warn people by it
SAME = 2.0  # seconds by which answers may differ that mean the same


class Asked(Protocol):
    """A `batchjob.Question`."""

    @property
    def answered(self) -> bool: ...

    @property
    def text(self) -> str | None: ...


class Foreteller:
    """Says when the job ends, as often as that has changed or somebody new is to know.

    Parameters
    ----------
    job : BatchJob, optional
        None: there is nothing to foretell.
    warn_before : float
        Seconds before the end at which people are told; 0: never.
    """

    def __init__(
        self,
        job: BatchJob | None,
        warn_before: float,
        ask: Callable[[Sequence[str]], Asked] = batchjob.Question,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._job, self._warn_before = job, warn_before
        self._ask, self._clock = ask, clock
        self._question: Asked | None = None
        self._ask_at = 0.0
        self._answered_at = float("-inf")
        self._known = self._preempted = self._over = False
        self._ends_at: float | None = None  # since the epoch
        self._why = ""
        self._warned_of: float | None = None  # the end of which people know
        self._signalled = False
        self._welcomes = 0

    def tick(self, welcomes: int, signalled: bool = False) -> list[JobEnds]:
        """Return what is to be said now.

        Parameters
        ----------
        welcomes
            How often a controller has said welcome: another one is to be told anew.
        signalled
            Whether the batch system has sent its signal since the last call.
        """
        job = self._job
        if job is None:
            return []
        now = self._clock()
        self._signalled = self._signalled or signalled
        if signalled:
            self._ask_at = now
        changed = self._read(job, now)
        if self._question is None and (now >= self._ask_at or (self._is_due(now) and not self._is_sure(now))):
            self._ask_at = now + ASK_EVERY
            self._question = self._ask(batchjob.question(job))
        news = changed or (self._known and welcomes != self._welcomes)
        self._welcomes = welcomes
        said = [JobEnds(self._left(now))] if news else []
        why = self._warning(job, now)
        if why:
            self._why, self._warned_of = why, self._ends_at or now
            said.append(JobEnds(self._left(now), why))
        elif news and self._why and self._is_due(now):
            said.append(JobEnds(self._left(now), self._why))
        return said

    def _read(self, job: BatchJob, now: float) -> bool:
        """Take the answer, if it has come; return whether there is news in it."""
        if self._question is None or not self._question.answered:
            return False
        facts = batchjob.facts(job, self._question.text, now)
        self._question = None
        first, self._known = not self._known, True
        self._over = facts.phase in ("ends", "ended", "waits")  # others ask why
        if facts.phase != "runs":
            return first
        self._answered_at = now
        self._preempted = facts.preempted
        before, self._ends_at = self._ends_at, facts.ends_at
        if before is None or facts.ends_at is None:
            return first or before is not facts.ends_at
        return first or abs(before - facts.ends_at) > SAME

    def _left(self, now: float) -> float | None:
        return None if self._ends_at is None else max(0.0, self._ends_at - now)

    def _is_sure(self, now: float) -> bool:
        return now - self._answered_at < SURE_FOR

    def _is_due(self, now: float) -> bool:
        return self._ends_at is not None and 0 < self._warn_before >= self._ends_at - now

    def _warning(self, job: BatchJob, now: float) -> str:
        """Return what people are to be told now; "" when that is nothing, or nothing new."""
        if self._question is not None or self._over:
            return ""
        signalled, self._signalled = self._signalled, False
        if not self._is_sure(now):  # nobody answers
            return f"the batch system has announced the end of {job}" if signalled else ""
        if self._preempted and self._warned_of is None:
            return f"{job} is to make room for others (preempted)"
        if self._ends_at is None:
            return f"the batch system has announced the end of {job}" if signalled else ""
        known = self._warned_of is not None and abs(self._warned_of - self._ends_at) <= SAME
        soon = self._is_due(now) or (signalled and self._warn_before > 0)
        return f"{job} reaches its time limit" if soon and not known else ""
