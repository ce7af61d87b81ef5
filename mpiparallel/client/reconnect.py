"""What a client sends once more after it has lost its connection; runs in the I/O thread.

What the controller knows of already it passes over, so everything that is pending goes out again. Only data
that was sent without a copy, and may have changed since, cannot: the results of such tasks are
claimed instead, and what was lost of them fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from mpiparallel import error
from mpiparallel.client.tasks import Request, Task
from mpiparallel.wire.messages import Abort, Balance, Claim, Message, Resend, Signal, Stop, Submit

if TYPE_CHECKING:
    from mpiparallel.client.connection import Connection
    from mpiparallel.client.iothread import IOThread

PARTS = 1000  # balanced tasks in one message
CHANGED = (
    "it was lost with the connection to the controller, and cannot be sent again: its data was sent "
    "without a copy (track=True) and may have changed since"
)

CLAIMED = (
    "this client has only asked for its result, and the controller does not know it any more: it was lost "
    "when a controller or engines died, or is forgotten"
)


def send_again(connection: Connection, thread: IOThread) -> int:
    """Queue all that is pending; return how many requests that is."""
    with connection._lock:
        thread.drop_queue()
        connection._known.clear()
        connection._hub_knows.clear()
        claimed: list[Task] = []
        aborts: dict[str, list[int]] = {}
        groups = [*_direct(connection), *_balanced(connection)]
        requests = {id(tasks[0].request): tasks[0].request for tasks in groups}
        for request in requests.values():
            request.queued = 0
        for open_tasks in groups:
            request = open_tasks[0].request
            if can_repeat(request):
                thread.put(_message(connection, open_tasks), request if request.sent is not None else None)
            else:
                claimed.extend(open_tasks)
            for task in open_tasks:
                task.parts = None  # of a gang: they will come again
                if task.aborting:
                    aborts.setdefault(request.id, []).append(task.number)
        for name, numbers in aborts.items():
            thread.put(Message(Abort(name, numbers)))
        for _, question in list(connection.queries.values()):
            thread.put(Message(question))
    if claimed:
        _claim(connection, thread, claimed)
    return len(requests)


def resend(connection: Connection, thread: IOThread, header: Resend) -> None:
    """Send a request again for these engines, which it has not reached."""
    tasks = connection.pending.get(header.request, {})
    lost = [tasks[engine] for engine in header.engines if engine in tasks]
    if not lost:
        return
    request = lost[0].request
    if can_repeat(request):
        with connection._lock:
            thread.put(_message(connection, lost))
    else:
        fail(connection, lost)


def can_repeat(request: Request) -> bool:
    """Whether a request's data is what it was when it was sent."""
    return not request.exposed


def fail(connection: Connection, tasks: Iterable[Task]) -> None:
    """End tasks that were lost and cannot be sent again."""
    for task in tasks:
        if connection.forget(task):
            why = CLAIMED if task.request.header is None else CHANGED
            task.finish("error", failure=error.EngineError(f"{task.msg_id}: {why}"), received=time.time())


def fail_signals(connection: Connection, reason: str) -> None:
    """Fail questions that nobody wants answered later: signals, and orders to stop."""
    for query, (future, question) in list(connection.queries.items()):
        if isinstance(question, (Signal, Stop)) and connection.queries.pop(query, None) is not None:
            future.set_exception(RuntimeError(f"{reason} It is not known whether this was done."))


def _direct(connection: Connection) -> Iterator[list[Task]]:
    for tasks in list(connection.pending.values()):
        if tasks:
            yield list(tasks.values())


def _balanced(connection: Connection) -> Iterator[list[Task]]:
    """Yield runs of tasks of one request with successive numbers."""
    run: list[Task] = []
    number = 0
    for task in list(connection.balanced.values()):
        if run and (task.request is not run[0].request or task.number != number + 1 or len(run) == PARTS):
            yield run
            run = []
        number = task.number
        run.append(task)
    if run:
        yield run


def _message(connection: Connection, tasks: Sequence[Task]) -> Message:
    """Return the message that asks for `tasks`, of one request, once more."""
    request = tasks[0].request
    header = request.header
    if isinstance(header, Balance):
        function = connection._function_for_hub(request)
    else:
        _, function = connection._place_function(request.frames, [task.engine for task in tasks])
    payload: list[Any] = [*function, *tasks[0].common]
    changes: dict[str, Any] = {"common": len(payload), "function_frames": len(function), "again": True}
    if isinstance(header, Balance):
        changes.update(first=tasks[0].number, parts=[len(task.inputs) for task in tasks])
    else:
        assert isinstance(header, Submit)
        changes["engines"] = [task.engine for task in tasks]
        if header.parts:
            changes["parts"] = [len(task.inputs) for task in tasks]
    for task in tasks:
        payload.extend(task.inputs)
    return Message(msgspec.structs.replace(header, **changes), payload)


def _claim(connection: Connection, thread: IOThread, tasks: list[Task]) -> None:
    """Ask for the results of tasks that cannot be sent again; fail those that nobody knows."""
    by_name = {task.msg_id: task for task in tasks}

    def answered(future: Future[Any]) -> None:
        if future.exception() is not None:  # the connection has ended: so have the tasks
            return
        fail(connection, [by_name[name] for name in future.result()["unknown"] if name in by_name])

    connection._question(lambda query: Claim(query, list(by_name)), answered)
