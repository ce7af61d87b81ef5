"""Executors as of `concurrent.futures` (PEP 3148), whose calls run on engines."""

from __future__ import annotations

import concurrent.futures
import copy
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.tasks import Task
from mpiparallel.wire.messages import Ask

ANSWER = 5.0  # seconds that the hub may take to say that it has read a cancellation
GRACE = 0.2  # seconds that an engine may take to give back a call that waits there


class CallResult(AsyncResult):
    """The future of one call; unlike other AsyncResults it can be cancelled."""

    def _begin(self) -> None:
        self._cancelling = False  # whether cancel() has asked for the call to be taken back

    def _task_done(self, task: Task) -> None:
        if not self._cancelling:
            self._count()
            return
        with self._condition:
            self._left -= 1
            if self._left:
                self._condition.notify_all()
                return
        if all(task.status == "aborted" for task in self._tasks):
            super(AsyncResult, self).cancel()
            self.set_running_or_notify_cancel()
        else:
            self.set_result(None)

    def cancel(self) -> bool:
        """Take the call out of the queue if it has not begun, and return whether that was so.

        If it waits in the controller that is known at once. If it has been handed to an engine already, that
        one is given a moment to answer; in the thread that receives results nothing can be waited for.
        """
        if self.done():
            return self.cancelled()
        connection = self._client._connection
        self._cancelling = True
        connection.abort(self._tasks)
        if not connection._io.is_current():
            # The hub answers in order: a call that waits there has been given back before this.
            connection.ask(lambda query: Ask(query, "queue_status")).result(ANSWER)
            with self._condition:
                self._condition.wait_for(self.done, GRACE)
        return self.cancelled()

    def get(self, *args: Any, **options: Any) -> Any:
        if self._wait_until(self.done, args[0] if args else options.get("timeout")) and self.cancelled():
            raise concurrent.futures.CancelledError
        return super().get(*args, **options)

    def exception(self, timeout: float | None = None) -> Exception | None:
        if self._wait_until(self.done, timeout) and self.cancelled():
            raise concurrent.futures.CancelledError
        return super().exception(timeout)


class ViewExecutor(concurrent.futures.Executor):
    """An executor that runs its calls on engines.

    >>> with rc.executor() as executor:  # doctest: +SKIP
    ...     for future in concurrent.futures.as_completed(executor.submit(pow, 2, n) for n in range(9)):
    ...         print(future.result())

    Parameters
    ----------
    view
        Whose flags the calls get. The executor keeps a view of its own: flags that are set on `view` later
        do not count. With a direct view each call runs on all its engines and gives the list of values.
    """

    def __init__(self, view: Any) -> None:
        self.view = copy.copy(view).set_flags(block=False)
        self._shut = False
        self._lock = threading.Lock()
        self._calls: weakref.WeakSet[CallResult] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.view!r}>"

    @property
    def _max_workers(self) -> int:
        """How many engines there are; libraries that take executors look at this."""
        return len(self.view)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> CallResult:
        """Call ``fn(*args, **kwargs)`` on an engine and return the future of its value."""
        with self._lock:
            self._check()
            call: CallResult = self.view._apply(fn, args, kwargs, block=False, kind=CallResult)
            self._calls.add(call)
        return call

    def map(
        self, fn: Any, *iterables: Any, timeout: float | None = None, chunksize: int = 1, **options: Any
    ) -> Iterator[Any]:
        """Return an iterator over the values of `fn`, as ``imap`` of the view; `chunksize` means nothing."""
        if timeout is not None:
            warnings.warn("ViewExecutor.map takes no notice of its timeout", stacklevel=2)
        self._check()
        return self.view.imap(fn, *iterables, **options)

    def _check(self) -> None:
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait for those there are. The engines go on."""
        with self._lock:
            self._shut = True
            calls = [call for call in self._calls if not call.done()]
        if cancel_futures:
            for call in calls:
                call._cancelling = True
            self.view.client._connection.abort([task for call in calls for task in call._tasks])
        if wait:
            concurrent.futures.wait(calls)
