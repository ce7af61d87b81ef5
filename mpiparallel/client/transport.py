"""Opens the client's socket: the private one on the controller's host, else one TCP connection with CurveZMQ.

Called by `connection`, whose I/O thread owns the socket from then on.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from mpiparallel import reach
from mpiparallel.connection_file import ConnectionInfo

SEND_MARK = 100  # batches that wait in the socket; one batch holds many messages


@dataclass
class Transport:
    """A connected socket, where it leads, and what ZeroMQ says of its handshake."""

    context: zmq.Context[Any]
    socket: zmq.Socket[Any]
    monitor: zmq.Socket[Any]
    address: str

    def look(self) -> tuple[str | None, bool]:
        """Return what has gone wrong with the encrypted handshake, if something has, and whether the
        connection is broken.
        """
        problem, broken = None, False
        while self.monitor.poll(0):
            event = parse_monitor_message(self.monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                problem = "the controller does not accept the key in this connection file"
            elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
                problem = (
                    "the encrypted handshake failed: the connection file is of another run of the controller"
                )
            elif event == zmq.EVENT_DISCONNECTED:
                broken = True
        return problem, broken

    def close(self, linger: float) -> None:
        """Close everything; what is not sent within `linger` seconds is dropped."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=int(linger * 1000))
        self.context.term()


def open_transport(info: ConnectionInfo, timeout: float, way: str | None = None) -> Transport:
    """Return a socket on its way to the controller, by the address `way` if that is given.

    Raises
    ------
    TimeoutError, ConnectionError
        If no address of the controller can be reached; the message names them all.
    """
    address = way or (info.local if info.is_local else reachable(info, timeout))
    context: zmq.Context[Any] = zmq.Context()
    dealer: zmq.Socket[Any] = context.socket(zmq.DEALER)
    dealer.sndhwm = SEND_MARK
    if address != info.local:
        dealer.curve_serverkey = info.server_key.encode()
        dealer.curve_publickey = info.public_key.encode()
        dealer.curve_secretkey = info.secret_key.encode()
        dealer.ipv6 = "[" in address
        dealer.tcp_keepalive = 1
    monitor = dealer.get_monitor_socket(
        zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    dealer.connect(address)
    return Transport(context, dealer, monitor, address)


def reachable(info: ConnectionInfo, timeout: float) -> str:
    """Return the first of the controller's TCP addresses that takes a connection within `timeout` s."""
    here = socket.gethostname()
    found = reach.race(reach.worth_trying(info.addresses, info.host != here), timeout)
    if not found.address:
        raise TimeoutError(reach.explain(info.host, found.troubles, here))
    return found.address


def is_running(pid: int) -> bool:
    """Whether a process on this host exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:  # there is no /proc here
        return True
