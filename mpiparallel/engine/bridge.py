"""Rank 0's connection to the controller. Owned, as the mail is, by rank 0's courier.

Everything of a world passes here: requests come in and are handed to the ranks they name, what ranks
send goes out, many messages at a time.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

import mpiparallel
from mpiparallel.engine.handed import Handed
from mpiparallel.engine.link import Line as Line
from mpiparallel.engine.link import Link, is_dead
from mpiparallel.engine.outgoing import MAX_BATCH, Outgoing
from mpiparallel.engine.world import World
from mpiparallel.error import ConnectionRefused, WireError
from mpiparallel.wire import frames as wire_frames
from mpiparallel.wire.messages import (
    Abort,
    Consumed,
    EnginesLost,
    Goodbye,
    Heartbeat,
    HelloWorld,
    Lacks,
    Message,
    Output,
    Recall,
    Refused,
    Returned,
    Settled,
    Signal,
    Stop,
    Submit,
    Supply,
    WelcomeWorld,
    Where,
    Whereabouts,
)

LOOK_EVERY = 0.5  # seconds between looks at the controller's process while it has not answered
HOLD = 0.0002  # seconds for which results wait for others that may be about to come
COLLECTIVE = 256 << 10  # bytes from which what several ranks get goes by a broadcast
UNKNOWN = "has not said Hello"  # what a controller says to who has not been introduced to it
SILENCES = 6  # how many heartbeats a controller on another host may leave out
ANSWER_WITHIN = 5.0  # seconds for a welcome; then the controller is called once more
QUIET_NAP = 0.005
EVERYTHING = (1 << 62) - 1  # more credit than an engine can have
USER_VERBS = ("apply", "map", "execute")  # their engines are told who has a part in the request
# Of an old connection these mean nothing on a new one: its Hello says better what is returned and lost.
PASSING = (Heartbeat, Whereabouts, Returned, EnginesLost)


class Bridge:
    """The world's connection to the controller, made again when it breaks.

    What was said last may be lost then. So each Result is kept until it is settled, output until it is
    consumed, and sent again; what an engine lacks is asked for again; and engines may print as much as at the
    start. What has not been sent
    stays where it is, engines go on, and the controller is told what this world has been given (`_call`).

    Parameters
    ----------
    line, world
    route
        Called with ({rank: message}, number of common frames, whether to use a collective).
    """

    def __init__(
        self, line: Line, world: World, route: Callable[[dict[int, Message], int, bool], None]
    ) -> None:
        self._line, self._world, self._route = line, world, route
        self._context = zmq.Context()
        self._link: Link | None = None
        self.info = line.info
        self._ranks: dict[int, int] = {}  # engine id -> rank
        self._outgoing = Outgoing()
        self._heard = self._asked = time.monotonic()
        self._heartbeat, self.welcomes = line.config.heartbeat, 0  # how often the controller has said welcome
        self.stopped_by: str | None = None  # why the world is to end
        self._stopped: set[int] = set()  # engines that are to do nothing any more
        self._dead: set[int] = set()  # engines whose ranks have died
        self.said_dead: dict[int, str] = {}  # ranks of which the controller says that they have died
        self._put_off: deque[Message] = deque()  # came while a death was not noticed here
        self._early: deque[Message] = deque()  # came together with the welcome
        self._handed = Handed(line.config.max_backlog)
        self._lacking: dict[tuple[int, bytes], Message] = {}  # asked for, and not supplied
        self._broken_since: float | None = None  # set while there is no welcome
        self._called, self._unknown = 0.0, False  # when Hello was sent last; whether it was not heard

    # ------------------------------------------------------------ meeting

    def register(self) -> WelcomeWorld:
        """Introduce the world and return the controller's answer. Called before the courier runs.

        Raises
        ------
        ConnectionRefused
            If the controller does not want this world, or does not answer.
        """
        link = self._link = Link(self._context, self._line.info)
        link.send(wire_frames.pack([Message(self._hello())]))
        deadline = time.monotonic() + self._line.timeout
        while (left := deadline - time.monotonic()) > 0 and not link.is_hopeless:
            if link.wait(int(min(left, LOOK_EVERY) * 1000)):
                self._early.extend(wire_frames.unpack(link.receive() or []))
                header = self._early.popleft().header
                if isinstance(header, WelcomeWorld):
                    self._welcomed(header)
                    return header
                if isinstance(header, Refused):
                    raise ConnectionRefused(f"the controller at {link.address} refused: {header.reason}")
            elif is_dead(self.info):
                raise ConnectionRefused(f"the controller (process {self.info.pid}) is gone")
        raise ConnectionRefused(link.explain(self._line.timeout))

    def _hello(self, again: bool = False) -> HelloWorld:
        world, line = self._world, self._line
        lost = set(world.lost_places)
        alone = (world.hosts[0], world.pids[0]) if world.dedicated else ("", 0)
        if world.dedicated and world.lost[:1] == [0]:
            lost.add(world.n_engines)
        held: list[list[str]] | None = None
        owners: dict[str, str] = {}
        if again:
            lost.update(world.place_of(self._ranks[engine]) for engine in self._stopped)
            by_engine, owners = self._handed.held()
            held = [by_engine.get(engine, []) for engine in self._ranks]  # in the order of their places
        return HelloWorld(
            mpiparallel.__version__, world.name, world.hosts[world.shift :], world.pids[world.shift :],
            world.mpi, line.engine_set, first=line.first_id, log=line.config.log, survives=world.survives,
            lost=sorted(lost), held=held, owners=owners, bridge_host=alone[0], bridge_pid=alone[1],
            job=line.job.name if line.job else "", restarts=line.job.restarts if line.job else 0,
        )  # fmt: skip

    def resume(self, first: int, held: dict[int, dict[str, str]]) -> None:
        """Introduce the world again, after the death of the rank that had its bridge.

        Parameters
        ----------
        first
            The id of the first engine.
        held
            For each living rank the requests that it has yet to answer, and their clients.
        """
        world = self._world
        self._ranks = {first + place: world.rank_of(place) for place in range(world.n_engines)}
        for engine, rank in self._ranks.items():
            for request, client in held.get(rank, {}).items():
                self._handed.give(request, engine, client)
        self._broken_since = self._heard = time.monotonic()
        self._call_again(self._heard)

    def lost(self, ranks: Sequence[int]) -> None:
        """Tell the controller that ranks have died; the others go on."""
        engines = [engine for engine, rank in self._ranks.items() if rank in ranks]
        engines = [engine for engine in engines if engine not in self._dead]
        self._dead.update(engines)
        self._handed.died(engines)
        if engines:
            self.post(Message(EnginesLost(engines, "its process died")))

    def _welcomed(self, header: WelcomeWorld) -> None:
        world = self._world
        ranks = {engine: world.rank_of(place) for place, engine in enumerate(header.engines)}
        if self._ranks and ranks != self._ranks:
            self.stopped_by = "the controller has other ids for these engines"
            return
        self._ranks = ranks
        self._dead = {engine for engine, rank in ranks.items() if rank in world.lost}
        self._heartbeat = header.heartbeat
        world.name, self.welcomes = header.name or world.name, self.welcomes + 1
        self._heard = time.monotonic()
        if self._broken_since is not None:
            self._broken_since = None
            # What was on its way to clients is lost, or they have given it back to a controller that is gone.
            self._hand_on({engine: Message(Consumed(engine, EVERYTHING)) for engine in ranks})

    # ------------------------------------------------------------ meeting again

    def tick(self) -> None:
        """See whether the controller is there; call it again when the connection is broken, or give up."""
        now = time.monotonic()
        if self._broken_since is None:
            if self._is_broken(now):
                self._break(now)
            elif now - self._heard > self._heartbeat and now - self._asked > self._heartbeat:
                self._asked = now
                self.post(Message(Heartbeat(echo=True)))
        if self._broken_since is not None and self.stopped_by is None:
            if self._line.is_withdrawn or now - self._broken_since > self._line.config.orphan_after:
                self.stopped_by = f"the controller (process {self.info.pid}) is gone"
            else:
                self._call_when_due(now)

    def _is_broken(self, now: float) -> bool:
        if self._link is None or self._unknown or self._link.is_broken() or is_dead(self.info):
            return True
        return self.info.host != socket.gethostname() and now - self._heard > SILENCES * self._heartbeat

    def _break(self, now: float) -> None:
        """Take what the connection still holds, let go of it, and see to what may be lost with it."""
        self._broken_since = now
        self._drain()
        self._drop_link()
        unsent = self._outgoing.take_all()
        # In the order in which they were sent first; none may come after what was never sent.
        again = [*self._handed.output(), *self._handed.results(unsent), *self._lacking.values()]
        for message in again:
            self._outgoing.add(message)
        for message in unsent:
            if not isinstance(message.header, (*PASSING, Lacks, Output)):
                self._outgoing.add(message)

    def _drain(self) -> None:
        while self._link is not None and self.stopped_by is None:
            frames = self._link.receive()
            if frames is None:
                return
            self._receive_batch(frames)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _call_when_due(self, now: float) -> None:
        hopeful = self._link is not None and not self._link.is_broken() and now - self._called < ANSWER_WITHIN
        if not hopeful or self._line.read_again() not in (None, self.info):
            self._call_again(now)

    def _call_again(self, now: float) -> None:
        """Connect to the controller that the connection file names now, if it is there."""
        self._drop_link()
        info = self._line.read_again()
        if info is None or is_dead(info):
            return
        self.info, self._called, self._unknown = info, now, False
        # What it tells better than these do.
        control = self._outgoing.control
        self._outgoing.control = deque(one for one in control if not isinstance(one.header, PASSING))
        self._link = Link(self._context, info)
        self._link.send(wire_frames.pack([Message(self._hello(again=True))]))

    def nap(self, seconds: float) -> None:
        """Wait, at most until the controller says something."""
        if self.quiet:
            seconds = max(seconds, QUIET_NAP * (2 if self._world.dedicated else 1))
        if self._link is not None and seconds >= 0.001:  # ZeroMQ's poll counts in whole milliseconds
            self._link.wait(int(seconds * 1000))
        else:
            time.sleep(seconds)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way in this world, so that only the controller can bring work."""
        return not self._handed.open and not self._outgoing

    # ------------------------------------------------------------ out

    def post(self, message: Message) -> None:
        """Send a message when the socket takes it."""
        header = message.header
        if isinstance(header, Lacks):
            self._lacking[header.engine, header.function] = message
        else:
            self._handed.leaves(message)
        self._outgoing.add(message)

    def _flush(self) -> bool:
        outgoing = self._outgoing
        if not outgoing or self._broken_since is not None or self._link is None:
            return False
        # The ranks answer a request one shortly after the other: sent as one, their results cost the
        # controller and the client a third.
        more_to_come = self._handed.open and not outgoing.control and len(outgoing.data) < MAX_BATCH
        if more_to_come and time.monotonic() - outgoing.first < HOLD:
            return True
        busy = False
        while (frames := outgoing.next()) is not None and self._link.send(frames):
            outgoing.sent()
            busy = True
        return busy

    # ------------------------------------------------------------ in

    def progress(self) -> bool:
        """Send and receive what can be; return whether anything happened."""
        busy = self._flush()
        while self._put_off and not self._is_unnoticed():
            self._take(self._put_off.popleft())
        while self._early:
            self._receive(self._early.popleft())
        for _ in range(64):
            frames = self._link.receive() if self._link is not None else None
            if frames is None or self.stopped_by is not None:
                break
            busy = True
            self._receive_batch(frames)
        return self._flush() or busy

    def _receive_batch(self, frames: list[Any]) -> None:
        self._heard = time.monotonic()
        try:
            messages = wire_frames.unpack(frames)
        except WireError as error:
            self.stopped_by = f"the controller sent what this engine does not understand: {error}"
            return
        for message in messages:
            self._receive(message)

    def _receive(self, message: Message) -> None:
        # An abort must not come before its request.
        if isinstance(message.header, Submit | Abort) and (self._put_off or self._is_unnoticed()):
            self._put_off.append(message)
        else:
            self._take(message)

    def _take(self, message: Message) -> None:
        header = message.header
        if isinstance(header, Submit):
            self._submit(header, message.payload)
        elif isinstance(header, Settled):
            self._handed.settled(header.requests, header.engines)
        elif isinstance(header, Abort | Signal | Stop | Where):
            if isinstance(header, Stop):
                self._stopped.update(self._ranks.keys() & header.engines)
                if header.controller or self._ranks.keys() <= self._stopped | self._dead:
                    self.stopped_by = header.reason or "the controller ended this world"
            self._hand_on(dict.fromkeys(header.engines, message))
        elif isinstance(header, Supply):
            self._lacking.pop((header.engine, header.function), None)
            self._hand_on({header.engine: message})
        elif isinstance(header, Recall | Consumed):
            if isinstance(header, Consumed):
                self._handed.consumed(header.engine, header.size)
            self._hand_on({header.engine: message})
        elif isinstance(header, EnginesLost):
            self.said_dead.update((self._ranks[engine], header.reason) for engine in header.engines)
        elif isinstance(header, WelcomeWorld):
            self._welcomed(header)
        elif isinstance(header, Heartbeat):
            if header.echo:
                self.post(Message(Heartbeat()))
        elif isinstance(header, Refused):
            if UNKNOWN in header.reason:
                self._unknown = True
            elif not header.request:
                self.stopped_by = f"the controller refuses this world: {header.reason}"
        elif isinstance(header, Goodbye):
            self.stopped_by = header.reason or "the controller ended"

    def _is_unnoticed(self) -> bool:
        """Whether a rank has died and MPI is about to say so.

        Who sends a request now may know of that death already, and may count on communicators without it.
        """
        return any(rank in self._world.alive for rank in self.said_dead)

    def _hand_on(self, messages: dict[int, Message]) -> None:
        known = {
            self._ranks[engine]: message
            for engine, message in messages.items()
            if engine in self._ranks and engine not in self._dead
        }
        if known:
            self._route(known, 0, False)

    def _submit(self, header: Submit, payload: Sequence[Any]) -> None:
        n_common = header.common
        common = payload[:n_common]
        messages = {}
        start = n_common
        for engine, count in zip(header.engines, header.parts or [0] * len(header.engines), strict=True):
            own = header
            if header.parts and header.verb in USER_VERBS:
                own = msgspec.structs.replace(header, common=n_common + count, parts=[])
            elif header.parts:
                own = msgspec.structs.replace(header, engines=[engine], parts=[count])
            # The controller fails the tasks of engines that have died since; it will hear of that.
            if engine not in self._dead and self._is_new(header, engine):
                messages[self._ranks[engine]] = Message(own, [*common, *payload[start : start + count]])
            start += count
        if messages:
            long = len(messages) > 2 and sum(map(wire_frames.nbytes, common)) >= COLLECTIVE
            self._route(messages, n_common, long)

    def _is_new(self, header: Submit, engine: int) -> bool:
        """Whether a task is to be done; what is sent again may have been done already, or be under way."""
        done = self._handed.unsettled(header.request, engine) if header.again else None
        if done is not None:
            self._outgoing.add(done)
            return False
        return self._handed.give(header.request, engine, header.client)

    def close(self, reason: str) -> None:
        """Say goodbye and let go of the socket; what is queued still leaves within a second."""
        if self._link is None:
            return
        self._outgoing.add(Message(Goodbye("" if reason.startswith("the controller ended") else reason)))
        deadline = time.monotonic() + 1.0
        while self._broken_since is None and self._outgoing and time.monotonic() < deadline:
            if not self._flush():
                self._link.wait(10, zmq.POLLOUT)
        self._link.close(linger=1000)
        self._link = None
