"""Where is everybody? The leader asks the ranks, and looks at those of its host that do not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from mpiparallel.engine.world import World
from mpiparallel.peek import Look, NativeLook, Peek
from mpiparallel.wire.messages import Whereabouts
from mpiparallel.wire.waits import Frame, Place

ANSWER_WITHIN = 0.7  # seconds that couriers have to answer; the controller gives the world 2
LOOK_WITHIN = 0.4  # seconds that a process which did not has to show its stack
DEBUG_WITHIN = 0.6  # ... and a debugger to find C functions


@dataclass
class _Question:
    """One question under way."""

    missing: set[int]  # ranks, by their places among the engines
    until: float
    places: list[Place] = field(default_factory=list)
    looks: dict[int, Look] = field(default_factory=dict)
    natives: dict[int, tuple[NativeLook, Place]] = field(default_factory=dict)


class Questions:
    """The questions of the controller that ranks have yet to answer.

    Parameters
    ----------
    world
    first
        The id of the first engine.
    answer
        Takes what is to be told to the controller.
    """

    def __init__(self, world: World, first: int, answer: Callable[[Whereabouts], None]) -> None:
        self._world, self._first, self._answer = world, first, answer
        self._open: dict[int, _Question] = {}

    def ask(self, query: int, ranks: Iterable[int], now: float) -> None:
        """Note that these ranks have been asked."""
        self._open[query] = _Question(set(ranks), now + ANSWER_WITHIN)
        self._finish(query)

    def take(self, answer: Whereabouts) -> None:
        """Take a rank's answer."""
        question = self._open.get(answer.query)
        if question is None:
            return
        for place in answer.places:
            rank = place.engine - self._first
            if rank in question.missing and rank not in question.looks:
                question.missing.discard(rank)
                question.places.append(place)
        self._finish(answer.query)

    def lost(self, ranks: Iterable[int]) -> None:
        """Do not wait for these any more: the controller knows that they are gone."""
        for query in list(self._open):
            question = self._open[query]
            for rank in question.missing.intersection(ranks):
                question.missing.discard(rank)
                if rank in question.looks:
                    question.looks[rank].close()
                if rank in question.natives:
                    question.natives.pop(rank)[0].close()
            self._finish(query)

    def tick(self, now: float) -> None:
        """Look at those that do not answer."""
        for query, question in list(self._open.items()):
            if now < question.until and not question.looks and not question.natives:
                continue
            for rank in sorted(question.missing):
                self._look_at(question, rank, now)
            self._finish(query)

    def _look_at(self, question: _Question, rank: int, now: float) -> None:
        if rank in question.natives:
            native, place = question.natives[rank]
            functions = native.poll()
            if functions is not None or now > question.until + LOOK_WITHIN + DEBUG_WITHIN:
                native.close()
                del question.natives[rank]
                self._seen(question, rank, msgspec.structs.replace(place, native=functions or []))
            return
        world = self._world
        if not world.has_here(world.rank_of(rank)):
            peek = Peek(detail=f"no answer from its courier on {world.hosts[world.rank_of(rank)]}")
            self._seen(question, rank, self._place(rank, peek))
            return
        pid = world.pids[world.rank_of(rank)]
        if rank not in question.looks:
            question.looks[rank] = Look(pid)
        look = question.looks[rank]
        seen = look.poll()
        if seen is None and now > question.until + LOOK_WITHIN:
            seen = look.give_up()
        if seen is None:
            return
        look.close()
        if seen.stack:
            question.natives[rank] = (NativeLook(pid), self._place(rank, seen))
        else:
            self._seen(question, rank, self._place(rank, seen))

    def _seen(self, question: _Question, rank: int, place: Place) -> None:
        question.missing.discard(rank)
        question.places.append(place)

    def _place(self, rank: int, peek: Peek) -> Place:
        detail = peek.detail or "it does not let its courier run: it holds the GIL"
        stack = [Frame(*line) for line in peek.stack]
        return Place(self._first + rank, "stuck", stack=stack, native=peek.native, detail=detail)

    def _finish(self, query: int) -> None:
        question = self._open[query]
        if not question.missing:
            del self._open[query]
            places = sorted(question.places, key=lambda place: place.engine)
            self._answer(Whereabouts(query, places))
