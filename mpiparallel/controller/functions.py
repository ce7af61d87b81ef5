"""The functions of balanced tasks, which clients send once and the hub hands on.

They are named by the digest of their bytes. Those of open tasks stay; of the others as many as fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel.wire.frames import nbytes

if TYPE_CHECKING:
    from mpiparallel.controller.jobs import Job

MAX_UNUSED_BYTES = 256 << 20
MAX_UNUSED = 10_000

_SHARE = 0.2  # of the newest duration in the mean
_FACTOR = 10.0  # a duration counts as at most so many times the mean: one long task does not make all long
_SLACK = 0.001


class Function:
    """A function, or the fact that it is missing.

    Attributes
    ----------
    frames
        None while it is not known.
    mean
        How many seconds a task with it takes; None before the first.
    uses
        How many jobs with open tasks have it.
    parked
        Jobs that wait for it.
    asked
        Clients that were asked for it.
    """

    __slots__ = ("asked", "digest", "frames", "mean", "parked", "uses")

    def __init__(self, digest: bytes, frames: Sequence[Any] | None) -> None:
        self.digest = digest
        self.frames = frames
        self.mean: float | None = None
        self.uses = 0
        self.parked: dict[Job, None] = {}
        self.asked: set[str] = set()

    def took(self, seconds: float) -> None:
        """Take the duration of a task into the mean."""
        seconds = max(seconds, 0.0)
        mean = self.mean
        if mean is None:
            self.mean = seconds
        else:
            self.mean = mean + _SHARE * (min(seconds, _FACTOR * mean + _SLACK) - mean)


class Functions:
    """All functions that the hub knows or waits for, by digest."""

    def __init__(self) -> None:
        self.known: dict[bytes, Function] = {b"": Function(b"", ())}
        self.missing: dict[bytes, Function] = {}
        self._unused: OrderedDict[bytes, int] = OrderedDict()  # sizes; the latest is last
        self._unused_bytes = 0

    def get(self, digest: bytes) -> Function | None:
        return self.known.get(digest)

    def pin(self, digest: bytes) -> Function:
        """Return a function, or its absence, which stays until `release`."""
        found = self.known.get(digest)
        if found is None:
            found = self.known[digest] = Function(digest, None)
        if digest in self._unused:
            self._unused_bytes -= self._unused.pop(digest)
        found.uses += 1
        return found

    def release(self, function: Function) -> None:
        function.uses -= 1
        if function.uses or not function.digest:
            return
        if function.frames is None:
            del self.known[function.digest]
            self.missing.pop(function.digest, None)
            return
        size = sum(map(nbytes, function.frames))
        self._unused[function.digest] = size
        self._unused_bytes += size
        while self._unused_bytes > MAX_UNUSED_BYTES or len(self._unused) > MAX_UNUSED:
            digest, size = self._unused.popitem(last=False)
            self._unused_bytes -= size
            del self.known[digest]

    def supply(self, function: Function, frames: Sequence[Any]) -> list[Job]:
        """Take the frames of a function; return the jobs that waited for it."""
        function.frames = frames
        function.asked.clear()
        self.missing.pop(function.digest, None)
        parked, function.parked = function.parked, {}
        return list(parked)
