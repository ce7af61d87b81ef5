"""What the server sees of processes on its own host, told to the hub.

The server calls this in each round; what comes back is to be sent.
"""

from __future__ import annotations

import logging
import time
from signal import SIGKILL

import msgspec

from mpiparallel.controller.batch import Finding, Jobs
from mpiparallel.controller.deaths import Deaths, Loss
from mpiparallel.controller.hub import Hub
from mpiparallel.controller.looks import Looks
from mpiparallel.controller.state import Client, Peer, Send, World
from mpiparallel.wire.messages import EnginesLost, Heartbeat, Signal

log = logging.getLogger(__name__)


class Watch:
    """The watch over the peers of `hub` that are on this host."""

    def __init__(self, hub: Hub, host: str) -> None:
        self._hub = hub
        self._host = host
        self._deaths = Deaths(host, hub.state.worlds)
        self._looks = Looks(self._deaths)
        self._jobs = Jobs(hub.state.heartbeat)
        self.descriptor = self._deaths.liveness.descriptor  # readable when a process has ended

    def close(self) -> None:
        self._jobs.close()
        self._looks.close()
        self._deaths.liveness.close()

    def begin(self, peer: Peer, now: float) -> list[Send]:
        """Watch the processes of a peer that was just taken in, as far as they are on this host."""
        known = self._hub.state.peers.get(peer)
        if known is None or known.watched or known.peer != peer:
            return []
        if isinstance(known, Client):
            if known.host == self._host and self._deaths.watch_client(known.name, known.pid):
                self._hub.watch(peer)
            return []
        watched, gone = self._deaths.watch_world(known)
        if watched:
            self._hub.watch(peer)
        if not gone:
            return []
        process = f"rank {gone[0] - known.first} on {self._host} (pid {known.engines[gone[0]].info.pid})"
        return self._lose_engines(known, gone, f"{process} was gone before the world was known", now)

    def resume(self, name: str, was_watched: bool, now: float) -> list[Send]:
        """Watch the processes of a world that an earlier controller had, as far as they are on this host.

        If that could see its bridge (`was_watched`) and nobody can now, it died in between.
        """
        world = self._hub.state.worlds[name]
        watched, gone = self._deaths.watch_world(world)
        if was_watched and not watched:
            gone = [world.bridge, *gone]
        if not gone:
            return []
        return self._lose_engines(world, gone, "its process ended while the controller was gone", now)

    def due(self, now: float) -> float:
        """Return when `check` is to be called at the latest: a time, or infinity."""
        return min(self._deaths.due(), self._looks.due(now), self._jobs.due(now))

    def check(self, now: float, thorough: bool) -> list[Send]:
        """Report who has died, and look at bridges that owe an answer.

        `thorough`: look at processes, too, of whose ends the kernel does not tell.
        """
        if thorough:
            self._deaths.tidy(self._hub.state.client)
        self._deaths.collect(now, thorough)
        sends = [send for loss in self._deaths.losses(now) for send in self._report(loss, now)]
        for finding in self._jobs.look(self._hub.state.worlds.values(), now):
            sends += self._job(finding, now)
        for world, place in self._looks.at(self._hub.silent(now), now):
            self._hub.saw(world, place)
        for world in self._looks.unheard(self._hub.state.worlds, now):
            log.warning("world %s is silent: its bridge's process was sent a signal directly", world.name)
        return sends

    def _job(self, finding: Finding, now: float) -> list[Send]:
        """Report what the batch system says of a world that is cut off or silent."""
        world = self._hub.state.worlds[finding.world]
        if finding.runs and (world.peer is not None or world.hello.survives):
            return []  # it may speak again
        # A job that runs on may have lost its engines nevertheless; and the log is the better witness of one
        # that has ended by itself.
        reason = finding.text or self._deaths.explain(world, "")
        if not reason and finding.runs:
            return []
        reason = reason or f"job {world.hello.job.partition(':')[2]} has ended"
        if not finding.text and self._jobs.doubt(world, reason):
            return []
        log.warning("world %s is lost: %s", world.name, reason)
        return self._hub.job_ended(world.name, reason, now, finding.returns)

    def _report(self, loss: Loss, now: float) -> list[Send]:
        state = self._hub.state
        if loss.client:
            if state.client(loss.client) is None:
                return []
            log.warning("client %s is lost: %s", loss.client, loss.reason)
            return self._hub.client_died(loss.client)
        world = state.worlds.get(loss.world)
        if world is not None and not world.hello.survives and self._jobs.knows(world):
            self._jobs.suspect(world, loss.reason, now)  # the end of its job may be behind that
            return []
        return self._lose_engines(world, loss.engines, loss.reason, now) if world is not None else []

    def _lose_engines(self, world: World, engines: list[int], reason: str, now: float) -> list[Send]:
        log.warning("world %s has lost engines %s: %s", world.name, engines, reason)
        return self._hub.engines_lost(world.name, engines, reason, now)

    def cut(self, peer: Peer, reason: str, now: float) -> list[Send]:
        """Note that the connection of a peer is lost. The end of a process is the better reason for that."""
        known = self._hub.state.peers.get(peer)
        if known is None or (isinstance(known, World) and self._deaths.expects(known)):
            return []
        asked = isinstance(known, World) and not known.hello.survives and self._jobs.knows(known)
        if isinstance(known, World) and not asked and self._deaths.explain(known, ""):
            return self.lose(peer, reason, now)  # it is on another host, and has said why it ended
        log.warning("%s %s is cut off: %s", type(known).__name__.lower(), known.name, reason)
        return self._hub.cut(peer, reason, now)

    def lose(self, peer: Peer, reason: str, now: float) -> list[Send]:
        """Take leave of a peer that is to go."""
        known = self._hub.state.peers.get(peer)
        if known is None:
            return []
        if isinstance(known, World):
            reason = self._deaths.explain(known, reason)
        log.warning("%s %s is lost: %s", type(known).__name__.lower(), known.name, reason)
        return self._hub.lost(peer, reason, now)

    def without_our_own(self, peer: Peer, lost: EnginesLost, now: float) -> EnginesLost:
        """Take out what is to be reported from here: it is known here how those processes ended."""
        self._deaths.collect(now)
        world = self._hub.state.peers.get(peer)
        if not isinstance(world, World):
            return lost
        engines = [number for number in lost.engines if not self._deaths.expects(world, number)]
        return msgspec.structs.replace(lost, engines=engines)

    def deliver(self, peer: Peer, signal: Signal) -> list[Signal | Heartbeat]:
        """Deliver a signal to processes that are here, and return what is to be sent to their world."""
        world = self._hub.state.peers.get(peer)
        assert isinstance(world, World)
        return self._looks.deliver(world, signal, time.monotonic())

    def kill_bridge(self, world: World) -> bool:
        """Kill the process of a world that does not stop: the others end with it."""
        return self._deaths.signal(world, world.bridge, SIGKILL)
