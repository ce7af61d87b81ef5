"""Sequences in chunks, and what is kept of the tasks that did them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from mpiparallel.client import partition
from mpiparallel.client.tasks import Request, Task
from mpiparallel.wire import objects


class Chunks:
    """Sequences cut into chunks of `size` items each; the shortest sequence counts."""

    def __init__(self, sequences: Sequence[Any], size: int) -> None:
        self.items = min(len(sequence) for sequence in sequences)
        self.size = size
        self._sequences = [partition._sliceable(sequence) for sequence in sequences]

    def __len__(self) -> int:
        return -(-self.items // self.size)

    def bounds(self, index: int) -> tuple[int, int]:
        """Return the first item of a chunk and the one after its last."""
        return index * self.size, min((index + 1) * self.size, self.items)

    def frames(self, index: int) -> list[Any]:
        """Return chunk `index` as it travels."""
        first, last = self.bounds(index)
        chunk = tuple([sequence[first:last] for sequence in self._sequences])
        return objects.dumps(chunk)


class Sizes(Sequence[int]):
    """How many items each chunk has."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        first, last = self._chunks.bounds(range(len(self))[index])
        return last - first


class Tasks(Sequence[Task]):
    """The tasks of a map, each made or found when it is asked for."""

    def __init__(self, count: int, find: Callable[[int], Task]) -> None:
        self._count, self._find = count, find

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._find(range(len(self))[index])


class Kept:
    """What is kept of chunks that went well: engines and times, a few bytes for each."""

    def __init__(self, count: int) -> None:
        self._engines: list[Any] = [None] * count  # the ids themselves are shared
        self._started, self._completed, self._received = (array("d", bytes(8 * count)) for _ in range(3))
        self.last = 0.0

    def note(self, index: int, task: Task) -> None:
        """Keep what there is to know of a task."""
        self._engines[index] = task.engine if task.engines is None else task.engines
        self._started[index] = task.started or 0.0
        self._completed[index] = task.completed or 0.0
        self._received[index] = task.received or 0.0
        self.last = max(self.last, task.received or 0.0)

    def task(self, request: Request, index: int, values: Any, engines: Any) -> Task:
        """Return a task made of what was kept."""
        gang = self._engines[index]
        engine = gang[0] if isinstance(gang, list) else gang
        task = Task(request, index, engine, engines.get(engine))
        if isinstance(gang, list):
            task.engines, task.infos = gang, [engines.get(one) for one in gang]
        task.finish(
            "ok", (), None,
            self._started[index] or None, self._completed[index] or None, self._received[index] or None,
        )  # fmt: skip
        task._value = values
        return task
