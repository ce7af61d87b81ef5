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
from mpiparallel.client import sshcommand
from mpiparallel.client.remote import is_loopback, job_name
from mpiparallel.client.transport import is_running
from mpiparallel.client.tunnel import TIME, Tunnel, wanted_by
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError

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
    job: Any = None,
) -> tuple[ConnectionInfo, Path | None]:
    """Return the connection info in `source` (a path or a dict), or of a profile's or a job's cluster.

    Its file comes with it, if it is one.

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
    elif job is not None:
        path = file_of_job(config, job_name(job))
    else:
        path = cluster_file(config, profile, profile_dir, cluster_id)
    return load(path, timeout), path.absolute()


def find_behind(
    source: Any,
    config: Config,
    timeout: float,
    *,
    ssh: Any = None,
    sshserver: Any = None,
    sshkey: Any = None,
    profile: str | None = None,
    profile_dir: Any = None,
    cluster_id: str | None = None,
    job: Any = None,
) -> tuple[ConnectionInfo, tuple[Tunnel, str]]:
    """Return the connection info of a cluster that is reached by ssh, and the way to it: an open tunnel.

    With `ssh`, names and paths are those of the other host; with `sshserver`, as in IPython Parallel, a file
    that is named is one of ours.

    Raises
    ------
    TunnelError
        If there is no way; in half a minute at most.
    ConnectionFileError, ValueError, TypeError
        As in `find`.
    """
    if ssh is not None and sshserver is not None:
        raise ValueError("give ssh=... or sshserver=..., not both")
    destination = sshcommand.checked(ssh) if ssh is not None else sshcommand.with_port(sshserver)
    if ssh is None and isinstance(source, (str, os.PathLike)):
        source, _ = find(source, config, timeout)
    if source is None and profile_dir is not None:
        name = f"cluster-{cluster_id}" if cluster_id else "cluster"
        source = f"{profile_dir}/{name}"
    wanted = wanted_by(source, profile, cluster_id, job)
    key = os.path.expanduser(sshkey) if sshkey else ""
    if key and not os.path.exists(key):
        raise ValueError(f"sshkey={sshkey!r}: there is no such file")
    tunnel = Tunnel(destination, wanted, config, key=key)
    try:
        info, address = tunnel.open(max(timeout, TIME), timeout)
    except BaseException:
        tunnel.close()
        raise
    return info, (tunnel, address)


def file_of_job(config: Config, job: str) -> Path:
    """Return the connection file of the cluster whose controller or engines are in a batch job.

    Raises
    ------
    ConnectionFileError
        If there is none.
    """
    for path in config.state_dir.glob(f"*/cluster*/{NAME}"):
        if job in jobs_of(path):
            return path
    raise ConnectionFileError(
        f"no cluster of job {job} is to be seen in {config.state_dir}: the job waits, has ended, or has its "
        f"files elsewhere. See: squeue -j {job}. If it is on another machine, which is reached by ssh: "
        f"Client(ssh='user@host', job={job})"
    )


def jobs_of(path: Path) -> set[str]:
    """Return the batch jobs of the cluster with the connection file `path`."""
    jobs = set()
    try:
        jobs.add(connection_file.read(path).job)
    except ConnectionFileError:
        pass  # no file of ours, or not ours
    try:
        record = json.loads((path.parent / "cluster.json").read_bytes())
        parts = [record["controller"], *record["engines"]["sets"].values()]
        jobs.update(str(part["job"]) for part in parts if part and "job" in part)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it was started by hand
    return jobs - {""}


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
                    f"Connection file {path} not found after {timeout:g} s: no cluster runs there. "
                    + _remedy(path)
                )
            time.sleep(0.05)
    told = False
    while True:
        info = connection_file.read(path)
        try:
            check(info, f"connection file {path}", path)
            return info
        except LeftBehind:
            if not _may_be_back(path) or time.monotonic() > deadline:
                raise
        if not told and time.monotonic() - began > SAY_AFTER:
            told = True
            print(f"Waiting for the controller (process {info.pid} has died) to be started again", flush=True)
        time.sleep(0.05)


def _remedy(path: Path | None) -> str:
    """Return how to start the cluster of a connection file, as far as the names of its folders tell."""
    folder, words = Path() if path is None else path.parent, ""
    if folder.name == "cluster" or folder.name.startswith("cluster-"):
        if folder.parent.name != "default":
            words += f" --profile {folder.parent.name}"
        if folder.name != "cluster":
            words += f" --cluster-id {folder.name.removeprefix('cluster-')}"
    return f"Start a cluster with: mpiparallel start{words} -n 4"


def _may_be_back(path: Path) -> bool:
    """Whether a controller that has died has left what one in its place goes on with."""
    return (path.parent / connection_file.SAVED).exists()


def check(info: ConnectionInfo, source: str, path: Path | None = None) -> None:
    """Raise ConnectionFileError if the controller is known to be gone; warn if it cannot be reached."""
    if info.role != "client":
        raise ConnectionFileError(f"{source} is for engines; a client needs the file {NAME} beside it")
    if info.host == socket.gethostname():
        if not is_running(info.pid):
            raise LeftBehind(
                f"{source} was left behind by a controller (process {info.pid}) that no longer runs. "
                + _remedy(path)
            )
    elif info.addresses and all(is_loopback(address) for address in info.addresses):
        warnings.warn(
            f"the controller on {info.host} listens on {', '.join(info.addresses)} only, which cannot be "
            f"reached from {socket.gethostname()}: start it with --ip, or come through ssh: "
            "Client(ssh='user@host')",
            RuntimeWarning,
            stacklevel=4,
        )
