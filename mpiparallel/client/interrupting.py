"""Interrupt engines, and pass a Ctrl-C on to those that run what the user waits for.

Called by the client and by blocking calls that own what they have started: ``execute`` and ``run``.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from mpiparallel.error import RemoteError, TaskAborted
from mpiparallel.ranges import engines as engines_text
from mpiparallel.wire.messages import Signal, Where
from mpiparallel.wire.waits import Place

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult
    from mpiparallel.client.connection import Connection
    from mpiparallel.client.tasks import Task

PATIENCE = 30.0  # seconds for the controller to pass an interrupt on
ANSWER = 0.3  # ... for engines to say what they run, before one is interrupted on suspicion
ENDING = 2.0  # ... for interrupted tasks to end

log = logging.getLogger("mpiparallel.client")


class Held:
    """A context in which a Ctrl-C is only noted; a second one is raised.

    Attributes
    ----------
    came : bool
        Whether there was one.
    """

    def __init__(self) -> None:
        self.came = False
        self._usual: Any = None

    def __enter__(self) -> Held:
        usual = signal.getsignal(signal.SIGINT)
        if callable(usual) and threading.current_thread() is threading.main_thread():
            self._usual = usual
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._usual is not None:
            signal.signal(signal.SIGINT, self._usual)

    def _note(self, number: int, frame: Any) -> None:
        if self.came:
            self._usual(number, frame)
        self.came = True


@contextmanager
def deferred() -> Iterator[None]:
    """Raise KeyboardInterrupt for a Ctrl-C at the end of the context only; for a second one at once."""
    with Held() as held:
        yield
    if held.came:
        signal.raise_signal(signal.SIGINT)


def interrupt(
    connection: Connection, engines: Sequence[int], timeout: float = PATIENCE, number: int = signal.SIGINT
) -> None:
    """Interrupt what runs on `engines`; return when the controller has passed that on."""
    targets = list(engines)
    if targets:
        connection.ask(lambda query: Signal(targets, int(number), query)).result(timeout)


def get(result: AsyncResult) -> Any:
    """Return ``result.get()``; a Ctrl-C meanwhile ends the tasks of `result` on their engines, too.

    What has not begun is aborted, what runs is interrupted. KeyboardInterrupt is raised when all have ended,
    so that output and errors are complete, or after two seconds; what is left then is named by a warning. The
    exception has `result` as an attribute of that name.
    """
    try:
        return result.get()
    except KeyboardInterrupt as interrupted:
        interrupted.result = result  # type: ignore[attr-defined]
        left = end(result, ENDING)
        if left:
            who = engines_text(left)
            log.warning("%s: interrupted, but not done; client.where() shows what they do", who)
        raise


def end(result: AsyncResult, patience: float, number: int = signal.SIGINT) -> list[int]:
    """End the tasks of `result`: abort those that have not begun, and send a signal to those that run.

    A Ctrl-C meanwhile sends the signal to those that are left, and ends the waiting.

    Parameters
    ----------
    result
        Whose tasks.
    patience
        Seconds for the tasks to end.
    number
        Of the signal.

    Returns
    -------
    list of int
        The engines whose tasks have not ended.
    """
    connection = result._client._connection
    deadline = time.monotonic() + patience
    try:
        left = _left(result)
        if not left or connection.gone is not None or connection.lost is not None:
            return []
        connection.abort(left)
        interrupt(connection, _running(connection, left), ENDING, number)
        result._wait_until(result.done, max(0.0, deadline - time.monotonic()))
    except KeyboardInterrupt:
        # Who presses twice does not want to wait, but wants it to end.
        remaining = [task.engine for task in _left(result)]
        if remaining and connection.gone is None and connection.lost is None:
            connection.ask(lambda query: Signal(remaining, int(number), query))
    return [task.engine for task in _left(result)]


def how_it_ended(result: AsyncResult) -> str:
    """Return what became of an interrupted cell: ``engines 0-2: interrupted; engine 3: finished``."""
    ends: dict[str, list[int]] = {}
    for task in result._tasks:
        ends.setdefault(_end_of(task), []).append(task.engine)
    return "; ".join(f"{engines_text(engines)}: {end}" for end, engines in ends.items())


def _end_of(task: Task) -> str:
    if not task.done:
        return "still running"
    failure = task.error()
    if failure is None:
        return "finished"
    if isinstance(failure, TaskAborted):
        return "not begun"
    name = failure.ename if isinstance(failure, RemoteError) else type(failure).__name__
    # Who waited in MPI for one that was interrupted was so as well.
    return "interrupted" if name in ("KeyboardInterrupt", "PeerFailed") else name


def _left(result: AsyncResult) -> list[Task]:
    return [task for task in result._tasks if not task.done]


def _running(connection: Connection, tasks: Sequence[Task]) -> list[int]:
    """Return the engines that run one of `tasks` now.

    One whose turn had not come is aborted by the time that its engine answers: what runs there instead is
    another's. Engines that do not answer at once are taken to be busy with these tasks.
    """
    requests = {task.engine: task.request.id for task in tasks}
    engines = list(requests)
    question = connection.ask(lambda query: Where(engines, query))
    try:
        places = msgspec.convert(question.result(ANSWER), list[Place])
    except TimeoutError:
        return [task.engine for task in tasks if not task.done]
    others = {
        place.engine
        for place in places
        if place.state == "idle" or (place.request and place.request != requests.get(place.engine))
    }
    return [task.engine for task in tasks if not task.done and task.engine not in others]
