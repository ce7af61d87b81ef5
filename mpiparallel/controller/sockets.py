"""The controller's sockets. `server` makes and owns them, and its thread alone may touch them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from mpiparallel.connection_file import Role
from mpiparallel.controller import places
from mpiparallel.controller.keys import ZAP_ADDRESS, Keys
from mpiparallel.controller.outgoing import Sent
from mpiparallel.error import LaunchError

log = logging.getLogger(__name__)

HIGH_WATER = 64  # batches in a socket's queue for one peer; the rest waits in Outgoing, where it is counted
LINGER = 1.0  # seconds that the last messages have to leave


class Route(NamedTuple):
    """One connection: which socket, what its key allows, and ROUTER's name for it."""

    local: bool
    role: Role | None
    identity: bytes


class Sockets:
    """The port, the private socket, and the one on which ZeroMQ asks about keys.

    Parameters
    ----------
    ip, port
        Where to listen; port 0 is any free one.
    max_frame : int
        Bytes of the longest frame that is read; a peer that sends a longer one is cut off by ZeroMQ.
    directory : Path, optional
        Where the private socket has been before; a new directory by default, or if that one cannot be had.
    """

    def __init__(self, keys: Keys, ip: str, port: int, max_frame: int, directory: Path | None = None) -> None:
        self._max_frame = max_frame
        self._context = zmq.Context()
        self.directory = places.make_socket_dir(directory)
        try:
            self._bind(keys, ip, port)
        except BaseException:
            self.close()
            raise

    def _bind(self, keys: Keys, ip: str, port: int) -> None:
        # The socket for questions about keys must be there before the first connection is.
        self.zap = self._context.socket(zmq.REP)
        self.zap.bind(ZAP_ADDRESS)
        self.local = self._router()
        self.local_address = f"ipc://{self.directory}/s"
        self.local.bind(self.local_address)
        self.tcp = self._router()
        self.tcp.curve_server = True
        self.tcp.curve_secretkey = keys.server.secret.encode()
        self.tcp.zap_domain = b"mpiparallel"
        self.tcp.tcp_keepalive = 1
        self.tcp.tcp_keepalive_idle = 60
        self.tcp.ipv6 = ":" in ip
        address = "*" if ip in places.ANY else f"[{ip}]" if ":" in ip else ip
        try:
            self.tcp.bind(f"tcp://{address}:{port or '*'}")
        except zmq.ZMQError as error:
            raise LaunchError(f"cannot listen on {ip}, port {port or 'any'}: {error}") from error
        endpoint: bytes = self.tcp.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
        self.port = int(endpoint.rpartition(b":")[2].rstrip(b"\0"))
        self.addresses = places.tcp_addresses(ip, self.port)

    def _router(self) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.router_mandatory = 1  # sending to nobody, or to one who does not read, is an error
        router.sndhwm = router.rcvhwm = HIGH_WATER
        router.maxmsgsize = self._max_frame
        return router

    def send(self, route: Route, frames: list[Any]) -> Sent:
        """Send one batch without waiting."""
        router = self.local if route.local else self.tcp
        try:
            router.send_multipart([route.identity, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.DONE

    def receive(self, router: zmq.Socket[bytes]) -> tuple[Route, list[zmq.Frame]] | None:
        """Return the next batch and whom it is from; None when there is none."""
        try:
            frames: Any = router.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        local = router is self.local
        # The role is in the route, so that a connection under another key's identity is another peer.
        return Route(local, None if local else frames[0].get("User-Id"), frames[0].bytes), frames[1:]

    def close(self) -> None:
        """Close everything, after the last messages have left or LINGER has passed."""
        # When a peer has just vanished with data on its way to it, ZeroMQ (4.3.5) sometimes waits for ever
        # here, whatever the linger. So a thread waits, which does not keep the process from ending.
        closing = threading.Thread(target=self._context.destroy, args=[int(LINGER * 1000)], daemon=True)
        closing.start()
        closing.join(LINGER + 1.0)
        if closing.is_alive():
            log.debug("ZeroMQ does not finish closing: left to the end of the process")
        places.remove(self.directory)
