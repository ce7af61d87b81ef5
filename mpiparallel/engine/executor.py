"""Runs user code, on the main thread, one task after the other.

The courier puts Submits in and takes them out again to abort them; the executor posts results back. What the
engine itself has to do on the main thread between two tasks, in its turn, goes through the same queue.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.verbs import Verbs, describe
from mpiparallel.wire import objects
from mpiparallel.wire.between import Broken
from mpiparallel.wire.messages import Failure, Lacks, Message, Result, Returned, Submit, Task

if TYPE_CHECKING:
    from mpiparallel.engine.guard import Guard

REMEMBERED = 256  # requests whose end is remembered, for a new leader
TOLD_WITHIN = 5.0  # seconds that the traceback of an interrupt may take to be rendered
AGAIN = 0.5  # seconds after an interrupt in which another one means the same


class Executor:
    """The queue of one engine and the loop that works through it.

    Parameters
    ----------
    engine_id, rank, output
    post
        Takes messages for the controller and for the bridge, from any thread.
    guard
        What watches over the MPI calls of user code; None: nothing does.

    Attributes
    ----------
    current : Submit or None
        The request that runs.
    since : float
        When it began (time.monotonic()), or when the last one ended.
    tasks : int
        How many tasks have begun.
    interrupt_due : (float, Submit) or None
        When, and in which request, an interrupt was sent that Python has not heard yet: user code is in C.
    """

    def __init__(
        self,
        engine_id: int,
        rank: int,
        output: OutputCapture,
        post: Callable[[Message], None],
        guard: Guard | None = None,
    ) -> None:
        self.engine_id, self._rank, self._output, self._post = engine_id, rank, output, post
        self._guard = guard
        self.verbs = Verbs(engine_id, output, self._ask_for_function, self._holding_interrupts)
        self.verbs.telling_interrupt = self._tell_interrupt
        # A task runs, or is aborted, by whoever takes it. At no moment it is neither here nor current.
        self._waiting: OrderedDict[int, Task | Callable[[], None]] = OrderedDict()
        self._lock = threading.Lock()  # of these two; no handler of a signal takes it
        self._numbers = itertools.count()
        self.gang_comm: Callable[[Submit], Any] | None = None  # gives the communicator of a gang
        self._interruptible = False
        self._held_back = False  # whether an interrupt came while it could not be raised
        self._raised_at = 0.0  # when the last interrupt was raised in this task
        self._interrupted_at = math.inf  # the place that was the queue's end then
        self.interrupt_due: tuple[float, Submit] | None = None
        self._pid = os.getpid()
        self.current: Submit | None = None
        self.ended: OrderedDict[str, str] = OrderedDict()  # requests answered last, and how
        self.since = time.monotonic()
        self.tasks = 0
        self.busy = False
        self.finished = False
        self._listen()

    # ------------------------------------------------------------ called by the courier

    def put(self, work: Task | Callable[[], None]) -> None:
        """Queue a task, or something of ours to call between tasks."""
        with self._lock:
            self._waiting[next(self._numbers)] = work

    @property
    def waiting(self) -> bool:
        """Whether there is anything in the queue."""
        return bool(self._waiting)

    def held(self) -> dict[str, str]:
        """Return the requests that this engine has yet to answer, and their clients."""
        with self._lock:
            held = [self.current] if self.current else []
            held += [work.header for work in self._waiting.values() if isinstance(work, Task)]
        return {header.request: header.client for header in held}

    def queued(self) -> list[str]:
        """Return the requests of the tasks in the queue."""
        with self._lock:
            return [work.header.request for work in self._waiting.values() if isinstance(work, Task)]

    def abort(self, request: str | None = None, client: str | None = None, before: float = math.inf) -> None:
        """Answer for the tasks that have not begun: those of a request, of a client, or all.

        `before`: a place in the queue; what stands behind it is left alone.
        """
        taken = []
        with self._lock:
            for number, work in list(self._waiting.items()):
                if not isinstance(work, Task) or number >= before:
                    continue
                header = work.header
                if request in (None, header.request) and client in (None, header.client):
                    del self._waiting[number]
                    taken.append(header.request)
        for name in taken:
            self._post(Message(Result(name, self.engine_id, "aborted")))

    def recall(self, requests: Iterable[str]) -> None:
        """Give back those of these tasks that have not begun; they get no result from here."""
        wanted = set(requests)
        taken = []
        with self._lock:
            for number, work in reversed(list(self._waiting.items())):
                if not wanted or not isinstance(work, Task):
                    continue
                # The other ranks of a gang may have begun.
                if work.header.request in wanted and not work.header.options.get("gang"):
                    wanted.discard(work.header.request)
                    del self._waiting[number]
                    taken.append(work.header.request)
        self._post(Message(Returned(self.engine_id, taken)))

    # ------------------------------------------------------------ the main thread

    def run_next(self) -> bool:
        """Run what is next in the queue; return False if there is nothing."""
        with self._lock:
            number = next(iter(self._waiting), None)
            if number is None:
                return False
            work = self._waiting.pop(number)
            if isinstance(work, Task):
                self._held_back = False
                self.current, self.since = work.header, time.monotonic()
        if not isinstance(work, Task):
            work()
            return True
        self.tasks += 1
        self.busy = True
        try:
            self._run_task(work)
        finally:
            self.busy = False
            self.current, self.since = None, time.monotonic()
        return True

    def _listen(self) -> None:
        """Take interrupts, also when the task before has left another handler, or none."""
        if not self.listens:
            signal.signal(signal.SIGINT, self._interrupt)

    @property
    def listens(self) -> bool:
        """Whether interrupts come here; user code may have set a handler of its own."""
        return signal.getsignal(signal.SIGINT) == self._interrupt

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._held_back = True
        self._interrupted_at = next(self._numbers)
        self.interrupt_due = None
        now = time.monotonic()
        # Two at a time are one: the second would hit those who deal with the first. A later one is for user
        # code that has caught the first and goes on.
        if self._interruptible and now - self._raised_at > AGAIN:
            self._raised_at = now
            raise KeyboardInterrupt

    def _tell_interrupt(self) -> None:
        """Note that a cell ends by an interrupt, which is rendered now: others would only spoil it."""
        self._raised_at = time.monotonic() + TOLD_WITHIN

    @contextlib.contextmanager
    def _holding_interrupts(self) -> Iterator[None]:
        """Let nothing interrupt what a part of a task does here; raise it afterwards."""
        self._interruptible = self._held_back = False
        yield
        self._interruptible = True
        if self._held_back:
            self._raised_at = time.monotonic()
            raise KeyboardInterrupt

    def _run_task(self, message: Task) -> None:
        header = message.header
        self._output.begin(header.request, header.client)
        self._raised_at, self._interrupted_at = 0.0, math.inf
        self._listen()
        started = time.time()
        if self._guard is not None:
            self._guard.begin_task()
        failure, frames = self._call(message)
        self._output.finish()
        if self._guard is not None:
            self._tell_broken(self._guard, failure)
        status: Any = "ok" if failure is None else "error"
        if failure is not None and header.verb == "execute":
            # What was sent after an interrupt, by who did not wait for the end of it, is meant to run.
            interrupted = failure.ename == "KeyboardInterrupt"
            self.abort(client=header.client, before=self._interrupted_at if interrupted else math.inf)
        result = Result(
            header.request, self.engine_id, status, started, time.time(), failure, self.verbs.execution_count
        )
        self.ended[header.request] = "ok" if failure is None else f"{failure.ename}: {failure.evalue[:200]}"
        if len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)
        self._post(Message(result, frames))

    def _tell_broken(self, guard: Guard, failure: Failure | None) -> None:
        """Report which communicators this task leaves broken, before its result can bring the next task."""
        if failure is not None:
            # What was sent on them and not received would reach the next task.
            guard.break_used(f"a task that used it ended with {failure.ename}")
        for comm, members, topology in guard.take_broken():
            self._post(Message(Broken(self._rank, comm, members, topology)))

    def _call(self, message: Task) -> tuple[Failure | None, list[Any]]:
        """Run the user's part of a task; whatever it raises is its result."""
        try:
            try:
                self._interruptible = True
                if self._held_back:  # since the task is seen to run
                    raise KeyboardInterrupt
                if message.header.options.get("gang") and self.gang_comm is not None:
                    value = self.verbs.run_with(message, self.gang_comm(message.header))
                else:
                    value = self.verbs.run(message)
                frames = [] if value is None else objects.copied(objects.dumps(value))
            finally:
                # An interrupt at this very moment is the last that can be raised, and is caught below.
                self._interruptible = False
        except BaseException as error:  # SystemExit and KeyboardInterrupt, too, end a task and not the engine
            if os.getpid() != self._pid:
                _leave_fork(error)
            return describe(error), []
        if os.getpid() != self._pid:
            _leave_fork(None)
        return None, frames

    def _ask_for_function(self, message: Task) -> None:
        header = message.header
        self._post(Message(Lacks(header.client, self.engine_id, header.function)))


def _leave_fork(error: BaseException | None) -> NoReturn:
    """End a child that user code forked and let come back here: there is one engine, its parent."""
    code = 1 if error is not None else 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        sys.stderr.write(describe(error).traceback + "\n")
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)
