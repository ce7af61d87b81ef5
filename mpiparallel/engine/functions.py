"""Functions that clients have sent, by the digest of their bytes.

Owned by the executor; the courier only hands in what the client supplies when asked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from mpiparallel.error import TaskTimeout
from mpiparallel.wire import objects

MAX_FUNCTIONS = 1024
MAX_BYTES = 256 << 20
PATIENCE = 60.0  # seconds to wait for a function that the client was asked for


class FunctionCache:
    """Functions loaded into one namespace.

    Parameters
    ----------
    namespace
        The globals of functions that come from a ``__main__``.
    """

    def __init__(self, namespace: objects.MainNamespace) -> None:
        self._namespace = namespace
        self._loaded: OrderedDict[bytes, tuple[Any, dict[str, Any], int]] = OrderedDict()
        self._bytes = 0
        self._supplied: dict[bytes, Sequence[Any]] = {}
        self._arrived = threading.Condition()

    def get(self, digest: bytes, frames: Sequence[Any], ask: Callable[[], None]) -> Any:
        """Return the function `digest`, from `frames` if there are any.

        Parameters
        ----------
        ask
            Asks the client for it; `supply` brings the answer.

        Raises
        ------
        TaskTimeout
            If the client does not answer, or no longer has it.
        """
        if digest in self._loaded:
            self._loaded.move_to_end(digest)
            function, wanted, _ = self._loaded[digest]
            if wanted:
                self._namespace.supply(wanted)
            return function
        if not frames:
            ask()
            frames = self._wait(digest)
        return self._load(digest, frames)

    def supply(self, digest: bytes, frames: Sequence[Any]) -> None:
        """Take the client's answer. Called by the courier."""
        with self._arrived:
            self._supplied[digest] = frames
            self._arrived.notify_all()

    def clear(self) -> None:
        """Forget all functions."""
        self._loaded.clear()
        self._bytes = 0

    def _wait(self, digest: bytes) -> Sequence[Any]:
        with self._arrived:
            if not self._arrived.wait_for(lambda: digest in self._supplied, PATIENCE):
                raise TaskTimeout(
                    f"the client did not send the function it asked for within {PATIENCE:.0f} s"
                )
            frames = self._supplied.pop(digest)
        if not frames:
            raise TaskTimeout("the client that has this function is gone, or no longer has it")
        return frames

    def _load(self, digest: bytes, frames: Sequence[Any]) -> Any:
        self._namespace.record = {}
        function = objects.loads(frames, self._namespace)
        wanted, self._namespace.record = self._namespace.record, {}
        size = sum(memoryview(frame).nbytes for frame in frames)
        self._loaded[digest] = (function, wanted, size)
        self._bytes += size
        while len(self._loaded) > MAX_FUNCTIONS or (self._bytes > MAX_BYTES and len(self._loaded) > 1):
            _, (_, _, old) = self._loaded.popitem(last=False)
            self._bytes -= old
        return function
