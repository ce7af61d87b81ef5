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
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpiparallel.config import Config
from mpiparallel.engine import recovery
from mpiparallel.engine.bridge import Bridge, Line
from mpiparallel.engine.current import Current
from mpiparallel.engine.executor import Executor
from mpiparallel.engine.foretelling import Foreteller
from mpiparallel.engine.jobtime import clock
from mpiparallel.engine.leader import Leader
from mpiparallel.engine.mail import Mail, RanksLost
from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.watcher import Watcher
from mpiparallel.engine.world import World
from mpiparallel.freed import Returner
from mpiparallel.wire.between import Complete, Cut, Drop, Examine, Held, Made, Release, Renew
from mpiparallel.wire.messages import (
    Abort,
    Consumed,
    JobEnds,
    Message,
    Recall,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    Task,
    WelcomeWorld,
    Where,
)

if TYPE_CHECKING:
    from mpiparallel.engine.guard import Guard

SPIN = 0.002  # seconds of yielding before an idle engine naps: a request's way to the client and back
NAP_MIN, NAP_MAX = 0.00005, 0.005  # its naps, growing
STANDBY = 0.01  # how often the thread looks whether it is its turn
GRACE = 3.0  # seconds that user code has to end when the world does
SWITCH = 0.0005  # seconds that user code computes on while the leader's courier waits for its turn
LEAVE = Stop([], controller=True)  # the leader tells the others to end


class Courier(threading.Thread):
    """Moves messages until the world ends.

    Parameters
    ----------
    world
    line
        How to reach the controller: for the leading rank, and for those that may have to take its place.
    guard
        What watches over the MPI calls of user code; None: nothing does.
    """

    def __init__(self, world: World, line: Line, config: Config, guard: Guard | None) -> None:
        super().__init__(name="courier", daemon=True)
        self.world, self._line, self._config, self._guard = world, line, config, guard
        self.mail = Mail(world, self._from_mail)
        self.bridge = Bridge(line, world, self._route) if world.rank == world.leader else None
        self.leader: Leader | None = None
        # Given by `equip`, before `serve` and `start`.
        self.executor: Executor
        self.output: OutputCapture
        self.watcher: Watcher
        self.current: Current
        self._first = 0  # the id of the first engine
        self.reason = ""
        self._handlers: dict[type, Callable[[Any], None]] = {}
        self._outbox: deque[Message] = deque()
        self._early: list[tuple[int, Message]] = []  # for the leader that this rank is to become
        self._drive = threading.Lock()
        self._freed = Returner()
        self._leaving: str | None = None
        self.can_finalize = True  # whether MPI_Finalize will not hang

    def register(self) -> WelcomeWorld:
        """Introduce the world to the controller. Called on the leading rank before the thread starts."""
        assert self.bridge is not None
        return self.bridge.register()

    def post(self, message: Message) -> None:
        """Send a message to the controller, from any thread."""
        self._outbox.append(message)

    def equip(self, executor: Executor, output: OutputCapture, watcher: Watcher) -> None:
        """Take the parts that are made when the controller has said which engine this is."""
        self.executor, self.output, self.watcher = executor, output, watcher
        self._first = executor.engine_id - self.world.place
        self.current = Current(self.world, executor, self._guard, self._first, self.post)
        self._handlers = self._make_handlers()
        clock.is_told = self._line.job is not None
        if self.bridge is not None:
            self._lead(self.bridge)

    def _lead(self, bridge: Bridge) -> None:
        """Take up the leading rank's part."""
        sys.setswitchinterval(SWITCH)
        self.bridge = bridge
        teller = Foreteller(self._line.job, self._config.warn_before)
        self.leader = Leader(self.world, self.mail, bridge, self._first, self._config.notice_after, teller)

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
        """End this process, and where the others cannot go on the world, after an error of ours."""
        os.write(self.output.log, f"mpiparallel: {self.world.who} fails: {reason}\n".encode())
        if self.world.survives:
            os.kill(os.getpid(), signal.SIGKILL)  # MPI's runtime does not notice those that end by themselves
        os._exit(70)

    def _step(self) -> bool:
        """Move everything that can be moved now; return whether there was anything."""
        busy = self.output.pump()
        try:
            busy = self.mail.progress() or busy
        except RanksLost:
            self._recover()
            return True
        if self.executor.busy:
            self.watcher.look(time.monotonic())
        self.watcher.end_remainders()
        busy = self._send_outbox() or busy
        if self.leader is not None:
            busy = self.leader.progress() or busy
            if self.leader.bridge.stopped_by is not None:
                self._end_world(self.leader.bridge.stopped_by)
        return busy

    def _nap(self, seconds: float) -> None:
        self._freed.look(self.executor.tasks)
        # The leader wakes at once for its socket, which alone brings work when nothing is under way.
        if self.bridge is not None:
            self.bridge.nap(seconds)
        else:
            time.sleep(seconds)

    def _send_outbox(self) -> bool:
        outbox = self._outbox
        if not outbox:
            return False
        messages = [outbox.popleft() for _ in range(min(len(outbox), 256))]
        if self.leader is not None:
            for message in messages:
                self.leader.take(self.world.rank, message)
        else:
            self.mail.post(self.world.leader, messages)
        return True

    # ------------------------------------------------------------ messages

    def _route(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Hand the bridge's messages to the ranks they are for."""
        assert self.leader is not None
        self.leader.route(messages, n_common, collective)

    def _from_mail(self, source: int, message: Message) -> None:
        handle = self._handlers.get(type(message.header))
        if handle is not None:
            handle(message)
        elif self.leader is not None:
            self.leader.take(source, message)
        else:
            # From one who knows already that the leader has died, and that we are the next.
            self._early.append((source, message))

    def _make_handlers(self) -> dict[type, Callable[[Any], None]]:
        """Return what is done with messages for a rank; all others are for the leader."""
        executor, watcher = self.executor, self.watcher
        functions = executor.verbs.functions
        return {
            Submit: lambda m: executor.put(Task(m.header, m.payload)),
            Consumed: lambda m: self.output.credit(m.header.size),
            Supply: lambda m: functions.supply(m.header.function, m.payload),
            Abort: lambda m: executor.abort(request=m.header.request),
            Recall: lambda m: executor.recall(m.header.tasks),
            Stop: self._take_stop,
            Signal: lambda m: watcher.signal(m.header),
            Where: lambda m: watcher.where(m.header.query),
            Examine: lambda m: watcher.examine(m.header),
            Cut: lambda m: watcher.cut(m.header),
            Made: lambda m: self.current.made(m.header, self.mail.take_comm),
            Drop: lambda m: self.current.drop(m.header),
            Renew: lambda m: watcher.renew(m.header, self.mail.take_comm),
            Complete: lambda m: watcher.complete(m.header),
            Release: lambda m: watcher.release(m.header),
            JobEnds: lambda m: clock.learn(m.header.left),
        }

    def _take_stop(self, message: Message) -> None:
        header = message.header
        assert isinstance(header, Stop)
        if header.controller and not header.engines:
            self._leaving = self._leaving or header.reason or "the world ends"
        else:
            self.executor.abort()

    # ------------------------------------------------------------ ranks that die

    def _recover(self) -> None:
        """Go on without the ranks that have died, perhaps as their leader."""
        loss = recovery.recover(self.world, self.mail, self._revoke_users)
        if self.leader is not None:
            self.leader.lost(loss.ranks)
        elif self.world.rank == self.world.leader:
            self._lead(Bridge(self._line, self.world, self._route))
            assert self.leader is not None
            self.leader.succeed()
            early, self._early = self._early, []
            for source, message in early:
                self.leader.take(source, message)
        n_lost = len(self.world.lost)
        self.post(Message(Held(self.world.rank, n_lost, self._held(), dict(self.executor.ended))))
        self.current.after_loss()
        self.watcher.after_loss(loss.new_leader)
        if loss.new_leader:
            self.output.begin_anew()

    def _held(self) -> dict[str, str]:
        """Return the requests that this rank has yet to answer, and their clients."""
        held = self.executor.held()  # before the results, so that nothing is in neither place
        for message in list(self._outbox):
            if isinstance(message.header, Result):
                held.setdefault(message.header.request, "")
        return held

    def _revoke_users(self) -> None:
        if self._guard is not None and self.world.lost_places:
            self._guard.ranks_died(self.world.lost_places)

    # ------------------------------------------------------------ the end

    def _end_world(self, reason: str) -> None:
        if self._leaving is None:
            self._leaving = self.reason = reason
            for rank in self.world.alive:
                if rank != self.world.rank:
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
        parting = recovery.Parting(self.world, self.mail)
        together = False
        while not together and time.monotonic() < deadline:
            self._last_steps()
            if not self.executor.finished:
                if time.monotonic() > interrupt_at:
                    interrupt_at = time.monotonic() + 0.5
                    os.kill(os.getpid(), signal.SIGINT)
            else:
                together = parting.done()
            time.sleep(0.001)
        if self.bridge is not None:
            self.bridge.close(self.reason)
        if not together:
            # Somebody is stuck, so MPI_Finalize would be, too. The first to leave takes the others along.
            os.write(self.output.log, b"mpiparallel: not all ranks ended in time; no MPI_Finalize\n")
            os._exit(1)
        self.can_finalize = parting.can_finalize

    def _last_steps(self) -> None:
        self.output.pump()
        try:
            self.mail.progress()
        except RanksLost:
            self.mail.bury()
        self._send_outbox()
        if self.leader is not None:
            self.leader.progress()


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
