"""Messages between the ranks of a world, over MPI, without ever blocking.

Owned by a courier: no other thread calls in here. An envelope is one MPI message that holds the headers and
short payloads of any number of messages; long frames follow on a communicator of their own, one by one
(`Isend`/`Irecv`) or, when many ranks get the same ones, by `Ibcast`::

    envelope = group | broadcast frames | long frames | letter | their sizes ...
               | first frame of wire.frames.pack()

Messages from one rank arrive in the order sent; those of the control lane overtake others whose long frames
are still on their way.

Where the world survives the death of ranks, what the living send one another point to point is not touched by
it: the private communicators stay what they are, and are never revoked. Broadcasts break off, so each is a
numbered *letter*, which its sender keeps until all have it, and sends again, one by one, to those that ask.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.arrivals import Arrival, Arrivals, Deliver, PlainRequest, pieces
from mpiparallel.engine.groups import Groups
from mpiparallel.engine.world import World
from mpiparallel.wire import frames as wire_frames
from mpiparallel.wire.messages import Message

ENVELOPE, RECEIVED, AGAIN, PARTED = 1, 11, 12, 13  # tags, beside those of `groups`
NOTICE = 2.0  # seconds in which the cause of an error in MPI shows itself, when it is a rank's death

_PREFIX = struct.Struct("<IIIQ")


class RanksLost(Exception):
    """Ranks have died. Call `recovery.recover`."""


class Mail:
    """Post and collect messages of this rank.

    Parameters
    ----------
    world
    deliver
        Called with (source rank, message) for each that arrived.
    """

    def __init__(self, world: World, deliver: Deliver) -> None:
        self.rank, self._world = world.rank, world
        self._comm, self._bulk = world.mail, world.bulk
        # Requests, the memory they read, and who it is for: None is several.
        self._sends: deque[tuple[list[Any], Any, int | None]] = deque()
        self._arrivals = Arrivals(deliver)
        self._groups = Groups(world, self._tell)
        self._status = MPI.Status()
        self._later: dict[int, list[Message]] = {}  # by rank: to be sent together, before anything else
        # The rest is used only where the world survives. Letters: their frames, and who has not got them.
        self._letters: dict[int, tuple[list[Any], set[int]]] = {}
        self._last_letter = 0
        self._abandoned: list[tuple[list[Any], Any]] = []  # what MPI may still use
        self._buried = 0  # deaths that were dealt with
        self._trouble: MPI.Exception | None = None
        self.parted: set[int] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, as far as this rank knows."""
        return not self._sends and not self._letters and not self._arrivals and not self._later

    @property
    def all_sent(self) -> bool:
        """Whether MPI has taken all that was posted."""
        return not self._sends and not self._later

    # ------------------------------------------------------------ posting

    def post(self, to: int, messages: Sequence[Message]) -> None:
        """Send messages to one rank (not this one). What is for a dead rank is dropped."""
        if to in self._world.alive:
            self._send(to, wire_frames.pack(messages), 0, 0, 0)

    def post_later(self, to: int, message: Message) -> None:
        """Send a message to one rank (not this one) with the next `flush`: many cost little more than one."""
        self._later.setdefault(to, []).append(message)

    def flush(self) -> None:
        """Send what was kept back by `post_later`."""
        while self._later:
            to, messages = self._later.popitem()
            self.post(to, messages)

    def post_to_all(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Send one message to each of several ranks, this one perhaps among them.

        Parameters
        ----------
        messages
            By rank. Their first `n_common` payload frames are the same objects.
        collective
            Whether the long ones among these go by one broadcast. Only the leader may say so.
        """
        alive = self._world.alive
        packed = {
            rank: wire_frames.pack([message])
            for rank, message in messages.items()
            if rank != self.rank and rank in alive
        }
        shared: list[Any] = []
        group = letter = 0
        if collective and packed:
            common = next(iter(messages.values())).payload[:n_common]
            shared = [frame for frame in common if wire_frames.nbytes(frame) > wire_frames.INLINE]
            group = self._groups.of(list(packed)) if shared else 0
        if not group:
            shared = []
        elif self._world.survives:
            self._last_letter = letter = self._last_letter + 1
            self._letters[letter] = (shared, set(packed))
        requests = []
        for rank, frames in packed.items():
            requests += self._send(rank, frames, group, len(shared), letter)
        if group:
            broadcast = self._broadcast(self._groups[group], shared)
            requests += broadcast if not letter else []
        if self.rank in messages:
            # Our own engine may write to its frames, so it gets them when nobody reads them any more.
            ready = [lambda: all(map(_is_over, requests))] if requests else []
            if letter:
                ready.append(lambda: letter not in self._letters)
            self._arrivals.add(self.rank, Arrival([], messages=[messages[self.rank]], ready=ready))

    def deliver_here(self, message: Message) -> None:
        """Hand a message to this rank itself, behind those that are on their way to it."""
        self._arrivals.add(self.rank, Arrival([], messages=[message]))

    def new_comm(self, ranks: Sequence[int]) -> int:
        """Begin a communicator of `ranks`, in that order; return its number. For the leader.

        What is posted afterwards to the members, this rank among them, arrives when they have made it, or
        know that it cannot be made. Control messages do not wait.
        """
        number = self._groups.new_comm(ranks)
        if self.rank in ranks:
            self._await(self.rank, number)
        return number

    def take_comm(self, number: int) -> Any:
        """Return communicator `number`, which the caller owns from now on.

        Raises
        ------
        groups.CommLost
            If it could not be made because a rank died: the leader has to begin another.
        """
        return self._groups.take(number)

    def part(self, to: int) -> None:
        """Tell a rank that this one has ended: it finds us in `parted`."""
        self._tell([to], PARTED, [self.rank])

    def _send(self, to: int, packed: list[Any], group: int, n_broadcast: int, letter: int) -> list[Any]:
        sizes = [wire_frames.nbytes(frame) for frame in packed[1:]]
        prefix = _PREFIX.pack(group, n_broadcast, len(sizes), letter)
        envelope = prefix + struct.pack(f"<{len(sizes)}Q", *sizes) + packed[0]
        self._isend(self._comm, [envelope], to, ENVELOPE)
        return self._isend(self._bulk, packed[1 + n_broadcast :], to, 0)

    def _isend(self, comm: Any, frames: list[Any], to: int, tag: int) -> list[Any]:
        requests: list[Any] = []
        if to in self._later:
            self.post(to, self._later.pop(to))
        if frames:
            try:
                for frame in frames:
                    for piece in pieces(frame):
                        requests.append(comm.Isend([piece, MPI.BYTE], to, tag))
            except MPI.Exception as error:
                self._failed(error)
            self._sends.append((requests, frames, to))
        return requests

    def _broadcast(self, comm: Any, frames: list[Any]) -> list[Any]:
        requests: list[Any] = []
        try:
            for frame in frames:
                requests += [comm.Ibcast([piece, MPI.BYTE], 0) for piece in pieces(frame)]
        except MPI.Exception as error:
            self._failed(error)
        self._sends.append((requests, frames, None))
        return requests

    def _tell(self, ranks: Sequence[int], tag: int, numbers: list[int]) -> None:
        text = struct.pack(f"<{len(numbers)}Q", *numbers)
        for rank in ranks:
            if rank != self.rank:
                self._isend(self._comm, [text], rank, tag)

    # ------------------------------------------------------------ collecting

    def progress(self) -> bool:
        """Move what can be moved, deliver what is complete; return whether anything happened.

        Raises
        ------
        RanksLost
            Where the world survives, if ranks have died.
        """
        if self._world.survives:
            self._look()
        try:
            return self._progress()
        except MPI.Exception as error:
            self._failed(error)
            raise RanksLost from error

    def _progress(self) -> bool:
        busy = False
        sends = self._sends
        while sends and PlainRequest.Testall(sends[0][0]):
            sends.popleft()
            busy = True
        for _ in range(256):
            matched = self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, self._status)
            if matched is None:
                break
            busy = True
            source, tag = self._status.source, self._status.tag
            text = bytearray(self._status.Get_count(MPI.BYTE))
            try:
                matched.Recv([text, MPI.BYTE])
            except MPI.Exception:
                if source in self._world.alive:
                    raise  # nothing that came later from there may be taken for the next
                continue
            if source not in self._world.alive:
                continue
            if tag == ENVELOPE:
                self._open(source, text)
            else:
                self._told(source, tag, struct.unpack(f"<{len(text) // 8}Q", text))
        if self._abandoned:
            self._abandoned = [one for one in self._abandoned if not all(map(_is_over, one[0]))]
        busy = self._groups.progress() or busy
        if self._world.survives:
            return self._arrivals.collect(self._look) or busy or bool(sends)
        return self._arrivals.collect() or busy or bool(sends)

    def _told(self, source: int, tag: int, numbers: Sequence[int]) -> None:
        if tag == RECEIVED:
            self._received(source, numbers[0])
        elif tag == AGAIN:
            self._isend(self._bulk, self._letters[numbers[0]][0], source, _tag(numbers[0]))
        elif tag == PARTED:
            self.parted.add(source)
        elif number := self._groups.told(source, tag, numbers):
            self._await(source, number)

    def _await(self, source: int, number: int) -> None:
        """Let what comes from `source` wait for a communicator."""
        ready = [lambda: self._groups.is_decided(number)]
        self._arrivals.add(source, Arrival([], messages=[], ready=ready))

    def _received(self, rank: int, letter: int) -> None:
        waiting = self._letters[letter][1]
        waiting.discard(rank)
        if not waiting:
            del self._letters[letter]

    def _open(self, source: int, text: bytearray) -> None:
        group, n_broadcast, n_long, letter = _PREFIX.unpack_from(text)
        sizes = struct.unpack_from(f"<{n_long}Q", text, _PREFIX.size)
        arrival = Arrival([memoryview(text)[_PREFIX.size + 8 * n_long :]], letter=letter)
        if letter:
            arrival.when_complete = lambda: self._tell([source], RECEIVED, [letter])
        for i, size in enumerate(sizes):
            parts = pieces(arrival.add_frame(size))
            if i >= n_broadcast:
                arrival.requests += [self._bulk.Irecv([piece, MPI.BYTE], source) for piece in parts]
        arrival.n_broadcast = n_broadcast
        if n_broadcast:
            self._join_broadcast(source, arrival, group)
        self._arrivals.add(source, arrival)

    def _join_broadcast(self, source: int, arrival: Arrival, group: int) -> None:
        if not arrival.letter or len(self._world.alive) == self._world.size:
            comm = self._groups[group]
            try:
                for frame in arrival.frames[1 : 1 + arrival.n_broadcast]:
                    arrival.broadcasts += [comm.Ibcast([piece, MPI.BYTE], 0) for piece in pieces(frame)]
                return
            except MPI.Exception as error:
                self._failed(error)
        self._ask_again(source, arrival)

    def _ask_again(self, source: int, arrival: Arrival) -> None:
        """Get the frames of a broadcast from its sender."""
        self._abandoned.append((arrival.broadcasts, arrival.frames[1 : 1 + arrival.n_broadcast]))
        arrival.broadcasts = []
        for i in range(1, 1 + arrival.n_broadcast):
            for piece in pieces(arrival.renew_frame(i)):
                arrival.requests.append(self._bulk.Irecv([piece, MPI.BYTE], source, _tag(arrival.letter)))
        self._tell([source], AGAIN, [arrival.letter])

    # ------------------------------------------------------------ when ranks die

    def _deaths(self) -> list[int]:
        failed = self._comm.Get_failed()
        ranks: list[int] = []
        if failed.size:
            everybody = self._comm.Get_group()
            ranks = failed.Translate_ranks(list(range(failed.size)), everybody)
            everybody.Free()
        failed.Free()
        return ranks

    def _look(self) -> None:
        failed = self._comm.Get_failed()
        count = failed.size
        failed.Free()
        if count > self._buried or self._trouble is not None:
            raise RanksLost

    def _failed(self, error: MPI.Exception) -> None:
        """Take note of an error of MPI, or raise it if it can have nothing to do with the death of a rank."""
        if not self._world.survives:
            raise error
        self._trouble = error

    def bury(self) -> list[int]:
        """Go on without the ranks that died since the last call; return them. `World.alive` has fewer then.

        Raises
        ------
        MPI.Exception
            If something else is wrong.
        """
        world = self._world
        deadline = time.monotonic() + NOTICE
        while self._trouble is not None and len(self._deaths()) == self._buried:
            if time.monotonic() > deadline:
                raise self._trouble
            time.sleep(0.001)
            type(self._comm)(MPI.COMM_SELF).Iprobe()  # lets MPI hear of it
        self._trouble = None
        deaths = self._deaths()
        self._comm.Ack_failed()  # after that: more than we know of may be acknowledged, but not fewer
        self._buried = len(deaths)
        old_leader = world.leader
        dead = sorted(set(deaths) & set(world.alive))
        world.alive = [rank for rank in world.alive if rank not in dead]
        self._forget(dead)
        self._groups.forget(world.leader != old_leader)
        return dead

    def _forget(self, dead: Sequence[int]) -> None:
        lost = [one for one in self._sends if one[2] is None or one[2] in dead]
        self._sends = deque(one for one in self._sends if one[2] is not None and one[2] not in dead)
        self._abandoned += [(requests, memory) for requests, memory, _ in lost]
        for letter in list(self._letters):
            for rank in dead:
                if letter in self._letters:
                    self._received(rank, letter)
        for rank in dead:
            for arrival in self._arrivals.drop(rank):
                self._abandoned.append((arrival.requests + arrival.broadcasts, arrival.frames))
        for source, arrival in self._arrivals.waiting():
            if arrival.broadcasts:
                self._ask_again(source, arrival)


def _tag(letter: int) -> int:
    return 1 + letter % 30_000


def _is_over(request: MPI.Request) -> bool:
    """Whether MPI uses the memory of a request no more."""
    try:
        return request.Test()
    except MPI.Exception:
        return True
