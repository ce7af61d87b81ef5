"""Show what engines print and display: while it comes, or when all is there.

Called by `asyncresult`. `folding` decides what is shown together, `screen` writes it, `streaming` does both
while output comes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpiparallel.client import progress
from mpiparallel.client.executereply import ExecuteReply, publish
from mpiparallel.client.folding import Block, Folder
from mpiparallel.client.places import display_key
from mpiparallel.client.screen import Screen, where
from mpiparallel.client.streaming import Stream
from mpiparallel.client.tasks import Task
from mpiparallel.client.voices import STREAMS
from mpiparallel.ranges import ranges

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult


def folds(result: AsyncResult, fold: bool | None) -> bool:
    """Whether identical output of several engines is shown once: if nobody says something else, to people."""
    if fold is None:
        fold = result._client._config.fold
    return where() != "plain" if fold is None else fold


@contextmanager
def stream_output(result: AsyncResult, fold: bool | None = None) -> Iterator[None]:
    """Show output of `result` while it comes; on leaving, all that came until then has been shown."""
    stream = Stream(result, folds(result, fold))
    with progress.below_output():
        stream.start()
        try:
            yield
        finally:
            stream.stop()


def display_outputs(result: AsyncResult, groupby: str, result_only: bool, fold: bool | None = None) -> None:
    """Show all output of `result`, which is done, and then the results of cells."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"groupby={groupby!r}: expected 'type', 'engine' or 'order'")
    fold = folds(result, fold)
    tasks = result._tasks
    n_engines = len({task.engine for task in tasks})
    screen = Screen(labelled=not result._single_result, compact=fold, n_engines=n_engines)
    if groupby == "engine":
        for group in _grouped(tasks, _all_of, fold):
            if not result_only:
                _show_group(screen, group)
            _show_reply(screen, group)
        screen.close()
        return
    if not result_only:
        for kind in STREAMS:
            screen.write(_texts(tasks, kind, fold))
        screen.write(_displays(tasks, groupby, fold))
    screen.close()
    for group in _grouped(tasks, _reply_of, fold):
        _show_reply(screen, group)


def _texts(tasks: list[Task], kind: str, fold: bool) -> Iterator[Block]:
    """Yield what all have written to one stream."""
    engines = [task.engine for task in tasks]
    if not fold or len(set(engines)) < len(engines):
        for task in tasks:
            if task.metadata[kind]:
                yield Block(kind, (task.engine,), task.metadata[kind])
        return
    folder = Folder(engines)
    for task in tasks:
        folder.feed(task.engine, kind, task.metadata[kind], 0.0)
        folder.end(task.engine)
    yield from folder.take(0.0, everything=True)


def _displays(tasks: list[Task], groupby: str, fold: bool) -> Iterator[Block]:
    """Yield displays engine by engine, or (``"order"``) the first of all engines, then the second ..."""
    found = [(task, output) for task in tasks for output in task.metadata["outputs"]]
    if groupby == "order" or fold:
        most = max((len(task.metadata["outputs"]) for task in tasks), default=0)
        rows = [
            [(task, task.metadata["outputs"][i]) for task in tasks if i < len(task.metadata["outputs"])]
            for i in range(most)
        ]
        if groupby == "order" or all(_same(row, len(tasks)) for row in rows):
            for row in rows:
                for group in _grouped(row, lambda one: display_key(one[1]), fold):
                    yield _block(group)
            return
    for one in found:
        yield _block([one])


def _same(row: list[tuple[Task, dict[str, Any]]], count: int) -> bool:
    keys = {display_key(output) for _, output in row}
    return len(row) == count and len(keys) == 1 and None not in keys


def _block(group: list[tuple[Task, dict[str, Any]]]) -> Block:
    engines = tuple(task.engine for task, _ in group)
    return Block("display", engines, "", [output for _, output in group])


def _grouped(things: list[Any], key: Callable[[Any], Hashable], fold: bool) -> Iterator[list[Any]]:
    """Yield things together that have the same key, in the order of the first of each; None is no key."""
    groups: dict[Hashable, list[Any]] = {}
    for index, thing in enumerate(things):
        same = key(thing) if fold else None
        groups.setdefault((index,) if same is None else (same, None), []).append(thing)
    yield from groups.values()


def _all_of(task: Task) -> Hashable:
    metadata = task.metadata
    keys = [display_key(output) for output in metadata["outputs"]]
    if None in keys:
        return None
    reply = _reply_of(task) if metadata["execute_result"] is not None else ()
    return None if reply is None else (metadata["stdout"], metadata["stderr"], tuple(keys), reply)


def _reply_of(task: Task) -> Hashable:
    result = task.metadata["execute_result"]
    return None if result is None else display_key(result)


def _show_group(screen: Screen, group: list[Task]) -> None:
    """Show everything of tasks which is the same for all of them."""
    engines = tuple(task.engine for task in group)
    for kind in STREAMS:
        if group[0].metadata[kind]:
            screen.write([Block(kind, engines, group[0].metadata[kind])])
    outputs = [task.metadata["outputs"] for task in group]
    screen.write([Block("display", engines, "", list(values)) for values in zip(*outputs, strict=True)])


def _show_reply(screen: Screen, group: list[Task]) -> None:
    """Show the result of tasks that have the same."""
    group = [task for task in group if task.metadata["execute_result"] is not None and task.error() is None]
    if not group:
        return
    replies: list[ExecuteReply] = [task.value() for task in group]
    if len(group) == 1:
        screen.result(replies[0].display)
        return
    bundle, metadata = replies[0]._repr_mimebundle_()
    engines = [task.engine for task in group]
    counts = {reply.execution_count for reply in replies if reply.execution_count is not None}
    label = f"Out[{ranges(engines)}:{ranges(counts)}]: "
    bundle["text/plain"] = label + bundle["text/plain"].removeprefix(replies[0]._label())
    screen.result(lambda: publish(bundle, {**metadata, "engine": engines}))
