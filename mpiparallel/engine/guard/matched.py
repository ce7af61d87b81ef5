"""Messages that a probe has matched."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.classes import FromHandle, StandIn
from mpiparallel.engine.guard.plain import Message, Request, Status
from mpiparallel.engine.guard.requests import GuardedRequest

ANY_SOURCE, ANY_TAG = MPI.ANY_SOURCE, MPI.ANY_TAG


class GuardedMessage(FromHandle, Message, metaclass=StandIn, stands_for=Message):
    """A message that was matched by a probe."""

    __slots__ = ("_state",)

    def __new__(cls, message: Message | None = None) -> Any:
        """Stand for the same message as `message`."""
        self = super().__new__(cls, message)
        self._state = getattr(message, "_state", None)
        return self

    @classmethod
    def Probe(cls, comm: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> Any:
        """Wait for a message and match it."""
        return cls(comm.Mprobe(source, tag, status))

    @classmethod
    def Iprobe(cls, comm: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> Any:
        """Match a message if one is there."""
        message = comm.Improbe(source, tag, status)
        return None if message is None else cls(message)

    @classmethod
    def probe(cls, comm: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> Any:
        """Wait for an object and match its message."""
        return cls(comm.mprobe(source, tag, status))

    @classmethod
    def iprobe(cls, comm: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> Any:
        """Match the message of an object if one is there."""
        message = comm.improbe(source, tag, status)
        return None if message is None else cls(message)

    def Recv(self, buf: Any, status: Status | None = None) -> None:
        """Receive the message."""
        self.Irecv(buf).Wait(status)

    def Irecv(self, buf: Any) -> Request:
        """Begin to receive the message."""
        request = GuardedRequest(Message.Irecv(self, buf))
        request._state = getattr(self, "_state", None)
        return request

    def recv(self, status: Status | None = None) -> Any:
        """Receive the message and return the object."""
        return self.irecv().wait(status)

    def irecv(self) -> Request:
        """Begin to receive the object."""
        request = GuardedRequest(Message.irecv(self))
        request._state = getattr(self, "_state", None)
        return request
