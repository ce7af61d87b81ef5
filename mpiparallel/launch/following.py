"""Stay with a batch job until it has ended: why it waits, where it runs, what it writes.

``mpiparallel submit --follow`` and ``mpiparallel logs -f JOB`` call this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from mpiparallel.error import LaunchError
from mpiparallel.launch.batch import JobInfo
from mpiparallel.launch.tailing import Tail

LOOK_EVERY = 0.3  # seconds
SETTLE = 0.5  # seconds for what a node has written last to be seen here


class FollowedJob(Protocol):
    """What is asked of the job: see `launch.jobs.Job`."""

    @property
    def name(self) -> str: ...

    @property
    def running(self) -> bool: ...

    @property
    def exit_code(self) -> int | None: ...

    def what_it_waits_for(self) -> str: ...

    def why_never(self) -> str: ...

    def info(self, max_age: float | None = None) -> JobInfo: ...


def follow(
    job: FollowedJob, tail: Tail, show: Callable[[str], object], tell: Callable[[str], object]
) -> None:
    """Show what a job writes and tell what it waits for, once for each change, until it has ended.

    Raises
    ------
    LaunchError
        If it will never start; it is left in the queue.
    """
    told = ""
    while True:
        running = job.running  # asked first: what it has written before its end is read after it
        words = job.what_it_waits_for()
        if not words and running:
            nodes = job.info().nodes
            words = f"{job.name} runs" + (f" on {nodes}" if nodes else "")
        if words and words != told:
            tell(words)
            told = words
        never = job.why_never()
        if never:
            raise LaunchError(never)
        _show_new(tail, show)
        if not running:
            break
        time.sleep(LOOK_EVERY)
    time.sleep(SETTLE)
    _show_new(tail, show)


def _show_new(tail: Tail, show: Callable[[str], object]) -> None:
    while text := tail.read():
        show(text)


def as_exit_code(code: int | None) -> int:
    """Return what a shell would make of the exit code of a process; 1 when nobody knows it."""
    if code is None:
        return 1
    return 128 - code if code < 0 else code
