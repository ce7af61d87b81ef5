"""A map whose tasks the hub places: its chunks are cut, sent and taken in a window that moves over it.

Only so many chunks are under way at once. A map that fits into the window is sent at one go; a longer one is
fed by the caller, who waits for it, or by a thread of its own. Of a chunk that went well and printed nothing
remain its values and a few numbers; its `Task` is made anew when somebody asks for it.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client.asyncresult import FIRST_EXCEPTION
from mpiparallel.client.chunks import Chunks, Kept, Sizes, Tasks
from mpiparallel.client.mapresult import AsyncMapResult
from mpiparallel.client.tally import Tally
from mpiparallel.client.tasks import Request, Task
from mpiparallel.client.view_base import dump_function, name_of
from mpiparallel.wire.frames import nbytes

if TYPE_CHECKING:
    from mpiparallel.client.balanced import LoadBalancedView

log = logging.getLogger("mpiparallel")

WINDOW = 10_000  # chunks that are sent and not answered
WINDOW_BYTES = 64 << 20  # what they hold
FIRST_BATCH, BATCH = 32, 512  # chunks in the first message, and in a later one
BATCH_BYTES = 1 << 20
KEEP = 1_000  # up to this many chunks a map keeps its Tasks, and so what rc.results and rc.metadata show


class BalancedMapResult(AsyncMapResult):
    """The result of a balanced map; made by `LoadBalancedView.map`.

    Parameters
    ----------
    view
        Whose flags the tasks get.
    f, chunks
        What is to be called, on what.
    ordered, return_exceptions, label
        As for `LoadBalancedView.map`.
    """

    def __init__(
        self,
        view: LoadBalancedView,
        f: Any,
        chunks: Chunks,
        *,
        ordered: bool,
        return_exceptions: bool,
        label: str | None,
    ) -> None:
        self._view, self._chunks, self._gang = view._snapshot(), chunks, view.ranks > 1
        self._lock = threading.Lock()  # over what is absorbed; held by one user's thread at a time
        self._function = dump_function(f)
        self._request: Request | None = None
        self._next = 0  # the first chunk that is not sent
        self._known = 0  # the first that has no Task yet: a moment later
        self._batch = FIRST_BATCH
        self._live: dict[int, Task] = {}  # sent, and not absorbed or worth keeping
        self._weights: dict[int, int] = {}  # bytes of what is sent and not answered
        self._weight = 0
        self._finished: deque[int] = deque()  # chunks that are done and not absorbed
        self._under_way = 0
        self._counted = Tally()
        self._results: list[Any] = [None] * chunks.items
        self._absorbed = bytearray(len(chunks))
        self._order = array("L")  # chunks in the order of their arrival
        self._failed: dict[int, Exception] = {}
        self._kept = Kept(len(chunks)) if len(chunks) > KEEP else None
        self._stopped: Exception | None = None  # why the chunks that are not sent never will be
        self._watching = 0  # threads that wait for less than all
        self._blocking = False
        super().__init__(
            view.client, (), name_of(f), ordered=ordered, return_exceptions=return_exceptions, sizes=(),
        )  # fmt: skip
        # A rank that went on to the next item by itself would meet its peers in the wrong collectives.
        self._options = {"return_exceptions": bool(return_exceptions) and not self._gang}
        self._label = label
        self._tasks = Tasks(len(chunks), self._task)  # type: ignore[assignment]
        self._sizes = Sizes(chunks)
        self._left = len(chunks)

    _has_parts = False

    def _follow(self) -> None:
        """Listen to no task: they are made as they are sent."""

    # ------------------------------------------------------------ sending

    def feed_and_get(self) -> Any:
        """Send the map from this thread and return its value."""
        self._blocking = True
        try:
            self._feed()
            return self.get()
        except BaseException as problem:
            if not self.done():
                self._give_up(problem)
            raise

    def feed_in_background(self) -> None:
        """Send the map; in a thread, as far as it does not fit into the window."""
        try:
            self._send_what_fits()
        except BaseException as problem:
            self._give_up(problem)
            raise
        if self._next == len(self._chunks):
            return
        self._client._feeding.add(self)
        threading.Thread(target=self._feed_in_thread, name="mpiparallel-map", daemon=True).start()

    def _feed_in_thread(self) -> None:
        try:
            self._feed()
        except Exception as problem:  # whatever it is belongs to whoever asks for the result
            self._stop_sending(problem)

    def _feed(self) -> None:
        """Send chunks as the window has room for them; return when all are sent."""
        self._send_what_fits()
        while self._next < len(self._chunks) and self._stopped is None:
            super()._wait_until(self._has_room, None)
            self._absorb()
            self._send_what_fits()

    def _wait_until(self, condition: Callable[[], Any], timeout: float | None) -> bool:
        if condition == self.done:
            return super()._wait_until(condition, timeout)
        with self._lock:
            self._watching += 1
        try:
            return super()._wait_until(condition, timeout)
        finally:
            with self._lock:
                self._watching -= 1

    def _has_room(self) -> bool:
        """Whether the window has room for a batch that is worth a message."""
        if self._stopped is not None or not self._under_way:
            return True
        return self._under_way <= WINDOW - BATCH and self._weight <= WINDOW_BYTES // 2

    def _send_what_fits(self) -> None:
        while (
            self._next < len(self._chunks)
            and self._stopped is None
            and self._under_way + self._batch <= WINDOW
            and self._weight < WINDOW_BYTES
        ):
            self._send_batch()

    def _send_batch(self) -> None:
        """Send the next chunks, as many as make a good message."""
        first, size = self._next, 0
        parts: list[list[Any]] = []
        weights: list[int] = []
        end = min(first + self._batch, len(self._chunks))
        while first + len(parts) < end and size < BATCH_BYTES:
            part = self._chunks.frames(first + len(parts))
            weight = sum(map(nbytes, part))
            parts.append(part)
            weights.append(weight)
            size += weight
        self._weights.update(enumerate(weights, first))
        if not self._count_as_sent(first, len(parts), size):
            return
        try:
            tasks = self._view._balance(
                "map", parts, function=self._function, request=self._request, first=first,
                options=self._options, label=self._label, block=self._blocking,
            )  # fmt: skip
        except BaseException:
            self._count_as_sent(first, -len(parts), -size)
            raise
        self._request = tasks[0].request
        self._batch = min(2 * self._batch, BATCH)
        for index, task in enumerate(tasks, first):
            self._live[index] = task
            task.listen(self._chunk_done)
        with self._condition:
            self._known = first + len(tasks)
            if self._watching:
                self._condition.notify_all()
        if self._stopped is not None:  # just now, by another thread
            self._client._connection.abort(tasks)

    def _count_as_sent(self, first: int, count: int, size: int) -> bool:
        """Note that chunks are under way, or (negative) are not after all; False if none are to be sent."""
        with self._condition:
            if self._stopped is not None and count > 0:
                return False
            self._next = first + max(0, count)
            self._under_way += count
            self._weight += size
            return True

    def _chunk_done(self, task: Task) -> None:
        """Count a chunk that is done. Called by the I/O thread."""
        index = task.number
        first, last = self._chunks.bounds(index)
        with self._condition:
            self._finished.append(index)
            self._left -= 1
            self._under_way -= 1
            self._counted.add(task, last - first)
            self._weight -= self._weights.pop(index, 0)
            if self._left:
                # Nobody is woken for nothing: that would cost more than the task itself.
                if self._watching or (self._next < len(self._chunks) and self._has_room()):
                    self._condition.notify_all()
                return
        self.set_result(None)

    # ------------------------------------------------------------ ending early

    def _stop_sending(self, problem: Exception) -> None:
        """Let the chunks that are not sent end with `problem`."""
        with self._condition:
            if self._stopped is not None or self._next == len(self._chunks):
                return
            self._stopped = problem
            self._left -= len(self._chunks) - self._next
            self._condition.notify_all()
            done = not self._left
        if done:
            self.set_result(None)

    def _give_up(self, problem: BaseException) -> None:
        """Take out of the queues what has not begun; whoever waited for it does not any more."""
        unsent = len(self._chunks) - self._next
        self._stop_sending(error.TaskAborted("the map was broken off before this was sent"))
        under_way = [task for task in self._sent_tasks() if not task.done]
        if under_way and self._client._connection.gone is None:
            self._client._connection.abort(under_way)
        if isinstance(problem, KeyboardInterrupt):
            log.warning(
                "the map was interrupted: %d of %d tasks were done; %d are taken out of the queues where "
                "they have not begun, %d were not sent",
                len(self._chunks) - unsent - len(under_way), len(self._chunks), len(under_way), unsent,
            )  # fmt: skip

    def _send_no_more(self) -> None:
        self._stop_sending(error.TaskAborted("the map was aborted before this was sent"))

    def _sent_tasks(self) -> list[Task]:
        return list(self._live.values())

    # ------------------------------------------------------------ taking in

    def _absorb(self) -> None:
        """Take in the values of chunks that are done. In a user's thread, as values are unpickled."""
        with self._lock:
            while self._finished:
                self._absorb_chunk(self._finished.popleft())

    def _absorb_chunk(self, index: int) -> None:
        task = self._live[index]
        first, last = self._chunks.bounds(index)
        failure = task.error()
        if failure is not None:
            self._failed[index] = failure
            self._results[first:last] = [failure] * (last - first)
        elif self._gang:
            self._results[first:last] = [list(values) for values in zip(*task.value(), strict=True)]
        else:
            self._results[first:last] = task.value()
            if self._return_exceptions:
                self._counted.add_errors(self._results[first:last])
        if self._kept is not None and failure is None and not task.n_events:
            self._kept.note(index, task)
            del self._live[index]
        self._absorbed[index] = 1
        self._order.append(index)

    def _task(self, index: int) -> Task:
        """Return the task of a chunk, as it was."""
        task = self._live.get(index)
        if task is not None:
            return task
        if self._kept is not None and self._request is not None and self._absorbed[index]:
            first, last = self._chunks.bounds(index)
            values = self._results[first:last]
            if self._gang:
                values = [list(column) for column in zip(*values, strict=True)]
            return self._kept.task(self._request, index, values, self._client._connection.engines)
        request = self._request or Request("unsent", "map", time.time(), self._label, None)
        task = Task(request, index)
        if self._stopped is not None:
            task.finish("error", failure=self._stopped)
        return task

    # ------------------------------------------------------------ results

    def _values(self) -> list[Any]:
        self._absorb()
        return self._results

    def _all_failures(self) -> list[Exception]:
        self._absorb()
        failures = [self._failed[index] for index in sorted(self._failed)]
        return [*failures, self._stopped] if self._stopped is not None else failures

    def _error(self, tasks: Sequence[Task]) -> Exception | None:
        failures = self._all_failures()
        if not failures:
            return None
        if all(isinstance(failure, error.TaskAborted) for failure in failures):
            return failures[0]
        try:
            error.collect_exceptions(failures, self._fname)
        except error.CompositeError as composite:
            return composite
        raise AssertionError("failures, but no error")  # pragma: no cover

    def _make_result(self) -> Any:
        items = self._values()
        if self._stopped is not None:
            first, _ = self._chunks.bounds(self._next)
            return items[:first] + [self._stopped] * (len(items) - first)
        return items if self._blocking else list(items)  # nobody else has this result

    def successful(self) -> bool:
        if not self.done():
            raise RuntimeError("Cannot check successful() if not done.")
        return not self._all_failures()

    def _is_enough(self, return_when: str) -> bool:
        if return_when == FIRST_EXCEPTION:
            return bool(self._counted.failed) or self.done()
        return super()._is_enough(return_when)

    def __repr__(self) -> str:
        state = "pending"
        if self.done():
            state = "failed" if self._all_failures() else "finished"
        return f"<AsyncMapResult({self._fname}): {state}>"

    def _in_order(self) -> Iterator[Any]:
        for index in range(len(self._chunks)):
            self._wait_for_chunk(lambda index=index: self._absorbed[index])
            yield from self._chunk_items(index)

    def _as_they_come(self) -> Iterator[Any]:
        for count in range(len(self._chunks)):
            self._wait_for_chunk(lambda count=count: len(self._order) > count)
            # What was never sent comes last.
            yield from self._chunk_items(self._order[count] if count < len(self._order) else self._next)

    def _wait_for_chunk(self, here: Any) -> None:
        while not here():
            self._wait_until(lambda: self._finished or here() or self.done(), None)
            self._absorb()
            if self.done() and not self._finished:
                return

    def _chunk_items(self, index: int) -> Iterator[Any]:
        failure = self._failed.get(index)
        if not self._absorbed[index]:
            failure = self._stopped
        first, last = self._chunks.bounds(index)
        if failure is None:
            return iter(self._results[first:last])
        if not self._return_exceptions:
            raise failure
        return iter([failure] * (last - first))

    # ------------------------------------------------------------ what is known of it

    def __len__(self) -> int:
        return self._chunks.items

    @property
    def progress(self) -> int:
        """How many items are done."""
        return self._counted.done

    def _tally(self) -> Tally:
        if self._return_exceptions:
            self._absorb()  # errors are among the values
        return self._counted.among(self._view._present())

    @property
    def msg_ids(self) -> list[str]:
        """The ids of the tasks that have been sent."""
        request = self._request
        return [] if request is None else [f"{request.id}_{index}" for index in range(self._next)]

    def _when_sent(self, timeout: float | None = None) -> Sequence[Task]:
        known = self._wait_until(
            lambda: self._known == len(self._chunks) or self._stopped is not None, timeout
        )
        if not known:
            raise TimeoutError("Still waiting to be sent")
        return self._tasks

    @property
    def elapsed(self) -> float:
        """Seconds since the first tasks were sent, until now or until all was done."""
        if self._request is None:
            return 0.0
        if not self.done():
            return time.time() - self._request.submitted
        self._absorb()
        last = max((task.received or 0.0 for task in list(self._live.values())), default=0.0)
        if self._kept is not None:
            last = max(last, self._kept.last)
        return max(0.0, last - self._request.submitted)
