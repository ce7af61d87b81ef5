"""What arrives at a rank, in order, while long frames are still on their way. A part of `Mail`."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

from mpiparallel.wire import frames as wire_frames
from mpiparallel.wire.messages import CONTROL, Message

PIECE = 1 << 30  # bytes in one MPI call: counts are 32 bits wide
LARGE = 1 << 20  # from here on NumPy's memory (huge pages) is worth its import

PlainRequest = type(MPI.REQUEST_NULL)  # user code may have got another MPI.Request

Deliver = Callable[[int, Message], None]


@dataclass
class Arrival:
    """A message, or several.

    Attributes
    ----------
    frames
        The first one of `wire.frames.pack`, and the long ones, which may not be there yet.
    requests, broadcasts
        What has to complete before they are.
    messages
        Given when there is nothing to unpack.
    ready
        Other conditions.
    when_complete
        Called once when it is.
    """

    frames: list[Any]
    requests: list[Any] = field(default_factory=list)
    broadcasts: list[Any] = field(default_factory=list)
    messages: list[Message] | None = None
    ready: list[Callable[[], bool]] = field(default_factory=list)
    when_complete: Callable[[], None] | None = None
    letter: int = 0
    n_broadcast: int = 0

    def add_frame(self, size: int) -> memoryview:
        """Return memory for one more long frame."""
        self.frames.append(_memory(size))
        return self.frames[-1]

    def renew_frame(self, i: int) -> memoryview:
        """Return other memory for a frame: MPI may still write to the old one."""
        self.frames[i] = _memory(self.frames[i].nbytes)
        return self.frames[i]

    def is_complete(self, look: Callable[[], None] | None) -> bool:
        """Whether all is there. A broadcast that broke off may look so: then `look` raises."""
        if self.broadcasts:
            if not PlainRequest.Testall(self.broadcasts):
                return False
            if look is not None:
                look()
            self.broadcasts = []
        if self.requests:
            if not PlainRequest.Testall(self.requests):
                return False
            self.requests = []
        return all(condition() for condition in self.ready)


class Arrivals:
    """The queues of what has not been delivered, by source.

    Parameters
    ----------
    deliver
        Called with (source rank, message).
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._queues: dict[int, deque[Arrival]] = {}

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def add(self, source: int, arrival: Arrival) -> None:
        """Take what arrived last from `source`, and deliver what need not wait."""
        queue = self._queues.setdefault(source, deque())
        if not arrival.requests and not arrival.broadcasts and not arrival.ready:
            waiting = []
            for message in self._messages(arrival):
                if not queue or type(message.header) in CONTROL:
                    self._deliver(source, message)
                else:
                    waiting.append(message)
            if not waiting:
                return
            arrival = Arrival([], messages=waiting)
        queue.append(arrival)

    def collect(self, look: Callable[[], None] | None = None) -> bool:
        """Deliver what is complete; return whether anything waits or waited."""
        busy = False
        for source in list(self._queues):
            queue = self._queues[source]
            while queue:
                busy = True
                if not queue[0].is_complete(look):
                    break
                arrival = queue.popleft()
                for message in self._messages(arrival):
                    self._deliver(source, message)
        return busy

    def drop(self, source: int) -> list[Arrival]:
        """Forget what has not been delivered of a rank that died; return what was on its way."""
        return list(self._queues.pop(source, ()))

    def waiting(self) -> Iterator[tuple[int, Arrival]]:
        """Iterate over what has not been delivered, with its source."""
        for source, queue in self._queues.items():
            for arrival in queue:
                yield source, arrival

    @staticmethod
    def _messages(arrival: Arrival) -> list[Message]:
        if arrival.when_complete is not None:
            arrival.when_complete()
        return wire_frames.unpack(arrival.frames) if arrival.messages is None else arrival.messages


def pieces(frame: Any) -> list[memoryview]:
    """Return views of a frame that are small enough for one call of MPI each."""
    view = memoryview(frame).cast("B") if not isinstance(frame, memoryview) else frame.cast("B")
    if view.nbytes <= PIECE:
        return [view]
    return [view[start : start + PIECE] for start in range(0, view.nbytes, PIECE)]


def _memory(size: int) -> memoryview:
    """Return `size` bytes of memory to receive into."""
    # numpy's is faster. It is not imported here: the courier's thread and user code, importing it at the same
    # time, would see halves of its modules.
    numpy = sys.modules.get("numpy")
    if size < LARGE or numpy is None or getattr(numpy.__spec__, "_initializing", False):
        return memoryview(bytearray(size))
    return numpy.empty(size, numpy.uint8).data
