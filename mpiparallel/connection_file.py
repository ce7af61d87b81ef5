"""Connection files: how a peer finds the controller, and the key that lets it in.

A controller writes two: ``client.json`` and ``engine.json``. They differ in the key, and
so in what the controller lets the holder do.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from mpiparallel.error import ConnectionFileError

Role = Literal["client", "engine"]
NAMES: dict[Role, str] = {"client": "client.json", "engine": "engine.json"}
SAVED = "controller.json"  # beside them, while a controller that dies can be started again


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection file says. Keys are Z85 text, as ZeroMQ writes them."""

    cluster_id: str
    role: Role
    version: str
    host: str  # where the controller runs
    pid: int
    addresses: list[str]  # tcp:// addresses of the one port, best first
    local: str  # ipc:// address, for peers on the same host
    server_key: str
    public_key: str
    secret_key: str
    job: str = ""  # the batch job that the controller runs in

    @property
    def is_local(self) -> bool:
        """Whether the controller's private socket can be reached from here."""
        return self.host == socket.gethostname() and os.path.exists(self.local.removeprefix("ipc://"))


def write(path: Path, info: ConnectionInfo) -> None:
    """Write `info` to `path`, readable by its owner alone; who waits for the file never sees half of it."""
    write_private(path, msgspec.json.format(msgspec.json.encode(info), indent=2))


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 aside and move it to `path`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def read(path: Path) -> ConnectionInfo:
    """Return what the connection file `path` says.

    Raises
    ------
    ConnectionFileError
        If it is missing or malformed, belongs to somebody else, or others can read it.
    """
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            content = file.read(1 << 20)
    except OSError as error:
        raise ConnectionFileError(f"connection file {path}: {error.strerror or error}") from None
    if about.st_uid not in (os.geteuid(), 0):
        raise ConnectionFileError(f"connection file {path} belongs to another user; refusing to use it")
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise ConnectionFileError(
            f"connection file {path} has mode {stat.S_IMODE(about.st_mode):04o}: others can use the key in "
            f"it. If nobody did, run: chmod 600 {path}"
        )
    return parse(content, str(path))


def parse(content: bytes | str, source: str = "connection info") -> ConnectionInfo:
    """Return the connection info in JSON text.

    Raises
    ------
    ConnectionFileError
        If it is none.
    """
    try:
        return msgspec.json.decode(content, type=ConnectionInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConnectionFileError(f"{source} is not a connection file of mpiparallel: {error}") from None
