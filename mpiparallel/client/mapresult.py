"""The result of a map or a gather: one sequence made of the parts that engines return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client import partition
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.tasks import Task

if TYPE_CHECKING:
    from mpiparallel.client.client import Client


class AsyncMapResult(AsyncResult):
    """The result of a map or a gather: one sequence, whose items can be iterated over while they come.

    Parameters
    ----------
    dist
        How the sequence was cut.
    ordered
        False: iteration gives items as they arrive.
    itemwise
        Whether each part is a list of items, as in a map, or a part of whatever type, as in a gather.
    """

    def __init__(
        self,
        client: Client,
        tasks: Sequence[Task],
        fname: str = "map",
        *,
        dist: str = "b",
        ordered: bool = True,
        itemwise: bool = True,
        **options: Any,
    ) -> None:
        self._dist = dist
        self.ordered = ordered
        self._itemwise = itemwise
        self._errors: dict[str, list[Any]] = {}  # among items that are done, by task
        super().__init__(client, tasks, fname, **options)

    def _make_result(self) -> Any:
        if not self._itemwise:
            return partition.join(self._values(), self._dist)
        parts = [
            value if task.error() is None else [value] * size  # an error stands for all items of its part
            for task, value, size in zip(self._tasks, self._values(), self._sizes, strict=True)
        ]
        return partition.join_items(parts, self._dist)

    _unit = "item"

    def _errors_of(self, task: Task) -> Sequence[Any]:
        if not self._return_exceptions or not self._itemwise or task.error() is not None:
            return ()
        if task.msg_id not in self._errors:
            self._errors[task.msg_id] = [one for one in task.value() if isinstance(one, error.RemoteError)]
        return self._errors[task.msg_id]

    def _iterate(self) -> Iterator[Any]:
        if not self.ordered:
            return self._as_they_come()
        if self._dist == "r" or self.done():
            return iter(self.get())
        return self._in_order()

    def _in_order(self) -> Iterator[Any]:
        for task in self._tasks:
            yield from self._items(task)

    def _as_they_come(self) -> Iterator[Any]:
        waiting = list(self._tasks)
        while waiting:
            finished = self._wait_for_some(waiting)
            waiting = [task for task in waiting if task not in finished]
            for task in sorted(finished, key=lambda task: task.received or 0.0):
                yield from self._items(task)

    def _wait_for_some(self, tasks: list[Task]) -> list[Task]:
        """Wait until at least one of `tasks` is done and return those that are."""
        self._wait_until(lambda: any(task.done for task in tasks), None)
        return [task for task in tasks if task.done]

    def _items(self, task: Task) -> Iterator[Any]:
        value = self._one(task)
        if task.error() is not None:  # it stands for all items of its part
            return iter([value] * self._sizes[self._tasks.index(task)])
        return iter(partition.join_items([value]))

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, (int, slice)):
            return super().__getitem__(key)
        self._check_done()
        return self.get()[key]
