"""Rank 0's connection to the controller. Owned, as the mail is, by rank 0's courier.

Everything of a world passes here: requests come in and are handed to the ranks they name, what ranks
send goes out, many messages at a time.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

import mpiparallel
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.engine.world import World
from mpiparallel.error import ConnectionRefused, WireError
from mpiparallel.wire import frames as wire_frames
from mpiparallel.wire.messages import (
    CONTROL,
    Abort,
    Consumed,
    EnginesLost,
    Goodbye,
    Heartbeat,
    HelloWorld,
    Message,
    Output,
    Refused,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    WelcomeWorld,
    Where,
)

MAX_BATCH = 512  # messages in one
MAX_BATCH_BYTES = 8 << 20
LOOK_EVERY = 0.5  # seconds between looks at the controller's process while it has not answered
HOLD = 0.0002  # seconds for which results wait for others that may be about to come
COLLECTIVE = 256 << 10  # bytes from which what several ranks get goes by a broadcast


@dataclass(frozen=True)
class Line:
    """What it takes to reach the controller."""

    info: ConnectionInfo
    path: Path | None  # of the connection file
    config: Config
    timeout: float
    engine_set: str = ""
    first_id: int = -1  # the engine id that rank 0 should have; -1: the next


class Bridge:
    """The world's ZeroMQ socket.

    Parameters
    ----------
    line, world
    route
        Called with ({rank: message}, number of common frames, whether to use a collective).
    """

    def __init__(
        self, line: Line, world: World, route: Callable[[dict[int, Message], int, bool], None]
    ) -> None:
        self._line, self._world, self._route = line, world, route
        self._ranks: dict[int, int] = {}  # engine id -> rank
        self._control: deque[Message] = deque()
        self._data: deque[Message] = deque()
        self._unsent: list[Any] | None = None  # frames that the socket did not take yet
        self._heard = self._asked = time.monotonic()
        self._heartbeat = line.config.heartbeat
        self.stopped_by: str | None = None  # why the world is to end
        self._live: set[int] = set()  # engines that have not been stopped
        self._dead: set[int] = set()  # engines whose ranks have died
        self.said_dead: dict[int, str] = {}  # ranks of which the controller says that they have died
        self._early: deque[Message] = deque()  # came together with the welcome
        self._put_off: deque[Message] = deque()  # came while a death was not noticed here
        self._open = 0  # tasks handed out and not answered
        self._first = 0.0  # when the oldest message of `_data` came
        context = zmq.Context()
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.setsockopt(zmq.SNDHWM, 64)
        self.socket.setsockopt(zmq.RCVHWM, 64)
        self.address = self._connect()

    def _connect(self) -> str:
        info = self._line.info
        if info.is_local:
            self.socket.connect(info.local)
            return info.local
        self.socket.curve_serverkey = info.server_key.encode()
        self.socket.curve_publickey = info.public_key.encode()
        self.socket.curve_secretkey = info.secret_key.encode()
        for address in info.addresses[:1]:
            self.socket.connect(address)
        return info.addresses[0]

    def register(self) -> WelcomeWorld:
        """Introduce the world and return the controller's answer. Called before the courier runs.

        Raises
        ------
        ConnectionRefused
            If the controller does not want this world, or does not answer.
        """
        self._send(wire_frames.pack([Message(self._hello())]))
        deadline = time.monotonic() + self._line.timeout
        while (left := deadline - time.monotonic()) > 0:
            if self.socket.poll(int(min(left, LOOK_EVERY) * 1000)):
                self._early.extend(wire_frames.unpack(self.socket.recv_multipart(copy=False)))
                header = self._early.popleft().header
                if isinstance(header, WelcomeWorld):
                    self._welcomed(header)
                    return header
                if isinstance(header, Refused):
                    raise ConnectionRefused(f"the controller at {self.address} refused: {header.reason}")
            elif self._controller_is_dead():
                raise ConnectionRefused(f"the controller (process {self._line.info.pid}) is gone")
        raise ConnectionRefused(
            f"no answer from the controller at {self.address} to {socket.gethostname()} within "
            f"{self._line.timeout:.0f} s: is it running, and can this host reach that address?"
        )

    def _hello(self, held: list[list[str]] | None = None) -> HelloWorld:
        world, line = self._world, self._line
        return HelloWorld(
            mpiparallel.__version__, world.name, world.hosts, world.pids, world.mpi, line.engine_set,
            first=line.first_id, log=line.config.log, survives=world.survives, lost=world.lost, held=held,
        )  # fmt: skip

    def resume(self, held: dict[int, list[str]]) -> None:
        """Introduce the world again, after the death of the rank that had its bridge.

        Parameters
        ----------
        held
            The requests that each living rank has yet to answer.
        """
        hello = self._hello([held.get(rank, []) for rank in range(self._world.size)])
        self._open = sum(map(len, held.values()))
        self._control.appendleft(Message(hello))

    def lost(self, ranks: Sequence[int], n_open: int) -> None:
        """Tell the controller that ranks have died, with `n_open` tasks not answered; the others go on."""
        engines = [engine for engine, rank in self._ranks.items() if rank in ranks]
        engines = [engine for engine in engines if engine not in self._dead]
        self._dead.update(engines)
        self._live -= self._dead
        self._open -= n_open
        if engines:
            self.post(Message(EnginesLost(engines, "its process died")))

    def _welcomed(self, header: WelcomeWorld) -> None:
        self._ranks = {engine: rank for rank, engine in enumerate(header.engines)}
        self._dead = {header.engines[rank] for rank in self._world.lost}
        self._live = set(header.engines) - self._dead
        self._heartbeat = header.heartbeat
        self._heard = time.monotonic()

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way in this world, so that only the controller can bring work."""
        return self._open <= 0 and not self._data and not self._control and self._unsent is None

    # ------------------------------------------------------------ out

    def post(self, message: Message) -> None:
        """Send a message when the socket takes it."""
        if type(message.header) in CONTROL:
            self._control.append(message)
            return
        if not self._data:
            self._first = time.monotonic()
        self._data.append(message)
        self._open -= type(message.header) is Result

    def _flush(self) -> bool:
        # The ranks answer a request one shortly after the other: sent as one, their results cost the
        # controller and the client a third.
        more_to_come = self._data and self._open > 0 and not self._control and len(self._data) < MAX_BATCH
        if more_to_come and time.monotonic() - self._first < HOLD:
            return True
        busy = False
        while self._unsent or self._control or self._data:
            if self._unsent is None:
                self._unsent = wire_frames.pack(self._batch())
            if not self._send(self._unsent):
                break
            self._unsent = None
            busy = True
        return busy

    def _batch(self) -> list[Message]:
        batch: list[Message] = []
        size = 0
        while (self._control or self._data) and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            message = (self._control or self._data).popleft()
            size += sum(wire_frames.nbytes(frame) for frame in message.payload) + _text_size(message)
            batch.append(message)
        return batch

    def _send(self, frames: list[Any]) -> bool:
        try:
            self.socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        return True

    # ------------------------------------------------------------ in

    def progress(self) -> bool:
        """Send and receive what can be; return whether anything happened."""
        busy = self._flush()
        while self._put_off and not self._is_unnoticed():
            self._take(self._put_off.popleft())
        while self._early:
            self._receive(self._early.popleft())
        for _ in range(64):
            # Asking is five times cheaper than the exception of a receive in vain.
            if not int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
                break
            frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            busy = True
            self._heard = time.monotonic()
            try:
                messages = wire_frames.unpack(frames)
            except WireError as error:
                self.stopped_by = f"the controller sent what this engine does not understand: {error}"
                break
            for message in messages:
                self._receive(message)
        return self._flush() or busy

    def _receive(self, message: Message) -> None:
        # An abort must not come before its request.
        if isinstance(message.header, Submit | Abort) and (self._put_off or self._is_unnoticed()):
            self._put_off.append(message)
        else:
            self._take(message)

    def _take(self, message: Message) -> None:
        header = message.header
        if isinstance(header, Submit):
            self._submit(header, message.payload)
        elif isinstance(header, Abort | Signal | Stop | Where):
            if isinstance(header, Stop):
                self._live -= set(header.engines)
                if header.controller or not self._live:
                    self.stopped_by = header.reason or "the controller ended this world"
            self._hand_on(dict.fromkeys(header.engines, message))
        elif isinstance(header, Supply | Consumed):
            self._hand_on({header.engine: message})
        elif isinstance(header, EnginesLost):
            self.said_dead.update((self._ranks[engine], header.reason) for engine in header.engines)
        elif isinstance(header, WelcomeWorld):
            self._welcomed(header)
        elif isinstance(header, Heartbeat):
            if header.echo:
                self.post(Message(Heartbeat()))
        elif isinstance(header, Refused):
            if not header.request:
                self.stopped_by = f"the controller refuses this world: {header.reason}"
        elif isinstance(header, Goodbye):
            self.stopped_by = header.reason or "the controller ended"

    def _is_unnoticed(self) -> bool:
        """Whether a rank has died and MPI is about to say so.

        Who sends a request now may know of that death already, and may count on communicators without it.
        """
        return any(rank in self._world.alive for rank in self.said_dead)

    def _hand_on(self, messages: dict[int, Message]) -> None:
        known = {
            self._ranks[engine]: message
            for engine, message in messages.items()
            if engine in self._ranks and engine not in self._dead
        }
        if known:
            self._route(known, 0, False)

    def _submit(self, header: Submit, payload: Sequence[Any]) -> None:
        common = payload[: header.common]
        messages = {}
        start = header.common
        for engine, count in zip(header.engines, header.parts or [0] * len(header.engines), strict=True):
            own = header
            if header.parts:
                own = msgspec.structs.replace(header, engines=[engine], parts=[count])
            if engine not in self._dead:
                messages[self._ranks[engine]] = Message(own, [*common, *payload[start : start + count]])
            start += count
        # The controller fails the tasks of engines that have died since; it will hear of that.
        self._open += len(messages)
        if not messages:
            return
        size = sum(wire_frames.nbytes(frame) for frame in common)
        self._route(messages, header.common, size >= COLLECTIVE and len(messages) > 2)

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """Ask a silent controller whether it is there, and give up on one that is gone."""
        now = time.monotonic()
        silence = now - self._heard
        if silence > self._heartbeat and now - self._asked > self._heartbeat:
            self._asked = now
            self.post(Message(Heartbeat(echo=True)))
        info, config = self._line.info, self._line.config
        if self._controller_is_dead():
            file_gone = self._line.path is not None and not os.path.exists(self._line.path)
            if file_gone or silence > config.orphan_after:
                self.stopped_by = f"the controller (process {info.pid}) is gone"
        elif info.host != socket.gethostname() and silence > config.orphan_after + config.lost_after:
            self.stopped_by = f"no word from the controller at {self.address} for {silence:.0f} s"

    def _controller_is_dead(self) -> bool:
        """Whether the controller has ended, as far as can be seen: its process was on this host."""
        info = self._line.info
        return info.host == socket.gethostname() and not psutil.pid_exists(info.pid)

    def close(self, reason: str) -> None:
        """Say goodbye and let go of the socket; what is queued still leaves within a second."""
        self._data.append(Message(Goodbye("" if reason.startswith("the controller ended") else reason)))
        deadline = time.monotonic() + 1.0
        while (self._unsent or self._data or self._control) and time.monotonic() < deadline:
            if not self._flush():
                self.socket.poll(10, zmq.POLLOUT)
        self.socket.close()


def _text_size(message: Message) -> int:
    """Return roughly how many bytes a header takes: output and tracebacks stand in it."""
    header = message.header
    if isinstance(header, Output):
        return 3 * len(header.text)
    if isinstance(header, Result) and header.failure is not None:
        return 3 * (len(header.failure.evalue) + len(header.failure.traceback))
    return 0
