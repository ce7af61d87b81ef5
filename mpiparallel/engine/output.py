"""What user code prints: everything written to file descriptors 1 and 2, by Python or by C.

Both descriptors become pipes. The courier empties them while a task runs, the executor at its end, so a
task's output always goes ahead of its result. When the client has not yet taken `window` bytes, nobody
reads, the pipe fills, and the writer blocks: output is held back, never dropped.
"""

from __future__ import annotations

import codecs
import ctypes
import io
import os
import re
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

from mpiparallel.wire import objects
from mpiparallel.wire.messages import Message, Output

CHUNK = 64 << 10
# What Open MPI has to say on each rank when another has died, of every collective that was under way.
ABORTED = re.compile(
    r"NBC_Progress: an error -?\d+ was found during schedule 0x[0-9a-f]+ at row-offset \d+ - "
    r"aborting the schedule(\n{0,2})"
)


class OutputCapture:
    """The standard streams of this process, on their way to a client.

    Parameters
    ----------
    engine_id
    post
        Takes each message for the client. It is called by the courier and by the executor, one at a time.
    window
        Bytes that may be on their way to the client.
    """

    def __init__(self, engine_id: int, post: Callable[[Message], None], window: int) -> None:
        self._engine_id, self._post = engine_id, post
        self._window = self._credit = window
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._task: tuple[str, str] | None = None  # request and client of the last task
        self._discard = False
        self._said = 0  # messages
        self._newlines = 0  # that end a line of Open MPI's, and are yet to come
        self._libc = ctypes.CDLL(None)
        self._saved: dict[int, int] = {}
        self._pipes: dict[int, tuple[str, Any]] = {}
        self._poll = select.poll()

    def install(self) -> None:
        """Take over descriptors 1 and 2."""
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            self._saved[descriptor] = os.dup(descriptor)
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            os.dup2(writer, descriptor)
            os.close(writer)
            self._pipes[reader] = (name, codecs.getincrementaldecoder("utf-8")("replace"))
            self._poll.register(reader, select.POLLIN)
            stream = io.TextIOWrapper(
                io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False), CHUNK),
                encoding="utf-8",
                errors="backslashreplace",
                line_buffering=True,
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    @property
    def log(self) -> int:
        """The file descriptor of the engine's own log: what standard error was at the start."""
        return self._saved.get(2, 2)

    def restore(self) -> None:
        """Give the descriptors back, for the last words of the process."""
        self.discard()
        for descriptor, saved in self._saved.items():
            os.dup2(saved, descriptor)

    def begin(self, request: str, client: str) -> None:
        """Note whose output follows."""
        with self._lock:
            self._task = (request, client)

    def credit(self, size: int) -> None:
        """Take back room that the client's reading has made."""
        with self._room:
            self._credit = min(self._credit + size, self._window)
            self._room.notify_all()

    def begin_anew(self) -> None:
        """Take the client to owe nothing: a new bridge and the controller begin to count anew."""
        with self._room:
            self._credit = self._window
            self._room.notify_all()

    def discard(self) -> None:
        """From now on send nothing and block nobody: the world ends."""
        with self._room:
            self._discard = True
            self._room.notify_all()

    def pump(self) -> bool:
        """Send what was written, as far as there is room; return whether there was anything. Never blocks."""
        if not self._lock.acquire(blocking=False):
            return True  # the executor is at it
        try:
            return self._pump()
        finally:
            self._lock.release()

    def finish(self) -> None:
        """Send everything written so far, waiting for room where there is none. Called by the executor."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # user code replaced or closed it: then nothing of ours is in it
        self._libc.fflush(None)
        with self._room:
            while self._poll.poll(0):
                self._pump()
                self._wait_for_room()

    def publish(self, kind: Any, content: Any, text: str = "") -> None:
        """Send a display or another thing that is not plain text, behind what was printed before it."""
        self.finish()
        payload = objects.copied(objects.dumps(content)) if content is not None else []
        size = len(text) + sum(memoryview(frame).nbytes for frame in payload)
        with self._room:
            self._send(kind, text, size, payload)
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        while self._credit <= 0 and not self._discard:
            self._room.wait()

    def _pump(self) -> bool:
        busy = False
        while self._credit > 0 or self._discard:
            ready = self._poll.poll(0)
            if not ready:
                break
            for reader, _ in ready:
                chunk = os.read(reader, CHUNK)
                name, decoder = self._pipes[reader]
                if not chunk:  # user code closed the descriptor
                    self._poll.unregister(reader)
                    continue
                busy = True
                text = decoder.decode(chunk)
                if name == "stderr":
                    text = self._without_noise(text)
                if text:
                    self._send(name, text, len(chunk), [])
        return busy

    def _without_noise(self, text: str) -> str:
        """Move what Open MPI says of a death to the log: who died, and why, is told by others."""
        while self._newlines and text.startswith("\n"):
            text, self._newlines = text[1:], self._newlines - 1
        if text:
            self._newlines = 0
        if "NBC_Progress" in text:
            for found in ABORTED.finditer(text):
                os.write(self.log, f"{found[0].strip()}\n".encode())
                self._newlines = 2 - len(found[1]) if found.end() == len(text) else 0
            text = ABORTED.sub("", text)
        return text

    def _send(self, kind: Any, text: str, size: int, payload: list[Any]) -> None:
        if self._task is None or self._discard:
            os.write(self.log, text.encode("utf-8", "replace"))
            return
        request, client = self._task
        self._credit -= size
        self._said += 1
        self._post(Message(Output(request, client, self._engine_id, kind, text, size, self._said), payload))
