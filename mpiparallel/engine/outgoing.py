"""What the bridge has yet to send, in batches. A part of `Bridge`."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from mpiparallel.wire import frames as wire_frames
from mpiparallel.wire.messages import CONTROL, Message, Output, Result

MAX_BATCH = 512  # messages in one
MAX_BATCH_BYTES = 8 << 20


class Outgoing:
    """Messages for the controller, those of the control lane first.

    Attributes
    ----------
    first
        When the oldest message of `data` came (time.monotonic()).
    """

    def __init__(self) -> None:
        self.control: deque[Message] = deque()
        self.data: deque[Message] = deque()
        self.first = 0.0
        self._frames: list[Any] | None = None  # a batch that the socket did not take yet
        self._batch: list[Message] = []  # what it says

    def __bool__(self) -> bool:
        return bool(self.data or self.control or self._frames is not None)

    def add(self, message: Message) -> None:
        """Queue a message."""
        if type(message.header) in CONTROL:
            self.control.append(message)
            return
        if not self.data:
            self.first = time.monotonic()
        self.data.append(message)

    def next(self) -> list[Any] | None:
        """Return the frames of the next batch; the same ones until they are `sent`."""
        if self._frames is None and (self.control or self.data):
            self._batch = self._collect()
            self._frames = wire_frames.pack(self._batch)
        return self._frames

    def sent(self) -> None:
        """Note that the batch has left."""
        self._frames, self._batch = None, []

    def take_all(self) -> list[Message]:
        """Empty it and return what was in it."""
        messages = [*self._batch, *self.control, *self.data]
        self.sent()
        self.control.clear()
        self.data.clear()
        return messages

    def _collect(self) -> list[Message]:
        batch: list[Message] = []
        size = 0
        while (self.control or self.data) and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            message = (self.control or self.data).popleft()
            for frame in message.payload:
                size += wire_frames.nbytes(frame)
            size += _text_size(message)
            batch.append(message)
        return batch


def _text_size(message: Message) -> int:
    """Return roughly how many bytes a header takes: output and tracebacks stand in it."""
    header = message.header
    if isinstance(header, Output):
        return 3 * len(header.text)
    if isinstance(header, Result) and header.failure is not None:
        return 3 * (len(header.failure.evalue) + len(header.failure.traceback))
    return 0
