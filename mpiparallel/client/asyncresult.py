"""What a request returns: a future of the results of its tasks.

Made by the views. The I/O thread counts the tasks that are done and wakes whoever waits; values are unpickled
in the thread that asks for them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client import display, progress, resultcards
from mpiparallel.client.described import Described
from mpiparallel.client.lightfuture import LightFuture
from mpiparallel.client.looks import Card, Shown
from mpiparallel.client.tasks import Task

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

ALL_COMPLETED = concurrent.futures.ALL_COMPLETED
FIRST_COMPLETED = concurrent.futures.FIRST_COMPLETED
FIRST_EXCEPTION = concurrent.futures.FIRST_EXCEPTION


class AsyncResult(Shown, Described, LightFuture):
    """The results of one request, perhaps still to come; iterate over it, wait for it or await it.

    Everything in the tasks' metadata is an attribute and an item: ``ar.stdout``, ``ar["engine_id"]``.
    """

    _follower: progress.Follower | None = None  # the bar that is drawn while somebody waits

    def __init__(
        self,
        client: Client,
        tasks: Sequence[Task],
        fname: str = "unknown",
        *,
        single: bool = False,
        owner: bool = True,
        return_exceptions: bool = False,
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._tasks = list(tasks)
        self._fname = fname
        self._single_result = single
        self._owner = owner
        self._return_exceptions = return_exceptions
        self._sizes: Sequence[int] = (1,) * len(self._tasks) if sizes is None else list(sizes)
        self._left = len(self._tasks)
        self._cached: list[Any] | None = None
        self._children: list[AsyncResult] | None = None  # one for each task, once asked for
        self._begin()
        self._follow()

    def _begin(self) -> None:
        self._start()  # what was sent cannot be cancelled, only aborted

    def _follow(self) -> None:
        for task in self._tasks:
            task.listen(self._task_done)
        if not self._tasks:
            self.set_result(None)

    def _task_done(self, task: Task) -> None:
        self._count()  # the value itself is made when it is asked for

    def __repr__(self) -> str:
        state = "finished"
        if not self.done():
            state = "pending"
        elif any(task.status != "ok" for task in self._tasks):
            state = "failed"
        return f"<{type(self).__name__}({self._fname}): {state}>"

    def _card(self) -> Card:
        return resultcards.result_card(self)

    def __await__(self) -> Any:
        return asyncio.wrap_future(self).__await__()

    # ------------------------------------------------------------ waiting

    def _wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; negative or no timeout: for as long as it takes."""
        if condition():
            return True
        self._client._connection.check_thread()
        patience = None if timeout is None or timeout < 0 else timeout
        if self._follower is not None:
            return self._follower.wait(self._condition, condition, patience)
        with self._condition:
            return self._condition.wait_for(condition, patience)

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait until all is done and return whether it is.

        With `return_when` (``FIRST_COMPLETED``, ``FIRST_EXCEPTION`` or ``ALL_COMPLETED``) return two sets of
        single AsyncResults instead: those that are done and those that are not.
        """
        if return_when is None:
            return self._wait_until(self.done, timeout)
        self._wait_until(lambda: self._is_enough(return_when), timeout)
        if len(self._tasks) == 1:
            return ({self}, set()) if self.done() else (set(), {self})
        if self._children is None:
            self._children = self.split()
        finished = {child for child in self._children if child.done()}
        return finished, set(self._children) - finished

    def _is_enough(self, return_when: str) -> bool:
        """Whether as much is done as `return_when` says."""
        if return_when == FIRST_COMPLETED:
            return self._left < len(self._tasks) or self.done()
        if return_when == FIRST_EXCEPTION:
            return self.done() or any(task.done and task.status != "ok" for task in self._tasks)
        if return_when == ALL_COMPLETED:
            return self.done()
        known = f"{FIRST_COMPLETED}, {FIRST_EXCEPTION} or {ALL_COMPLETED}"
        raise ValueError(f"return_when={return_when!r}: expected {known}")

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait until all output has come; a task's output comes before its result."""
        return self._wait_until(self.done, timeout)

    def wait_for_send(self, timeout: float | None = -1) -> None:
        """Wait until the data is sent and may be changed again; needs ``track=True``.

        Raises
        ------
        TimeoutError
            If that takes longer than `timeout` seconds.
        """
        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        for task in self._when_sent(_rest(deadline)):
            request = task.request
            if request.sent is None:
                continue
            if not request.sent.wait(_rest(deadline)):
                raise TimeoutError("Still waiting to be sent")
            for tracker in request.trackers:
                progress.wait_for_tracker(tracker, _rest(deadline))

    @property
    def sent(self) -> bool:
        """Whether the data may be changed: it is sent or, without ``track=True``, was copied."""
        return all(
            task.request.sent is None
            or (task.request.sent.is_set() and all(tracker.done for tracker in task.request.trackers))
            for task in self._tasks
        )

    def ready(self) -> bool:
        """Return whether all is done."""
        return self.done()

    def successful(self) -> bool:
        """Return whether all went well.

        Raises
        ------
        RuntimeError
            If it is not done.
        """
        if not self.done():
            raise RuntimeError("Cannot check successful() if not done.")
        return all(task.error() is None for task in self._tasks)

    # ------------------------------------------------------------ results

    def _values(self) -> list[Any]:
        """Return values and exceptions of all tasks, which are done, in target order."""
        if self._cached is None:
            failures = [task.error() for task in self._tasks]
            self._cached = [
                task.value() if failure is None else failure
                for task, failure in zip(self._tasks, failures, strict=True)
            ]
        return self._cached

    def _error(self, tasks: Sequence[Task]) -> Exception | None:
        """Return the one exception that stands for the failures among `tasks`, which are done."""
        failures = [failure for failure in (task.error() for task in tasks) if failure is not None]
        if not failures:
            return None
        if self._single_result or all(isinstance(failure, error.TaskAborted) for failure in failures):
            return failures[0]
        try:
            error.collect_exceptions(failures, self._fname)
        except error.CompositeError as composite:
            return composite
        raise AssertionError("failures, but no error")  # pragma: no cover

    def _make_result(self) -> Any:
        values = self._values()
        return values[0] if self._single_result else list(values)

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool | None = None,
        return_when: str | None = None,
    ) -> Any:
        """Return the result when it has come, or raise the error that came instead.

        Parameters
        ----------
        timeout
            Seconds to wait; None or negative: for ever.
        return_exceptions
            Return errors in the places of results instead of raising.
        return_when
            ``FIRST_EXCEPTION``: raise as soon as one task has failed.

        Raises
        ------
        TimeoutError
            If it has not come in time.
        """
        if return_when == FIRST_COMPLETED:
            warnings.warn(
                "get(return_when=FIRST_COMPLETED) waits for all: use wait(return_when=FIRST_COMPLETED)",
                stacklevel=2,
            )
        elif return_when == FIRST_EXCEPTION:
            self.wait(timeout, FIRST_EXCEPTION)
            failed = self._error([task for task in self._tasks if task.done])
            if failed is not None and not (
                self._return_exceptions if return_exceptions is None else return_exceptions
            ):
                raise failed
        if not self._wait_until(self.done, timeout):
            raise TimeoutError("Result not ready.")
        if self._single_result and self._tasks[0].error() is None:  # what many short tasks are
            return self._tasks[0].value()
        if not (self._return_exceptions if return_exceptions is None else return_exceptions):
            failed = self._error(self._tasks)
            if failed is not None:
                raise failed
        return self._make_result()

    def result(self, timeout: float | None = None) -> Any:
        """Return the result; as `get`."""
        return self.get(timeout)

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Return the error, or None if all went well."""
        if not self._wait_until(self.done, timeout):
            raise TimeoutError("Result not ready.")
        return None if self._return_exceptions else self._error(self._tasks)

    @property
    def r(self) -> Any:
        """The result; waits for it."""
        return self.get()

    def get_dict(self, timeout: float | None = -1) -> dict[int, Any]:
        """Return the results by engine.

        Raises
        ------
        ValueError
            If two of the tasks ran on one engine.
        """
        results = self.get(timeout)  # first: who runs a balanced task is known when it has ended
        engines = [task.engine for task in self._tasks]
        if len(set(engines)) < len(engines):
            twice = next(engine for engine in engines if engines.count(engine) > 1)
            raise ValueError(f"Cannot build dict, {engines.count(twice)} jobs ran on engine #{twice}")
        return dict(zip(engines, [results] if self._single_result else results, strict=True))

    @property
    def result_dict(self) -> dict[int, Any]:
        """The results by engine; waits for them."""
        return self.get_dict()

    def __iter__(self) -> Iterator[Any]:
        if self._single_result:
            raise TypeError("AsyncResults with a single result are not iterable.")
        return self._iterate()

    def _iterate(self) -> Iterator[Any]:
        for task in self._tasks:
            yield self._one(task)

    def _one(self, task: Task) -> Any:
        """Wait for one task; return its value or raise its error."""
        self._wait_until(lambda: task.done, None)
        failure = task.error()
        if failure is None:
            return task.value()
        if self._return_exceptions:
            return failure
        raise failure if self._single_result else self._error([task]) or failure

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            found = [task.metadata[key] for task in self._tasks]
            return found[0] if self._single_result else found
        if not isinstance(key, (int, slice)):
            raise TypeError(f"Invalid key type {type(key)!r}, must be 'int','slice', or 'str'")
        if not self.done():
            raise TimeoutError("Result not ready.")
        chosen = self._tasks[key] if isinstance(key, slice) else [self._tasks[key]]
        failed = self._error(chosen)
        if failed is not None and not self._return_exceptions:
            raise failed
        return self.get(0, return_exceptions=True)[key]

    # ------------------------------------------------------------ jobs

    def abort(self) -> None:
        """Take the tasks out of their engines' queues where they have not begun.

        Raises
        ------
        RuntimeError
            If all is done.
        """
        if self.done():
            raise RuntimeError("Can't abort, I am already done!")
        self._client.abort(self)

    def _sent_tasks(self) -> list[Task]:
        return list(self._tasks)

    def _send_no_more(self) -> None:
        """All is sent already."""

    def split(self) -> list[AsyncResult]:
        """Return one AsyncResult for each task; of a long map, when all of it is sent."""
        return [
            AsyncResult(self._client, [task], self._fname, single=True, owner=False, sizes=[size])
            for task, size in zip(self._when_sent(), self._sizes, strict=True)
        ]

    @classmethod
    def join(cls, *results: AsyncResult) -> AsyncResult:
        """Return one AsyncResult of all tasks of `results`; of a long map, when all of it is sent."""
        if not results:
            raise ValueError("join needs at least one AsyncResult")
        tasks = [task for result in results for task in result._when_sent()]
        sizes = [size for result in results for size in result._sizes]
        names = sorted({result._fname for result in results})
        return AsyncResult(results[0]._client, tasks, ", ".join(names), sizes=sizes, owner=False)

    @property
    def msg_ids(self) -> list[str]:
        """The ids of the tasks."""
        return [task.msg_id for task in self._tasks]

    def _when_sent(self, timeout: float | None = None) -> Sequence[Task]:
        """Return all tasks, when all are sent; raise TimeoutError if that takes too long."""
        return self._tasks

    @property
    def owner(self) -> bool:
        """Whether the results belong to this object."""
        return self._owner

    # ------------------------------------------------------------ showing

    def wait_interactive(
        self,
        interval: float = 0.1,
        timeout: float | None = -1,
        widget: bool | None = None,
        return_when: str = ALL_COMPLETED,
    ) -> None:
        """Wait, with a progress bar: a widget in a notebook, text in a terminal, lines in a log.

        It says how much is done and at which rate, what failed, and what each engine has done or which are
        not done. It moves every `interval` seconds; `return_when` is as for `wait`.
        """
        progress.wait_interactive(self, interval, timeout, widget, return_when)

    def stream_output(self, fold: bool | None = None) -> AbstractContextManager[None]:
        """Return a context in which output is shown while it comes.

        What several engines say in the same way is shown once, labelled ``[stdout:0-63]``, if `fold` is true;
        None: in notebooks and terminals, unless ``MPIPARALLEL_FOLD`` is ``0``.
        """
        return display.stream_output(self, fold)

    def display_outputs(
        self, groupby: str = "type", result_only: bool = False, fold: bool | None = None
    ) -> None:
        """Show what was printed and displayed, grouped by ``"type"``, ``"engine"`` or ``"order"``.

        `fold` is as in `stream_output`.
        """
        self._check_done()
        display.display_outputs(self, groupby, result_only, fold)


def _rest(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
