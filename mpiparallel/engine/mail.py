"""Messages between the ranks of a world, over MPI, without ever blocking.

Owned by a courier: no other thread calls in here. An envelope is one MPI message that holds the headers and
short payloads of any number of messages; long frames follow on a communicator of their own, one by one
(`Isend`/`Irecv`) or, when many ranks get the same ones, by `Ibcast`::

    envelope = group | broadcast frames | long frames | their sizes ... | first frame of wire.frames.pack()

Messages from one rank arrive in the order sent; those of the control lane overtake others whose long frames
are still on their way.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.world import World
from mpiparallel.wire import frames as wire_frames
from mpiparallel.wire.messages import CONTROL, Message

ENVELOPE, NEW_GROUP, OLD_GROUP = 1, 2, 3  # tags
WORLD_GROUP = 1  # the group of all ranks; 0 means "no broadcast"
MAX_GROUPS = 16  # communicators kept for sets of targets
PIECE = 1 << 30  # bytes in one MPI call: counts are 32 bits wide
LARGE = 1 << 20  # from here on NumPy's memory (huge pages) is worth its import

_PREFIX = struct.Struct("<III")


@dataclass
class _Arrival:
    """A message, or several, whose long frames may still be on their way."""

    frames: list[Any]
    requests: list[Any] = field(default_factory=list)
    messages: list[Message] | None = None  # given when there is nothing to unpack


class Mail:
    """Post and collect messages of this rank.

    Parameters
    ----------
    world
    deliver
        Called with (source rank, message) for each that arrived.
    """

    def __init__(self, world: World, deliver: Callable[[int, Message], None]) -> None:
        self.rank = world.rank
        self._comm, self._bulk = world.mail, world.bulk
        self._deliver = deliver
        self._sends: deque[tuple[list[Any], Any]] = deque()  # requests, and the memory they read
        self._arrivals: dict[int, deque[_Arrival]] = {}  # by source
        self._groups: OrderedDict[tuple[int, ...], int] = OrderedDict()  # kept by rank 0: ranks -> id
        self._comms: dict[int, Any] = {WORLD_GROUP: world.bulk}
        self._next_group = WORLD_GROUP + 1
        self._size = world.size
        self._status = MPI.Status()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, as far as this rank knows."""
        return not self._sends and not any(self._arrivals.values())

    # ------------------------------------------------------------ posting

    def post(self, to: int, messages: Sequence[Message]) -> None:
        """Send messages to one rank (not this one)."""
        packed = wire_frames.pack(messages)
        self._post_envelope(to, packed, 0, 0)
        self._post_long(to, packed[1:])

    def post_to_all(self, messages: dict[int, Message], n_common: int, collective: bool) -> None:
        """Send one message to each of several ranks, this one perhaps among them.

        Parameters
        ----------
        messages
            By rank. Their first `n_common` payload frames are the same objects.
        collective
            Whether the long ones among these go by one broadcast.
        """
        others = [rank for rank in messages if rank != self.rank]
        packed = {rank: wire_frames.pack([message]) for rank, message in messages.items()}
        shared: list[Any] = []
        group = 0
        if collective and others:
            common = next(iter(messages.values())).payload[:n_common]
            shared = [frame for frame in common if wire_frames.nbytes(frame) > wire_frames.INLINE]
            group = self._group(others)
        for rank in others:
            self._post_envelope(rank, packed[rank], group, len(shared))
        requests = []
        if group:
            comm = self._comms[group]
            for frame in shared:
                requests += [comm.Ibcast([piece, MPI.BYTE], 0) for piece in _pieces(frame)]
            self._sends.append((requests, shared))
        for rank in others:
            requests += self._post_long(rank, packed[rank][1 + len(shared) :])
        if self.rank in messages:
            # Our own engine may write to its frames, so it gets them when nobody reads them any more.
            self._arrive(self.rank, _Arrival([], requests, [messages[self.rank]]))

    def deliver_here(self, message: Message) -> None:
        """Hand a message to this rank itself, behind those that are on their way to it."""
        self._arrive(self.rank, _Arrival([], [], [message]))

    def _post_envelope(self, to: int, packed: list[Any], group: int, n_broadcast: int) -> None:
        sizes = [wire_frames.nbytes(frame) for frame in packed[1:]]
        prefix = _PREFIX.pack(group, n_broadcast, len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        envelope = prefix + packed[0]
        self._sends.append(([self._comm.Isend([envelope, MPI.BYTE], to, ENVELOPE)], envelope))

    def _post_long(self, to: int, frames: list[Any]) -> list[Any]:
        requests = [self._bulk.Isend([piece, MPI.BYTE], to) for frame in frames for piece in _pieces(frame)]
        if requests:
            self._sends.append((requests, frames))
        return requests

    def _group(self, others: list[int]) -> int:
        """Return the id of the communicator of rank 0 and `others`, made when it is new. Called on rank 0."""
        ranks = tuple(sorted({0, *others}))
        if len(ranks) == self._size:
            return WORLD_GROUP
        if ranks in self._groups:
            self._groups.move_to_end(ranks)
            return self._groups[ranks]
        if len(self._groups) >= MAX_GROUPS:
            old, number = self._groups.popitem(last=False)
            self._tell(old, OLD_GROUP, [number])
            self._comms.pop(number).Disconnect()
        number = self._groups[ranks] = self._next_group
        self._next_group += 1
        self._tell(ranks, NEW_GROUP, [number, *ranks])
        self._make_group(number, ranks)
        return number

    def _tell(self, ranks: Sequence[int], tag: int, numbers: list[int]) -> None:
        text = struct.pack(f"<{len(numbers)}I", *numbers)
        for rank in ranks:
            if rank != self.rank:
                self._sends.append(([self._comm.Isend([text, MPI.BYTE], rank, tag)], text))

    def _make_group(self, number: int, ranks: Sequence[int]) -> None:
        # Blocks for as long as the slowest courier takes to come: they never wait for user code.
        everybody = self._bulk.Get_group()
        group = everybody.Incl(list(ranks))
        self._comms[number] = self._bulk.Create_group(group, number % 32768)
        group.Free()
        everybody.Free()

    # ------------------------------------------------------------ collecting

    def progress(self) -> bool:
        """Move what can be moved, deliver what is complete; return whether anything happened."""
        busy = False
        sends = self._sends
        while sends and MPI.Request.Testall(sends[0][0]):
            sends.popleft()
            busy = True
        for _ in range(256):
            matched = self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, self._status)
            if matched is None:
                break
            busy = True
            source, tag = self._status.source, self._status.tag
            text = bytearray(self._status.Get_count(MPI.BYTE))
            matched.Recv([text, MPI.BYTE])
            if tag == ENVELOPE:
                self._open(source, text)
            else:
                numbers = struct.unpack(f"<{len(text) // 4}I", text)
                if tag == NEW_GROUP:
                    self._make_group(numbers[0], numbers[1:])
                else:
                    self._comms.pop(numbers[0]).Disconnect()
        return self._collect() or busy or bool(sends)

    def _open(self, source: int, text: bytearray) -> None:
        group, n_broadcast, n_long = _PREFIX.unpack_from(text)
        sizes = struct.unpack_from(f"<{n_long}Q", text, _PREFIX.size)
        arrival = _Arrival([memoryview(text)[_PREFIX.size + 8 * n_long :]])
        for i, size in enumerate(sizes):
            frame = _memory(size)
            arrival.frames.append(frame)
            for piece in _pieces(frame):
                if i < n_broadcast:
                    request = self._comms[group].Ibcast([piece, MPI.BYTE], 0)
                else:
                    request = self._bulk.Irecv([piece, MPI.BYTE], source)
                arrival.requests.append(request)
        self._arrive(source, arrival)

    def _arrive(self, source: int, arrival: _Arrival) -> None:
        queue = self._arrivals.setdefault(source, deque())
        if not arrival.requests:
            messages = arrival.messages
            if messages is None:
                messages = wire_frames.unpack(arrival.frames)
            waiting = []
            for message in messages:
                if not queue or type(message.header) in CONTROL:
                    self._deliver(source, message)
                else:
                    waiting.append(message)
            if not waiting:
                return
            arrival = _Arrival([], [], waiting)
        queue.append(arrival)

    def _collect(self) -> bool:
        busy = False
        for source, queue in self._arrivals.items():
            while queue:
                busy = True
                if queue[0].requests and not MPI.Request.Testall(queue[0].requests):
                    break
                arrival = queue.popleft()
                messages = arrival.messages
                if messages is None:
                    messages = wire_frames.unpack(arrival.frames)
                for message in messages:
                    self._deliver(source, message)
        return busy


def _pieces(frame: Any) -> list[memoryview]:
    view = memoryview(frame).cast("B") if not isinstance(frame, memoryview) else frame.cast("B")
    if view.nbytes <= PIECE:
        return [view]
    return [view[start : start + PIECE] for start in range(0, view.nbytes, PIECE)]


def _memory(size: int) -> memoryview:
    """Return `size` bytes of memory to receive into."""
    if size < LARGE:
        return memoryview(bytearray(size))
    import numpy

    return numpy.empty(size, numpy.uint8).data
