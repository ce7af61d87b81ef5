"""What only the leading rank does: the bridge to the controller, and the overseeing of everybody's waits.

Part of that rank's courier, which calls it. When the leader dies, the next rank becomes it: it asks nobody, for
all ranks tell it what they hold after every death, and speaks to the controller when it has heard all.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from mpiparallel import peek
from mpiparallel.engine.bridge import Bridge
from mpiparallel.engine.mail import Mail, RanksLost
from mpiparallel.engine.overseer import Overseer
from mpiparallel.engine.world import World
from mpiparallel.wire.messages import (
    AnyHeader,
    Blocked,
    Broken,
    Held,
    Ledgers,
    Message,
    Notice,
    Renew,
    Result,
    Signal,
    Submit,
    Whereabouts,
)

OVERSIGHT = 0.1  # seconds between looks at everybody's waits
TICK = 0.5  # seconds between looks at the controller


class Leader:
    """The leading rank's part.

    Parameters
    ----------
    world, mail
    bridge
        Connected already, or to be resumed when all ranks have said what they hold (`succeed`).
    notice_after
        Seconds after which a wait is told to the client.
    """

    def __init__(self, world: World, mail: Mail, bridge: Bridge, notice_after: float) -> None:
        self._world, self._mail, self.bridge = world, mail, bridge
        self.overseer = Overseer(
            world.rank, world.alive, self._tell, self._renew, self._notice, notice_after
        )  # fmt: skip
        self._put_off: list[tuple[Sequence[int], Renew]] = []  # communicators that a death has prevented
        self._held: dict[int, Held] | None = None  # what the ranks say, while we are not connected
        self._last_tick = self._last_oversight = time.monotonic()

    # ------------------------------------------------------------ what comes

    def take(self, rank: int, message: Message) -> None:
        """Take what `rank` has to say to the leader, or to the controller."""
        header = message.header
        now = time.monotonic()
        if isinstance(header, Result):
            self.overseer.result(rank, header, now)
            self.bridge.post(message)
        elif isinstance(header, Blocked):
            self.overseer.blocked(header, now)
        elif isinstance(header, Ledgers):
            self.overseer.ledgers(header, now)
        elif isinstance(header, Broken):
            self.overseer.broken(header)
        elif isinstance(header, Held):
            self._take_held(header)
        elif isinstance(header, Whereabouts):
            self.bridge.whereabouts(header)
        else:
            self.bridge.post(message)

    def route(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Hand the bridge's messages to the ranks they are for."""
        header = next(iter(messages.values())).header if messages else None
        if isinstance(header, Submit):
            self.overseer.submitted(header.request, header.client, messages)
        elif isinstance(header, Signal) and header.signum == signal.SIGINT:
            self.overseer.interrupted(messages, time.monotonic())
        if len(messages) == 1 and self._world.rank in messages:
            self._mail.deliver_here(messages[self._world.rank])
        else:
            self._mail.post_to_all(messages, n_common, collective)

    # ------------------------------------------------------------ what goes out

    def _tell(self, rank: int, header: AnyHeader) -> None:
        if rank == self._world.rank:
            self._mail.deliver_here(Message(header))
        else:
            self._mail.post(rank, [Message(header)])

    def _renew(self, ranks: Sequence[int], order: Renew) -> None:
        try:
            number = self._mail.new_comm(ranks)
        except RanksLost:
            self._put_off.append((ranks, order))  # until the world is whole again
            return
        order = msgspec.structs.replace(order, made=number)
        for rank in ranks:
            self._tell(rank, order)

    def _notice(self, client: str, request: str, text: str) -> None:
        self.bridge.post(Message(Notice(client, request, text)))

    # ------------------------------------------------------------ all the time

    def progress(self) -> bool:
        """Move what can be moved to and from the controller; return whether there was anything."""
        busy = self._held is None and self.bridge.progress()
        now = time.monotonic()
        if now - self._last_oversight > OVERSIGHT:
            self._last_oversight = now
            self.overseer.tick(now)
            self._look_at_silent()
        if now - self._last_tick > TICK:
            self._last_tick = now
            if self._held is None:
                self.bridge.tick()
        return busy

    def _look_at_silent(self) -> None:
        """Tell clients of ranks whose couriers do not answer: user code keeps the GIL."""
        while self.overseer.silent:
            rank = self.overseer.silent.pop()
            requests = self.overseer.open_on(rank)
            if requests and self._world.has_here(rank):
                client, name = requests[0].client, requests[0].name
                threading.Thread(target=self._look, args=(rank, client, name), daemon=True).start()

    def _look(self, rank: int, client: str, name: str) -> None:
        seen = peek.look(self._world.pids[rank], native=True)
        self._notice(client, name, self.bridge.describe_stuck(rank, seen))

    # ------------------------------------------------------------ when ranks die

    def lost(self, ranks: list[int]) -> None:
        """Go on without these ranks."""
        now = time.monotonic()
        if self._held is not None:
            self._held = {}
        else:
            self.bridge.lost(ranks)
        self.overseer.lost(ranks, {rank: self.bridge.cause(rank) for rank in ranks}, now)
        put_off, self._put_off = self._put_off, []
        for members, order in put_off:
            alive = [rank for rank in members if rank in self._world.alive]
            if alive == list(members) or not order.topology:
                self._renew(alive, msgspec.structs.replace(order, members=alive))

    def succeed(self) -> None:
        """Take over from a leader that has died."""
        self._held = {}
        self.overseer.lost(self._world.lost, {rank: self.bridge.cause(rank) for rank in self._world.lost}, 0.0)

    def _take_held(self, held: Held) -> None:
        if self._held is None or held.lost != len(self._world.lost):
            return
        self._held[held.rank] = held
        if self._held.keys() < set(self._world.alive):
            return
        told, self._held = self._held, None
        everything = {name: client for one in told.values() for name, client in one.open.items()}
        for name, client in everything.items():
            ranks = [rank for rank, one in told.items() if name in one.open or name in one.ended]
            self.overseer.submitted(name, client, ranks)
            for rank in ranks:
                if name not in told[rank].open:
                    self.overseer.ended_before(name, rank, told[rank].ended[name])
        self.bridge.resume({rank: list(one.open) for rank, one in told.items()})


def held_by(
    rank: int, world: World, open_here: dict[str, str], unsent: Sequence[Any], ended: dict[str, str]
) -> Held:
    """Return what a rank tells the leader after a death."""
    requests = dict(open_here)
    for message in unsent:
        if isinstance(message.header, Result):
            requests.setdefault(message.header.request, "")
    return Held(rank, len(world.lost), requests, dict(ended))
