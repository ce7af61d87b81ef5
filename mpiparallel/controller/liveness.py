"""Which processes on this host are still there.

The server registers the processes of its local peers and asks every half second: no heartbeat tells that a
process was killed as soon as that.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil

from mpiparallel.controller.state import Peer


class Watched(NamedTuple):
    """A process of a peer; `engine` is the engine it is, if it is one, and `rank` its place in its world."""

    process: psutil.Process
    engine: int | None = None
    rank: int = 0


class Liveness:
    """The processes that are watched, by peer."""

    def __init__(self) -> None:
        self._watched: dict[Peer, list[Watched]] = {}

    def watch(self, peer: Peer, pid: int, engine: int | None = None, rank: int = 0) -> bool:
        """Watch a process from now on; False if there is none of ours by that pid.

        Then the peer lives in another pid namespace (a container), or has died already.
        """
        try:
            process = psutil.Process(pid)  # remembers when the process began: a pid may be used again
            if process.uids().real != os.getuid():
                return False
        except (psutil.Error, ValueError):
            return False
        self._watched.setdefault(peer, []).append(Watched(process, engine, rank))
        return True

    def forget(self, peer: Peer) -> None:
        self._watched.pop(peer, None)

    def peers(self) -> list[Peer]:
        return list(self._watched)

    def dead(self, peer: Peer) -> list[Watched]:
        """Return the processes of `peer` that are not there any more."""
        return [watched for watched in self._watched.get(peer, ()) if not alive(watched.process)]

    def kill(self, peer: Peer) -> bool:
        """Kill rank 0 of a world, if it is watched: its MPI ends the others."""
        for watched in self._watched.get(peer, ()):
            if watched.rank == 0 and alive(watched.process):
                watched.process.kill()
                return True
        return False


def alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
