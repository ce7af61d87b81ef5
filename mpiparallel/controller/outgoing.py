"""Messages waiting to be sent: one queue for each peer.

The server puts in what the hub returns and flushes once per round, so that what is ready for the same peer
travels as one. A peer that does not read gets a backlog; there, messages of the control lane overtake data.
Sending is a function given by the server: there is no socket in here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from mpiparallel.controller.state import Peer
from mpiparallel.error import WireError
from mpiparallel.wire.frames import nbytes, pack
from mpiparallel.wire.messages import CONTROL, Abort, Message, Output

log = logging.getLogger(__name__)

BATCH_BYTES = 1 << 20  # a batch ends with the message that reaches this; a large message is one of its own
BATCH_MESSAGES = 512
STALLED_FOR = 30.0  # seconds after which a peer that takes nothing may be dropped
OVERHEAD = 256  # bytes that a message with no payload counts


class Sent(Enum):
    """What became of an attempt to send."""

    DONE = "done"
    FULL = "full"  # the peer does not read; try again later
    GONE = "gone"  # there is no such connection


class Queue:
    """What waits for one peer."""

    __slots__ = ("batch", "frames", "nbytes", "ordered", "since", "urgent")

    def __init__(self) -> None:
        self.ordered: deque[Message] = deque()
        self.urgent: deque[Message] = deque()
        self.frames: list[Any] = []  # the batch that goes next, packed
        self.batch = 0  # what the messages in it count
        self.nbytes = 0  # what all messages count, those in the batch too
        self.since: float | None = None  # when the peer first took no more

    def __bool__(self) -> bool:
        return bool(self.frames or self.ordered or self.urgent)


class Outgoing:
    """The queues of all peers.

    Parameters
    ----------
    send : callable
        Sends the frames of one batch to a peer without waiting.
    """

    def __init__(self, send: Callable[[Peer, list[Any]], Sent]) -> None:
        self._send = send
        self._queues: dict[Peer, Queue] = {}  # those that are not empty
        self.nbytes = 0

    def put(self, peer: Peer, message: Message) -> None:
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = Queue()
        if queue.since is None:
            queue.ordered.append(message)
            self._count(queue, message)
            return
        kind = type(message.header)
        if kind in CONTROL:
            queue.urgent.append(message)
            self._count(queue, message)
        if kind not in CONTROL or kind is Abort:
            # An abort that has overtaken its request finds nothing to abort. So a second one follows it.
            queue.ordered.append(message)
            self._count(queue, message)

    def _count(self, queue: Queue, message: Message) -> None:
        size = _cost(message)
        queue.nbytes += size
        self.nbytes += size

    @property
    def stalled(self) -> bool:
        """Whether, after a flush, anything waits for a peer that does not read."""
        return bool(self._queues)

    def retry_after(self, now: float) -> float:
        """Return the seconds until those who do not read are tried again: more the longer they did not."""
        since = max((queue.since or now for queue in self._queues.values()), default=now)
        return min(0.02, max(0.001, (now - since) / 10))

    def flush(self, now: float) -> list[Peer]:
        """Send what can be sent; return the peers that are not connected any more."""
        gone = []
        for peer, queue in list(self._queues.items()):
            if self._drain(peer, queue, now) is Sent.GONE:
                self.forget(peer)
                gone.append(peer)
        return gone

    def _drain(self, peer: Peer, queue: Queue, now: float) -> Sent:
        while queue:
            if not queue.frames:
                self._fill(queue)
                continue
            sent = self._send(peer, queue.frames)
            if sent is Sent.FULL:
                queue.since = now if queue.since is None else queue.since
            if sent is not Sent.DONE:
                return sent
            if queue.since is not None:
                queue.since = now
            self._uncount(queue)
        del self._queues[peer]
        return Sent.DONE

    def _fill(self, queue: Queue) -> None:
        """Pack the next batch of `queue`."""
        messages: list[Message] = []
        while lane := queue.urgent or queue.ordered:
            cost = _cost(lane[0])
            if messages and (queue.batch + cost > BATCH_BYTES or len(messages) == BATCH_MESSAGES):
                break
            messages.append(lane.popleft())
            queue.batch += cost
        try:
            queue.frames = pack(messages)
        except WireError as error:
            self._unpackable(queue, messages, error)

    def _unpackable(self, queue: Queue, messages: list[Message], error: WireError) -> None:
        """Pack half as many of `messages`; drop one that breaks a limit all by itself."""
        half = len(messages) // 2
        if half == 0:
            log.error("dropped a %s that cannot be sent: %s", type(messages[0].header).__name__, error)
            self._uncount(queue)
            return
        # At the head of the lane that goes first they keep their order.
        queue.urgent.extendleft(reversed(messages[half:]))
        queue.batch = sum(map(_cost, messages[:half]))
        try:
            queue.frames = pack(messages[:half])
        except WireError as again:
            self._unpackable(queue, messages[:half], again)

    def _uncount(self, queue: Queue) -> None:
        self.nbytes -= queue.batch
        queue.nbytes -= queue.batch
        queue.batch = 0
        queue.frames = []

    def forget(self, peer: Peer) -> None:
        """Drop what waits for a peer."""
        queue = self._queues.pop(peer, None)
        if queue is not None:
            self.nbytes -= queue.nbytes

    def stuck(self, now: float, limit: int) -> list[Peer]:
        """Return the peers to drop: they took nothing for long and hold up much.

        Much is a quarter of `limit`, or anything when all backlogs together have reached it.
        """
        return [
            peer
            for peer, queue in self._queues.items()
            if queue.since is not None
            and now - queue.since > STALLED_FOR
            and (queue.nbytes > limit // 4 or self.nbytes > limit)
        ]


def _cost(message: Message) -> int:
    size = OVERHEAD
    for frame in message.payload:
        size += len(frame) if type(frame) is bytes else nbytes(frame)
    return size + len(message.header.text) if type(message.header) is Output else size
