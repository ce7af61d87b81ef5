"""The ends of processes on this host, and how the server tells of them.

The server has the processes of local peers watched here and asks, in each round of its loop, for losses to
report. A world's loss is held back for a moment when its log may still tell more of the cause; nobody waits
for that but those who hear of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from signal import SIGKILL
from typing import NamedTuple

from mpiparallel import batchjob
from mpiparallel.controller import causes
from mpiparallel.controller.liveness import End, Liveness
from mpiparallel.controller.lives import WorldState
from mpiparallel.controller.state import World

WAIT = 0.4  # seconds that the log has to tell of the cause
WAIT_IN_DOUBT = 1.0  # ... when all that is known is of processes that mpiexec may have killed
READ_EVERY = 0.03
FAREWELL = 0.1  # seconds in which the goodbye of one that ended by itself may still arrive
ENOUGH = 64 << 10  # bytes of the end of a log


class Loss(NamedTuple):
    """A client, or engines of a world, whose processes have ended."""

    client: str
    world: str
    engines: list[int]
    reason: str


@dataclass
class _Pending:
    """What is to be told of soon: the end of a world, or of one rank of a world that survives."""

    world: str
    ends: list[End]
    until: float
    read_at: float = 0.0
    cause: causes.Cause | None = None


class Deaths:
    """The watch over all local processes.

    Parameters
    ----------
    host : str
        This host's name.
    worlds : mapping
        The hub's worlds, by name.
    """

    def __init__(self, host: str, worlds: Mapping[str, World], liveness: Liveness | None = None) -> None:
        self._host = host
        self._worlds = worlds
        self.liveness = liveness or Liveness()
        self._pending: dict[tuple[str, int], _Pending] = {}  # by world and, when it survives, rank
        self._killed: set[tuple[str, int]] = set()  # worlds and ranks: by clients
        self._logs: dict[str, int] = {}  # by world: how long its log was when it came
        self._lost_clients: list[Loss] = []

    # ------------------------------------------------------------ whom to watch

    def watch_client(self, name: str, pid: int) -> bool:
        self.liveness.forget(_client(name))
        return self.liveness.watch(_client(name), pid)

    def watch_world(self, world: World) -> tuple[bool, list[int]]:
        """Watch the processes of a world that are on this host.

        Returns whether its bridge is one of them, and the engines whose processes are gone already.
        """
        owner, processes, bridge = _world(world.name), world.processes, world.bridge - world.first
        self.liveness.forget(owner)
        self._logs.setdefault(world.name, _size(world.hello.log))
        host, pid = processes[bridge]
        watched = host == self._host and self.liveness.watch(owner, pid, world.bridge, bridge)
        gone = []
        for rank, (host, pid) in enumerate(processes):
            number = world.first + rank
            if rank == bridge or host != self._host or number not in world.engines:
                continue
            # Where the bridge's process cannot be seen, those of others cannot either: a container's pids.
            if not self.liveness.watch(owner, pid, number, rank) and watched:
                gone.append(number)
        return watched, gone

    def tidy(self, client: Callable[[str], object]) -> None:
        """Forget the processes of clients and worlds that are not there any more, nor away."""
        for owner in self.liveness.owners():
            kind, _, name = owner.partition(" ")
            if client(name) is None if kind == "client" else name not in self._worlds:
                self.liveness.forget(owner)
        for name in self._logs.keys() - self._worlds.keys():
            del self._logs[name]
        self._killed = {one for one in self._killed if one[0] in self._worlds}

    def signal(self, world: World, engine: int, signum: int) -> bool:
        """Send a signal to an engine, if it is a process that is watched; return whether it was sent."""
        sent = self.liveness.signal(_world(world.name), engine - world.first, signum)
        if sent and signum == SIGKILL:
            self._killed.add((world.name, engine - world.first))
        return sent

    def pid(self, world: World, engine: int) -> int | None:
        """Return the process of an engine, if it is watched and lives."""
        return self.liveness.pid(_world(world.name), engine - world.first)

    # ------------------------------------------------------------ who has died

    def collect(self, now: float, thorough: bool = False) -> None:
        """Note who has ended. `thorough`: look at those, too, of whom the kernel does not tell."""
        for end in self.liveness.ended() + (self.liveness.look() if thorough else []):
            kind, _, name = end.owner.partition(" ")
            if kind == "client":
                reason = f"its process {end.pid} on {self._host} is gone"
                self._lost_clients.append(Loss(name, "", [], reason))
            elif name in self._worlds:
                self._note(self._worlds[name], end, now)

    def _note(self, world: World, end: End, now: float) -> None:
        assert end.engine is not None
        if end.engine != world.bridge and end.engine not in world.engines:
            return  # it was stopped
        key = (world.name, end.rank if world.hello.survives else -1)
        pending = self._pending.get(key)
        if pending is None:
            wait = WAIT if os.path.exists(world.hello.log) or world.state is WorldState.STOPPING else FAREWELL
            pending = self._pending[key] = _Pending(world.name, [], now + wait)
        pending.ends.append(end)
        pending.read_at = now

    def expects(self, world: World, engine: int | None = None) -> bool:
        """Whether the loss of a world, or of an engine of a world that survives, will be told of soon."""
        if engine is None:
            engine = world.bridge
        return (world.name, engine - world.first if world.hello.survives else -1) in self._pending

    def losses(self, now: float) -> list[Loss]:
        """Return what is to be told of now."""
        losses, self._lost_clients = self._lost_clients, []
        for key, pending in list(self._pending.items()):
            world = self._worlds.get(pending.world)
            if world is None:
                del self._pending[key]
                continue
            if now >= pending.read_at:
                pending.read_at = now + READ_EVERY
                pending.cause = self._find(world, pending.ends)
            cause = pending.cause
            assert cause is not None
            until = pending.until
            if cause.in_doubt and os.path.exists(world.hello.log):
                until += WAIT_IN_DOUBT - WAIT
            if now >= until or cause.final:
                del self._pending[key]
                engines = [end.engine for end in pending.ends if end.engine is not None]
                losses.append(Loss("", world.name, engines, cause.text))
        return losses

    def due(self) -> float:
        """Return when `losses` has something to do: a time, or infinity."""
        if self._lost_clients:
            return 0.0
        return min((pending.read_at for pending in self._pending.values()), default=float("inf"))

    def explain(self, world: World, reason: str) -> str:
        """Return a better reason for the loss of a world than `reason`, if its log has one."""
        cause = self._find(world, [])
        return cause.text if cause is not None else reason

    def _find(self, world: World, ends: list[End]) -> causes.Cause | None:
        hello = world.hello
        log = _tail(hello.log, self._logs.get(world.name, 0))
        job = batchjob.named(hello.job)
        why = batchjob.said(job, log) if job is not None and not ends else ""
        if why:
            return causes.Cause(world.bridge - world.first, why, True)
        killed = {rank for name, rank in self._killed if name == world.name}
        deaths = [causes.Death(end.rank, end.status, end.oom, end.rank in killed) for end in ends]
        cause = causes.find(log, world.processes, deaths, hello.survives, bool(hello.bridge_host))
        return cause._replace(final=True) if cause and not hello.log and _was_killed(ends) else cause


def _was_killed(ends: list[End]) -> bool:
    """Whether no goodbye can be on its way."""
    return any(end.status is not None and os.WIFSIGNALED(end.status) for end in ends)


def _client(name: str) -> str:
    return f"client {name}"


def _world(name: str) -> str:
    return f"world {name}"


def _size(log: str) -> int:
    try:
        return os.stat(log).st_size if log else 0
    except OSError:
        return 0  # it is on another host


def _tail(log: str, start: int) -> str:
    """Return the end of a log, from `start` on at most; "" when it is not to be read here."""
    if not log:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - ENOUGH))
            return file.read(ENOUGH).decode(errors="replace")
    except OSError:
        return ""
