"""The courier of a rank: it moves messages, also while user code runs.

It owns the private communicators (`Mail`) and, on rank 0, the controller's socket (`Bridge`). It never runs
user code and never waits for it. Data flow of a request::

    controller =zmq=> Bridge (rank 0) -Mail (MPI)-> courier of rank k -> Executor (main thread)
    controller <=zmq= Bridge (rank 0) <-Mail (MPI)- courier of rank k <-outbox- Executor, OutputCapture

Two threads take turns at it, and whoever holds `_drive` owns the resources: the main thread while it has no
task, which saves two changes of thread for each request, and the courier's own thread while user code runs.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mpiparallel.config import Config
from mpiparallel.engine.bridge import Bridge, Line
from mpiparallel.engine.executor import Executor
from mpiparallel.engine.mail import Mail
from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.overseer import Overseer
from mpiparallel.engine.watcher import Watcher
from mpiparallel.engine.world import World
from mpiparallel.wire.messages import (
    Abort,
    AnyHeader,
    Blocked,
    Broken,
    Consumed,
    Cut,
    Examine,
    Lacks,
    Ledgers,
    Message,
    Notice,
    Output,
    Renew,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    Task,
    WelcomeWorld,
    Where,
    Whereabouts,
)

SPIN = 0.002  # seconds of yielding before an idle engine naps: a request's way to the client and back
NAP_MIN, NAP_MAX = 0.00005, 0.005  # its naps, growing
STANDBY = 0.01  # how often the thread looks whether it is its turn
TICK = 0.5  # seconds between looks at the clock's business
OVERSIGHT = 0.1  # ... and between the leading rank's looks at everybody's waits
GRACE = 3.0  # seconds that user code has to end when the world does
LEAVE = Stop([], controller=True)  # rank 0 tells the others to end


class Courier(threading.Thread):
    """Moves messages until the world ends.

    Parameters
    ----------
    world
    line
        How to reach the controller; used by rank 0 only.
    """

    def __init__(self, world: World, line: Line | None, config: Config) -> None:
        super().__init__(name="courier", daemon=True)
        self.world, self._config = world, config
        self.mail = Mail(world, self._from_mail)
        self.bridge = Bridge(line, world, self._route) if line is not None else None
        # Given by `equip`, before `serve` and `start`.
        self.executor: Executor
        self.output: OutputCapture
        self.watcher: Watcher
        self.overseer: Overseer | None = None  # on the leading rank
        self.reason = ""
        self._handlers: dict[type, Callable[[Any], None]] = {}
        self._outbox: deque[Message] = deque()
        self._drive = threading.Lock()
        self._leaving: str | None = None
        self._last_tick = self._last_oversight = time.monotonic()

    def register(self) -> WelcomeWorld:
        """Introduce the world to the controller. Called on rank 0 before the thread starts."""
        assert self.bridge is not None
        return self.bridge.register()

    def post(self, message: Message) -> None:
        """Send a message to the controller, from any thread."""
        self._outbox.append(message)

    def equip(self, executor: Executor, output: OutputCapture, watcher: Watcher) -> None:
        """Take the parts that are made when the controller has said which engine this is."""
        self.executor, self.output, self.watcher = executor, output, watcher
        self._handlers = self._make_handlers()
        if self.bridge is not None:
            self.lead()

    # ------------------------------------------------------------ the two threads

    def serve(self) -> None:
        """Work until the world ends: run tasks, and drive while there are none. The main thread's loop."""
        pace = _Pace(self._nap, SPIN)
        while self._leaving is None:
            if self.executor.run_next():
                pace.reset()
                continue
            with self._drive:
                busy = self._step()
            if not self.executor.waiting:
                pace.wait(busy)
        self.executor.finished = True

    def run(self) -> None:
        """Drive while the executor is busy; at the end, leave together with the other couriers."""
        try:
            self._drive_while_busy()
            with self._drive:
                self._leave()
        except BaseException:
            self.die(traceback.format_exc())

    def _drive_while_busy(self) -> None:
        pace = _Pace(time.sleep, 0.0)  # user code has the better use for the time
        while self._leaving is None:
            if self.executor.busy:
                with self._drive:
                    busy = self._step()
                pace.wait(busy)
            else:
                pace.reset()
                time.sleep(STANDBY)

    def die(self, reason: str) -> None:
        """End this process, and with it the world, after an error of ours; `reason` goes to the log."""
        os.write(self.output.log, f"mpiparallel: engine on rank {self.world.rank} fails: {reason}\n".encode())
        os._exit(70)

    def _step(self) -> bool:
        """Move everything that can be moved now; return whether there was anything."""
        busy = self.output.pump()
        busy = self.mail.progress() or busy
        now = time.monotonic()
        if self.executor.busy:
            self.watcher.look(now)
        busy = self._send_outbox() or busy
        if self.bridge is not None:
            busy = self.bridge.progress() or busy
            if now - self._last_tick > TICK:
                self._last_tick = now
                self.bridge.tick()
            if now - self._last_oversight > OVERSIGHT:
                self._last_oversight = now
                self._oversee(now)
            if self.bridge.stopped_by is not None:
                self._end_world(self.bridge.stopped_by)
        return busy

    def _nap(self, seconds: float) -> None:
        # Rank 0 wakes at once for its socket, which alone brings work when nothing is under way.
        if self.bridge is not None and self.bridge.quiet:
            seconds = NAP_MAX
        if self.bridge is not None and seconds >= 0.001:  # ZeroMQ's poll counts in whole milliseconds
            self.bridge.socket.poll(int(seconds * 1000))
        else:
            time.sleep(seconds)

    def _send_outbox(self) -> bool:
        outbox = self._outbox
        if not outbox:
            return False
        messages = [outbox.popleft() for _ in range(min(len(outbox), 256))]
        if self.bridge is not None:
            for message in messages:
                self._to_leader(self.world.rank, message)
        else:
            self.mail.post(self.world.leader, messages)
        return True

    # ------------------------------------------------------------ messages

    def _route(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Hand the bridge's messages to the ranks they are for. On the leading rank only."""
        assert self.overseer is not None
        header = next(iter(messages.values())).header if messages else None
        if isinstance(header, Submit):
            self.overseer.submitted(header.request, header.client, messages)
        elif isinstance(header, Signal) and header.signum == signal.SIGINT:
            self.overseer.interrupted(messages, time.monotonic())
        if len(messages) == 1 and self.world.rank in messages:
            self.mail.deliver_here(messages[self.world.rank])
        else:
            self.mail.post_to_all(messages, n_common, collective)

    def _from_mail(self, source: int, message: Message) -> None:
        handle = self._handlers.get(type(message.header))
        if handle is not None:
            handle(message)
        else:
            self._to_leader(source, message)

    def _make_handlers(self) -> dict[type, Callable[[Any], None]]:
        """Return what is done with messages for a rank; all others are for the leader."""
        executor, watcher = self.executor, self.watcher
        functions = executor.verbs.functions
        return {
            Submit: lambda m: executor.put(Task(m.header, m.payload)),
            Consumed: lambda m: self.output.credit(m.header.size),
            Supply: lambda m: functions.supply(m.header.function, m.payload),
            Abort: lambda m: executor.abort(request=m.header.request),
            Stop: self._take_stop,
            Signal: lambda m: watcher.signal(m.header),
            Where: lambda m: watcher.where(m.header.query),
            Examine: lambda m: watcher.examine(m.header),
            Cut: lambda m: watcher.cut(m.header),
            Renew: lambda m: watcher.renew(m.header, self.mail.take_comm),
        }

    def _take_stop(self, message: Message) -> None:
        header = message.header
        assert isinstance(header, Stop)
        if header.controller and not header.engines:
            self._leaving = self._leaving or header.reason or "the world ends"
        else:
            self.executor.abort()

    # ------------------------------------------------------------ the leading rank

    def lead(self) -> None:
        """Take up the leading rank's part: the bridge, and the overseer of everybody's waits."""
        self.overseer = Overseer(
            self.world.rank, self.world.alive,
            self._tell, self._renew, self._notice, self._config.notice_after,
        )  # fmt: skip

    def _to_leader(self, rank: int, message: Message) -> None:
        """Take what `rank` has to say to the leading rank, which this is, or to the controller."""
        assert self.bridge is not None and self.overseer is not None
        header = message.header
        now = time.monotonic()
        if isinstance(header, Blocked):
            self.overseer.blocked(header, now)
        elif isinstance(header, Ledgers):
            self.overseer.ledgers(header, now)
        elif isinstance(header, Broken):
            self.overseer.broken(header)
        elif isinstance(header, Output | Result | Lacks | Notice | Whereabouts):
            if isinstance(header, Result):
                self.overseer.result(rank, header, now)
            self.bridge.post(message)

    def _tell(self, rank: int, header: AnyHeader) -> None:
        if rank == self.world.rank:
            self.mail.deliver_here(Message(header))
        else:
            self.mail.post(rank, [Message(header)])

    def _renew(self, ranks: Sequence[int], order: Renew) -> None:
        order = msgspec.structs.replace(order, made=self.mail.new_comm(ranks))
        for rank in ranks:
            self._tell(rank, order)

    def _notice(self, client: str, request: str, text: str) -> None:
        assert self.bridge is not None
        self.bridge.post(Message(Notice(client, request, text)))

    def _oversee(self, now: float) -> None:
        assert self.overseer is not None
        self.overseer.tick(now)

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
        self.executor.abort()
        deadline = time.monotonic() + GRACE
        interrupt_at = 0.0
        barrier = None
        together = False
        while not together and time.monotonic() < deadline:
            self._last_steps()
            if not self.executor.finished:
                if time.monotonic() > interrupt_at:
                    interrupt_at = time.monotonic() + 0.5
                    os.kill(os.getpid(), signal.SIGINT)
            elif barrier is None:
                barrier = self.world.bulk.Ibarrier()
            else:
                together = barrier.Test()
            time.sleep(0.001)
        if self.bridge is not None:
            self.bridge.close(self.reason)
        if not together:
            # Somebody is stuck, so MPI_Finalize would be, too. The first to leave takes the others along.
            os.write(self.output.log, b"mpiparallel: not all ranks ended in time; no MPI_Finalize\n")
            os._exit(1)

    def _last_steps(self) -> None:
        self.output.pump()
        self.mail.progress()
        self._send_outbox()
        if self.bridge is not None:
            self.bridge.progress()


class _Pace:
    """How a polling thread waits: it yields at first, then naps ever longer."""

    def __init__(self, nap: Callable[[float], None], spin: float) -> None:
        self._nap, self._spin = nap, spin
        self.reset()

    def reset(self) -> None:
        """Start anew, as after work."""
        self._idle_since = time.monotonic()
        self._seconds = NAP_MIN

    def wait(self, busy: bool) -> None:
        """Wait as long as `busy`, now and before, suggests."""
        if busy:
            self.reset()
        elif time.monotonic() - self._idle_since < self._spin:
            os.sched_yield()
        else:
            self._nap(self._seconds)
            self._seconds = min(self._seconds * 1.5, NAP_MAX)
