"""The courier: the thread of a rank that moves messages while user code runs.

It owns the private communicators (`Mail`) and, on rank 0, the controller's socket (`Bridge`). It never runs user
code and never waits for it. Data flow of a request, with who owns what::

    controller ==zmq==> Bridge (rank 0's courier) --Mail (MPI)--> courier of rank k --queue--> Executor (main thread)
    controller <=zmq== Bridge (rank 0's courier) <--Mail (MPI)-- courier of rank k <--outbox-- Executor, OutputCapture

An idle courier polls ever less often, up to every `NAP_MAX` seconds; rank 0's wakes at once for its socket, and any
for its own executor.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import time
from collections import deque
from typing import Any

import zmq

from mpiparallel.engine.bridge import Bridge, Line
from mpiparallel.engine.executor import Executor
from mpiparallel.engine.mail import Mail
from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.world import World
from mpiparallel.wire.messages import (
    Abort,
    Consumed,
    Message,
    Output,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    WelcomeWorld,
)

SPIN = 0.0005  # seconds of yielding before an idle courier sleeps
NAP_MIN, NAP_MAX = 0.00005, 0.005  # its sleeps, growing
TICK = 0.5  # seconds between looks at the clock's business
GRACE = 3.0  # seconds that user code has to end when the world does
LEAVE = Stop([], controller=True)  # rank 0 tells the others to end


class Courier(threading.Thread):
    """Moves messages until the world ends.

    Parameters
    ----------
    world
    line
        How to reach the controller; used by rank 0 only.
    output
    """

    def __init__(self, world: World, line: Line | None, output: OutputCapture) -> None:
        super().__init__(name="courier", daemon=True)
        self.world, self.output = world, output
        self.mail = Mail(world, self._from_mail)
        self.bridge = Bridge(line, world, self._route) if line is not None else None
        self.executor: Executor
        self._outbox: deque[Message] = deque()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._asleep = False
        self._leaving: str | None = None
        self.reason = ""
        self._poller = self._make_poller()

    def register(self) -> WelcomeWorld:
        """Introduce the world to the controller. Called on rank 0 before the thread starts."""
        assert self.bridge is not None
        return self.bridge.register()

    def post(self, message: Message) -> None:
        """Send a message to the controller, from any thread."""
        self._outbox.append(message)
        if self._asleep:
            self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"x")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    # ------------------------------------------------------------ the thread

    def run(self) -> None:
        """Work until the world ends, then leave together with the other couriers."""
        idle_since = last_tick = time.monotonic()
        nap = NAP_MIN
        while self._leaving is None:
            busy = self._step()
            now = time.monotonic()
            if now - last_tick > TICK:
                last_tick = now
                self._tick()
            if busy:
                idle_since, nap = now, NAP_MIN
            elif now - idle_since < SPIN:
                os.sched_yield()
            elif self._sleep(nap):
                idle_since, nap = time.monotonic(), NAP_MIN
            else:
                nap = min(nap * 1.5, NAP_MAX)
        self._leave()

    def _step(self) -> bool:
        busy = self.output.pump()
        busy = self.mail.progress() or busy
        busy = self._send_outbox() or busy
        if self.bridge is not None:
            busy = self.bridge.progress() or busy
            if self.bridge.stopped_by is not None:
                self._end_world(self.bridge.stopped_by)
        return busy

    def _tick(self) -> None:
        if self.bridge is not None:
            self.bridge.tick()

    def _make_poller(self) -> Any:
        if self.bridge is None:
            poller = select.poll()
            poller.register(self._wake_reader, select.POLLIN)
            return poller
        zmq_poller = zmq.Poller()
        zmq_poller.register(self._wake_reader, zmq.POLLIN)
        zmq_poller.register(self.bridge.socket, zmq.POLLIN)
        return zmq_poller

    def _sleep(self, seconds: float) -> bool:
        """Sleep until something of ours happens; return whether it did."""
        self._asleep = True
        try:
            if self._outbox:
                return True
            # Both pollers count in whole milliseconds; a shorter nap is a plain one.
            if seconds < 0.001:
                time.sleep(seconds)
                return bool(self._poller.poll(0)) and self._drain_wakeups()
            return bool(self._poller.poll(int(seconds * 1000))) and self._drain_wakeups()
        finally:
            self._asleep = False

    def _drain_wakeups(self) -> bool:
        try:
            os.read(self._wake_reader, 4096)
        except BlockingIOError:
            pass  # it was the socket
        return True

    def _send_outbox(self) -> bool:
        outbox = self._outbox
        if not outbox:
            return False
        messages = [outbox.popleft() for _ in range(min(len(outbox), 256))]
        if self.bridge is not None:
            for message in messages:
                self.bridge.post(message)
        else:
            self.mail.post(0, messages)
        return True

    # ------------------------------------------------------------ messages

    def _route(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Hand the bridge's messages to the ranks they are for. Rank 0 only."""
        if len(messages) == 1 and self.world.rank in messages:
            self.mail.deliver_here(messages[self.world.rank])
        else:
            self.mail.post_to_all(messages, n_common, collective)

    def _from_mail(self, source: int, message: Message) -> None:
        header = message.header
        if isinstance(header, Submit):
            self.executor.put(message)
        elif isinstance(header, Output | Result) or type(header).__name__ == "Lacks":
            assert self.bridge is not None
            self.bridge.post(message)
        elif isinstance(header, Consumed):
            self.output.credit(header.size)
        elif isinstance(header, Supply):
            self.executor.verbs.functions.supply(header.function, message.payload)
        elif isinstance(header, Abort):
            self.executor.abort(request=header.request)
        elif isinstance(header, Signal):
            os.kill(os.getpid(), header.signum)
        elif isinstance(header, Stop):
            if header.controller and not header.engines:
                self._leaving = self._leaving or header.reason or "the world ends"
            else:
                self.executor.abort()

    # ------------------------------------------------------------ the end

    def _end_world(self, reason: str) -> None:
        if self._leaving is None:
            self._leaving = self.reason = reason
            for rank in range(1, self.world.size):
                self.mail.post(rank, [Message(LEAVE)])

    def _leave(self) -> None:
        """End user code, say goodbye, and let the ranks part together.

        The deadline is kept by faulthandler's thread, which needs no GIL: code that holds it cannot keep us.
        """
        faulthandler.dump_traceback_later(GRACE + 4, exit=True, file=self.output.log)
        self.output.discard()
        self.executor.stop()
        deadline = time.monotonic() + GRACE
        interrupted = False
        barrier = None
        while time.monotonic() < deadline:
            self._step_without_controller()
            if not self.executor.finished:
                if not interrupted:
                    os.kill(os.getpid(), signal.SIGINT)
                    interrupted = True
            elif barrier is None:
                barrier = self.world.bulk.Ibarrier()
            elif barrier.Test():
                break
            time.sleep(0.001)
        together = barrier is not None and barrier.Test()
        if self.bridge is not None:
            self.bridge.close(self.reason)
        if not together:
            # Somebody is stuck, so MPI_Finalize would be, too. The first rank to leave takes the others along.
            os.write(self.output.log, b"mpiparallel: not all ranks ended in time; leaving without MPI_Finalize\n")
            os._exit(1)

    def _step_without_controller(self) -> None:
        self.output.pump()
        self.mail.progress()
        self._send_outbox()
        if self.bridge is not None:
            self.bridge.progress()
