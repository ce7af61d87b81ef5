"""Which processes on this host are still there.

The server registers the processes of its local peers. Where the kernel has file descriptors for processes
(Linux 5.3), their ends are seen at once and in order, through one descriptor that the server polls; processes
beyond `MAX_DESCRIPTORS`, and all on other systems, are looked at every half second. Either is sooner than any
heartbeat could tell.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
from typing import NamedTuple

import psutil

from mpiparallel.controller.oom import Group, Kills

MAX_DESCRIPTORS = 1000


class Watched(NamedTuple):
    """A process of a peer; `engine` is the engine it is, if it is one, and `rank` its place in its world."""

    owner: str
    process: psutil.Process
    descriptor: int
    group: Group | None
    engine: int | None = None
    rank: int = 0


class End(NamedTuple):
    """A process that has ended; `status` is as of ``os.wait``, if the kernel tells."""

    owner: str
    pid: int
    engine: int | None
    rank: int
    status: int | None
    oom: bool


class Liveness:
    """The processes that are watched, by owner: whatever name the server has for a peer."""

    def __init__(self, kills: Kills | None = None) -> None:
        self._watched: dict[str, dict[int, Watched]] = {}  # by owner and pid
        self._by_descriptor: dict[int, Watched] = {}
        self._kills = kills or Kills()
        self._epoll = select.epoll() if hasattr(select, "epoll") and hasattr(os, "pidfd_open") else None

    @property
    def descriptor(self) -> int | None:
        """What is readable when a process has ended."""
        return self._epoll.fileno() if self._epoll is not None else None

    def close(self) -> None:
        for owner in list(self._watched):
            self.forget(owner)
        if self._epoll is not None:
            self._epoll.close()
        self._kills.close()

    def watch(self, owner: str, pid: int, engine: int | None = None, rank: int = 0) -> bool:
        """Watch a process from now on; False if there is none of ours by that pid.

        Then the peer lives in another pid namespace (a container), or has died already.
        """
        descriptor = self._open(pid)
        try:
            process = psutil.Process(pid)  # remembers when the process began: a pid may be used again
            if process.uids().real != os.getuid() or not alive(process):
                raise psutil.NoSuchProcess(pid)
        except (psutil.Error, ValueError):
            if descriptor >= 0:
                os.close(descriptor)
            return False
        watched = Watched(owner, process, descriptor, self._kills.group(pid), engine, rank)
        self._drop(owner, pid)
        self._watched.setdefault(owner, {})[pid] = watched
        if descriptor >= 0:
            assert self._epoll is not None
            self._by_descriptor[descriptor] = watched
            self._epoll.register(descriptor, select.EPOLLIN)
        return True

    def _open(self, pid: int) -> int:
        if self._epoll is None or len(self._by_descriptor) >= MAX_DESCRIPTORS:
            return -1
        try:
            return os.pidfd_open(pid)
        except (OSError, OverflowError):
            return -1  # there is no such process, or no descriptor is left: it is looked at now and then

    def watches(self, owner: str, rank: int = 0) -> bool:
        """Whether a process is known and lives, as far as has been seen."""
        return self._find(owner, rank) is not None

    def _find(self, owner: str, rank: int) -> Watched | None:
        for watched in self._watched.get(owner, {}).values():
            if watched.rank == rank:
                return watched
        return None

    def pid(self, owner: str, rank: int) -> int | None:
        found = self._find(owner, rank)
        return found.process.pid if found is not None else None

    def owners(self) -> list[str]:
        return list(self._watched)

    def forget(self, owner: str) -> None:
        for pid in list(self._watched.get(owner, ())):
            self._drop(owner, pid)

    def _drop(self, owner: str, pid: int) -> None:
        watched = self._watched.get(owner, {}).pop(pid, None)
        if watched is None:
            return
        if not self._watched[owner]:
            del self._watched[owner]
        if watched.descriptor >= 0:
            assert self._epoll is not None
            self._epoll.unregister(watched.descriptor)
            del self._by_descriptor[watched.descriptor]
            os.close(watched.descriptor)

    def ended(self) -> list[End]:
        """Return those whose end the kernel has told of, in that order; they are forgotten."""
        if self._epoll is None:
            return []
        ready = self._epoll.poll(0, max(1, len(self._by_descriptor)))
        return [self._end(self._by_descriptor[descriptor]) for descriptor, _ in ready]

    def look(self) -> list[End]:
        """Return those that have ended of whom the kernel does not tell; they are forgotten."""
        untold = [one for few in self._watched.values() for one in few.values() if one.descriptor < 0]
        return [self._end(one) for one in untold if not alive(one.process)]

    def _end(self, watched: Watched) -> End:
        pid = watched.process.pid
        status = exit_status(watched.process, watched.descriptor)
        killed = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        oom = killed and self._kills.killed(pid, watched.group)
        self._drop(watched.owner, pid)
        return End(watched.owner, pid, watched.engine, watched.rank, status, oom)

    def signal(self, owner: str, rank: int, signum: int) -> bool:
        """Send a signal to a rank of a world, if it is watched and lives; return whether it was sent."""
        watched = self._find(owner, rank)
        if watched is None:
            return False
        try:
            if watched.descriptor >= 0:
                signal.pidfd_send_signal(watched.descriptor, signum)
            else:
                watched.process.send_signal(signum)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        return True


def alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---------------------------------------------------------------- how a process ended that is not our child

_INFO_SIZE = 64
_GET_INFO = (3 << 30) | (_INFO_SIZE << 16) | (0xFF << 8) | 11  # PIDFD_GET_INFO of linux/pidfd.h
_WITH_EXIT = 1 << 3
_EXIT_AT = 60


def exit_status(process: psutil.Process, descriptor: int) -> int | None:
    """Return the status, as of ``os.wait``, of a process that has ended; None when the kernel does not tell.

    It does while the process is a zombie (``/proc``), and afterwards through its descriptor (Linux 6.15).
    """
    status = _status_of_reaped(descriptor)
    if status is None:
        status = _status_of_zombie(process)
    # Its parent may have waited for it in between.
    return status if status is not None else _status_of_reaped(descriptor)


def _status_of_reaped(descriptor: int) -> int | None:
    if descriptor < 0:
        return None
    info = bytearray(_INFO_SIZE)
    struct.pack_into("=Q", info, 0, _WITH_EXIT)
    try:
        fcntl.ioctl(descriptor, _GET_INFO, info)
    except OSError:
        return None  # an older kernel
    told = struct.unpack_from("=Q", info)[0] & _WITH_EXIT
    return int(struct.unpack_from("=i", info, _EXIT_AT)[0]) if told else None


def _status_of_zombie(process: psutil.Process) -> int | None:
    try:
        with open(f"/proc/{process.pid}/stat", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        # Another process may have got the number by now.
        return int(fields[-1]) if fields[0] == "Z" and process.is_running() else None
    except (OSError, psutil.Error):
        return None
