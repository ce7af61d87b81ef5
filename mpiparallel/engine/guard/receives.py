"""Receives and probes: each starts its non-blocking form, waits, and counts the message when it is there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import get_ident
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.matched import GuardedMessage
from mpiparallel.engine.guard.plain import Comm, Message, Request, Status
from mpiparallel.engine.guard.requests import receive_request
from mpiparallel.engine.guard.state import CommState, Receive
from mpiparallel.engine.guard.waiting import nothing_known, wait, watch
from mpiparallel.wire.waits import Part

ANY_SOURCE, ANY_TAG, PROC_NULL = MPI.ANY_SOURCE, MPI.ANY_TAG, MPI.PROC_NULL
_Irecv, _irecv = Comm.Irecv, Comm.irecv
_Iprobe, _Improbe, _improbe = Comm.Iprobe, Comm.Improbe, Comm.improbe
_matched_irecv = Message.irecv


def receive_parts(state: CommState, source: int, tag: int) -> list[Part]:
    return [state.receive(source, tag)]


def count_receive(state: CommState, source: int, tag: int) -> None:
    state.used = True
    if source >= 0:
        if get_ident() != watch.main:
            state.opaque = True
        key = (source, tag)
        state.received[key] = state.received.get(key, 0) + 1


def _if_done(done: Any) -> Any:
    return done if done[0] else None


def _await_message(request: Request, state: CommState, source: int, tag: int, status: Status | None) -> None:
    """Wait for a receive; cancel it if something is raised meanwhile."""
    try:
        wait(lambda: request.Test(status), "Recv", receive_parts, state, source, tag)
    except BaseException as error:
        broke_off(error, state, "Recv", request, None, Receive(state, source, tag))
        raise


def _recv_into(comm: Any, buf: Any, source: int, tag: int, status: Status | None) -> Any:
    """Receive an object through memory that the caller gives, or how much of it is needed."""
    if buf is not None:
        warnings.warn("the 'buf' argument is deprecated", UserWarning, stacklevel=3)
    return comm.irecv(buf, source, tag).wait(status)


def _begin_receive(
    comm: Any, name: str, start: Callable[..., Request], buf: Any, source: int, tag: int
) -> Request:
    state = comm._state
    if state.broken:
        state.refuse(name)
    request = None
    try:
        request = start(comm, buf, source, tag)
        state.used = True
        if source == PROC_NULL:
            return request
        if get_ident() != watch.main:
            state.opaque = True
        return receive_request(state, request, source, tag)
    except BaseException as error:
        broke_off(error, state, name, request, buf)
        raise


def _probe(
    comm: Any, name: str, probe: Callable[..., Any], source: int, tag: int, status: Any, blocking: bool
) -> Any:
    """Probe once, or until there is a message."""
    state = comm._state
    try:
        found = probe(comm, source, tag, status)
        if blocking and not found:
            found = wait(lambda: probe(comm, source, tag, status), name, receive_parts, state, source, tag)
        return found
    except MPI.Exception as error:
        broke_off(error, state, name, None, None)
        raise


def _match(
    comm: Any,
    name: str,
    probe: Callable[..., Message | None],
    source: int,
    tag: int,
    status: Status | None,
    blocking: bool,
) -> Message | None:
    state = comm._state
    if state.broken:
        state.refuse(name)
    state.used = True
    if status is None:
        status = Status()
    plain = _probe(comm, name, probe, source, tag, status, blocking)
    if plain is None:
        return None
    count_receive(state, status.Get_source(), status.Get_tag())
    message = GuardedMessage(plain)
    message._state = state
    return message


class Receives:
    """Recv, Probe and their kin, upper- and lower-case."""

    __slots__ = ()

    def Recv(self: Any, buf: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> None:
        """Receive a message."""
        state = self._state
        if state.broken:
            state.refuse("Recv")
        request = None
        try:
            request = _Irecv(self, buf, source, tag)
            state.used = True
            if source == PROC_NULL:
                request.Wait(status)
                return
            if status is None and (source < 0 or tag < 0):
                status = Status()
            if not request.Test(status):
                _await_message(request, state, source, tag, status)
            if get_ident() != watch.main:
                state.opaque = True
            key = (source, tag) if source >= 0 and tag >= 0 else (status.Get_source(), status.Get_tag())
            received = state.received
            received[key] = received.get(key, 0) + 1
        except BaseException as error:
            broke_off(error, state, "Recv", request, buf)
            raise

    def recv(
        self: Any,
        buf: Any = None,
        source: int = ANY_SOURCE,
        tag: int = ANY_TAG,
        status: Any = None,
    ) -> Any:
        """Receive a message and return the object."""
        state = self._state
        if state.broken:
            state.refuse("recv")
        state.used = True
        if buf is not None or source == PROC_NULL:
            return _recv_into(self, buf, source, tag, status)
        if status is None:
            status = Status()
        request = message = None
        try:
            message = _improbe(self, source, tag, status)
            if message is None:
                message = wait(
                    lambda: _improbe(self, source, tag, status), "recv", receive_parts, state, source, tag
                )
            if get_ident() != watch.main:
                state.opaque = True
            key = (source, tag) if source >= 0 and tag >= 0 else (status.Get_source(), status.Get_tag())
            received = state.received
            received[key] = received.get(key, 0) + 1
            request = _matched_irecv(message)
            message = None
            done, value = request.test(status)
            if not done:
                # The sender is there: only the data are on their way.
                _, value = wait(lambda: _if_done(request.test(status)), "recv", nothing_known)
            return value
        except BaseException as error:
            state.used = True  # a message may have been matched in the very moment of an interrupt
            if request is not None or message is not None or isinstance(error, MPI.Exception):
                broke_off(error, state, "recv", request, message)
            raise

    def Irecv(self: Any, buf: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG) -> Request:
        """Begin to receive a message."""
        return _begin_receive(self, "Irecv", _Irecv, buf, source, tag)

    def irecv(self: Any, buf: Any = None, source: int = ANY_SOURCE, tag: int = ANY_TAG) -> Request:
        """Begin to receive an object."""
        return _begin_receive(self, "irecv", _irecv, buf, source, tag)

    def Probe(self: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Status | None = None) -> bool:
        """Wait for a message."""
        state = self._state
        if state.broken:
            state.refuse("Probe")
        _probe(self, "Probe", _Iprobe, source, tag, status, True)
        return True

    def Iprobe(self: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Status | None = None) -> bool:
        """Tell whether a message is there."""
        if self._state.broken:
            self._state.refuse("Iprobe")
        return _probe(self, "Iprobe", _Iprobe, source, tag, status, False)

    def Mprobe(
        self: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Status | None = None
    ) -> Message:
        """Wait for a message and match it."""
        return _match(self, "Mprobe", _Improbe, source, tag, status, True)

    def Improbe(
        self: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Status | None = None
    ) -> Message | None:
        """Match a message if one is there."""
        return _match(self, "Improbe", _Improbe, source, tag, status, False)

    def mprobe(
        self: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Status | None = None
    ) -> Message:
        """Wait for an object and match its message."""
        return _match(self, "mprobe", _improbe, source, tag, status, True)

    def improbe(
        self: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Status | None = None
    ) -> Message | None:
        """Match the message of an object if one is there."""
        return _match(self, "improbe", _improbe, source, tag, status, False)

    probe, iprobe = Probe, Iprobe
