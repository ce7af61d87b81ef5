"""What only the leading rank does: the bridge to the controller, and the overseeing of everybody's waits.

Part of that rank's courier, which calls it. When the leader dies, the next rank becomes it: it asks nobody,
for all ranks tell it what they hold after every death, and speaks to the controller when it has heard all.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

import msgspec

from mpiparallel import peek
from mpiparallel.engine.bridge import Bridge
from mpiparallel.engine.clearing import Clearing
from mpiparallel.engine.foretelling import Foreteller
from mpiparallel.engine.gangs import Gangs
from mpiparallel.engine.jobtime import clock
from mpiparallel.engine.mail import Mail
from mpiparallel.engine.overseer import Overseer, Request
from mpiparallel.engine.questions import Questions
from mpiparallel.engine.world import World
from mpiparallel.wire.between import Blocked, Broken, Completed, Held, Ledgers, Remains, Renew, Want
from mpiparallel.wire.messages import (
    AnyHeader,
    Message,
    Notice,
    Result,
    Returned,
    Signal,
    Submit,
    Where,
    Whereabouts,
)

OVERSIGHT = 0.1  # seconds between looks at everybody's waits, and at the controller
NOTICE_WITHIN = 1.5  # seconds in which MPI hears of a death


class Leader:
    """The leading rank's part.

    Parameters
    ----------
    world, mail
    bridge
        Connected already, or to be resumed when all ranks have said what they hold (`succeed`).
    first
        The id of the first engine.
    notice_after
        Seconds after which a wait is told to the client.
    foreteller
        Who knows when the batch job ends.
    """

    def __init__(
        self, world: World, mail: Mail, bridge: Bridge, first: int, notice_after: float,
        foreteller: Foreteller,
    ) -> None:  # fmt: skip
        self._world, self._mail, self.bridge, self._foreteller = world, mail, bridge, foreteller
        self._first = first
        # It knows ranks by their places, as user code does.
        self.overseer = Overseer(
            world.place, world.places, self._tell, self._renew, self._notice, notice_after
        )
        self._gangs = Gangs(self._begin_comm, self._tell, self.overseer.is_open_for)
        self._gangs.alive(world.places, len(world.lost))
        self._clearing = Clearing(self._tell)
        self._questions = Questions(world, first, lambda answer: bridge.post(Message(answer)))
        self._held: dict[int, Held] | None = None  # what the ranks say, while we are not connected
        self._unnoticed: dict[int, float] = {}  # ranks that the controller says are dead: since when
        self._last_oversight = time.monotonic()

    # ------------------------------------------------------------ what comes

    def take(self, rank: int, message: Message) -> None:
        """Take what `rank` has to say to the leader, or to the controller."""
        header = message.header
        now = time.monotonic()
        if isinstance(header, Result):
            self.overseer.result(self._world.place_of(rank), header, now)
            self.bridge.post(message)
        elif isinstance(header, Returned):
            for name in header.tasks:
                self.overseer.withdrawn(name, self._world.place_of(rank))
            self.bridge.post(message)
        elif isinstance(header, Blocked):
            self.overseer.blocked(header, now)
        elif isinstance(header, Ledgers):
            self.overseer.ledgers(header, now)
        elif isinstance(header, Broken):
            self.overseer.broken(header)
        elif isinstance(header, Remains):
            self._clearing.remains(header)
        elif isinstance(header, Completed):
            self._clearing.completed(header)
        elif isinstance(header, Want):
            self._gangs.want(header)
        elif isinstance(header, Held):
            self._take_held(header)
        elif isinstance(header, Whereabouts):
            self._questions.take(header)
        else:
            self.bridge.post(message)

    def route(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Hand the bridge's messages to the ranks they are for."""
        header = next(iter(messages.values())).header if messages else None
        places = map(self._world.place_of, messages)
        if isinstance(header, Submit):
            self.overseer.submitted(header.request, header.client, places)
        elif isinstance(header, Where):
            self._questions.ask(header.query, places, time.monotonic())
        elif isinstance(header, Signal) and header.signum == signal.SIGINT:
            self.overseer.interrupted(places, time.monotonic())
        elif isinstance(header, Signal) and header.signum == signal.SIGKILL:
            messages = self._kill(messages)
        if len(messages) == 1:
            [(rank, message)] = messages.items()
            if rank == self._world.rank:
                self._mail.deliver_here(message)
            else:
                self._mail.post_later(rank, message)
        else:
            self._mail.post_to_all(messages, n_common, collective)
        if isinstance(header, Submit) and len(messages) > 1 and header.options.get("gang"):
            self._gangs.want(Want([self._world.place_of(rank) for rank in messages]))

    def _kill(self, messages: dict[int, Message]) -> dict[int, Message]:
        """Kill ranks of this host, which may not listen; return the messages for the others, and for us."""
        here = {rank for rank in messages if self._world.has_here(rank) and rank != self._world.rank}
        for rank in here:
            os.kill(self._world.pids[rank], signal.SIGKILL)
        return {rank: message for rank, message in messages.items() if rank not in here}

    # ------------------------------------------------------------ what goes out

    def _tell(self, place: int, header: AnyHeader) -> None:
        rank = self._world.rank_of(place)
        if rank == self._world.rank:
            self._mail.deliver_here(Message(header))
        else:
            self._mail.post(rank, [Message(header)])

    def _begin_comm(self, places: Sequence[int]) -> int:
        return self._mail.new_comm([self._world.rank_of(place) for place in places])

    def _renew(self, places: Sequence[int], order: Renew) -> None:
        order = msgspec.structs.replace(order, made=self._begin_comm(places))
        self._clearing.begin(order.comm, places)
        for place in places:
            self._tell(place, order)

    def _notice(self, client: str, request: str, text: str) -> None:
        if not client:
            return  # known only by a result that was on its way when the leader died
        self.bridge.post(Message(Notice(client, request, text)))

    # ------------------------------------------------------------ all the time

    def progress(self) -> bool:
        """Move what can be moved to and from the controller; return whether there was anything."""
        busy = self._held is None and self.bridge.progress()
        self._mail.flush()
        now = time.monotonic()
        if now - self._last_oversight > OVERSIGHT:
            self._last_oversight = now
            self.overseer.tick(now)
            self._look_at_silent()
            self._questions.tick(now)
            self._look_at_dead(now)
            if self._held is None:
                self.bridge.tick()
                self._foretell()
        return busy

    def _foretell(self) -> None:
        """Tell ranks, controller and clients of the end of the batch job."""
        signalled, clock.warned = clock.warned, False
        for header in self._foreteller.tick(self.bridge.welcomes, signalled):
            self.bridge.post(Message(header))
            for place in self._world.places:
                self._tell(place, header)

    def _look_at_silent(self) -> None:
        """Interrupt ranks whose couriers do not answer from outside, and tell clients what they are in."""
        while self.overseer.silent:
            place = self.overseer.silent.pop()
            rank = self._world.rank_of(place)
            requests = self.overseer.open_on(place)
            if requests and self._world.has_here(rank):
                os.kill(self._world.pids[rank], signal.SIGINT)  # C code may hear it, though Python does not
                look = threading.Thread(target=self._look, args=(rank, requests[0]), daemon=True)
                look.start()

    def _look(self, rank: int, request: Request) -> None:
        engine = self._first + self._world.place_of(rank)
        seen = peek.look(self._world.pids[rank], native=True)
        where = seen.detail or "user code holds the GIL in C code"
        if seen.stack:
            file, line, function = seen.stack[-1]
            where += f", called by {function} in {file}, line {line}"
        if seen.native:
            where += f" ({' > '.join(seen.native[-4:])})"
        text = f"engine {engine} does not answer: {where}; client.send_signal('KILL', {engine}) ends it"
        self._notice(request.client, request.name, text)

    # ------------------------------------------------------------ when ranks die

    def _look_at_dead(self, now: float) -> None:
        """End the world when a rank has died and MPI does not notice: nobody could go on without it."""
        for rank, reason in self.bridge.said_dead.items():
            if rank not in self._world.alive:
                continue
            since = self._unnoticed.setdefault(rank, now)
            if now - since > NOTICE_WITHIN:
                self.bridge.stopped_by = f"{reason}; MPI did not notice, so the others could not go on"

    def lost(self, ranks: list[int]) -> None:
        """Go on without these ranks."""
        now = time.monotonic()
        if self._held is not None:
            self._resume_when_told()
        else:
            self.bridge.lost(ranks)
        places = [self._world.place_of(rank) for rank in ranks if rank >= self._world.shift]
        self._questions.lost(places)
        self._clearing.lost()
        self._gangs.alive(self._world.places, len(self._world.lost))
        if places:
            self.overseer.lost(places, now)

    def succeed(self) -> None:
        """Take over from a leader that has died."""
        self._held = {}
        if self._world.lost_places:
            self.overseer.lost(self._world.lost_places, time.monotonic())

    def _take_held(self, held: Held) -> None:
        if self._held is not None:
            self._held[held.rank] = held
            self._resume_when_told()

    def _resume_when_told(self) -> None:
        """Speak to the controller when all that live have told what they hold after the last death."""
        n_lost = len(self._world.lost)
        told = {rank: held for rank, held in (self._held or {}).items() if held.lost == n_lost}
        if self._held is None or told.keys() < set(self._world.alive):
            return
        self._held = None
        everything = {name: client for held in told.values() for name, client in held.open.items()}
        for name, client in everything.items():
            ranks = [rank for rank, held in told.items() if name in held.open or name in held.ended]
            self.overseer.submitted(name, client, map(self._world.place_of, ranks))
            for rank in ranks:
                if name not in told[rank].open:
                    self.overseer.ended_before(name, self._world.place_of(rank), told[rank].ended[name])
        self.bridge.resume(self._first, {rank: held.open for rank, held in told.items()})
