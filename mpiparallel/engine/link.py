"""One ZeroMQ connection to the controller, and whether it is broken. The bridge makes another when it is."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import zmq
from zmq.utils.monitor import parse_monitor_message

from mpiparallel import connection_file, reach
from mpiparallel.batchjob import BatchJob
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError

RETRY = 250  # milliseconds between ZeroMQ's own attempts; a break is noticed before
REACH = 15.0  # seconds after which an address that has not taken a connection will not do so
EARLY = 5.0  # seconds after which it is looked whether there is a way at all
DIAGNOSIS = 3.0  # seconds to find out why nothing could be reached

_FAILED = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_EVENTS = (zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_SUCCEEDED, *_FAILED)


@dataclass(frozen=True)
class Line:
    """What it takes to reach the controller."""

    info: ConnectionInfo
    path: Path | None  # of the connection file
    config: Config
    timeout: float
    engine_set: str = ""
    first_id: int = -1  # the engine id that the first engine should have; -1: the next
    job: BatchJob | None = None  # that this process is in

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


class _Try:
    """A DEALER that connects to one address."""

    def __init__(self, context: zmq.Context[Any], info: ConnectionInfo, address: str) -> None:
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.setsockopt(zmq.SNDHWM, 64)
        self.socket.setsockopt(zmq.RCVHWM, 64)
        self.socket.setsockopt(zmq.RECONNECT_IVL, RETRY)
        self.events = self.socket.get_monitor_socket(sum(_EVENTS))
        if address != info.local:
            self.socket.ipv6 = "[" in address
            self.socket.curve_serverkey = info.server_key.encode()
            self.socket.curve_publickey = info.public_key.encode()
            self.socket.curve_secretkey = info.secret_key.encode()
        self.socket.connect(address)
        self.met = False  # whether the controller was there, with the right key
        self.refused = False  # whether somebody else, or a controller of another run, was
        self.is_broken = False

    def look(self) -> None:
        while self.events.poll(0):
            event = parse_monitor_message(self.events.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.met = True
            else:
                self.refused = self.refused or event in _FAILED
                self.is_broken = True

    def close(self, linger: int) -> None:
        self.socket.disable_monitor()
        self.events.close(linger=0)
        self.socket.close(linger=linger)


class Link:
    """A connection to the controller, by the first of its addresses where it answers.

    All are tried at once, as some may lead nowhere from here: who has the controller's key wins. What is
    sent meanwhile waits.
    """

    def __init__(self, context: zmq.Context[Any], info: ConnectionInfo) -> None:
        self.info = info
        if info.is_local:
            addresses = [info.local]
        else:
            addresses = reach.worth_trying(info.addresses, info.host != socket.gethostname())
        self._tries = [_Try(context, info, address) for address in addresses]
        self._chosen = self._tries[0] if len(self._tries) == 1 else None
        self._waiting: list[list[Any]] = []
        self._began = time.monotonic()
        self._found: reach.Reached | None = None  # what came of looking for a way

    @property
    def address(self) -> str:
        """Where the controller is, or where it may be."""
        return self._chosen.address if self._chosen else ", ".join(one.address for one in self._tries)

    @property
    def is_hopeless(self) -> bool:
        """Whether no way to the controller has been found, and none will be. May take a few seconds."""
        self._look()
        waited = time.monotonic() - self._began
        if self._has_met or waited <= min(EARLY, REACH):
            return False
        if self._found is None and not self.info.is_local:
            self._found = reach.race([one.address for one in self._tries], DIAGNOSIS)
        # Who can connect waits longer: a controller may be busy.
        return waited > REACH or (self._found is not None and not self._found.address)

    @property
    def _has_met(self) -> bool:
        return any(one.met for one in self._tries)

    def _look(self) -> None:
        for one in self._tries:
            one.look()
        if self._chosen is None and (met := [one for one in self._tries if one.met]):
            self._chosen = met[0]
            for one in self._tries:
                if one is not self._chosen:
                    one.close(linger=0)
            self._tries = [self._chosen]
            for frames in self._waiting:
                self._chosen.socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
            self._waiting.clear()

    def is_broken(self) -> bool:
        """Whether the connection was there and is not any more; what was under way on it is lost."""
        self._look()
        return all(one.is_broken for one in self._tries)

    def wait(self, milliseconds: int, flags: int = zmq.POLLIN) -> bool:
        """Wait until something can be received, or as `flags` say; or until there is news of the way."""
        if self._chosen is None:
            poller = zmq.Poller()
            for one in self._tries:
                poller.register(one.events, zmq.POLLIN)
            poller.poll(milliseconds)
            self._look()
            return False
        return bool(self._chosen.socket.poll(milliseconds, flags))

    def send(self, frames: list[Any]) -> bool:
        """Send a batch; False when the socket does not take it now."""
        if self._chosen is None:
            self._waiting.append(frames)
            return True
        try:
            self._chosen.socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[Any] | None:
        """Return the frames of the next batch, or None."""
        if self._chosen is None:
            self._look()
            return None
        # Asking is five times cheaper than the exception of a receive in vain.
        if not int(self._chosen.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            return None
        return self._chosen.socket.recv_multipart(zmq.DONTWAIT, copy=False)

    def explain(self, timeout: float) -> str:
        """Return why there was no answer within `timeout` seconds, and what to do; may take a few more."""
        self._look()
        here, host = socket.gethostname(), self.info.host
        if self._has_met or self.info.is_local:
            return (
                f"no answer from the controller at {self.address} to {here} within {timeout:.0f} s: does it "
                "hang? See its log"
            )
        strange = [one.address for one in self._tries if one.refused]
        if strange:
            return (
                f"what listens at {', '.join(strange)} does not have the key of this connection file: it is "
                f"of another run of the controller on {host}, or another program has its port"
            )
        found = self._found or reach.race([one.address for one in self._tries], DIAGNOSIS)
        if found.address:
            return (
                f"{found.address} takes connections from {here}, but does not answer as the controller on "
                f"{host} would: does it hang, or has another program its port?"
            )
        return reach.explain(host, found.troubles)

    def close(self, linger: int = 0) -> None:
        """Let go of it, after `linger` milliseconds at most for what is queued."""
        for one in self._tries:
            one.close(linger if one is self._chosen else 0)
