"""One ZeroMQ connection to the controller, and whether it is broken. The bridge makes another when it is."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import zmq

from mpiparallel import connection_file
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError

RETRY = 250  # milliseconds between ZeroMQ's own attempts; a break is noticed before


@dataclass(frozen=True)
class Line:
    """What it takes to reach the controller."""

    info: ConnectionInfo
    path: Path | None  # of the connection file
    config: Config
    timeout: float
    engine_set: str = ""
    first_id: int = -1  # the engine id that the first engine should have; -1: the next

    def read_again(self) -> ConnectionInfo | None:
        """Return what the connection file says now; None when it cannot be read at this moment."""
        if self.path is None:
            return self.info
        try:
            return connection_file.read(self.path)
        except ConnectionFileError:
            return None

    @property
    def is_withdrawn(self) -> bool:
        """Whether the connection file is gone, as it is when a controller has ended in order."""
        return self.path is not None and not os.path.exists(self.path)


def is_dead(info: ConnectionInfo) -> bool:
    """Whether the controller has ended, as far as can be seen: its process was on this host."""
    return info.host == socket.gethostname() and not psutil.pid_exists(info.pid)


class Link:
    """A DEALER that is connected to the controller."""

    def __init__(self, context: zmq.Context[Any], info: ConnectionInfo) -> None:
        self.info = info
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.setsockopt(zmq.SNDHWM, 64)
        self.socket.setsockopt(zmq.RCVHWM, 64)
        self.socket.setsockopt(zmq.RECONNECT_IVL, RETRY)
        self._events = self.socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        if info.is_local:
            self.address = info.local
        else:
            self.address = info.addresses[0]
            self.socket.curve_serverkey = info.server_key.encode()
            self.socket.curve_publickey = info.public_key.encode()
            self.socket.curve_secretkey = info.secret_key.encode()
        self.socket.connect(self.address)

    def is_broken(self) -> bool:
        """Whether the connection was there and is not any more; what was under way on it is lost."""
        return bool(self._events.poll(0))

    def send(self, frames: list[Any]) -> bool:
        """Send a batch; False when the socket does not take it now."""
        try:
            self.socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[Any] | None:
        """Return the frames of the next batch, or None."""
        # Asking is five times cheaper than the exception of a receive in vain.
        if not int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            return None
        return self.socket.recv_multipart(zmq.DONTWAIT, copy=False)

    def close(self, linger: int = 0) -> None:
        """Let go of it, after `linger` milliseconds at most for what is queued."""
        self.socket.disable_monitor()
        self._events.close(linger=0)
        self.socket.close(linger=linger)
