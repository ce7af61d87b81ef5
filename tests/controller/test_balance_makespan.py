"""Simulated task farms with a virtual clock: how close to the ideal they end, and who waits for whom.

Messages take a millisecond each way. Engines run what they are sent in order and give back what they have not
begun, as real ones do.
"""

from __future__ import annotations

import heapq
import random
from itertools import count
from typing import Any

import pytest

from mpiparallel.controller.hub import Hub
from mpiparallel.wire.messages import Balance, Hello, HelloWorld, Message, Recall, Result, Returned, Submit

HOP = 0.001  # seconds that a message takes


class Farm:
    """A hub, engines with a queue each, and a clock that jumps to the next event.

    Attributes
    ----------
    began, ran_on
        When and where each task began.
    waited
        How long its engine had had nothing to do then.
    """

    def __init__(self, engines: int, durations: list[float]) -> None:
        self.hub = Hub()
        self.now = 0.0
        self.durations = durations
        self.queues: list[list[str]] = [[] for _ in range(engines)]
        self.running: list[str] = [""] * engines
        self.free_since = [0.0] * engines
        self.began: dict[str, float] = {}
        self.ran_on: dict[str, int] = {}
        self.waited: dict[str, float] = {}
        self.done = 0
        self._order = count()
        self._events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self.hub.receive("c", Message(Hello("v", "c", "h", 1)), 0.0)
        self.hub.receive("w", Message(HelloWorld("v", "w", ["h"] * engines, list(range(engines)))), 0.0)

    def at(self, when: float, what: Any, *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, arguments))

    def run(self) -> float:
        """Run all tasks in one request; return when the last has ended."""
        parts = [0] * len(self.durations)
        header = Balance("c-1", "c", "map", parts, common=1, function=b"f", function_frames=1)
        self.send(self.hub.receive("c", Message(header, [b"code"]), 0.0))
        while self.done < len(self.durations):
            due = self.hub.due(self.now)
            if not self._events or due < self._events[0][0]:
                assert due < float("inf"), "nothing happens any more"
                self.now = max(self.now, due)
                self.send(self.hub.tick(self.now))
                continue
            self.now, _, what, arguments = heapq.heappop(self._events)
            what(*arguments)
        return self.now

    def send(self, sends: list[Any]) -> None:
        for peer, message in sends:
            if peer == "w":
                self.at(self.now + HOP, self.to_world, message.header)

    def to_world(self, header: Any) -> None:
        if isinstance(header, Submit):
            (engine,) = header.engines
            self.queues[engine].append(header.request)
            self.next_task(engine)
        elif isinstance(header, Recall):
            back = [task for task in header.tasks if task in self.queues[header.engine]]
            for task in back:
                self.queues[header.engine].remove(task)
            self.at(self.now + HOP, self.to_hub, Returned(header.engine, back))

    def to_hub(self, header: Any) -> None:
        if isinstance(header, Result):
            self.done += 1
        self.send(self.hub.receive("w", Message(header), self.now))

    def next_task(self, engine: int) -> None:
        if self.running[engine] or not self.queues[engine]:
            return
        task = self.queues[engine].pop(0)
        self.running[engine] = task
        assert task not in self.began
        self.began[task], self.ran_on[task] = self.now, engine
        self.waited[task] = self.now - self.free_since[engine]
        self.at(self.now + self.durations[int(task.rpartition("_")[2])], self.end, engine, task)

    def end(self, engine: int, task: str) -> None:
        self.running[engine], self.free_since[engine] = "", self.now
        self.at(self.now + HOP, self.to_hub, Result(task, engine, "ok", self.began[task], self.now))
        self.next_task(engine)


def heavy(number: int, most: float) -> list[float]:
    """Return durations most of which are short and a few very long, in any order."""
    chance = random.Random(number)
    return [min(most, 0.002 * chance.paretovariate(1.1)) for _ in range(number)]


DURATIONS = {
    "1 ms": [0.001] * 8000,
    "100 ms": [0.1] * 1000,
    "rising": [0.001 + 0.0001 * number for number in range(4000)],
    "falling": [0.001 + 0.0001 * number for number in range(4000, 0, -1)],
    "long ones last": [0.001] * 4000 + [1.0] * 40,
    "heavy tail": heavy(8000, 5.0),
    "two kinds": [0.002, 0.3] * 1500,
}


@pytest.mark.parametrize("engines", [4, 100])
@pytest.mark.parametrize("name", DURATIONS)
def test_the_makespan_is_close_to_the_ideal(name: str, engines: int) -> None:
    durations = DURATIONS[name]
    if engines == 100:
        durations = durations * 3
    # Nobody who takes tasks in their order can promise more than this for the last of them.
    ideal = max(sum(durations) / engines, max(durations))
    farm = Farm(engines, durations)
    took = farm.run()
    assert took <= 1.1 * ideal + last_long(durations, engines) + 0.02, (took, ideal)


def last_long(durations: list[float], engines: int) -> float:
    """Return how much later than ideal a schedule ends that has each task begin as soon as an engine is free.

    That is the fault of the order in which tasks are given, and not of the hub, which does not know how long
    they will take.
    """
    free = [0.0] * engines
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free) - max(sum(durations) / engines, max(durations))


@pytest.mark.parametrize("engines", [4, 100])
def test_engines_do_not_idle_between_short_tasks(engines: int) -> None:
    farm = Farm(engines, [0.001] * 400 * engines)
    farm.run()
    # The first task is the one that nobody has timed.
    waited = sorted(farm.waited.values())
    assert waited[-2 * engines - 1] < 1e-9, "an engine waited for its next task"


@pytest.mark.parametrize("short", [0.001, 0.02, 0.4])
def test_no_long_task_waits_behind_another_while_an_engine_is_free(short: float) -> None:
    durations = [short] * 400 + [10.0] * 4
    farm = Farm(4, durations)
    farm.run()
    long = [f"c-1_{number}" for number in range(400, 404)]
    assert len({farm.ran_on[task] for task in long}) == 4
    latest = max(farm.began[task] for task in farm.began if task not in long)
    assert max(farm.began[task] for task in long) <= latest + short + 0.05


def test_a_surprise_does_not_hold_up_others() -> None:
    """One task of a thousand takes a hundred thousand times as long as the others."""
    durations = [0.0001] * 20000
    durations[10_000] = 10.0
    farm = Farm(4, durations)
    took = farm.run()
    assert took < 10.0 + 20000 * 0.0001 / 4 + 0.1
    rest = max(when for task, when in farm.began.items())
    assert rest < 1.2
