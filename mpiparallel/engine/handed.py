"""The tasks that a world was given, as its bridge keeps them: open, or with a result that may yet be lost.

A `Result` is kept, by reference, until the controller says `Settled`: the client has it, or the store. What
is kept is bounded: beyond `limit` bytes the oldest results lose their values, and should one of these have to
be sent again, it says so. (The controller settles what clients have taken at once, so this needs a client
that takes nothing, and the controller drops such clients.) Output is kept until it is `Consumed`, and bounded
by the credit of its engine.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import msgspec

from mpiparallel.wire.frames import nbytes
from mpiparallel.wire.messages import Failure, Message, Output, Result, Returned

OVERHEAD = 1000  # bytes that a result takes beside its value

Key = tuple[str, int]  # request, engine


class Handed:
    """The table of one bridge.

    Attributes
    ----------
    open
        The clients of tasks that have not been answered.
    """

    def __init__(self, limit: int) -> None:
        self.open: dict[Key, str] = {}
        self._results: dict[Key, tuple[str, Message, int]] = {}  # client, result, size; in order
        self._bytes = 0
        self._limit = limit
        self._output: dict[int, deque[Message]] = {}  # by engine, in order
        self._consumed: Counter[int] = Counter()  # bytes of the first of these, less than it has

    def give(self, request: str, engine: int, client: str) -> bool:
        """Note a task that an engine gets; False when it has it already."""
        key = request, engine
        if key in self.open:
            return False
        self.open[key] = client
        if key in self._results:
            self._forget(key)  # it is to be done once more
        return True

    def take_back(self, request: str, engine: int) -> None:
        """Note that a task is not there any more, and has no result."""
        self.open.pop((request, engine), None)

    def leaves(self, message: Message) -> None:
        """Note what engines send."""
        header = message.header
        if isinstance(header, Result):
            self.result(message)
        elif isinstance(header, Output):
            self._output.setdefault(header.engine, deque()).append(message)
        elif isinstance(header, Returned):
            for request in header.tasks:
                self.take_back(request, header.engine)

    def consumed(self, engine: int, size: int) -> None:
        """Forget output that a client has taken."""
        kept = self._output.get(engine)
        if kept is None:
            return
        size += self._consumed.pop(engine, 0)
        while kept and (first := kept[0].header.size) <= size:  # type: ignore[union-attr]
            kept.popleft()
            size -= first
        if kept:
            self._consumed[engine] = size
        else:
            del self._output[engine]

    def output(self) -> list[Message]:
        """Return the output that nobody has consumed; each engine's in its order."""
        return [message for kept in self._output.values() for message in kept]

    def result(self, message: Message) -> None:
        """Keep a Result."""
        header = message.header
        assert isinstance(header, Result)
        key = header.request, header.engine
        client = self.open.pop(key, "")
        if key in self._results:
            self._forget(key)
        size = OVERHEAD
        for frame in message.payload:
            size += nbytes(frame)
        self._results[key] = client, message, size
        self._bytes += size
        if self._bytes > self._limit:
            self._shrink()

    def unsettled(self, request: str, engine: int) -> Message | None:
        """Return the Result of a task, if it is kept."""
        kept = self._results.get((request, engine))
        return kept[1] if kept is not None else None

    def settled(self, requests: Sequence[str], engines: Sequence[int]) -> None:
        """Forget results that cannot be lost any more."""
        for key in zip(requests, engines, strict=False):
            if key in self._results:
                self._forget(key)

    def results(self, unsent: Iterable[Message] = ()) -> list[Message]:
        """Return the Results that are not settled, but for those in `unsent`, in the order they came."""
        waiting = {
            (message.header.request, message.header.engine)
            for message in unsent
            if isinstance(message.header, Result)
        }
        return [message for key, (_, message, _) in self._results.items() if key not in waiting]

    def died(self, engines: Iterable[int]) -> None:
        """Forget what engines that have died would have answered."""
        dead = set(engines)
        for key in [key for key in self.open if key[1] in dead]:
            del self.open[key]
        for engine in dead:
            self._output.pop(engine, None)
            self._consumed.pop(engine, None)

    def held(self) -> tuple[dict[int, list[str]], dict[str, str]]:
        """Return the requests that each engine has to do with, and the clients of these."""
        held: dict[int, list[str]] = {}
        owners: dict[str, str] = {}
        known = [(key, client) for key, (client, _, _) in self._results.items()] + list(self.open.items())
        for (request, engine), client in known:
            held.setdefault(engine, []).append(request)
            if client:
                owners[request] = client
        return held, owners

    def _forget(self, key: Key) -> None:
        self._bytes -= self._results.pop(key)[2]

    def _shrink(self) -> None:
        """Let the oldest values go; their results stay, until there are too many even of those."""
        for key, (client, message, size) in list(self._results.items()):
            if self._bytes <= self._limit // 2:
                return
            if size <= OVERHEAD:
                self._forget(key)
                continue
            reason = "its result was lost with the connection, and the engine had let its copy go"
            header = msgspec.structs.replace(
                message.header, status="error", failure=Failure("EngineError", reason)
            )
            self._results[key] = client, Message(header), OVERHEAD
            self._bytes += OVERHEAD - size
