"""What the client does with each message that arrives; runs in the I/O thread."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mpiparallel import error, ranges
from mpiparallel.client import reconnect
from mpiparallel.client.looks import duration
from mpiparallel.client.tasks import Task
from mpiparallel.wire.messages import (
    NOBODY,
    Answer,
    Consumed,
    EnginesChanged,
    Goodbye,
    Heartbeat,
    JobEnds,
    Lacks,
    Message,
    Notice,
    Output,
    Received,
    Refused,
    Resend,
    Result,
    Supply,
    Welcome,
    msg_id,
)

if TYPE_CHECKING:
    from mpiparallel.client.connection import Connection
    from mpiparallel.client.iothread import IOThread

log = logging.getLogger("mpiparallel")

STRANGER = "from a peer that has not said Hello"  # how the hub's refusals to those it does not know end
SAME_END = 10.0  # seconds by which two announcements of one end may differ
MAX_WARNED = 1000
DEPARTED = 10_000  # engines whose end is remembered


def receive(connection: Connection, thread: IOThread, messages: list[Message]) -> str | None:
    """Handle `messages`; return why the controller ended the connection, if it did."""
    consumed: dict[int, int] = {}
    results = 0
    gang: Task | None = None  # of which the last Result was a part
    reason = None
    for header, payload in messages:
        if isinstance(header, Result):
            results += 1
            gang = _result(connection, header, payload)
        elif isinstance(header, Output):
            if not _output(connection, header, payload):
                consumed[header.engine] = consumed.get(header.engine, 0) + header.size
        elif isinstance(header, EnginesChanged):
            _engines_changed(connection, header)
        elif isinstance(header, Answer):
            asked = connection.queries.pop(header.query, None)
            if asked is not None:
                _answer(asked[0], header)
        elif isinstance(header, Notice):
            _notice(connection, header)
        elif isinstance(header, JobEnds):
            _job_ends(connection, header)
        elif isinstance(header, Lacks):
            thread.send(
                Message(Supply(header.engine, header.function), _function(connection, header.function))
            )
        elif isinstance(header, Heartbeat):
            if header.echo:
                thread.send(Message(Heartbeat()))
        elif isinstance(header, Welcome):
            _welcome(connection, thread, header)
        elif isinstance(header, Refused):
            reason = _refused(connection, thread, header) or reason
        elif isinstance(header, Resend):
            reconnect.resend(connection, thread, header)
        elif isinstance(header, Goodbye):
            why = f": {header.reason}" if header.reason else ""
            reason = f"The controller is gone{why}. Connections have been closed."
    if results:
        _acknowledge(thread, results, gang)
    for engine, size in consumed.items():
        if size:
            thread.send(Message(Consumed(engine, size)))
    return reason


def _acknowledge(thread: IOThread, results: int, gang: Task | None) -> None:
    """Say how many Results have been taken: those of a gang when all have come, as they may be lost here."""
    total = thread.unacknowledged + results
    thread.unacknowledged = len(gang.parts) if gang is not None and gang.parts and not gang.done else 0
    if total > thread.unacknowledged:
        thread.send(Message(Received(total - thread.unacknowledged)))


def _result(connection: Connection, header: Result, payload: Any) -> Task | None:
    """Take a Result; return the gang's task that it is a part of."""
    task = connection.balanced.get(header.request)
    if task is not None:
        _balanced_result(connection, task, header, payload)
        return task
    tasks = connection.pending.get(header.request)
    task = tasks.pop(header.engine, None) if tasks is not None else None
    if not tasks:
        connection.pending.pop(header.request, None)
    if task is not None:
        task.finish(header.status, payload, header.failure, header.started, header.completed, time.time())
    return None


def _balanced_result(connection: Connection, task: Task, header: Result, payload: Any) -> None:
    engine = header.engine
    if engine != NOBODY and task.request.ranks > 1:
        if task.parts is None:
            task.parts = {}
        task.parts[engine] = (header, payload)
        if len(task.parts) == task.request.ranks and connection.forget(task):
            task.finish_gang(connection.engines, time.time())
        return
    connection.forget(task)
    task.parts = None
    task.engine = engine
    task.info = connection.engines.get(engine)
    task.finish(header.status, payload, header.failure, header.started, header.completed, time.time())


def _output(connection: Connection, header: Output, payload: Any) -> bool:
    """Pass output on; return whether somebody who shows it gives the engine its credit back."""
    if header.number and not _is_new(connection, header):
        return False
    task = connection.tasks.get(msg_id(header.request, header.engine))
    if task is None:
        task = connection.tasks.get(header.request)  # a balanced one
    if task is None:
        return False
    return task.receive_output(header.kind, header.text, payload, header.engine, header.size)


def _is_new(connection: Connection, header: Output) -> bool:
    """Whether output has not come before: what may be lost with a controller is sent again."""
    uuid, last = connection.heard.get(header.engine, ("", 0))
    info = connection.engines.get(header.engine)
    if info is not None and info.uuid != uuid:
        uuid, last = info.uuid, 0  # another process, which counts from 1
    if header.number <= last:
        return False
    connection.heard[header.engine] = uuid, header.number
    return True


def _notice(connection: Connection, header: Notice) -> None:
    """Show a notice to the person, once, and keep it with its request."""
    tasks = connection.pending.get(header.request)
    task = next(iter(list(tasks.values())), None) if tasks else connection.balanced.get(header.request)
    if task is not None:
        request = task.request
        if header.text in request.notices:
            return
        request.notices = [*request.notices, header.text]
    log.warning("%s", header.text)


def _job_ends(connection: Connection, header: JobEnds) -> None:
    """Warn the person of the end of engines, once."""
    whose = ranges.engines(header.engines)
    at = None if header.left is None else time.monotonic() + header.left
    why, before = connection.warned.get(whose, ("", None))
    if why == header.why and (before is None or at is None or abs(before - at) < SAME_END):
        return
    connection.warned[whose] = header.why, at
    while len(connection.warned) > MAX_WARNED:
        del connection.warned[next(iter(connection.warned))]
    when = "" if header.left is None else f" in {duration(header.left)}"
    end = "ends" if len(header.engines) == 1 else "end"
    log.warning("%s%s: %s %s with it", header.why, when, whose, end)


def _engines_changed(connection: Connection, header: EnginesChanged) -> None:
    engines = {**connection.engines, **{engine.id: engine for engine in header.added}}
    for info in header.added:
        connection.departed.pop(info.id, None)  # a world that was started again may have its old ids
    for engine in header.removed:
        engines.pop(engine, None)
        connection.departed[engine] = header.reason
    while len(connection.departed) > DEPARTED:
        del connection.departed[next(iter(connection.departed))]
    with connection.changed:
        connection.engines = dict(sorted(engines.items()))
        connection.changed.notify_all()


def _answer(future: Future[Any], header: Answer) -> None:
    if header.failure is None:
        future.set_result(header.value)
    else:
        failure = header.failure
        future.set_exception(error.RemoteError(failure.ename, failure.evalue, failure.traceback))


def _function(connection: Connection, digest: bytes) -> Any:
    """Return the frames of a function which an engine lacks; none if no pending request has it."""
    for tasks in list(connection.pending.values()):
        for task in list(tasks.values()):
            if task.request.function == digest:
                return task.request.frames
    for task in list(connection.balanced.values()):
        if task.request.function == digest:
            return task.request.frames
    return ()


def _welcome(connection: Connection, thread: IOThread, header: Welcome) -> None:
    connection.cluster_id = header.cluster_id
    thread.heartbeat = min(thread.heartbeat, header.heartbeat)
    present = {engine.id for engine in header.engines}
    left = [engine for engine in connection.engines if engine not in present]
    why = "it was not there when this client had found the controller again"
    _engines_changed(connection, EnginesChanged(header.engines, left, why))
    thread.welcome(connection)


def _refused(connection: Connection, thread: IOThread, header: Refused) -> str | None:
    """Fail the request that was refused; without one, the whole client was."""
    if header.reason.endswith(STRANGER) and thread.welcomed.done():
        # It was given up, or the controller is another, which has been started in the meantime.
        thread.disown(f"The controller on {connection.info.host} had forgotten this client.")
        return None
    if header.request:
        tasks = list(connection.pending.pop(header.request, {}).values())
        for task in list(connection.balanced.values()):
            if task.request.id == header.request:
                connection.forget(task)
                tasks.append(task)
        for task in tasks:
            task.finish("error", failure=error.ConnectionRefused(header.reason), received=time.time())
        return None
    if not thread.welcomed.done():
        thread.welcomed.set_exception(error.ConnectionRefused(header.reason))
    return f"The controller refused this client: {header.reason}"
