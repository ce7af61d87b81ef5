"""How much of some work is done, by whom, and the few words that say so beside a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mpiparallel.error import RemoteError
from mpiparallel.ranges import engines as engines_text
from mpiparallel.ranges import ranges
from mpiparallel.wire.messages import NOBODY

if TYPE_CHECKING:
    from mpiparallel.client.tasks import Task

WIDTH = 48  # characters for the share of each engine
VICTIM = "PeerFailed"  # the error of those who only waited for one that failed


class Tally:
    """Counts of items of work.

    Attributes
    ----------
    done, failed
        How many items are done, and how many of these were in tasks that went wrong.
    errors
        How many of the others are errors, as was asked for by ``return_exceptions``.
    by_engine
        How many each engine has done.
    reason
        What went wrong first: an exception's name.
    left
        The engines which have not done their part, where each has one; else None.
    """

    __slots__ = ("by_engine", "done", "errors", "failed", "left", "reason")

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.errors = 0
        self.by_engine: dict[int, int] = {}
        self.reason = ""
        self.left: list[int] | None = None

    def add(self, task: Task, items: int = 1) -> None:
        """Count a task of so many items, which is done. The I/O thread does this, so it is to be quick."""
        self.done += items
        by_engine, engine = self.by_engine, task.engine
        if task.engines is None:
            by_engine[engine] = by_engine.get(engine, 0) + items
        else:
            for engine in task.engines:
                by_engine[engine] = by_engine.get(engine, 0) + items
        if task.status != "ok":
            by_engine.pop(NOBODY, None)  # it ended without having been on an engine
            self.failed += items
            self._explain(task.failure)

    def add_errors(self, values: Sequence[Any]) -> None:
        """Count the errors among values that are counted as done."""
        for value in values:
            if isinstance(value, RemoteError):
                self.errors += 1
                self._explain(value)

    def add_future(self, future: Future[Any]) -> None:
        """Count any future, as one item."""
        if future.done():
            self.done += 1
            if future.cancelled() or future.exception() is not None:
                self.failed += 1
                self._explain(None if future.cancelled() else future.exception())

    def _explain(self, failure: Any) -> None:
        if failure is not None:
            self._call_it(getattr(failure, "ename", "") or type(failure).__name__)

    def _call_it(self, reason: str) -> None:
        """Keep the first reason; but one that others were waiting for is no cause."""
        if not self.reason or (self.reason == VICTIM and reason):
            self.reason = reason

    def among(self, engines: Iterable[int]) -> Tally:
        """Return a copy in which each of `engines` has a share, be it nothing."""
        copy = Tally()
        copy.done, copy.failed, copy.errors, copy.reason = self.done, self.failed, self.errors, self.reason
        copy.by_engine = dict.fromkeys(engines, 0) | dict(self.by_engine)
        return copy

    @classmethod
    def sum(cls, tallies: Iterable[Tally]) -> Tally:
        """Return one tally of different pieces of work."""
        total = cls()
        for tally in tallies:
            total.done += tally.done
            total.failed += tally.failed
            total.errors += tally.errors
            total._call_it(tally.reason)
            for engine, count in tally.by_engine.items():
                total.by_engine[engine] = total.by_engine.get(engine, 0) + count
        return total

    @property
    def n_failed(self) -> int:
        """How many items went wrong, one way or the other."""
        return self.failed + self.errors

    def words(self, width: int = WIDTH) -> str:
        """Return what to say beside the bar.

        >>> tally = Tally()
        >>> tally.by_engine, tally.failed, tally.reason = {0: 12, 1: 12, 2: 11}, 2, "ValueError"
        >>> tally.words()
        '2 failed: ValueError, engines 0-1: 12; 2: 11'
        """
        words = []
        if self.n_failed:
            words.append(f"{self.n_failed:,} failed" + (f": {self.reason}" if self.reason else ""))
        if self.left is None:
            words.append(share(self.by_engine, width))
        elif self.left:
            words.append(f"waiting for {engines_text(self.left)}")
        return ", ".join(filter(None, words))


def share(counts: Mapping[int, int], width: int = WIDTH) -> str:
    """Say how many items each engine has done; of many different numbers only the least and the most.

    >>> share({0: 7, 1: 7, 2: 7})
    'engines 0-2: 7 each'
    >>> share({0: 7, 1: 9, 2: 7})
    'engines 0, 2: 7; 1: 9'
    >>> share({engine: 100 + engine for engine in range(64)})
    '64 engines: 100-163 each'
    """
    if not counts:
        return ""
    groups: dict[int, list[int]] = {}
    for engine in sorted(counts):
        groups.setdefault(counts[engine], []).append(engine)
    if len(groups) == 1:
        each = " each" if len(counts) > 1 else ""
        return f"{engines_text(counts)}: {next(iter(groups)):,}{each}"
    if len(groups) * 3 <= width:  # else it does not fit anyhow
        listed = "; ".join(f"{ranges(engines)}: {count:,}" for count, engines in groups.items())
        if len(listed) + len("engines ") <= width and "..." not in listed:
            return f"engines {listed}"
    return f"{len(counts)} engines: {min(groups):,}-{max(groups):,} each"
