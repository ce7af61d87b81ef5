"""What an AsyncResult tells about its tasks: metadata, progress, times.

The base of `asyncresult.AsyncResult`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from mpiparallel.client.metadata import DEFAULTS
from mpiparallel.client.tally import Tally
from mpiparallel.client.tasks import Task


class Described:
    """Metadata, progress and times of `_tasks`."""

    _tasks: list[Task]
    _sizes: Sequence[int]
    _single_result: bool
    _has_parts: bool | None = None  # whether each engine has a part of its own
    done: Any

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *DEFAULTS})

    # ------------------------------------------------------------ what is known of the tasks

    @property
    def metadata(self) -> Any:
        """What is known of the task, or of each of them, so far."""
        found = [task.metadata for task in self._tasks]
        return found[0] if self._single_result else found

    def __getattr__(self, name: str) -> Any:
        if name not in DEFAULTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self[name]  # type: ignore[index]

    @property
    def notices(self) -> list[str]:
        """What the engines have found out about this request that a person should know: long waits, say."""
        requests = {task.request.id: task.request for task in self._tasks}
        return [text for request in requests.values() for text in request.notices]

    def __len__(self) -> int:
        return sum(self._sizes)

    @property
    def progress(self) -> int:
        """How many items are done."""
        return sum(size for task, size in zip(self._tasks, self._sizes, strict=True) if task.done)

    def _tally(self) -> Tally:
        """Return what is done, how much of it went wrong, and by whom."""
        tally, left = Tally(), []
        for task, size in zip(self._tasks, self._sizes, strict=True):
            if task.done:
                tally.add(task, size)
                tally.add_errors(self._errors_of(task))
            else:
                left.append(task.engine)
        if self._is_of_parts():
            tally.left = left
        return tally

    def _errors_of(self, task: Task) -> Sequence[Any]:
        """Return the errors among the items of a task that went well."""
        return ()

    def _is_of_parts(self) -> bool:
        """Whether the client gave each engine a part of its own."""
        if self._has_parts is None:
            engines = {task.engine for task in self._tasks if task.request.ranks == 0}
            self._has_parts = len(engines) == len(self._tasks)
        return self._has_parts

    @property
    def _unit(self) -> str:
        """What is counted."""
        return "engine" if self._is_of_parts() else "task"

    def timedelta(
        self, start: Any, end: Any, start_key: Callable[..., Any] = min, end_key: Callable[..., Any] = max
    ) -> float:
        """Return the seconds between two times, or between the first of `start` and the last of `end`.

        >>> ar.timedelta(ar.submitted, ar.completed)  # doctest: +SKIP
        """
        first = start if isinstance(start, datetime) else start_key(start)
        last = end if isinstance(end, datetime) else end_key(end)
        return (last - first).total_seconds()

    @property
    def elapsed(self) -> float:
        """Seconds since the request was sent, until now or until it was done."""
        sent = min(task.request.submitted for task in self._tasks)
        if not self.done():
            return time.time() - sent
        return max(task.received or sent for task in self._tasks) - sent

    def _check_done(self) -> None:
        if not self.done():
            raise TimeoutError("Result not ready.")

    @property
    def serial_time(self) -> float:
        """Seconds of work of all engines together."""
        self._check_done()
        return sum((task.completed or 0.0) - (task.started or 0.0) for task in self._tasks if task.started)

    @property
    def wall_time(self) -> float:
        """Seconds between the sending of the request and the arrival of its last result."""
        self._check_done()
        return self.elapsed
