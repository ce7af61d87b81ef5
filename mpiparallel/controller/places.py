"""Where a controller can be found: its addresses, its private socket, and its connection files.

Called by `server` at the start and the end.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

from mpiparallel import connection_file, disk
from mpiparallel.connection_file import NAMES, ConnectionInfo
from mpiparallel.controller import restore
from mpiparallel.controller.liveness import alive
from mpiparallel.controller.tables import NAME as RESULTS
from mpiparallel.error import ConnectionFileError, LaunchError

log = logging.getLogger(__name__)

MAX_IPC_PATH = 107  # bytes of a Unix socket's address
SOCKET_DIR_PREFIX = "mpiparallel-"
ANY = ("*", "0.0.0.0", "::")
_VIRTUAL = ("docker", "br-", "virbr", "veth", "vmnet", "cni", "flannel", "tun", "tap")


class AlreadyRunning(LaunchError):
    """Another controller uses this directory."""


class UnsuitableDirectory(LaunchError):
    """A directory that is not the cluster's own."""


def make_socket_dir(earlier: Path | None = None) -> Path:
    """Return a directory of mode 0700 whose name suits a Unix socket: `earlier` if given, or a new one."""
    if earlier is not None and _have_again(earlier):
        return earlier
    for parent in (tempfile.gettempdir(), "/tmp", "/dev/shm"):
        # mkdtemp adds 8 characters to the prefix; "/s" is the socket.
        length = len(os.fsencode(parent)) + len(SOCKET_DIR_PREFIX) + 11
        if length <= MAX_IPC_PATH and os.access(parent, os.W_OK):
            return Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX, dir=parent))
    raise LaunchError("no writable directory with a short name for the private socket: set TMPDIR to one")


def _have_again(directory: Path) -> bool:
    """Whether a directory is there, or could be made, and is nobody else's."""
    if not directory.name.startswith(SOCKET_DIR_PREFIX):
        return False
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        log.warning("cannot make %s again: %s", directory, error)
        return False
    about = directory.lstat()
    return (
        stat.S_ISDIR(about.st_mode)
        and about.st_uid == os.geteuid()
        and stat.S_IMODE(about.st_mode) == stat.S_IRWXU
    )


def host_addresses() -> list[str]:
    """Return this host's IPv4 addresses, the likeliest to be reached from other hosts first."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        (name, address.address)
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and name in up
    ]
    return rank_addresses(found)


def rank_addresses(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the addresses of (interface, address) pairs, best first, loopback last."""

    def badness(pair: tuple[str, str]) -> int:
        name, address = pair
        if address.startswith("127."):
            return 3
        if address.startswith("169.254."):
            return 2
        return 1 if name.startswith(_VIRTUAL) else 0

    return list(dict.fromkeys(address for _, address in sorted(found, key=badness)))


def tcp_addresses(ip: str, port: int) -> list[str]:
    """Return the addresses to write into connection files for a socket bound to `ip`."""
    hosts = host_addresses() or ["127.0.0.1"] if ip in ANY else [ip]
    return [f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}" for host in hosts]


def claim(directory: Path, *, remove: bool, again: bool = False) -> None:
    """Make `directory` ready for a controller's files, or keep them if it is to go on as it was (`again`).

    Raises
    ------
    AlreadyRunning
        If a controller that is alive has its files there.
    UnsuitableDirectory
        If it is to be removed in the end (`remove`) and holds what is not a cluster's.
    LaunchError
        If nothing can be written there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk.check(directory)
    if remove:
        foreign = [path.name for path in directory.iterdir() if not _is_ours(path)]
        if foreign:
            raise UnsuitableDirectory(
                f"{directory} is to be removed in the end and holds {foreign[0]!r}, which is no file of "
                "a cluster: give a directory of its own, or leave --remove-directory out"
            )
    path = directory / NAMES["client"]
    if not path.exists():
        return
    try:
        info = connection_file.read(path)
    except ConnectionFileError as error:
        log.warning("overwriting what an earlier controller left: %s", error)
        return
    if _is_running(info, path):
        raise AlreadyRunning(
            f"a controller (pid {info.pid} on {info.host}) is running in {directory}: stop it first, or "
            "choose another --cluster-id or --directory"
        )
    if again:
        log.warning("taking the place of a controller that is gone (pid %d on %s)", info.pid, info.host)
        return
    log.warning("overwriting the files of a controller that is gone (pid %d on %s)", info.pid, info.host)
    _remove_socket_dir(info)


def _is_ours(path: Path) -> bool:
    scripts = (".sbatch", ".pbs", ".bsub")  # of the jobs that it and its engines may be in
    return path.is_file() and (
        path.suffix in (".json", ".log", *scripts) or path.name.startswith((".", "results.db"))
    )


def _is_running(info: ConnectionInfo, path: Path) -> bool:
    """Return whether the controller that wrote `path` is known to be alive: on another host it is not."""
    if info.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(info.pid)
        # One that began after the file was written has only inherited the pid.
        return alive(process) and process.create_time() <= path.stat().st_mtime + 1.0
    except psutil.NoSuchProcess:
        return False


def _remove_socket_dir(info: ConnectionInfo) -> None:
    directory = Path(info.local.removeprefix("ipc://")).parent
    if info.host == socket.gethostname() and directory.name.startswith(SOCKET_DIR_PREFIX):
        remove(directory)


def write_files(directory: Path, infos: Iterable[ConnectionInfo]) -> None:
    # The client's file comes last: who waits for it finds the other there.
    for info in sorted(infos, key=lambda info: info.role == "client"):
        connection_file.write(directory / NAMES[info.role], info)


def remove_files(directory: Path, server_key: str, all_of_it: bool, keep_results: bool = False) -> None:
    """Remove the connection files that are ours; with `all_of_it` the directory with everything in it, or
    everything but the results.

    `server_key` tells ours from those of a controller that has taken the directory over meanwhile.
    """
    for name in NAMES.values():
        path = directory / name
        if not path.exists():
            continue
        try:
            if connection_file.read(path).server_key != server_key:
                log.warning("%s belongs to another controller now: left alone", path)
                return
        except ConnectionFileError as error:
            log.warning("left alone: %s", error)
            return
        path.unlink(missing_ok=True)
    restore.remove(directory)
    if all_of_it and keep_results and (directory / RESULTS).exists():
        for path in directory.iterdir():
            if path.name != RESULTS:
                path.unlink(missing_ok=True)
    elif all_of_it:
        remove(directory)


def remove(directory: Path) -> None:
    """Remove a directory with everything in it, as far as it can be."""

    def report(_function: object, path: str, error: tuple[object, BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            log.warning("cannot remove %s: %s", path, error[1])

    shutil.rmtree(directory, onerror=report)
