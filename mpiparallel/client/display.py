"""Show what engines print and display: while it comes, or when all is there.

Called by `asyncresult`. Streaming happens in one thread of its own, started and ended by the context manager,
so that a terminal or notebook that is slow never holds up the I/O thread.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpiparallel.client.executereply import get_ipython, publish
from mpiparallel.client.metadata import Event
from mpiparallel.client.tasks import Task
from mpiparallel.wire import objects
from mpiparallel.wire.messages import NOBODY

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult


class Screen:
    """Writes text of several engines with labels, ``[stdout:3] ``, where the speaker changes.

    Parameters
    ----------
    labelled
        Whether there is more than one engine to tell apart.
    """

    def __init__(self, labelled: bool) -> None:
        self._labelled = labelled
        self._speaker = ""
        self._at_line_start = True

    def write(self, kind: str, engine: int, text: str) -> None:
        """Write what `engine` printed to ``stdout`` or ``stderr``."""
        if not text:
            return
        file = sys.stderr if kind == "stderr" else sys.stdout
        self._introduce(f"[{kind}:{engine}] ", file)
        print(text, file=file, end="", flush=True)
        self._at_line_start = text.endswith("\n")

    def show(self, engine: int, content: dict[str, Any]) -> None:
        """Show a display of `engine`."""
        self._introduce(f"[output:{engine}]", sys.stdout)
        options: dict[str, Any] = {}
        if content.get("transient") and get_ipython() is not None:
            options = {"transient": content["transient"], "update": bool(content.get("update"))}
        publish(content.get("data") or {}, {**(content.get("metadata") or {}), "engine": engine}, **options)
        self._at_line_start = True

    def result(self, reply: Any) -> None:
        """Show the result of a cell."""
        self._break_line(sys.stdout)
        self._speaker = ""
        reply.display()

    def _break_line(self, file: Any) -> None:
        if not self._at_line_start:
            print(file=file)
            self._at_line_start = True

    def _introduce(self, speaker: str, file: Any) -> None:
        if not self._labelled or speaker == self._speaker:
            return
        self._break_line(file)
        print(speaker, file=file)
        self._speaker = speaker


@contextmanager
def stream_output(result: AsyncResult, fold: bool | None = None) -> Iterator[None]:
    """Show output of `result` while it comes; on leaving, all that came until then has been shown."""
    arrived: queue.SimpleQueue[tuple[Task, Event] | None] = queue.SimpleQueue()
    screen = Screen(labelled=not result._single_result)

    def take(task: Task, event: Event) -> None:
        arrived.put((task, event))

    def show() -> None:
        while (item := arrived.get()) is not None:
            task, event = item
            if event[0] >= shown[task.msg_id]:
                _stream(screen, event)

    # Watching comes first: what is in both, the past and the stream, is told by its number.
    for task in result._tasks:
        task.watch(take)
    shown = {task.msg_id: _show_past(screen, task) for task in result._tasks}
    thread = threading.Thread(target=show, name="mpiparallel-output", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for task in result._tasks:
            task.unwatch(take)
        arrived.put(None)
        thread.join()


def _show_past(screen: Screen, task: Task) -> int:
    """Show what has come by now and return the number of the next event."""
    stdout, stderr, outputs, number = task.metadata.shown_so_far()
    engine = task.speaker if task.engine == NOBODY else task.engine
    screen.write("stdout", engine, stdout)
    screen.write("stderr", engine, stderr)
    for output in outputs:
        screen.show(engine, output)
    return number


def _stream(screen: Screen, event: Event) -> None:
    _, kind, text, payload, engine = event
    if kind in ("stdout", "stderr"):
        screen.write(kind, engine, text)
    elif kind == "display":
        screen.show(engine, objects.loads(payload))
    elif kind == "clear_output":
        _clear(objects.loads(payload) if payload else {})


def _clear(content: dict[str, Any]) -> None:
    shell = get_ipython()
    if shell is not None:
        from IPython.display import clear_output

        clear_output(wait=bool(content.get("wait")))


def display_outputs(
    result: AsyncResult, groupby: str, result_only: bool, fold: bool | None = None
) -> None:
    """Show all output of `result`, which is done, and then the results of cells."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"groupby={groupby!r}: expected 'type', 'engine' or 'order'")
    screen = Screen(labelled=not result._single_result)
    tasks = result._tasks
    if groupby == "engine":
        for task in tasks:
            if not result_only:
                _show_past(screen, task)
            _show_reply(screen, task)
        return
    if not result_only:
        for kind in ("stdout", "stderr"):
            for task in tasks:
                screen.write(kind, task.engine, task.metadata[kind])
        for task, output in _outputs(tasks, groupby):
            screen.show(task.engine, output)
    for task in tasks:
        _show_reply(screen, task)


def _outputs(tasks: list[Task], groupby: str) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yield displays engine by engine, or (``"order"``) the first of all engines, then the second ..."""
    if groupby == "type":
        for task in tasks:
            for output in task.metadata["outputs"]:
                yield task, output
        return
    for index in range(max((len(task.metadata["outputs"]) for task in tasks), default=0)):
        for task in tasks:
            if index < len(task.metadata["outputs"]):
                yield task, task.metadata["outputs"][index]


def _show_reply(screen: Screen, task: Task) -> None:
    if task.metadata["execute_result"] is not None and task.error() is None:
        screen.result(task.value())
