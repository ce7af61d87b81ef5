"""Calls that send and receive at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.faults import broke_off, broke_off_exchange
from mpiparallel.engine.guard.plain import Comm, Request, Status
from mpiparallel.engine.guard.receives import count_receive
from mpiparallel.engine.guard.requests import exchange_request, send_request
from mpiparallel.engine.guard.sends import BYTE, count_send, dumps, send_parts
from mpiparallel.engine.guard.state import CommState
from mpiparallel.engine.guard.waiting import wait
from mpiparallel.wire.waits import Part

ANY_SOURCE, ANY_TAG, PROC_NULL = MPI.ANY_SOURCE, MPI.ANY_TAG, MPI.PROC_NULL
_Isend, _Irecv = Comm.Isend, Comm.Irecv


def _exchange_parts(send: Any, receive: Any, state: CommState, out: Any, into: Any) -> list[Part]:
    """Return the parts of an exchange of which either half may be over."""
    return ([state.send(*out)] if send else []) + ([state.receive(*into)] if receive else [])


def _begin_exchange(
    comm: Any, start: Callable[..., Request], args: Any, out: tuple[int, int], into: tuple[int, int]
) -> Request:
    state, name = comm._state, start.__name__
    if state.broken:
        state.refuse(name)
    plain = None
    try:
        plain = start(comm, *args)
        sent = (*out, count_send(state, *out), args[0])
    except BaseException as error:
        broke_off(error, state, name, plain, args)
        raise
    if into[0] == PROC_NULL:
        return send_request(state, plain, *sent) if out[0] >= 0 else plain
    return exchange_request(state, plain, sent, *into)


class Exchanges:
    """Sendrecv and its kin, upper- and lower-case."""

    __slots__ = ()

    def Sendrecv(
        self: Any,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = ANY_SOURCE,
        recvtag: int = ANY_TAG,
        status: Status | None = None,
    ) -> None:
        """Send a message and receive one."""
        state = self._state
        if state.broken:
            state.refuse("Sendrecv")
        if status is None:
            status = Status()
        requests: list[Any] = []
        try:
            requests.append(_Irecv(self, recvbuf, source, recvtag))
            requests.append(_Isend(self, sendbuf, dest, sendtag))
            index = count_send(state, dest, sendtag)
            receive, send = requests
            # A request that is complete would overwrite the status.
            received = receive.Test(status)
            if not received:
                wait(
                    lambda: (not send or send.Test() or True) and receive.Test(status),
                    "Sendrecv",
                    _exchange_parts,
                    send,
                    receive,
                    state,
                    (dest, sendtag, index, sendbuf),
                    (source, recvtag),
                )
            if source != PROC_NULL:
                count_receive(state, status.Get_source(), status.Get_tag())
            if not send.Test():
                wait(send.Test, "Sendrecv", send_parts, state, dest, sendtag, index, sendbuf)
        except BaseException as error:
            broke_off_exchange(error, state, "Sendrecv", requests, (sendbuf, recvbuf), source, recvtag)
            raise

    def sendrecv(
        self: Any,
        sendobj: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = ANY_SOURCE,
        recvtag: int = ANY_TAG,
        status: Status | None = None,
    ) -> Any:
        """Send an object and receive one."""
        state = self._state
        if state.broken:
            state.refuse("sendrecv")
        data = dumps(sendobj) if dest >= 0 else b""
        send = None
        try:
            send = _Isend(self, (data, BYTE), dest, sendtag)
            index = count_send(state, dest, sendtag)
            value = self.recv(recvbuf, source, recvtag, status)
            if not send.Test():
                wait(send.Test, "sendrecv", send_parts, state, dest, sendtag, index, len(data))
            return value
        except BaseException as error:
            broke_off(error, state, "sendrecv", send, data)
            raise

    def Sendrecv_replace(
        self: Any,
        buf: Any,
        dest: int,
        sendtag: int = 0,
        source: int = ANY_SOURCE,
        recvtag: int = ANY_TAG,
        status: Status | None = None,
    ) -> None:
        """Send a message and receive one into the same buffer."""
        self.Isendrecv_replace(buf, dest, sendtag, source, recvtag).Wait(status)

    def Isendrecv(
        self: Any,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = ANY_SOURCE,
        recvtag: int = ANY_TAG,
    ) -> Request:
        """Begin to send a message and to receive one."""
        return _begin_exchange(
            self,
            Comm.Isendrecv,
            (sendbuf, dest, sendtag, recvbuf, source, recvtag),
            (dest, sendtag),
            (source, recvtag),
        )

    def Isendrecv_replace(
        self: Any, buf: Any, dest: int, sendtag: int = 0, source: int = ANY_SOURCE, recvtag: int = ANY_TAG
    ) -> Request:
        """Begin to send a message and to receive one into the same buffer."""
        return _begin_exchange(
            self,
            Comm.Isendrecv_replace,
            (buf, dest, sendtag, source, recvtag),
            (dest, sendtag),
            (source, recvtag),
        )
