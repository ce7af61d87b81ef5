"""Progress bars over results that somebody waits for.

Bars are drawn by the thread that waits: a `Follower` wakes it now and then. Drawing never happens in the I/O
thread, and never under a lock that it takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import zmq

from mpiparallel.client.bars import below_output as below_output
from mpiparallel.client.bars import close, draw, make_bar, mark_as_failed, set_total
from mpiparallel.client.bars import paused as paused
from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.interrupting import deferred
from mpiparallel.client.tally import Tally
from mpiparallel.config import noninteractive

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult

AFTER = 2.0  # seconds that a map takes before it gets a bar by itself
INTERVAL = 0.1  # ... between looks
CLOCK = 0.5  # ... after which a bar is drawn although nothing has changed but the time
SHARE = 10  # looking takes at most one part in so many of the waiting thread's time

# Engines that run one cell end together: a rate would say nothing.
WITHOUT_RATE = "{l_bar}{bar}| {n_fmt}/{total_fmt} engines [{elapsed}{postfix}]"


class Follower:
    """A bar that shows how far some work is, while one thread waits for it.

    Parameters
    ----------
    count
        Returns what is done by now.
    total
        How many items there are; None: nobody knows.
    desc, unit, widget
        As for `make_bar`.
    interval
        Seconds between looks.
    after
        Seconds until the bar is shown, if the work is not done by then.
    leave
        Whether the bar stays when the work is done.
    age
        For how many seconds the work has been under way.
    any_thread
        Whether other threads than this one may draw, where it is known that only one waits.
    """

    def __init__(
        self,
        count: Callable[[], Tally],
        total: int | None,
        desc: str,
        unit: str = "task",
        *,
        widget: bool | None = None,
        interval: float = INTERVAL,
        after: float = 0.0,
        leave: bool = True,
        age: float = 0.0,
        any_thread: bool = False,
    ) -> None:
        self._count, self._interval, self._widget = count, max(0.01, interval), widget
        self._thread = None if any_thread else threading.get_ident()
        self._options: dict[str, Any] = {"total": total, "desc": desc, "unit": unit, "leave": leave}
        if unit == "engine":
            self._options["bar_format"] = WITHOUT_RATE
        self._began = time.time() - age
        self._shown: tuple[int, int | None, str] = (-1, None, "")
        self._drawn = 0.0
        self._next = time.monotonic() + after
        self._failed = False
        self.bar: Any = None

    def wait(
        self, condition: threading.Condition, predicate: Callable[[], Any], timeout: float | None
    ) -> bool:
        """Wait for `condition` until `predicate` holds, and draw meanwhile; return whether it does."""
        mine = self._thread in (None, threading.get_ident())
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            rest = None if deadline is None else max(0.0, deadline - now)
            if mine:
                rest = self.until_next() if rest is None else min(rest, self.until_next())
            with condition:
                found = condition.wait_for(predicate, rest)
            if mine:
                self.tick()
            if found or (deadline is not None and time.monotonic() >= deadline):
                return bool(found)

    def until_next(self) -> float:
        """Return the seconds until the next look."""
        return max(0.0, self._next - time.monotonic())

    def tick(self) -> None:
        """Draw the bar, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._draw(now)
        self._next = now + max(self._interval, SHARE * (time.monotonic() - now))

    # tqdm uses weak references, whose callbacks swallow whatever is raised in them.
    @deferred()
    def _draw(self, now: float, last: bool = False) -> None:
        if self.bar is None:
            self.bar = make_bar(self._widget, **self._options)
            self.bar.start_t = self._began
        tally, bar = self._count(), self.bar
        words = tally.words()
        shown = (tally.done, bar.total, words)
        if shown == self._shown and not last and now - self._drawn < CLOCK:
            return
        self._shown, self._drawn = shown, now
        if tally.n_failed and not self._failed:
            self._failed = True
            mark_as_failed(bar)
        bar.n = tally.done
        bar.set_postfix_str(words, refresh=False)
        draw(bar)

    def shown(self) -> Any:
        """Return the bar, which is drawn if there is none."""
        if self.bar is None:
            self._draw(time.monotonic())
        return self.bar

    def leave(self) -> None:
        """Leave the bar as it is, lest it gets among what is printed below; who waits again gets another."""
        self.close(broken=True)
        self.bar, self._shown, self._failed = None, (-1, None, ""), False

    @deferred()
    def close(self, complete: bool = False, broken: bool = False) -> None:
        """Draw the bar for the last time.

        Parameters
        ----------
        complete
            What is done by now is all there was.
        broken
            The waiting has ended early: what is said about that comes below the bar.
        """
        bar = self.bar
        if bar is None or bar.disable:
            return
        try:
            if complete and bar.total is not None:
                set_total(bar, self._count().done)
            self._draw(time.monotonic(), last=True)
        finally:
            (bar.close if broken else partial(close, bar))()


def follower_of(result: AsyncResult, **options: Any) -> Follower:
    """Return a bar over `result`."""
    age = result.elapsed if len(result._tasks) else 0.0
    return Follower(result._tally, len(result), result._fname, result._unit, age=age, **options)


@contextmanager
def attached(result: AsyncResult, follower: Follower) -> Iterator[None]:
    """Let `follower` draw whenever this thread waits for `result`, until the end of the context."""
    before, result._follower = result._follower, follower
    broken = True
    try:
        follower.tick()
        yield
        broken = False
    finally:
        result._follower = before
        follower.close(broken=broken)


@contextmanager
def following(result: AsyncResult, wanted: bool | None) -> Iterator[None]:
    """Show a bar while the caller waits for `result`.

    Parameters
    ----------
    result
        What is waited for.
    wanted
        Whether to; None: in IPython, if it takes more than two seconds, and not for good.
    """
    if wanted:
        with attached(result, follower_of(result)):
            yield
    elif wanted is None and _somebody_looks_on():
        with attached(result, follower_of(result, after=AFTER, leave=False)):
            yield
    else:
        yield


def _somebody_looks_on() -> bool:
    return (
        get_ipython() is not None
        and not noninteractive()
        and threading.current_thread() is threading.main_thread()
    )


def iterate(result: AsyncResult) -> Iterator[Any]:
    """Yield the items of `result`, with a bar that counts them."""
    given = 0

    def count() -> Tally:
        tally = result._tally()
        tally.done = given
        return tally

    follower = Follower(count, len(result), result._fname, result._unit)
    with attached(result, follower):
        for item in result:
            given += 1
            follower.tick()
            yield item


def wait_interactive(
    result: AsyncResult, interval: float, timeout: float | None, widget: bool | None, return_when: str
) -> None:
    """Wait for `result` with a bar that moves every `interval` seconds."""
    result._is_enough(return_when)  # complains about words that mean nothing
    enough = result.done if return_when == ALL_COMPLETED else lambda: result._is_enough(return_when)
    with attached(result, follower_of(result, interval=interval, widget=widget)):
        result._wait_until(enough, timeout)


def wait_for_tracker(tracker: zmq.MessageTracker, timeout: float | None) -> None:
    """Wait until ZeroMQ no longer needs a message's memory."""
    try:
        tracker.wait(-1 if timeout is None else timeout)
    except zmq.NotDone:
        raise TimeoutError("Still waiting to be sent") from None
