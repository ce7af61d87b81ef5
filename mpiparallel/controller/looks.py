"""Looks of the server at bridges on its host that do not answer: at their stacks, and signals to them.

A bridge whose process holds the GIL in C code, or was stopped, neither answers Where nor hands on a signal.
The server can do both from outside, without waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from signal import SIGKILL

import msgspec

from mpiparallel.controller.deaths import Deaths
from mpiparallel.controller.state import World
from mpiparallel.peek import Look, Peek
from mpiparallel.wire.messages import Heartbeat, Signal
from mpiparallel.wire.waits import Frame, Place

LOOK_FOR = 0.5  # seconds that a process has to show its stack
POLL_EVERY = 0.01  # ... and how often the server looks whether it has
DELIVER_AFTER = 1.0  # seconds of silence after which a signal to a bridge is delivered by the server


class Looks:
    """The looks that are under way; and signals to bridges of which nobody knows whether they were heard."""

    def __init__(self, deaths: Deaths) -> None:
        self._deaths = deaths
        self._looks: dict[str, tuple[Look, float]] = {}  # by world: the look, and until when
        self._seen: set[str] = set()  # worlds that have been looked at and are silent still
        self._signals: dict[str, tuple[float, int]] = {}  # by world: when it was sent, and which

    # ------------------------------------------------------------ stacks

    def at(self, silent: Iterable[World], now: float) -> list[tuple[World, Place]]:
        """Look at the bridges of `silent` worlds, as far as they are here; return what was seen by now."""
        worlds = {world.name: world for world in silent}
        for name in self._looks.keys() - worlds:
            self._looks.pop(name)[0].close()
        self._seen &= worlds.keys()
        seen = []
        for name, world in worlds.items():
            if name in self._seen:
                continue
            if name not in self._looks:
                pid = self._deaths.pid(world, world.bridge)
                if pid is None:
                    self._seen.add(name)
                    continue
                self._looks[name] = (Look(pid), now + LOOK_FOR)
            look, until = self._looks[name]
            peek = look.poll()
            if peek is None and now >= until:
                peek = look.give_up()
            if peek is not None:
                look.close()
                del self._looks[name]
                self._seen.add(name)
                seen.append((world, _place(world.bridge, peek)))
        return seen

    # ------------------------------------------------------------ signals

    def deliver(self, world: World, signal: Signal, now: float) -> list[Signal | Heartbeat]:
        """Deliver what the server can, and return what is to be sent to the bridge, if anything.

        SIGKILL is delivered here where that is possible: the bridge may be among those that do not listen.
        """
        if signal.signum == SIGKILL:
            left = [number for number in signal.engines if not self._deaths.signal(world, number, SIGKILL)]
            return [msgspec.structs.replace(signal, engines=left)] if left else []
        if world.bridge in signal.engines and self._deaths.pid(world, world.bridge) is not None:
            self._signals[world.name] = (now, signal.signum)
            return [signal, Heartbeat(echo=True)]
        return [signal]

    def unheard(self, worlds: dict[str, World], now: float) -> list[World]:
        """Deliver signals to bridges that have been silent since; return these worlds."""
        delivered = []
        for name, (sent, signum) in list(self._signals.items()):
            world = worlds.get(name)
            if world is None or world.peer is None or world.heard > sent:
                del self._signals[name]
            elif now - sent > DELIVER_AFTER:
                del self._signals[name]
                if self._deaths.signal(world, world.bridge, signum):
                    delivered.append(world)
        return delivered

    def due(self, now: float) -> float:
        """Return when `at` or `unheard` have something to do: a time, or infinity."""
        if self._looks:
            return now + POLL_EVERY
        return min((sent + DELIVER_AFTER for sent, _ in self._signals.values()), default=float("inf"))

    def close(self) -> None:
        for look, _ in self._looks.values():
            look.close()


def _place(engine: int, peek: Peek) -> Place:
    detail = peek.detail or "it does not let its courier run: it holds the GIL"
    stack = [Frame(*line) for line in peek.stack]
    return Place(engine, "stuck", stack=stack, native=peek.native, detail=detail)
