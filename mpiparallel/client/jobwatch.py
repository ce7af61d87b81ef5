"""What the batch system says of the job that a silent controller runs in; used by `iothread`, in its thread.

A controller whose job has ended, or whose node has gone, says no goodbye: without this look a client would
wait for minutes, and then know no reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpiparallel import batchjob
from mpiparallel.batchjob import BatchJob, Question
from mpiparallel.connection_file import ConnectionInfo

PAUSE = 2.0  # seconds between questions
NODES = 2.0  # seconds to learn which node has failed


class Fate(NamedTuple):
    """What has become of the job; `returns`: it will run once more."""

    text: str
    returns: bool


class JobWatch:
    """The questions about one controller's job."""

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Question] = Question,
        can_ask: Callable[[BatchJob], bool] = batchjob.can_ask,
    ) -> None:
        self._ask, self._can_ask = ask, can_ask
        self._question: Question | None = None
        self._next = 0.0

    def fate(self, info: ConnectionInfo, now: float) -> Fate | None:
        """Return what has become of the job, once it is known not to run. Called again and again."""
        job = batchjob.named(f"slurm:{info.job}")
        if job is None:
            return None
        if self._question is None:
            if now >= self._next:
                self._next = now + PAUSE
                self._question = self._ask(batchjob.question(job)) if self._can_ask(job) else None
            return None
        if not self._question.answered:
            return None
        answer, self._question = self._question.text, None
        facts = batchjob.facts(job, answer, 0.0)
        if facts.phase not in ("ended", "waits"):
            return None
        nodes = []
        if facts.phase == "waits" or facts.state == "NODE_FAIL":
            question = self._ask(batchjob.nodes_question([info.host]))
            nodes = batchjob.failed_nodes(question.wait(NODES))
        return Fate(batchjob.words(job, facts, nodes), facts.phase == "waits")

    def close(self) -> None:
        """Ask no more."""
        if self._question is not None:
            self._question.close()
            self._question = None
