"""The client's connection to the controller.

One I/O thread owns the socket, `pending` and `engines`. Users' threads put messages on a queue, wake that
thread through a pipe and wait on the `Task` objects which `submit` returns.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mpiparallel import __version__, error
from mpiparallel.client.functioncache import Pickled
from mpiparallel.client.iothread import IOThread
from mpiparallel.client.tasks import Request, Task, checked_label
from mpiparallel.client.transport import open_transport
from mpiparallel.client.tunnel import Tunnel
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.wire import frames, objects
from mpiparallel.wire.messages import (
    Abort,
    AnyHeader,
    Ask,
    Balance,
    Claim,
    EngineInfo,
    Goodbye,
    Hello,
    Message,
    Needs,
    Signal,
    Stop,
    Submit,
    Where,
)

SMALL_FUNCTION = 4096  # bytes up to which a function's frames always travel with the request
FUNCTIONS = 1000  # digests whose whereabouts are remembered
CLOSED = "Connections have been closed."
_NO_OPTIONS: dict[str, Any] = {}  # one for all requests: what there is for each task costs time
_ALL: list[int] = []
Question = Ask | Claim | Signal | Stop | Where


class Connection:
    """A client's connection; the constructor returns when the controller has said welcome.

    Raises
    ------
    TimeoutError
        If the controller does not answer within `timeout` seconds.
    ConnectionRefused
        If it turns this client away.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        config: Config,
        timeout: float,
        path: Path | None = None,
        way: tuple[Tunnel, str] | None = None,
    ) -> None:
        self.info = info
        self.tunnel = way[0] if way is not None else None  # closed with the connection
        self.path = path  # the file that says where the controller is; a new one may be written
        self.config = config
        self.name = secrets.token_hex(6)
        self.pid = os.getpid()
        self.engines: dict[int, EngineInfo] = {}  # replaced, never changed, by the I/O thread
        self.departed: dict[int, str] = {}  # engine -> why it left
        self.warned: dict[str, tuple[str, float | None]] = {}  # engines -> why they are to end, and when
        self.heard: dict[int, tuple[str, int]] = {}  # engine -> its uuid and the number of its last output
        self.pending: dict[str, dict[int, Task]] = {}  # request -> engine -> task
        self.balanced: dict[str, Task] = {}  # those for which the hub chooses the engine, by msg_id
        self.tasks: weakref.WeakValueDictionary[str, Task] = weakref.WeakValueDictionary()
        self.queries: dict[int, tuple[Future[Any], Question]] = {}
        self.changed = threading.Condition()  # engines came or went, or the connection ended
        self.cluster_id = ""
        self.gone: str | None = None  # why there is no connection any more
        # Over the counters, the tables of functions and the place of a request in the queue: who reconnects
        # finds it pending and queued, or neither.
        self._lock = threading.Lock()
        self._requests = 0
        self._questions = 0
        self._known: OrderedDict[bytes, set[int]] = OrderedDict()  # function -> engines that were sent it
        self._hub_knows: OrderedDict[bytes, None] = OrderedDict()  # functions that the hub was sent
        transport = open_transport(info, timeout, way[1] if way is not None else None)
        self.address = transport.address
        hello = Hello(version=__version__, name=self.name, host=socket.gethostname(), pid=self.pid)
        self._io = IOThread(self, transport, Message(hello))
        self._io.start(timeout)

    def __repr__(self) -> str:
        return f"<Connection {self.name} to {self.address}>"

    # ------------------------------------------------------------ requests

    def submit(
        self,
        verb: str,
        engines: Sequence[int],
        common: Sequence[Any] = (),
        parts: Sequence[Sequence[Any]] = (),
        function: Sequence[Any] = (),
        options: dict[str, Any] | None = None,
        label: str | None = None,
        track: bool = False,
        owner: object = None,
    ) -> list[Task]:
        """Send one request and return its tasks, in the order of `engines`.

        Parameters
        ----------
        verb, engines, options
            As in `Submit`.
        common, parts, function
            Payload for all engines, payload for each, and the pickled function.
        label
            The user's own mark, kept in the metadata.
        track
            Whether the caller wants to know when the payload's memory may be changed.
        owner
            Whoever sends this; kept in the request.
        """
        self.check()
        label = checked_label(label)
        self._io.wait_for_room()
        known = self.engines
        with self._lock:
            self._requests += 1
            request = Request(f"{self.name}-{self._requests}", verb, time.time(), label, owner)
            digest, sent_function = self._place_function(function, engines)
            request.function, request.frames = digest, function
            if track:
                request.sent = threading.Event()
            payload = [*sent_function, *common]
            request.header = header = Submit(
                request=request.id, client=self.name, verb=verb, engines=list(engines),  # type: ignore[arg-type]
                common=len(payload), parts=[len(part) for part in parts],
                function=digest, function_frames=len(sent_function), options=options or {},
                label=label or "", submitted=request.submitted,
            )  # fmt: skip
            tasks = [Task(request, engine, engine, known.get(engine)) for engine in engines]
            for task, part in zip(tasks, parts, strict=bool(parts)):
                task.inputs = part
                payload.extend(part)
            self.pending[request.id] = {task.engine: task for task in tasks}
            for task in tasks:
                task.common = common
                self.tasks[task.msg_id] = task
            self._io.put(Message(header, payload), request if track else None)
        self._io.wake()
        if self.gone is not None:  # it ended meanwhile, perhaps before it saw this request
            self.end(self.gone)
        return tasks

    def balance(
        self,
        verb: str,
        parts: Sequence[Sequence[Any]],
        *,
        request: Request | None = None,
        first: int = 0,
        common: Sequence[Any] = (),
        function: Sequence[Any] = (),
        options: dict[str, Any] | None = None,
        label: str | None = None,
        owner: object = None,
        ranks: int = 1,
        targets: Sequence[int] = (),
        retries: int = 0,
        timeout: float | None = None,
        after: Needs | None = None,
        follow: Needs | None = None,
        track: bool = False,
    ) -> list[Task]:
        """Send tasks for engines that the hub chooses, one for each of `parts`, and return them.

        Parameters
        ----------
        request, first
            To send more tasks of a request that an earlier call has begun: that request, and the number of
            the first of these tasks. The other arguments, but for `parts`, are those of the first call.
        verb, options, ranks, targets, retries, timeout, after, follow
            As in `Balance`.
        common, parts, function, label, track, owner
            As in `submit`.
        """
        self.check()
        label = checked_label(label)
        self._io.wait_for_room()
        with self._lock:
            if request is None:
                self._requests += 1
                request = Request(f"{self.name}-{self._requests}", verb, time.time(), label, owner)
                request.ranks = ranks
                request.function = _digest(function) if function else b""
                request.frames = function
                if after is not None:
                    request.after = after.tasks
                if follow is not None:
                    request.follow = follow.tasks
                if track:
                    request.sent = threading.Event()
            sent_function = self._function_for_hub(request)
            payload = [*sent_function, *common]
            header = Balance(
                request=request.id, client=self.name, verb=verb,  # type: ignore[arg-type]
                parts=list(map(len, parts)), first=first, common=len(payload),
                function=request.function, function_frames=len(sent_function),
                options=options or _NO_OPTIONS, ranks=ranks, targets=list(targets) if targets else _ALL,
                retries=retries, timeout=timeout, after=after, follow=follow, label=label or "",
                submitted=request.submitted,
            )  # fmt: skip
            if request.header is None:
                request.header = header
            tasks = []
            for number, part in enumerate(parts, first):
                task = Task(request, number)
                task.common, task.inputs = common, part
                payload.extend(part)
                self.balanced[task.msg_id] = self.tasks[task.msg_id] = task
                tasks.append(task)
            self._io.put(Message(header, payload), request if track else None)
        self._io.wake()
        if self.gone is not None:
            self.end(self.gone)
        return tasks

    def next_request(self) -> int:
        """Return a number for a request, which no other has."""
        with self._lock:
            self._requests += 1
            return self._requests

    def _place_function(self, function: Sequence[Any], engines: Sequence[int]) -> tuple[bytes, Sequence[Any]]:
        """Return the digest of `function` and those frames of it that have to be sent."""
        if not function:
            return b"", ()
        digest = _digest(function)
        if sum(map(frames.nbytes, function)) <= SMALL_FUNCTION:
            return digest, function
        known = self._known.setdefault(digest, set())
        self._known.move_to_end(digest)
        while len(self._known) > FUNCTIONS:
            self._known.popitem(last=False)
        if known.issuperset(engines):
            return digest, ()
        known.update(engines)
        return digest, function

    def _function_for_hub(self, request: Request) -> Sequence[Any]:
        """Return the frames of a balanced request's function, if the hub has to be sent them."""
        digest = request.function
        if not digest or digest in self._hub_knows:
            return ()
        self._hub_knows[digest] = None
        while len(self._hub_knows) > FUNCTIONS:
            self._hub_knows.popitem(last=False)
        return request.frames

    def forget(self, task: Task) -> bool:
        """Take a task that is not done out of the tables; return whether it was there."""
        if task.request.ranks:
            return self.balanced.pop(task.msg_id, None) is not None
        tasks = self.pending.get(task.request.id)
        found = tasks is not None and tasks.pop(task.engine, None) is not None
        if not tasks:
            self.pending.pop(task.request.id, None)
        return found

    # ------------------------------------------------------------ control

    def ask(
        self, make: Callable[[int], Question], then: Callable[[Future[Any]], None] | None = None
    ) -> Future[Any]:
        """Send the question `make(query)` and return the future of its answer.

        `then` is called with it in the I/O thread, before anything that comes after the answer is looked at.

        Raises
        ------
        RuntimeError
            If there is no controller at the moment and the question is a signal or an order to stop, which
            would come late.
        """
        self.check()
        self._io.wait_for_room()
        future = self._question(make, then)
        if self.gone is not None:
            self.end(self.gone)
        return future

    def _question(
        self, make: Callable[[int], Question], then: Callable[[Future[Any]], None] | None = None
    ) -> Future[Any]:
        future: Future[Any] = Future()
        if then is not None:
            future.add_done_callback(then)
        future.set_running_or_notify_cancel()
        with self._lock:
            self._questions += 1
            question = make(self._questions)
            frames.check(question)  # the hub ends a connection that says what it cannot read
            lost = self._io.lost
            if lost is not None and isinstance(question, (Signal, Stop)):
                raise RuntimeError(f"{lost} This can be done when it is back.")
            self.queries[self._questions] = future, question
            self._io.put(Message(question))
        self._io.wake()
        return future

    @property
    def lost(self) -> str | None:
        """Why there is no controller at the moment, while it is looked for."""
        return self._io.lost

    def abort(self, tasks: Sequence[Task]) -> None:
        """Ask for these tasks to be taken out of their queues."""
        self.check()
        self._io.wait_for_room()
        by_request: dict[str, list[int]] = {}
        for task in tasks:
            if not task.done:
                by_request.setdefault(task.request.id, []).append(task.number)
        with self._lock:
            for task in tasks:
                task.aborting = True
            for request, numbers in by_request.items():
                self._io.put(Message(Abort(request, numbers)))
        self._io.wake()

    def outstanding(self) -> list[Task]:
        """Return the tasks of this client that are not done."""
        direct = [task for tasks in list(self.pending.values()) for task in list(tasks.values())]
        return [task for task in (*direct, *list(self.balanced.values())) if not task.request.claimed]

    # ------------------------------------------------------------ life

    def check(self) -> None:
        """Raise RuntimeError if nothing can be sent: this is a forked child, or the connection has ended."""
        if os.getpid() != self.pid:
            raise RuntimeError(
                f"this client belongs to process {self.pid} and cannot be used in its child {os.getpid()}: "
                "create a new Client in the child"
            )
        if self.gone is not None:
            raise RuntimeError(self.gone)

    def check_thread(self) -> None:
        """Raise RuntimeError in the I/O thread, which would wait for itself."""
        if self._io.is_current():
            raise RuntimeError(
                "a callback of an AsyncResult waits for another result, which would never come: "
                "callbacks run in the thread that receives the results; wait in a thread of your own"
            )

    def close(self, linger: float | None = None) -> None:
        """Say goodbye and end the I/O thread. Calling it again, or in a forked child, does nothing."""
        if os.getpid() != self.pid:
            return
        self._io.stop(Message(Goodbye()), CLOSED, 1.0 if linger is None else linger)
        if self.tunnel is not None:
            self.tunnel.close()

    def end(self, reason: str) -> None:
        """Fail whatever is pending; called by the I/O thread when it ends, and for what came in too late."""
        self.gone = reason
        problem = error.EngineError(reason)
        now = time.time()
        for request in list(self.pending):
            for task in list(self.pending.pop(request, {}).values()):
                task.finish("error", failure=problem, received=now)
                if task.request.sent is not None:
                    task.request.sent.set()
        for name in list(self.balanced):
            balanced = self.balanced.pop(name, None)
            if balanced is not None:
                balanced.finish("error", failure=problem, received=now)
                if balanced.request.sent is not None:
                    balanced.request.sent.set()
        for query in list(self.queries):
            asked = self.queries.pop(query, None)
            if asked is not None:
                asked[0].set_exception(RuntimeError(reason))
        with self.changed:
            self.changed.notify_all()
        if self.tunnel is not None:
            self.tunnel.close()

    def send(self, header: AnyHeader, payload: Sequence[Any] = ()) -> None:
        """Send any message."""
        self.check()
        self._io.send(Message(header, payload))


def _digest(function: Sequence[Any]) -> bytes:
    return function.digest if isinstance(function, Pickled) else objects.digest(function)
