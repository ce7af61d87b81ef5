"""The courier's eyes on its own rank: what user code does, what it waits for, and how that is ended.

Called on whichever thread drives the courier. What it has to say goes to the leading rank's `Overseer` or,
through the bridge, to the client.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

from mpiparallel.engine.executor import Executor
from mpiparallel.engine.stacks import line_text, user_frames
from mpiparallel.engine.world import user_names
from mpiparallel.error import DeadlockError, PeerFailed
from mpiparallel.wire.between import (
    Blocked,
    Broken,
    Complete,
    Completed,
    Cut,
    Examine,
    Ledgers,
    Release,
    Remains,
    Renew,
)
from mpiparallel.wire.messages import Message, Notice, Signal, Whereabouts
from mpiparallel.wire.waits import Place

if TYPE_CHECKING:
    from mpiparallel.engine.guard import Guard
    from mpiparallel.engine.guard.remains import Remainder

REPORT_AFTER = 0.1  # seconds after which a wait is reported
LOOK_EVERY = 0.05
C_CODE_AFTER = 1.0  # seconds after an interrupt at which user code is taken to be in C code that ignores it


class Watcher:
    """Answers questions about this rank and carries out what ends its waits.

    Parameters
    ----------
    rank, engine_id, executor
    guard
        None when MPI is not guarded here (``--raw-mpi``).
    post
        Takes messages for the leading rank and the controller.
    """

    def __init__(
        self,
        rank: int,
        engine_id: int,
        executor: Executor,
        guard: Guard | None,
        post: Callable[[Message], None],
    ) -> None:
        self._rank, self._engine_id = rank, engine_id
        self._executor, self._guard, self._post = executor, guard, post
        self._reported: int | None = None  # the number of the wait that the overseer knows of
        self._looked = 0.0
        self._remainders: dict[str, Remainder] = {}  # of communicators that were replaced
        self._ending: dict[str, Remainder] = {}  # those of them that are being completed

    # ------------------------------------------------------------ by itself

    def look(self, now: float) -> None:
        """Report a wait that lasts, or that one is over; see whether an interrupt was heard."""
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        self._check_interrupt(now)
        if self._guard is None:
            return
        wait = self._guard.current()
        if self._reported is not None and (wait is None or wait.number != self._reported):
            self._reported = None
            self._post(Message(Blocked(self._rank, "", None)))
        if wait is None or wait.seconds < REPORT_AFTER or self._reported is not None:
            return
        current = self._executor.current
        if current is not None:
            self._reported = wait.number
            self._post(Message(Blocked(self._rank, current.request, wait, line_text(user_frames()))))

    def _check_interrupt(self, now: float) -> None:
        due = self._executor.interrupt_due
        if due is None or now - due[0] < C_CODE_AFTER:
            return
        self._executor.interrupt_due = None
        current = self._executor.current
        if current is not due[1]:
            return  # what was interrupted has ended
        where = line_text(user_frames())
        if self._guard is not None and self._guard.revoke_all():
            how = "its communicators were revoked, which ends MPI calls"
        else:
            how = f"client.send_signal('KILL', {self._engine_id}) ends the process"
        text = f"engine {self._engine_id} was interrupted, but C code does not look ({where}); {how}"
        self._post(Message(Notice(current.client, current.request, text)))

    # ------------------------------------------------------------ asked by others

    def place(self) -> Place:
        """Return what this engine is doing."""
        executor, now = self._executor, time.monotonic()
        current, since = executor.current, executor.since
        queued = len(executor.queued())
        if current is None:
            return Place(self._engine_id, "idle", seconds=now - since, queued=queued)
        wait = self._guard.current() if self._guard is not None else None
        return Place(
            self._engine_id,
            "running" if wait is None else "blocked",
            current.request,
            current.client,
            now - since,
            queued,
            user_frames(),
            wait,
        )

    def where(self, query: int) -> None:
        """Say what this engine is doing."""
        self._post(Message(Whereabouts(query, [self.place()])))

    def examine(self, question: Examine) -> None:
        """Say what was sent, received and begun, and what this rank waits for at this moment."""
        executor, guard = self._executor, self._guard
        # In this order: a wait that is the same afterwards had these counts all the time.
        wait = guard.current() if guard is not None else None
        ledgers = guard.ledgers(question.comms) if guard is not None else {}
        after = guard.current() if guard is not None else None
        if (wait.number if wait else None) != (after.number if after else None):
            ledgers = {}
        queued = len(executor.queued())
        answer = Ledgers(self._rank, question.round, executor.tasks, queued, executor.busy, after, ledgers)
        self._post(Message(answer))

    def signal(self, message: Signal) -> None:
        """Send a signal to this very process."""
        current = self._executor.current
        # A handler of user code does as it likes, and does not say whether it was called.
        if message.signum == signal.SIGINT and current is not None and self._executor.listens:
            self._executor.interrupt_due = (time.monotonic(), current)
        os.kill(os.getpid(), message.signum)
        if message.signum == signal.SIGINT and current is not None:
            _interrupt_children()

    def cut(self, order: Cut) -> None:
        """End the wait of user code that is in vain."""
        if self._guard is None:
            return
        failure = order.failure
        if failure.ename == "PeerFailed":
            self._guard.cut(order.number, PeerFailed(order.rank, failure.evalue, failure.traceback))
        else:
            self._guard.cut(order.number, DeadlockError(failure.evalue))

    def after_loss(self, new_leader: bool) -> None:
        """Report what ranks' deaths have broken, and to a new leader what the last one was told."""
        if new_leader:
            self._reported = None
        self._remainders.clear()
        self._ending.clear()
        if self._guard is None or (self._executor.busy and not new_leader):
            return
        self._guard.take_broken()
        for comm, members, topology in self._guard.all_broken():
            self._post(Message(Broken(self._rank, comm, members, topology)))

    def renew(self, order: Renew, take: Callable[[int], Any]) -> None:
        """Put the new communicator in the place of one that is broken, when its turn in the queue comes.

        If it could not be made, because a rank has died, the leader is asked for another.
        """
        try:
            comm = take(order.made)
        except LookupError:
            self._post(Message(Broken(self._rank, order.fresh, order.members, order.topology)))
            return
        if order.topology:
            dimensions, periods = order.topology
            comm = comm.Create_cart(dimensions, [bool(period) for period in periods], reorder=False)

        def swap() -> None:
            assert self._guard is not None
            remainder = self._guard.renew(order.comm, comm, order.members, order.fresh)
            if remainder.ledger is not None:
                self._remainders[order.comm] = remainder
            remains = Remains(self._rank, order.comm, remainder.ledger, remainder.operations)
            self._post(Message(remains))
            names = self._executor.verbs.names
            fixed = user_names(self._engine_id)
            # The size is another when ranks have died; what the user has made of these names stays.
            for name in ("mpi_rank", "mpi_size"):
                if isinstance(names.get(name), int):
                    names[name] = fixed[name]

        self._executor.put(swap)

    def complete(self, order: Complete) -> None:
        """Begin what other ranks wait for on a communicator that was replaced."""
        remainder = self._remainders.get(order.comm)
        if remainder is not None:
            remainder.begin(order.operations)
            self._ending[order.comm] = remainder

    def end_remainders(self) -> None:
        """Say of which communicators that were replaced everything has ended here."""
        for comm in [comm for comm, remainder in self._ending.items() if remainder.has_ended()]:
            del self._ending[comm]
            self._post(Message(Completed(self._rank, comm)))

    def release(self, order: Release) -> None:
        """Free a communicator that was replaced, between two tasks, or leave it as it is."""
        remainder = self._remainders.pop(order.comm, None)
        if remainder is not None and order.completed:
            self._executor.put(remainder.free)


def _interrupt_children() -> None:
    """Interrupt what user code has started, as Ctrl-C at a terminal does: all of our process group."""
    for child in psutil.Process().children(recursive=True):
        try:
            if os.getpgid(child.pid) == os.getpgrp():
                child.send_signal(signal.SIGINT)
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile
