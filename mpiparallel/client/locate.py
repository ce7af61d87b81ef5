"""Find the connection file that a new client is to use."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpiparallel import connection_file
from mpiparallel.client.transport import is_running
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError

REMEDY = "Start a cluster with: mpiparallel start -n 4"
NAME = connection_file.NAMES["client"]
SAY_AFTER = 1.0  # seconds of waiting for a controller to be started again; it takes 0.3 s where it is kept


class LeftBehind(ConnectionFileError):
    """The controller that wrote the file does not run any longer."""


def find(
    source: Any,
    config: Config,
    timeout: float,
    profile: str | None = None,
    profile_dir: Any = None,
    cluster_id: str | None = None,
) -> tuple[ConnectionInfo, Path | None]:
    """Return the connection info in `source` (a path or a dict) or that of a profile's cluster; and its file.

    Raises
    ------
    ConnectionFileError
        If there is no such file after `timeout` seconds, or its controller has ended; one that has died and
        may be started again is waited for as long.
    ValueError
        If `source` is an address.
    TypeError
        If it is neither a path nor a dict.
    """
    if isinstance(source, Mapping):
        info = connection_file.parse(json.dumps(dict(source)))
        check(info, "the connection info")
        return info, None
    if source is not None:
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f"a client needs the path of a connection file, or its content, not {source!r}")
        if "://" in str(source):
            raise ValueError(
                f"{source!r} is an address: a client needs the connection file, which holds the keys as well "
                f"({NAME} in the cluster's folder on the controller's host)"
            )
        path = Path(source).expanduser()
        if path.is_dir():
            path = path / NAME
    else:
        path = cluster_file(config, profile, profile_dir, cluster_id)
    return load(path, timeout), path.absolute()


def cluster_file(config: Config, profile: str | None, profile_dir: Any, cluster_id: str | None) -> Path:
    """Return the connection file of a profile's cluster.

    Where no cluster is named, here or in the environment, it is the profile's main cluster if that runs, or
    else the one that was started last.
    """
    named = cluster_id is not None or bool(config.cluster_id)
    folder = config.cluster_dir(
        profile or config.profile, config.cluster_id if cluster_id is None else cluster_id
    )
    if profile_dir is not None:
        folder = Path(profile_dir).expanduser() / folder.name
    if not named and not _runs(folder / NAME):
        files = list(folder.parent.glob(f"cluster-*/{NAME}"))
        others = [path for path in files if _runs(path)]
        if not others and not (folder / NAME).exists():
            others = [path for path in files if _may_be_back(path)]
        if others:
            return max(others, key=lambda path: path.stat().st_mtime)
    return folder / NAME


def _runs(path: Path) -> bool:
    try:
        check(connection_file.read(path), str(path))
    except ConnectionFileError:
        return False
    return True


def load(path: Path, timeout: float) -> ConnectionInfo:
    """Read `path`; wait up to `timeout` seconds for it to appear, and for a controller that is restarted."""
    began = time.monotonic()
    deadline = began + timeout
    if not path.exists():
        print(f"Waiting for connection file: {path}", flush=True)
        while not path.exists():
            if time.monotonic() > deadline:
                raise ConnectionFileError(
                    f"Connection file {path} not found after {timeout:g} s: no cluster runs there. {REMEDY}"
                )
            time.sleep(0.05)
    told = False
    while True:
        info = connection_file.read(path)
        try:
            check(info, f"connection file {path}")
            return info
        except LeftBehind:
            if not _may_be_back(path) or time.monotonic() > deadline:
                raise
        if not told and time.monotonic() - began > SAY_AFTER:
            told = True
            print(f"Waiting for the controller (process {info.pid} has died) to be started again", flush=True)
        time.sleep(0.05)


def _may_be_back(path: Path) -> bool:
    """Whether a controller that has died has left what one in its place goes on with."""
    return (path.parent / connection_file.SAVED).exists()


def check(info: ConnectionInfo, source: str) -> None:
    """Raise ConnectionFileError if the controller is known to be gone; warn if it cannot be reached."""
    if info.role != "client":
        raise ConnectionFileError(f"{source} is for engines; a client needs the file {NAME} beside it")
    if info.host == socket.gethostname():
        if not is_running(info.pid):
            raise LeftBehind(
                f"{source} was left behind by a controller (process {info.pid}) that no longer runs. {REMEDY}"
            )
    elif info.addresses and all(_is_loopback(address) for address in info.addresses):
        warnings.warn(
            f"the controller on {info.host} listens on {', '.join(info.addresses)} only, which cannot be "
            f"reached from {socket.gethostname()}: start it with --ip, or come through ssh -L",
            RuntimeWarning,
            stacklevel=4,
        )


def _is_loopback(address: str) -> bool:
    return any(f"//{local}" in address for local in ("127.", "localhost", "[::1]"))
