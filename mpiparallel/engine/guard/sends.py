"""Sends: each starts its non-blocking form, counts the message and waits."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.plain import Comm, Intracomm, Prequest, Request, Topocomm
from mpiparallel.engine.guard.requests import send_request, uncounted
from mpiparallel.engine.guard.state import SYNCHRONOUS, CommState
from mpiparallel.engine.guard.waiting import nothing_known, wait, watch
from mpiparallel.wire.waits import Part

BYTE = MPI.BYTE
dumps = MPI.pickle.dumps
# In place of a message's length. One that is buffered needs nobody.
LENGTHS = {Comm.Issend: SYNCHRONOUS, Comm.Ibsend: 0}


def send_parts(state: CommState, dest: int, tag: int, index: int, data: Any) -> list[Part]:
    return [state.send(dest, tag, index, data)]


def count_send(state: CommState, dest: int, tag: int) -> int:
    """Count a message; return how many with its tag went to `dest` before."""
    state.used = True
    if dest < 0:
        return -1
    if get_ident() != watch.main:
        state.opaque = True  # two threads may count at once and lose a message
    return state.count_sent(dest, tag)


def _blocking_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of Send or one of its kin."""
    length = LENGTHS.get(start)

    def send(self: Any, buf: Any, dest: int, tag: int = 0) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, buf, dest, tag)
            index = count_send(state, dest, tag)
            if not request.Test():
                data = buf if length is None else length
                wait(request.Test, name, send_parts, state, dest, tag, index, data)
        except BaseException as error:
            broke_off(error, state, name, request, buf)
            raise

    return send


def _blocking_object_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of send or one of its kin.

    The object is pickled here, as mpi4py would do it, so that the length of the message is known.
    """
    length = LENGTHS.get(start)

    def send(self: Any, obj: Any, dest: int, tag: int = 0) -> None:
        state = self._state
        if state.broken:
            state.refuse(name)
        data = dumps(obj) if dest >= 0 else b""
        request = None
        try:
            request = start(self, (data, BYTE), dest, tag)
            index = count_send(state, dest, tag)
            if not request.Test():
                nbytes = len(data) if length is None else length
                wait(request.Test, name, send_parts, state, dest, tag, index, nbytes)
        except BaseException as error:
            broke_off(error, state, name, request, data)
            raise

    return send


def _nonblocking_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of Isend or one of its kin."""
    length = LENGTHS.get(start)

    def send(self: Any, buf: Any, dest: int, tag: int = 0) -> Request:
        state = self._state
        if state.broken:
            state.refuse(name)
        request = None
        try:
            request = start(self, buf, dest, tag)
            index = count_send(state, dest, tag)
        except BaseException as error:
            broke_off(error, state, name, request, buf)
            raise
        if dest < 0:
            return request
        return send_request(state, request, dest, tag, index, buf if length is None else length)

    return send


def _nonblocking_object_send(name: str, start: Callable[..., Request]) -> Any:
    """Return a guarded form of isend or one of its kin."""
    length = LENGTHS.get(start)

    def send(self: Any, obj: Any, dest: int, tag: int = 0) -> Request:
        state = self._state
        if state.broken:
            state.refuse(name)
        data = dumps(obj) if dest >= 0 else b""
        request = None
        try:
            request = start(self, (data, BYTE), dest, tag)
            index = count_send(state, dest, tag)
        except BaseException as error:
            broke_off(error, state, name, request, data)
            raise
        if dest < 0:
            return request
        return send_request(state, request, dest, tag, index, len(data) if length is None else length)

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
    send = _blocking_object_send("send", Comm.Isend)
    ssend = _blocking_object_send("ssend", Comm.Issend)
    bsend = _local_send("bsend", Comm.bsend)
    Isend = _nonblocking_send("Isend", Comm.Isend)
    Issend = _nonblocking_send("Issend", Comm.Issend)
    Irsend = _nonblocking_send("Irsend", Comm.Irsend)
    Ibsend = _nonblocking_send("Ibsend", Comm.Ibsend)
    isend = _nonblocking_object_send("isend", Comm.Isend)
    issend = _nonblocking_object_send("issend", Comm.Issend)
    ibsend = _nonblocking_object_send("ibsend", Comm.Ibsend)

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
