"""A real controller process and bare peers to talk to it, for the tests here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from mpiparallel import connection_file
from mpiparallel.connection_file import NAMES, ConnectionInfo, Role
from mpiparallel.wire.frames import pack, unpack
from mpiparallel.wire.messages import Hello, HelloWorld, Message, Result, Submit, Welcome, WelcomeWorld

PATIENCE = 20.0  # seconds; far above what anything here takes, for a busy machine


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain for {what}"
        time.sleep(0.01)
    return value


class Controller:
    """A controller process in `directory`."""

    def __init__(self, directory: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory.parent / (directory.name + ".log")
        read_end, self.lifeline = os.pipe()
        argv = [sys.executable, "-m", "mpiparallel.controller", "--directory", str(directory)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*argv, "--lifeline", str(read_end), *arguments],
                pass_fds=[read_end],
                stderr=log,
                stdout=log,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **(environ or {})},
            )
        os.close(read_end)

    def info(self, role: Role) -> ConnectionInfo:
        """Return the connection file of `role`, once it is there."""
        path = self.directory / NAMES[role]
        wait_until(lambda: path.exists() or self.process.poll() is not None, f"{path}")
        assert self.process.poll() is None, self.log.read_text()
        return connection_file.read(path)

    def wait(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def cut_lifeline(self) -> None:
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def end(self) -> None:
        """Whatever has happened: nothing of it is left running."""
        self.cut_lifeline()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGABRT)  # for the traceback in the log
                self.process.wait(10)
                raise AssertionError(f"the controller did not end:\n{self.log.read_text()}") from None
            finally:
                self.process.kill()
                self.process.wait()


class FakePeer:
    """A DEALER that says what it is told to say."""

    def __init__(self, info: ConnectionInfo, *, tcp: bool = False, **options: int) -> None:
        self.info = info
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        if tcp:
            self.socket.curve_serverkey = info.server_key.encode()
            self.socket.curve_publickey = info.public_key.encode()
            self.socket.curve_secretkey = info.secret_key.encode()
        self.socket.connect(info.addresses[0] if tcp else info.local)
        self.received: list[Message] = []

    def __enter__(self) -> FakePeer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.context.destroy(linger=0)

    def send(self, *messages: Any) -> None:
        """Send headers, or whole messages, as one."""
        whole = [item if isinstance(item, Message) else Message(item) for item in messages]
        self.send_raw(pack(whole))

    def send_raw(self, frames: list[Any]) -> None:
        self.socket.send_multipart(frames)

    def receive(self, *kinds: type, patience: float = PATIENCE) -> Message:
        """Return the next message of one of `kinds` (of any when none is given), dropping others."""
        deadline = time.monotonic() + patience
        while True:
            while self.received:
                message = self.received.pop(0)
                if not kinds or isinstance(message.header, kinds):
                    return message
            left = deadline - time.monotonic()
            if left <= 0 or not self.socket.poll(left * 1000):
                names = " or ".join(kind.__name__ for kind in kinds) or "anything"
                raise TimeoutError(f"no {names} within {patience:g} s")
            self.received += unpack(self.socket.recv_multipart())

    def expect(self, kind: type, patience: float = PATIENCE) -> Any:
        """Return the header of the next message, which is of `kind`, dropping those that are not."""
        return self.receive(kind, patience=patience).header


class FakeClient(FakePeer):
    def hello(self, name: str = "c0ffee", pid: int = 0, host: str = "") -> Welcome:
        self.name = name
        self.count = 0
        self.send(Hello("test", name, host or socket.gethostname(), pid or os.getpid()))
        welcome: Welcome = self.expect(Welcome)
        return welcome

    def submit(self, engines: list[int], *payload: bytes) -> str:
        self.count += 1
        request = f"{self.name}-{self.count}"
        self.send(Message(Submit(request, self.name, "execute", engines, common=len(payload)), payload))
        return request


class FakeWorld(FakePeer):
    def hello(
        self, size: int = 1, name: str = "world", pids: list[int] | None = None, host: str = "", **fields: Any
    ) -> WelcomeWorld:
        # Processes that are named as this host's are killed when the world does not stop: name no other's.
        hosts = [host or (socket.gethostname() if pids else "elsewhere")] * size
        self.send(HelloWorld("test", name, hosts, pids or list(range(1, size + 1)), **fields))
        welcome: WelcomeWorld = self.expect(WelcomeWorld)
        return welcome

    def serve(self) -> Message:
        """Answer one request on each of its engines with its own payload."""
        message = self.receive(Submit)
        header: Submit = message.header  # type: ignore[assignment]
        self.send(*(Message(Result(header.request, e, "ok"), message.payload) for e in header.engines))
        return message
