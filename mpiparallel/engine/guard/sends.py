"""Sends: each starts its non-blocking form, counts the message and waits."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.plain import Comm, Intracomm, Prequest, Request, Topocomm
from mpiparallel.engine.guard.requests import send_request, uncounted
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import nothing_known, wait, watch
from mpiparallel.wire.waits import Part


def send_parts(state: CommState, dest: int, tag: int) -> list[Part]:
    return [state.send(dest, tag)]


def count_send(state: CommState, dest: int, tag: int) -> None:
    state.used = True
    if dest >= 0:
        if get_ident() != watch.main:
            state.opaque = True  # two threads may count at once and lose a message
        key = (dest, tag)
        state.sent[key] = state.sent.get(key, 0) + 1


def _blocking_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of Send or one of its kin."""

    def send(self: Any, buf: Any, dest: int, tag: int = 0) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, buf, dest, tag)
            state.used = True
            if dest >= 0:
                if get_ident() != watch.main:
                    state.opaque = True
                sent = state.sent
                key = (dest, tag)
                sent[key] = sent.get(key, 0) + 1
            if not request.Test():
                wait(request.Test, name, send_parts, state, dest, tag)
        except BaseException as error:
            broke_off(error, state, name, request, buf)
            raise

    return send


def _blocking_object_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of send or one of its kin."""
    guarded = _blocking_send(name, start)

    def send(self: Any, obj: Any, dest: int, tag: int = 0) -> None:
        guarded(self, obj, dest, tag)

    return send


def _nonblocking_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of Isend or one of its kin."""

    def send(self: Any, buf: Any, dest: int, tag: int = 0) -> Request:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, buf, dest, tag)
            count_send(state, dest, tag)
        except BaseException as error:
            broke_off(error, state, name, request, buf)
            raise
        return send_request(state, request, dest, tag) if dest >= 0 else request

    return send


def _nonblocking_object_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of isend or one of its kin."""
    guarded = _nonblocking_send(name, start)

    def send(self: Any, obj: Any, dest: int, tag: int = 0) -> Request:
        return guarded(self, obj, dest, tag)

    return send


def _local_send(name: str, plain: Callable[..., None]) -> Any:
    """Return a form of Bsend that counts; it does not wait for anybody."""

    def send(self: Any, buf: Any, dest: int, tag: int = 0) -> None:
        if self._state.broken:
            self._state.refuse(name)
        plain(self, buf, dest, tag)
        count_send(self._state, dest, tag)

    return send


def _uncounted(name: str) -> Any:
    """Return a method that makes persistent requests."""
    start = getattr(Topocomm, name)

    def init(self: Any, *args: Any, **kwargs: Any) -> Prequest:
        if self._state.broken:
            self._state.refuse(name)
        return uncounted(self._state, start(self, *args, **kwargs))

    return init


class Sends:
    """Send and its kin, upper- and lower-case."""

    __slots__ = ()

    Send = _blocking_send("Send", Comm.Isend)
    Ssend = _blocking_send("Ssend", Comm.Issend)
    Rsend = _blocking_send("Rsend", Comm.Irsend)
    Bsend = _local_send("Bsend", Comm.Bsend)
    send = _blocking_object_send("send", Comm.isend)
    ssend = _blocking_object_send("ssend", Comm.issend)
    bsend = _local_send("bsend", Comm.bsend)
    Isend = _nonblocking_send("Isend", Comm.Isend)
    Issend = _nonblocking_send("Issend", Comm.Issend)
    Irsend = _nonblocking_send("Irsend", Comm.Irsend)
    Ibsend = _nonblocking_send("Ibsend", Comm.Ibsend)
    isend = _nonblocking_object_send("isend", Comm.isend)
    issend = _nonblocking_object_send("issend", Comm.issend)
    ibsend = _nonblocking_object_send("ibsend", Comm.ibsend)

    def Flush_buffer(self: Any) -> None:
        """Wait until all buffered messages have been sent."""
        try:
            request = Comm.Iflush_buffer(self)
        except NotImplementedError:  # before MPI 4.1
            Comm.Flush_buffer(self)
            return
        wait(request.Test, "Flush_buffer", nothing_known)


class PersistentRequests:
    """Send_init and all that make requests to be started again and again; none of them is counted."""

    __slots__ = ()


class NeighbourPersistentRequests:
    """The same among the neighbours of a topology."""

    __slots__ = ()


for _name in dir(Topocomm):
    if _name.endswith("_init"):
        _owner = PersistentRequests if hasattr(Intracomm, _name) else NeighbourPersistentRequests
        setattr(_owner, _name, _uncounted(_name))
