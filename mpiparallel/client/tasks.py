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
from mpiparallel.wire.fields import LONGEST_TEXT
from mpiparallel.wire.messages import (
    NOBODY,
    Balance,
    EngineInfo,
    Failure,
    Result,
    Submit,
)

_ABORTED = (
    "task {} did not begin: it was aborted, or was queued behind a cell that failed or was interrupted; "
    "send it again"
)
HISTORY = 10_000  # msg_ids that a history remembers

_lock = threading.Lock()  # over listeners and values of all tasks; held for a few instructions
_UNREAD = object()
# Is told of output and of the engine's credit for it; returns whether it will give that back.
Watcher = Callable[["Task", Event, int], bool]
Part = tuple[Result, Sequence[Any]]  # what one engine of a gang has answered


def checked_label(label: str | None) -> str | None:
    """Return `label`, if it can be one: the hub ends the connection of a client that sends anything else."""
    if label is not None and not isinstance(label, str):
        raise TypeError(f"a label is a string, not {label!r}")
    if label is not None and len(label) > LONGEST_TEXT:
        raise ValueError(f"a label of {len(label)} characters; at most {LONGEST_TEXT}")
    return label


class Request:
    """One request: what its tasks have in common. Fields are set before it is sent, except `sent`."""

    # Defaults here, not in __init__: a request for one short task has to be cheap.
    ranks = 0  # how many engines run a task together; 0: one that the client chose
    header: Submit | Balance | None = None  # as it was sent first
    function = b""
    frames: Sequence[Any] = ()  # the function's, in case somebody lacks it
    sent: threading.Event | None = None  # set when the I/O thread has sent it, if it is tracked
    trackers: Sequence[Any] = ()
    queued = 0  # messages of a tracked request that are not sent yet
    exposed = False  # whether a tracked request's data may have changed since it was sent
    claimed = False  # whether another client has sent it, and its results were only asked for
    notices: Sequence[str] = ()  # what a person should know, while it runs
    after: list[str] | None = None
    follow: list[str] | None = None

    def __init__(self, id: str, verb: str, submitted: float, label: str | None, owner: object) -> None:
        self.id = id
        self.verb = verb
        self.submitted = submitted
        self.label = label
        self.owner = owner  # the view that sent it

    @property
    def method(self) -> str:
        return "execute" if self.verb == "execute" else "apply"


class Task:
    """A part of `request`, on one engine or on a gang, and how that went.

    Attributes
    ----------
    number
        Its place in the request; of a task for one engine that the client chose, the engine.
    engine
        Who runs it; NOBODY until a balanced task has ended, and then the first of a gang.
    engines
        All engines of a gang, when it has ended.
    common, inputs
        The payload for all tasks of the request, without the function, and for this one alone; until it is
        done, in case they have to be sent again.
    """

    done = False
    status: str | None = None
    started: float | None = None
    completed: float | None = None
    received: float | None = None
    payload: Sequence[Any] = ()
    failure: Failure | Exception | None = None
    engines: list[int] | None = None
    infos: Sequence[EngineInfo | None] = ()  # of `engines`
    common: Sequence[Any] = ()
    inputs: Sequence[Any] = ()
    aborting = False  # whether somebody has asked for it to be aborted
    events: deque[Event] | None = None  # emptied by whoever reads the metadata
    n_events = 0
    speaker = NOBODY  # the engine that has printed or displayed something last
    listeners: tuple[Callable[[Task], None], ...] = ()
    watchers: tuple[Watcher, ...] = ()
    parts: dict[int, Part] | None = None  # of a gang: what has come, by engine
    _metadata: Metadata | None = None
    _value: Any = _UNREAD
    _error: Exception | None = None

    def __init__(
        self, request: Request, number: int, engine: int = NOBODY, info: EngineInfo | None = None
    ) -> None:
        self.request = request
        self.engine = engine
        self.info = info
        self.number = number
        self.msg_id = f"{request.id}_{number}"

    # ------------------------------------------------------------ the I/O thread

    def receive_output(self, kind: str, text: str, payload: Any, engine: int, size: int = 0) -> bool:
        """Keep what the task printed or displayed, and tell those who watch it live.

        Return whether one of them gives the engine its credit of `size` back, when it has shown this.
        """
        event = (self.n_events, kind, text, payload, engine)
        self.speaker = engine
        self.n_events += 1
        if self.events is None:
            with _lock:
                self._make_events()
        assert self.events is not None
        self.events.append(event)
        taken = False
        for watcher in self.watchers:
            taken = watcher(self, event, 0 if taken else size) or taken
        return taken

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
        self.inputs = self.common = ()
        with _lock:
            self.done = True
            listeners, self.listeners = self.listeners, ()
            if self._metadata is not None:
                self._describe_end(self._metadata)
        for listener in listeners:
            listener(self)

    def finish_gang(self, engines: dict[int, EngineInfo], received: float) -> None:
        """Finish a gang's task, all of whose parts have come."""
        assert self.parts is not None
        parts = self.parts = dict(sorted(self.parts.items()))
        headers = [header for header, _ in parts.values()]
        self.engines = list(parts)
        self.infos = [engines.get(engine) for engine in self.engines]
        self.engine, self.info = self.engines[0], self.infos[0]
        # One that was freed because another failed is not what went wrong.
        failures = [header for header in headers if header.status != "ok"]
        failures.sort(key=lambda header: header.failure is not None and header.failure.ename == "PeerFailed")
        starts = [header.started for header in headers if header.started is not None]
        ends = [header.completed for header in headers if header.completed is not None]
        self.finish(
            failures[0].status if failures else "ok",
            failure=failures[0].failure if failures else None,
            started=min(starts, default=None), completed=max(ends, default=None), received=received,
        )  # fmt: skip

    def _make_events(self) -> deque[Event]:
        if self.events is None:
            self.events = deque()
        return self.events

    # ------------------------------------------------------------ users' threads

    def listen(self, listener: Callable[[Task], None]) -> None:
        """Call `listener` once, when the task is done; at once if it is."""
        with _lock:
            if not self.done:
                self.listeners = (*self.listeners, listener)
                return
        listener(self)

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher`, in the I/O thread, for all output that comes from now on."""
        with _lock:
            self.watchers = (*self.watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Undo `watch`."""
        with _lock:
            self.watchers = tuple(other for other in self.watchers if other != watcher)

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
        if self.parts is not None:
            value, failed = self._read_gang(self.parts)
        elif self.status == "ok":
            value, failed = self._load(self.payload, None)
            if failed is None and self.request.verb == "execute":
                value = ExecuteReply(self.msg_id, value or {}, self.metadata)
        else:
            failed = self._failed(self.failure, self._engine_info())
        with _lock:
            if self._value is _UNREAD:
                self._error, self._value, self.payload, self.parts = failed, value, (), None

    def _read_gang(self, parts: dict[int, Part]) -> tuple[Any, Exception | None]:
        """Return the values of a gang in rank order, or one error for all its errors, causes first."""
        values: list[Any] = []
        failures: list[Exception] = []
        for (engine, (header, payload)), known in zip(parts.items(), self.infos, strict=True):
            info = self._about(engine, known)
            if header.status == "ok":
                value, failed = self._load(payload, info)
            else:
                value, failed = None, self._failed(header.failure, info)
            values.append(value)
            if failed is not None:
                failures.append(failed)
        if not failures:
            return values, None
        failures.sort(key=lambda failed: getattr(failed, "peer_failed", None) is not None)
        if all(isinstance(failed, error.TaskAborted) for failed in failures):
            return None, failures[0]
        try:
            error.collect_exceptions(failures, f"{self.request.method} on a gang of {len(parts)}")
        except error.CompositeError as composite:
            return None, composite
        raise AssertionError("failures, but no error")  # pragma: no cover

    def _load(self, payload: Sequence[Any], about: dict[str, Any] | None) -> tuple[Any, Exception | None]:
        try:
            return (objects.loads(payload) if payload else None), None
        except Exception as problem:  # any class's __setstate__ may have raised it
            failed = error.RemoteError(
                type(problem).__name__,
                f"{problem} (here, while unpickling the result of {self.msg_id})",
                "".join(traceback.format_exception(problem)),
                self._engine_info() if about is None else about,
            )
            failed.__cause__ = problem
            return None, failed

    def _failed(self, failure: Failure | Exception | None, about: dict[str, Any]) -> Exception:
        if isinstance(failure, Failure):
            return error.remote(failure.ename, failure.evalue, failure.traceback, about)
        return failure or error.TaskAborted(_ABORTED.format(self.msg_id))

    def _engine_info(self) -> dict[str, Any]:
        return {} if self.engine == NOBODY else self._about(self.engine, self.info)

    def _about(self, engine: int, info: EngineInfo | None) -> dict[str, Any]:
        about: dict[str, Any] = {"engine_id": engine, "method": self.request.method}
        if info is not None:
            about.update(engine_uuid=info.uuid, host=info.host, rank=info.rank)
        return about

    @property
    def metadata(self) -> Metadata:
        """All that is known of this task by now."""
        with _lock:
            if self._metadata is None:
                self._metadata = made = Metadata(
                    msg_id=self.msg_id,
                    submitted=_aware(self.request.submitted),
                    engine_id=None if self.engine == NOBODY else self.engine,
                    engine_uuid=self.info.uuid if self.info else None,
                    label=self.request.label,
                    after=self.request.after,
                    follow=self.request.follow,
                )
                made.follow_events(self._make_events())
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
        if self.request.ranks and self.engine != NOBODY:
            uuid = self.info.uuid if self.info else None
            if self.engines is None:
                metadata.update(engine_id=self.engine, engine_uuid=uuid)
            else:
                uuids = [info.uuid if info else None for info in self.infos]
                metadata.update(engine_id=list(self.engines), engine_uuid=uuids)
        if self.status != "ok":
            metadata["error"] = self._failed(self.failure, self._engine_info())


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
