"""Requests under way and what has come back of them: where the I/O thread and the user's threads meet.

`connection` makes tasks and `receiving` finishes them; `asyncresult` waits for them and unpickles
their values, in the user's thread.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, overload
from weakref import WeakValueDictionary

from mpiparallel import error
from mpiparallel.client.executereply import ExecuteReply
from mpiparallel.client.metadata import Event, Metadata
from mpiparallel.wire import objects
from mpiparallel.wire.messages import EngineInfo, Failure, msg_id

_ABORTED = (
    "task {} did not begin: it was aborted, or was queued behind a cell that failed or was interrupted; "
    "send it again"
)
HISTORY = 10_000  # msg_ids that a history remembers

_lock = threading.Lock()  # over listeners and values of all tasks; held for a few instructions
_UNREAD = object()


class Request:
    """One request: what its tasks have in common. Fields are set before it is sent, except `sent`."""

    __slots__ = (
        "frames", "function", "id", "label", "notices", "owner", "sent", "submitted", "trackers", "verb",
    )  # fmt: skip

    def __init__(self, id: str, verb: str, submitted: float, label: str | None, owner: object) -> None:
        self.id = id
        self.verb = verb
        self.submitted = submitted
        self.label = label
        self.owner = owner  # the view that sent it
        self.function = b""
        self.frames: Sequence[Any] = ()  # the function's, in case an engine lacks it
        self.sent: threading.Event | None = None  # set when the I/O thread has sent it, if it is tracked
        self.trackers: list[Any] = []
        self.notices: list[str] = []  # what a person should know, while it runs

    @property
    def method(self) -> str:
        return "execute" if self.verb == "execute" else "apply"


class Task:
    """What `request` does on one engine, and how that went."""

    __slots__ = (
        "__weakref__", "_error", "_metadata", "_value", "completed", "done", "engine", "events", "failure",
        "info", "listeners", "msg_id", "n_events", "payload", "received", "request", "started", "status",
        "watchers",
    )  # fmt: skip

    def __init__(self, request: Request, engine: int, info: EngineInfo | None) -> None:
        self.request = request
        self.engine = engine
        self.info = info
        self.msg_id = msg_id(request.id, engine)
        self.done = False
        self.status: str | None = None
        self.started: float | None = None
        self.completed: float | None = None
        self.received: float | None = None
        self.payload: Sequence[Any] = ()
        self.failure: Failure | Exception | None = None
        self.events: deque[Event] = deque()  # emptied by whoever reads the metadata
        self.n_events = 0
        self.listeners: list[Callable[[Task], None]] | None = []
        self.watchers: tuple[Callable[[Task, Event], None], ...] = ()
        self._metadata: Metadata | None = None
        self._value: Any = _UNREAD
        self._error: Exception | None = None

    # ------------------------------------------------------------ the I/O thread

    def receive_output(self, kind: str, text: str, payload: Any) -> None:
        """Keep what the task printed or displayed, and tell those who watch it live."""
        event = (self.n_events, kind, text, payload)
        self.n_events += 1
        self.events.append(event)
        for watcher in self.watchers:
            watcher(self, event)

    def finish(
        self,
        status: str,
        payload: Sequence[Any] = (),
        failure: Failure | Exception | None = None,
        started: float | None = None,
        completed: float | None = None,
        received: float | None = None,
    ) -> None:
        """Note how the task ended and tell its listeners."""
        self.status, self.payload, self.failure = status, payload, failure
        self.started, self.completed, self.received = started, completed, received
        with _lock:
            self.done = True
            listeners, self.listeners = self.listeners, None
            if self._metadata is not None:
                self._describe_end(self._metadata)
        for listener in listeners or ():
            listener(self)

    # ------------------------------------------------------------ users' threads

    def listen(self, listener: Callable[[Task], None]) -> None:
        """Call `listener` once, when the task is done; at once if it is."""
        with _lock:
            if self.listeners is not None:
                self.listeners.append(listener)
                return
        listener(self)

    def watch(self, watcher: Callable[[Task, Event], None]) -> None:
        """Call `watcher`, in the I/O thread, for all output that comes from now on."""
        with _lock:
            self.watchers = (*self.watchers, watcher)

    def unwatch(self, watcher: Callable[[Task, Event], None]) -> None:
        """Undo `watch`."""
        with _lock:
            self.watchers = tuple(other for other in self.watchers if other is not watcher)

    def error(self) -> Exception | None:
        """Return the error that a task which is done ended with."""
        self._read()
        return self._error

    def value(self) -> Any:
        """Return the value of a task that is done without an error."""
        self._read()
        return self._value

    def _read(self) -> None:
        if self._value is not _UNREAD:
            return
        value: Any = None
        failed: Exception | None = None
        if self.status == "ok":
            try:
                value = objects.loads(self.payload) if self.payload else None
            except Exception as problem:  # any class's __setstate__ may have raised it
                failed = error.RemoteError(
                    type(problem).__name__,
                    f"{problem} (here, while unpickling the result of {self.msg_id})",
                    "".join(traceback.format_exception(problem)),
                    self._engine_info(),
                )
                failed.__cause__ = problem
            if failed is None and self.request.verb == "execute":
                value = ExecuteReply(self.msg_id, value or {}, self.metadata)
        elif self.status == "aborted":
            failed = error.TaskAborted(_ABORTED.format(self.msg_id))
        elif isinstance(self.failure, Failure):
            failed = error.RemoteError(
                self.failure.ename, self.failure.evalue, self.failure.traceback, self._engine_info()
            )
        else:
            failed = self.failure
        with _lock:
            if self._value is _UNREAD:
                self._error, self._value, self.payload = failed, value, ()

    def _engine_info(self) -> dict[str, Any]:
        about: dict[str, Any] = {"engine_id": self.engine, "method": self.request.method}
        if self.info is not None:
            about.update(engine_uuid=self.info.uuid, host=self.info.host, rank=self.info.rank)
        return about

    @property
    def metadata(self) -> Metadata:
        """All that is known of this task by now."""
        with _lock:
            if self._metadata is None:
                self._metadata = made = Metadata(
                    msg_id=self.msg_id,
                    submitted=_aware(self.request.submitted),
                    engine_id=self.engine,
                    engine_uuid=self.info.uuid if self.info else None,
                    label=self.request.label,
                )
                made.follow_events(self.events)
                if self.done:
                    self._describe_end(made)
        self._metadata.refresh()
        return self._metadata

    def _describe_end(self, metadata: Metadata) -> None:
        metadata.update(
            status=self.status,
            started=_aware(self.started),
            completed=_aware(self.completed),
            received=_aware(self.received),
        )
        if isinstance(self.failure, Failure):
            metadata["error"] = error.RemoteError(
                self.failure.ename, self.failure.evalue, self.failure.traceback, self._engine_info()
            )
        elif self.status != "ok":
            metadata["error"] = self.failure or error.TaskAborted(_ABORTED.format(self.msg_id))


def _aware(moment: float | None) -> datetime | None:
    return None if moment is None else datetime.fromtimestamp(moment, timezone.utc)


class History(Sequence[str]):
    """The msg_ids of the last requests, oldest first; it forgets those beyond `HISTORY`."""

    def __init__(self) -> None:
        self._requests: deque[list[str]] = deque()
        self._count = 0
        self._flat: list[str] | None = None

    def add(self, msg_ids: list[str]) -> None:
        """Append the tasks of one request."""
        self._requests.append(msg_ids)
        self._count += len(msg_ids)
        while self._count > HISTORY and len(self._requests) > 1:
            self._count -= len(self._requests.popleft())
        self._flat = None

    def clear(self) -> None:
        """Forget everything."""
        self._requests.clear()
        self._count, self._flat = 0, None

    def _list(self) -> list[str]:
        flat = self._flat
        if flat is None:
            flat = self._flat = [task for request in list(self._requests) for task in request]
        return flat

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._list()[index]

    def __len__(self) -> int:
        return len(self._list())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (list, History)) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._list())


class TaskMapping(Mapping[str, Any]):
    """``client.results`` and ``client.metadata``: what is known of tasks that somebody still holds."""

    def __init__(
        self,
        tasks: WeakValueDictionary[str, Task],
        select: Callable[[Task], bool],
        read: Callable[[Task], Any],
        default: Any,
    ) -> None:
        self._tasks, self._select, self._read, self._default = tasks, select, read, default

    def __getitem__(self, key: str) -> Any:
        task = self._tasks.get(key)
        if task is None or not self._select(task):
            return self._default(key)
        return self._read(task)

    def __contains__(self, key: object) -> bool:
        task = self._tasks.get(str(key))
        return task is not None and self._select(task)

    def __iter__(self) -> Iterator[str]:
        held = [reference() for reference in self._tasks.valuerefs()]  # a copy, made at one go
        return iter([task.msg_id for task in held if task is not None and self._select(task)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr({key: self[key] for key in self})
