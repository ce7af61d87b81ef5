"""One lower-case collective: several operations, but one entry in the ledger and one wait to tell of."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.collectives import parts
from mpiparallel.engine.guard.faults import broke_off, mark_broken
from mpiparallel.engine.guard.plain import Comm, Message, Request
from mpiparallel.engine.guard.registry import world
from mpiparallel.engine.guard.remains import Left, kept, operation
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import wait

_isend, _improbe, _matched_irecv = Comm.isend, Comm.improbe, Message.irecv


class Steps:
    """Runs the operations of one collective; when one of them does not end, the communicator is broken.

    Parameters
    ----------
    comm
    name
        Of the method.
    signature
        What must be the same on all ranks.
    index
        Its number among the collectives, if it has begun.
    """

    __slots__ = ("comm", "held", "index", "name", "signature", "state")

    def __init__(self, comm: Any, name: str, signature: Any, index: int = -1) -> None:
        self.state: CommState = comm._state
        if self.state.broken:
            self.state.refuse(name)
        self.comm, self.name, self.signature = comm, name, signature
        self.index = index
        self.held: list[Any] = []

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, MPI.Exception):
            begun = self.held[-1] if self.index >= 0 and self.held else None
            broke_off(error, self.state, self.name, begun, self.held)
        if self.index >= 0 or (self.held and not isinstance(error, Exception)):
            self._leave()
            spoilt = isinstance(error, MPI.Exception) or self.index < 0
            mark_broken(self.state, f"{self.name} was broken off by {type(error).__name__}", spoilt)
            self.state.collective_broke_off()

    def _leave(self) -> None:
        """Note what was begun, and what of it may go on."""
        n_ranks = len(self.state.members)
        started = [item for item in self.held if isinstance(item, tuple)]  # by `run`
        begun = [operation(start.__name__, args, -1, n_ranks) for start, args in started]
        left = Left([item for item in self.held if isinstance(item, Request)], self.held, begun)
        kept.append(left)
        self.state.left.append(left)

    def run(self, start: Callable[..., Request], *args: Any) -> None:
        """Start an operation and wait for it."""
        held = self.held
        held.append((start, args))
        request = start(self.comm, *args)
        if self.index < 0:
            self._begin()
        held.append(request)
        if not request.Test():
            wait(request.Test, self.name, parts, self.state, self.signature, self.index, None)

    def _begin(self) -> None:
        state = self.state
        self.index = state.collectives
        state.collectives = self.index + 1
        state.recent.append(self.signature)

    def _wait(self, test: Callable[[], Any]) -> Any:
        return test() or wait(test, self.name, parts, self.state, self.signature, self.index, None)

    # ------------------------------------------------------------ messages between two ranks

    def begin_with_messages(self) -> None:
        """Count the collective; its first operation is a message."""
        if self.index < 0:
            self._begin()

    def send(self, obj: Any, rank: int) -> None:
        """Send an object to a rank."""
        self.finish(self._start_send(obj, rank))

    def receive(self, rank: int) -> Any:
        """Receive an object from a rank."""
        state = self.state
        private, source, tag = world.private, state.members[rank], state.hidden_tag
        message = _improbe(private, source, tag)
        if message is None:
            message = self._wait(lambda: _improbe(private, source, tag))
        request = _matched_irecv(message)
        self.held.append(request)
        done, value = request.test()
        if not done:
            _, value = self._wait(lambda: _if_done(request.test()))
        return value

    def exchange(self, obj: Any, rank: int) -> Any:
        """Send an object to a rank and receive one from it."""
        request = self._start_send(obj, rank)
        value = self.receive(rank)
        self.finish(request)
        return value

    def start_bytes(self, data: Any, rank: int) -> Any:
        """Begin to send bytes to a rank that knows how many."""
        request = Comm.Isend(world.private, data, self.state.members[rank], self.state.hidden_tag)
        self.held += [data, request]
        return request

    def receive_bytes(self, data: Any, rank: int) -> None:
        """Receive bytes from a rank."""
        request = Comm.Irecv(world.private, data, self.state.members[rank], self.state.hidden_tag)
        self.held += [data, request]
        self.finish(request)

    def finish(self, request: Any) -> None:
        """Wait for an operation of this collective."""
        if not request.Test():
            wait(request.Test, self.name, parts, self.state, self.signature, self.index, None)

    def _start_send(self, obj: Any, rank: int) -> Any:
        request = _isend(world.private, obj, self.state.members[rank], self.state.hidden_tag)
        self.held.append(request)
        return request


def _if_done(done: Any) -> Any:
    return done if done[0] else None
