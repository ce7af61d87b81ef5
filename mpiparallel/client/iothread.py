"""The thread that owns the client's socket: it sends what is queued, and sorts what arrives.

Made by `connection.Connection`. It keeps no user waiting: values are unpickled elsewhere. When it loses the
controller it looks for it again (`searching`), and sends once more what is pending (`reconnect`).
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
from typing import TYPE_CHECKING, Any, NoReturn

import zmq

from mpiparallel import error
from mpiparallel.client import receiving, reconnect
from mpiparallel.client.jobwatch import JobWatch
from mpiparallel.client.searching import ADVICE, BROKEN, Search, TunnelSearch, gone
from mpiparallel.client.tasks import Request
from mpiparallel.client.transport import Transport, is_running
from mpiparallel.wire import frames
from mpiparallel.wire.messages import Goodbye, Heartbeat, Message

if TYPE_CHECKING:
    from mpiparallel.client.connection import Connection

BATCH_MESSAGES = 1000  # that travel as one
BATCH_BYTES = 4 << 20
QUEUE_MESSAGES = 50_000  # beyond these a sender has to wait
QUEUE_BYTES = 1 << 30
SILENT = 3.0  # heartbeats that may be left out before somebody is asked about that
TICK = 1.0  # seconds between looks at the controller's pulse

log = logging.getLogger("mpiparallel.client")
Queued = tuple[Message, int, "Request | None"]  # with its size


class IOThread:
    """Sends and receives for one connection."""

    def __init__(self, connection: Connection, transport: Transport, hello: Message) -> None:
        # The thread itself holds the connection; this object must not, or they would keep each other alive.
        self._connection = weakref.ref(connection)
        self._hello = hello
        self._transport: Transport | None = transport
        self._poller = zmq.Poller()
        self._queue: deque[Queued] = deque()
        self._queued_bytes = 0
        self._room = threading.Condition()
        self._waking = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._unsent: tuple[list[Any], list[Request]] | None = None
        self._full = False  # whether the socket refused it
        self._up = False  # whether the controller has said welcome on this socket
        self._trouble: str | None = None  # why this socket is of no use any more
        self._search: Search | None = None  # while the controller is lost
        self._job = JobWatch()
        self._stop: tuple[str, float] | None = None  # why, and until when what is queued may be sent
        self.unacknowledged = 0  # Results of a gang of which some are to come
        self.welcomed: Future[None] = Future()
        self.heartbeat = connection.config.heartbeat
        self._config = connection.config
        self._heard = self._asked = self._looked = time.monotonic()
        self._wake_closing = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name=f"mpiparallel-{connection.name}", daemon=True
        )

    # ------------------------------------------------------------ users' threads

    def start(self, timeout: float) -> None:
        """Start the thread; return when the controller has said welcome."""
        connection = self._connection()
        assert connection is not None
        self._thread.start()
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
        if tracked is not None and tracked.sent is not None:
            with self._room:
                tracked.queued += 1
                tracked.sent.clear()
        self._queue.append((message, size, tracked))

    @property
    def has_room(self) -> bool:
        """Whether more can be queued at once."""
        return len(self._queue) <= QUEUE_MESSAGES and self._queued_bytes <= QUEUE_BYTES

    def wait_for_room(self) -> None:
        """Wait while too much is queued."""
        if self.has_room or self.is_current():
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

    @property
    def lost(self) -> str | None:
        """Why there is no controller at the moment."""
        search = self._search
        return search.reason if search is not None else None

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
        self._poller.register(self._wake_reader, zmq.POLLIN)
        try:
            self._loop(connection)
        except _Ended as ended:
            reason = str(ended)
        except Exception:
            log.exception("the client's I/O thread failed")
            reason = f"The client's I/O thread failed: {traceback.format_exc()}"
        linger = self._stop[1] - time.monotonic() if self._stop is not None and self._up else 0.0
        self._detach(max(0.0, linger))
        self._job.close()
        with self._wake_closing:
            os.close(self._wake_writer)
            os.close(self._wake_reader)
            self._wake_writer = -1
        if not self.welcomed.done():
            self.welcomed.set_exception(error.ConnectionRefused(reason))
        connection.end(reason)
        with self._room:
            self._room.notify_all()

    def _loop(self, connection: Connection) -> NoReturn:
        """Work until the connection ends, which an exception says."""
        assert self._transport is not None
        self._attach(self._transport)
        while True:
            tick = TICK if self._up else 0.1
            ready = dict(self._poller.poll(int(tick * 1000)))
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
                self._waking = False
            transport = self._transport
            if transport is not None and transport.monitor in ready:
                # What was sent before the connection broke is read first: it may be a Goodbye.
                while self._receive(connection, transport):
                    pass
                self._look_at_handshake(transport)
            elif transport is not None and transport.socket in ready:
                self._receive(connection, transport)
            self._flush()
            now = time.monotonic()
            if self._stop is not None and (self._unsent is None or not self._up or now > self._stop[1]):
                raise _Ended(self._stop[0])
            if now - self._looked >= tick:
                self._looked = now
                if self._up:
                    self._look_after(connection, now)
            if self._trouble is not None:
                self._lose(connection, now)
            if self._search is not None and not self._up:
                self._go_on_searching(connection, self._search, now)

    def _receive(self, connection: Connection, transport: Transport) -> bool:
        """Take some of what has arrived; return whether there was anything."""
        messages: list[Message] = []
        for _ in range(100):
            try:
                parts = transport.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            try:
                messages.extend(frames.unpack(parts))
            except error.WireError as problem:
                raise _Ended(
                    f"The controller at {transport.address} does not speak our protocol: {problem}"
                ) from None
        if not messages:
            return False
        self._heard = self._asked = time.monotonic()
        reason = receiving.receive(connection, self, messages)
        if reason is not None:
            raise _Ended(reason)
        return True

    # ------------------------------------------------------------ sending

    def _flush(self) -> None:
        """Send what is queued as far as the socket takes it."""
        if not self._up or self._transport is None:
            return
        full = False
        while self._unsent is not None or self._queue:
            if self._unsent is None:
                self._unsent = self._next_batch()
            parts, tracked = self._unsent
            try:
                self._transport.socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                full = True
                break
            if tracked:
                self._note_sent(parts, tracked)
            self._unsent = None
        if full != self._full:
            self._full = full
            self._poller.register(self._transport.socket, zmq.POLLIN | (zmq.POLLOUT if full else 0))

    def _note_sent(self, parts: list[Any], tracked: list[Request]) -> None:
        trackers = [part.tracker for part in parts if isinstance(part, zmq.Frame)]
        with self._room:
            for request in tracked:
                request.trackers = [*request.trackers, *trackers]
                request.exposed = True
                request.queued -= 1
                if not request.queued and request.sent is not None:
                    request.sent.set()

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
        with self._room:
            self._room.notify_all()
        parts = frames.pack(messages)
        if tracked:
            parts[1:] = [zmq.Frame(part, track=True, copy=False) for part in parts[1:]]
        return parts, tracked

    def drop_queue(self) -> None:
        """Forget what is queued, except a goodbye: what is still of use is queued anew."""
        kept: list[Queued] = []
        with self._room:
            while self._queue:
                item = self._queue.popleft()
                self._queued_bytes -= item[1]
                if isinstance(item[0].header, Goodbye):
                    kept.append(item)
        self._queue.extend(kept)

    # ------------------------------------------------------------ the controller's pulse

    def _look_after(self, connection: Connection, now: float) -> None:
        """Note when the controller must be taken for gone; ask for a sign of life."""
        assert self._transport is not None
        info = connection.info
        if self._transport.address == info.local:
            # Without a file nobody tells the process of one that was started again.
            if connection.path is not None and not is_running(info.pid):
                self._trouble = gone(info)
        elif now - self._heard > self._config.lost_after:
            self._trouble = (
                f"The controller on {info.host} has not been heard of for {self._config.lost_after:g} s."
            )
        elif now - self._heard > SILENT * self.heartbeat and (fate := self._job.fate(info, now)):
            self._trouble = f"The controller on {info.host} is gone: {fate.text}."
        if now - self._heard > self.heartbeat and now - self._asked > self.heartbeat:
            self._asked = now
            self._queue.append((Message(Heartbeat(echo=True)), 0, None))
            self._flush()

    def _look_at_handshake(self, transport: Transport) -> None:
        """See what ZeroMQ says of the connection."""
        problem, broken = transport.look()
        if not self.welcomed.done():
            if problem is not None:
                raise _Ended(problem)
        elif problem is not None or broken:
            self._trouble = self._trouble or BROKEN

    # ------------------------------------------------------------ losing it, and finding it again

    def welcome(self, connection: Connection) -> None:
        """Begin to send: the controller has said welcome on this socket."""
        self._up = True
        if not self.welcomed.done():
            self.welcomed.set_result(None)
            return
        count = reconnect.send_again(connection, self)
        if self._search is not None:
            self._search.found(connection.info, count)
            self._search = None

    def disown(self, reason: str) -> None:
        """Take note that the controller has forgotten this client, which has to say Hello once more."""
        self._trouble = self._trouble or reason

    def _attach(self, transport: Transport) -> None:
        self._transport = transport
        self._full = False
        self.unacknowledged = 0
        self._poller.register(transport.socket, zmq.POLLIN)
        self._poller.register(transport.monitor, zmq.POLLIN)
        transport.socket.send_multipart(frames.pack([self._hello]))

    def _detach(self, linger: float) -> None:
        transport, self._transport = self._transport, None
        self._unsent, self._up = None, False
        if transport is not None:
            self._poller.unregister(transport.socket)
            self._poller.unregister(transport.monitor)
            transport.close(linger)

    def _lose(self, connection: Connection, now: float) -> None:
        """Give up this socket."""
        assert self._trouble is not None
        self._detach(0.0)
        if self._search is None:
            patience = self._config.reconnect_for
            if connection.tunnel is not None:
                self._search = TunnelSearch(connection.info, connection.tunnel, self._trouble, patience, now)
            else:
                self._search = Search(connection.info, connection.path, self._trouble, patience, now)
            reconnect.fail_signals(connection, self._search.reason)
        else:
            self._search.failed(now)
        self._trouble = None

    def _go_on_searching(self, connection: Connection, search: Search, now: float) -> None:
        """Look for the controller; give up when it was stopped in order, or took too long."""
        fate = self._job.fate(connection.info, now)
        if fate is not None and fate.returns:
            search.wait_on(now)
        elif fate is not None:
            raise _Ended(f"The controller on {connection.info.host} is gone: {fate.text}. {ADVICE}")
        reason = search.over(now)
        if reason is not None:
            raise _Ended(reason)
        if self._transport is not None:
            if search.in_vain(connection.info, now):
                self._trouble = BROKEN
            return
        found = search.open(now)
        if found is not None:
            connection.info, transport = found
            connection.address = transport.address
            self._heard = self._asked = now
            self._attach(transport)


class _Ended(Exception):
    """The connection has ended for good; the text says why."""
