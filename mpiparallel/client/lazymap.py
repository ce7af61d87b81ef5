"""An iterator over the values of a function on items that are drawn as the engines get on with them.

All happens in the thread that iterates; the I/O thread only says which tasks are done.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpiparallel.client import resultcards
from mpiparallel.client.looks import Card, Shown
from mpiparallel.client.progress import Follower
from mpiparallel.client.tally import Tally
from mpiparallel.client.tasks import Task
from mpiparallel.client.view_base import dump_function
from mpiparallel.wire import objects

if TYPE_CHECKING:
    from mpiparallel.client.balanced import LoadBalancedView
    from mpiparallel.client.connection import Connection

AHEAD = 0.05  # seconds of work that each engine should have waiting, with max_outstanding="auto"
MOST = 64  # tasks for each engine, however short they are
READY = 16  # results that may wait to be taken for each task under way, when they are given in order
BATCH = 512  # tasks in one message


class _Sent:
    """The tasks of an iterator. It does not hold the iterator, which may be thrown away at any time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.tasks: dict[int, Task] = {}  # sent and not given to the user yet, by number
        self.finished: deque[Task] = deque()  # done, in the order of arrival
        self.changed = threading.Condition()
        self.given = 0  # values that the user has been given
        self.arrived = Tally()
        self.follower: Follower | None = None

    def note(self, task: Task) -> None:
        """Note that a task is done. Called by the I/O thread."""
        with self.changed:
            self.finished.append(task)
            self.changed.notify_all()

    def tally(self) -> Tally:
        """Return what has been given, and what has arrived of each engine."""
        tally = self.arrived.among(())
        tally.done = self.given
        return tally

    def close_bar(self, complete: bool = False) -> None:
        """Let the bar, if there is one, say how far it came; `complete`: that was all there is."""
        if self.follower is not None:
            self.follower.close(complete)
            self.follower = None

    def abort(self) -> None:
        """Take what has not begun out of the queues; results that still come are passed over."""
        self.close_bar()
        tasks = [task for task in list(self.tasks.values()) if not task.done]
        self.tasks.clear()
        if tasks and self.connection.gone is None:
            self.connection.abort(tasks)


class LazyMapIterator(Shown, Iterator[Any]):
    """The values of a map, whose sequences are read as its values are taken. Made by ``imap``."""

    def __init__(
        self,
        view: LoadBalancedView,
        f: Any,
        inputs: Iterator[Any],
        *,
        ordered: bool,
        max_outstanding: int | str,
        return_exceptions: bool,
        progress: bool = False,
        total: int | None = None,
        name: str = "imap",
    ) -> None:
        self._view = view._snapshot()
        self._function = dump_function(f)
        self._inputs: Iterator[Any] | None = inputs
        self._ordered, self._max, self._return_exceptions = ordered, max_outstanding, return_exceptions
        self._problem: BaseException | None = None  # what the inputs raised
        self._request: Any = None
        self._count = 0  # tasks sent
        self._under_way = 0  # tasks sent that are not known to be done
        self._seconds: float | None = None  # how long a task takes, about
        self._arrived: dict[int, Task] = {}  # done, and not given yet, in the order of arrival
        self._sent = _Sent(view.client._connection)
        # A finalizer and not __del__, so that it is called at most once, and without the iterator.
        self._finalizer = weakref.finalize(self, _Sent.abort, self._sent)
        self._finalizer.atexit = False
        if progress:
            self._sent.follower = Follower(self._sent.tally, total, name, "item", any_thread=True)
        self._top_up()

    def __repr__(self) -> str:
        return f"<LazyMapIterator: {self._count} sent, {self._count - len(self._sent.tasks)} given>"

    def _card(self) -> Card:
        return resultcards.lazymap_card(self)

    # ------------------------------------------------------------ for users

    def __iter__(self) -> LazyMapIterator:
        return self

    def __next__(self) -> Any:
        try:
            return self._next()
        except StopIteration:
            raise
        except BaseException:  # an error, a Ctrl-C: its traceback, which may be kept for long, keeps this
            if self._sent.follower is not None:
                self._sent.follower.leave()
            raise

    def _next(self) -> Any:
        if self._sent.follower is not None:
            self._sent.follower.tick()
        self._take_finished()
        self._top_up()
        while (task := self._next_task()) is None:
            if not self._sent.tasks:
                self._raise_end()
            self._wait()
            self._take_finished()
            self._top_up()
        self._sent.given += 1
        del self._sent.tasks[task.number], self._arrived[task.number]
        failure = task.error()
        if failure is None:
            return task.value()
        if self._return_exceptions:
            return failure
        raise failure

    def cancel(self) -> None:
        """Read no more of the sequences. The values of what has been sent still come."""
        self._inputs = None

    def close(self) -> None:
        """Read no more of the sequences, and take what has not begun out of the queues: the iterator ends."""
        self.cancel()
        self._problem = None
        self._arrived.clear()
        self._finalizer()

    def __enter__(self) -> LazyMapIterator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def bar(self) -> Any:
        """The progress bar, with the interface of tqdm's; None without ``progress=True``, or at the end.

        >>> values.bar.set_description("solve, best so far 0.12")  # doctest: +SKIP
        >>> values.bar.write("0.12")  # prints a line above it  # doctest: +SKIP
        """
        return None if self._sent.follower is None else self._sent.follower.shown()

    # ------------------------------------------------------------ sending

    def _limit(self) -> float:
        """Return how many tasks may be under way now."""
        if self._max == 0:
            return float("inf")
        if self._max != "auto":
            return int(self._max)
        engines = max(1, len(self._view) // self._view.ranks)
        if self._seconds is None:
            return 2 * engines
        return engines * max(2, min(MOST, round(AHEAD / max(self._seconds, 1e-9))))

    def _top_up(self) -> None:
        """Draw and send as many items as may be under way."""
        while self._inputs is not None:
            limit = self._limit()
            count = min(limit - self._under_way, READY * limit - len(self._sent.tasks), BATCH)
            if count <= 0:
                return
            parts = self._draw(int(count))
            if parts:
                self._send(parts)

    def _draw(self, count: int) -> list[list[Any]]:
        """Return the next items as they travel; note when there are no more."""
        parts: list[list[Any]] = []
        assert self._inputs is not None
        try:
            while len(parts) < count:
                parts.append(objects.dumps((next(self._inputs), {})))
        except StopIteration:
            self._inputs = None
        except Exception as problem:  # the sequence's own, raised when what came before it has been given
            self._inputs, self._problem = None, problem
        return parts

    def _send(self, parts: list[list[Any]]) -> None:
        tasks = self._view._balance(
            "apply", parts, function=self._function, request=self._request, first=self._count
        )
        self._request = tasks[0].request
        self._count += len(tasks)
        self._under_way += len(tasks)
        for task in tasks:
            self._sent.tasks[task.number] = task
            task.listen(self._sent.note)

    # ------------------------------------------------------------ taking

    def _take_finished(self) -> None:
        """Note which tasks are done by now."""
        finished = self._sent.finished
        while finished:
            task = finished.popleft()
            self._under_way -= 1
            self._sent.arrived.add(task)
            if task.number in self._sent.tasks:
                self._arrived[task.number] = task
            if task.started is not None and task.completed is not None:
                took = max(0.0, task.completed - task.started)
                known = took if self._seconds is None else self._seconds
                self._seconds = known + 0.2 * (took - known)

    def _next_task(self) -> Task | None:
        if self._ordered:
            return self._arrived.get(self._sent.given)
        return next(iter(self._arrived.values()), None)

    def _wait(self) -> None:
        """Wait until a task is done."""
        sent = self._sent
        sent.connection.check_thread()
        if sent.follower is not None:
            sent.follower.wait(sent.changed, lambda: sent.finished, None)
            return
        with sent.changed:
            sent.changed.wait_for(lambda: sent.finished)

    def _raise_end(self) -> None:
        problem, self._problem = self._problem, None
        self._inputs = None
        self._finalizer.detach()
        self._sent.close_bar(complete=problem is None)
        if problem is not None:
            raise problem
        raise StopIteration
