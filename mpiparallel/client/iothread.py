"""The thread that owns the client's socket: it sends what is queued, and sorts what arrives.

Made by `connection.Connection`. It keeps no user waiting: values are unpickled elsewhere.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
import weakref
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # another class before Python 3.11
from typing import TYPE_CHECKING, Any

import zmq

from mpiparallel import error
from mpiparallel.client import receiving
from mpiparallel.client.tasks import Request
from mpiparallel.client.transport import Transport, is_running
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.wire import frames
from mpiparallel.wire.messages import Heartbeat, Message

if TYPE_CHECKING:
    from mpiparallel.client.connection import Connection

BATCH_MESSAGES = 1000  # that travel as one
BATCH_BYTES = 4 << 20
QUEUE_MESSAGES = 50_000  # beyond these a sender has to wait
QUEUE_BYTES = 1 << 30
TICK = 1.0  # seconds between looks at the controller's pulse

log = logging.getLogger("mpiparallel.client")
Queued = tuple[Message, int, "Request | None"]  # with its size


class IOThread:
    """Sends and receives for one connection."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        # The thread itself holds the connection; this object must not, or they would keep each other alive.
        self._connection = weakref.ref(connection)
        self._transport = transport
        self._socket = transport.socket
        self._poller = zmq.Poller()
        self._queue: deque[Queued] = deque()
        self._queued_bytes = 0
        self._room = threading.Condition()
        self._waking = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._unsent: tuple[list[Any], list[Request]] | None = None
        self._full = False  # whether the socket refused it
        self._stop: tuple[str, float] | None = None  # why, and until when what is queued may be sent
        self.welcomed: Future[None] = Future()
        self.heartbeat = connection.config.heartbeat
        self._lost_after = connection.config.lost_after
        self._heard = self._asked = self._looked = time.monotonic()
        self._wake_closing = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name=f"mpiparallel-{connection.name}", daemon=True
        )

    # ------------------------------------------------------------ users' threads

    def start(self, hello: Message, timeout: float) -> None:
        """Start the thread; return when the controller has said welcome."""
        connection = self._connection()
        assert connection is not None
        self._thread.start()
        self.send(hello)
        try:
            self.welcomed.result(timeout)
        except FutureTimeout:
            self.stop(None, "the controller did not answer", 0)
            info = connection.info
            raise TimeoutError(
                f"the controller on {info.host} (process {info.pid}) did not answer within {timeout:g} s at "
                f"{connection.address}. It may hang, or be gone: see its log, or start a new one with: "
                "mpiparallel start -n 4"
            ) from None
        except BaseException:
            self.stop(None, "the connection was not made", 0)
            raise

    def send(self, message: Message) -> None:
        """Queue a message; wait if too much is queued already."""
        self.wait_for_room()
        self.put(message)
        self.wake()

    def put(self, message: Message, tracked: Request | None = None) -> None:
        """Queue a message; the caller has waited for room and wakes the thread."""
        size = sum(map(frames.nbytes, message.payload)) if message.payload else 0
        if size:
            with self._room:
                self._queued_bytes += size
        self._queue.append((message, size, tracked))

    def wait_for_room(self) -> None:
        """Wait while too much is queued."""
        if (len(self._queue) <= QUEUE_MESSAGES and self._queued_bytes <= QUEUE_BYTES) or self.is_current():
            return
        with self._room:
            self._room.wait_for(
                lambda: (
                    (len(self._queue) <= QUEUE_MESSAGES // 2 and self._queued_bytes <= QUEUE_BYTES)
                    or not self._thread.is_alive()
                )
            )

    def wake(self) -> None:
        """Wake the thread, which finds what is queued."""
        if not self._waking:
            self._waking = True
            with self._wake_closing:  # the thread closes the pipe when it ends
                if self._wake_writer >= 0:
                    os.write(self._wake_writer, b"x")

    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def stop(self, farewell: Message | None, reason: str, linger: float) -> None:
        """Send `farewell` and what is queued, end the thread, and wait for that."""
        if self._stop is None:
            if farewell is not None:
                self._queue.append((farewell, 0, None))
            self._stop = reason, time.monotonic() + linger
            self._waking = False
            self.wake()
        if not self.is_current() and self._thread.ident is not None:
            self._thread.join(timeout=linger + 5)

    # ------------------------------------------------------------ the thread

    def _run(self, connection: Connection) -> None:
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_reader, zmq.POLLIN)
        try:
            reason = self._loop(connection)
        except Exception:
            log.exception("the client's I/O thread failed")
            reason = f"The client's I/O thread failed: {traceback.format_exc()}"
        self._transport.close(max(0.0, self._stop[1] - time.monotonic()) if self._stop else 0.0)
        with self._wake_closing:
            os.close(self._wake_writer)
            os.close(self._wake_reader)
            self._wake_writer = -1
        if not self.welcomed.done():
            self.welcomed.set_exception(error.ConnectionRefused(reason))
        connection.end(reason)
        with self._room:
            self._room.notify_all()

    def _loop(self, connection: Connection) -> str:
        """Work until the connection ends; return why."""
        while True:
            tick = TICK if self.welcomed.done() else 0.1
            ready = dict(self._poller.poll(int(tick * 1000)))
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
                self._waking = False
            if self._socket in ready:
                reason = self._receive(connection)
                if reason is not None:
                    return reason
            self._flush()
            now = time.monotonic()
            if self._stop is not None and (self._unsent is None or now > self._stop[1]):
                return self._stop[0]
            if now - self._looked >= tick:
                self._looked = now
                reason = self._look_after(connection.info, now)
                if reason is not None:
                    return reason

    def _receive(self, connection: Connection) -> str | None:
        """Take what has arrived; return why the controller has ended the connection, if it has."""
        messages: list[Message] = []
        for _ in range(100):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            try:
                messages.extend(frames.unpack(parts))
            except error.WireError as problem:
                return f"The controller at {connection.address} does not speak our protocol: {problem}"
        self._heard = self._asked = time.monotonic()
        if not self.welcomed.done():
            self._transport.stop_monitoring()
        return receiving.receive(connection, self, messages)

    # ------------------------------------------------------------ sending

    def _flush(self) -> None:
        """Send what is queued as far as the socket takes it."""
        full = False
        while self._unsent is not None or self._queue:
            if self._unsent is None:
                self._unsent = self._next_batch()
            parts, tracked = self._unsent
            try:
                self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                full = True
                break
            for request in tracked:
                request.trackers = [part.tracker for part in parts if isinstance(part, zmq.Frame)]
                assert request.sent is not None
                request.sent.set()
            self._unsent = None
        if full != self._full:
            self._full = full
            self._poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if full else 0))

    def _next_batch(self) -> tuple[list[Any], list[Request]]:
        messages: list[Message] = []
        tracked: list[Request] = []
        size = 0
        while self._queue and len(messages) < BATCH_MESSAGES and size < BATCH_BYTES:
            message, nbytes, request = self._queue.popleft()
            messages.append(message)
            size += nbytes
            if request is not None:
                tracked.append(request)
        if size:
            with self._room:
                self._queued_bytes -= size
                self._room.notify_all()
        parts = frames.pack(messages)
        if tracked:
            parts[1:] = [zmq.Frame(part, track=True, copy=False) for part in parts[1:]]
        return parts, tracked

    # ------------------------------------------------------------ the controller's pulse

    def _look_after(self, info: ConnectionInfo, now: float) -> str | None:
        """Return why the controller must be taken for gone, if so."""
        if not self.welcomed.done():
            return self._transport.handshake_problem()
        if self._transport.address == info.local:
            if not is_running(info.pid):
                return (
                    f"The controller (process {info.pid} on {info.host}) is gone: it ended without a word. "
                    + ADVICE
                )
        elif now - self._heard > self._lost_after:
            return (
                f"The controller on {info.host} has not been heard of for {self._lost_after:g} s. " + ADVICE
            )
        if now - self._heard > self.heartbeat and now - self._asked > self.heartbeat:
            self._asked = now
            self._queue.append((Message(Heartbeat(echo=True)), 0, None))
            self._flush()
        return None


ADVICE = "Connections have been closed. Start a cluster and create a new Client."
