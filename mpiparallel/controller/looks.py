"""Looks of the server at bridges on its host that do not answer: at their stacks, and signals to them.

A bridge whose process holds the GIL in C code, or was stopped, neither answers Where nor hands on a signal.
The server can do both from outside, without waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from signal import SIGKILL

import msgspec

from mpiparallel.controller.deaths import Deaths
from mpiparallel.controller.state import World
from mpiparallel.peek import Look, NativeLook, Peek
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
        self._native: dict[str, tuple[NativeLook, Place]] = {}  # ... at C functions, after that
        self._seen: set[str] = set()  # worlds that have been looked at and are silent still
        self._signals: dict[str, tuple[float, int]] = {}  # by world: when it was sent, and which

    # ------------------------------------------------------------ stacks

    def at(self, silent: Iterable[World], now: float) -> list[tuple[World, Place]]:
        """Look at the bridges of `silent` worlds, as far as they are here; return what was seen by now."""
        worlds = {world.name: world for world in silent}
        self._end({*self._looks, *self._native} - worlds.keys())
        self._seen &= worlds.keys()
        seen = self._look_deeper(worlds)
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
                place = _place(world.bridge, peek)
                seen.append((world, place))
                pid = self._deaths.pid(world, world.bridge)
                if peek.stack and pid is not None:
                    self._native[name] = (NativeLook(pid), place)
        return seen

    def _look_deeper(self, worlds: Mapping[str, World]) -> list[tuple[World, Place]]:
        """Return what debuggers have found by now, if there are any."""
        seen = []
        for name, (look, place) in list(self._native.items()):
            functions = look.poll()
            if functions is not None:
                seen.append((worlds[name], msgspec.structs.replace(place, native=functions)))
                self._end([name])
        return seen

    def _end(self, names: Iterable[str]) -> None:
        for name in list(names):
            for table in (self._looks, self._native):
                if name in table:
                    table.pop(name)[0].close()

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
        if self._looks or self._native:
            return now + POLL_EVERY
        return min((sent + DELIVER_AFTER for sent, _ in self._signals.values()), default=float("inf"))

    def close(self) -> None:
        self._end({*self._looks, *self._native})


def _place(engine: int, peek: Peek) -> Place:
    detail = peek.detail or "it does not let its courier run: it holds the GIL"
    stack = [Frame(*line) for line in peek.stack]
    return Place(engine, "stuck", stack=stack, native=peek.native, detail=detail)
