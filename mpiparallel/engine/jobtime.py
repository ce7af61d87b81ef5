"""How much time the batch job has left that this process is in: `time_left`, for user code.

The rank that holds the bridge asks the batch system (`foretelling`) and tells the others; a process that is
no engine asks by itself.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from mpiparallel import batchjob

AGAIN = 60.0  # seconds for which an answer is taken for the truth by who asks alone
TOLD_WITHIN = 10.0  # seconds that the bridge may take to tell


class Clock:
    """What this process knows of the end of its job."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._ends_at: float | None = None  # by time.monotonic()
        self._asked = float("-inf")
        self.is_told = False  # whether this is a rank whose bridge asks
        self.warned = False  # whether the batch system has sent a signal, of which nobody has taken note

    def learn(self, left: float | None) -> None:
        """Take note that the job ends in `left` seconds; None: it has no end, or nobody knows it."""
        self._ends_at = None if left is None else time.monotonic() + left
        self._told.set()

    def left(self) -> float | None:
        """Return the seconds that are left."""
        if self.is_told:
            self._told.wait(TOLD_WITHIN)
        elif time.monotonic() - self._asked > AGAIN:
            self._ask()
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def _ask(self) -> None:
        job = batchjob.from_environment()
        self._asked = time.monotonic()
        if job is None:
            return
        now = time.time()
        said = batchjob.facts(job, batchjob.Question(batchjob.question(job)).wait(), now)
        self.learn(None if said.ends_at is None else said.ends_at - now)

    def listen(self) -> None:
        """Take note of the signal that the batch system sends ahead of the end. Called in the main thread."""
        signal.signal(signal.SIGUSR1, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.warned = True


clock = Clock()


def time_left() -> float | None:
    """Return how many seconds are left until the batch job of this process reaches its time limit.

    On an engine, or in any other process of a job of Slurm, PBS or LSF; cheap enough to be called in a loop.
    When the limit is changed meanwhile, or the job is to make room for others, the answer follows within
    minutes.

    Returns
    -------
    float or None
        None outside of a job, and when the job has no limit or nobody can tell it.

    Examples
    --------
    >>> for step in range(n_steps):                            # doctest: +SKIP
    ...     advance(u)
    ...     left = mpiparallel.time_left()
    ...     if left is not None and left < 120:
    ...         write_checkpoint(u)
    ...         break
    """
    return clock.left()
