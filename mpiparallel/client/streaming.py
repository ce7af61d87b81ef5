"""Show output of a request while it comes.

One thread does it, so that a terminal or notebook that is slow never holds up the I/O thread. An engine gets
credit for more output when the thread has taken what came before; so output that comes faster than it can be
shown waits on the engines.
"""

from __future__ import annotations

import contextvars
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client.folding import Folder
from mpiparallel.client.metadata import Event
from mpiparallel.client.places import display_key
from mpiparallel.client.screen import Screen
from mpiparallel.client.tasks import Task
from mpiparallel.client.voices import STREAMS
from mpiparallel.ranges import ranges
from mpiparallel.tracebacks import Cause, Entry, arrange, sameness
from mpiparallel.wire import objects
from mpiparallel.wire.messages import NOBODY, Consumed, Failure

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult

GATHER = 0.02  # seconds in which what comes is shown together
PACE = {"notebook": 0.1, "terminal": 0.04, "plain": 0.02}  # seconds between two looks at a flood
ROWS_EVERY = 0.1  # seconds between pictures of lines that are overwritten
AT_ONCE = 4 << 20  # bytes of output that are taken without a look at the screen
ERRORS_HOLD = 0.25  # seconds in which failures are collected for one picture
VICTIMS_HOLD = 1.0  # ... while all of them are of engines that waited for another
IN_FULL = error.CompositeError.tb_limit  # tracebacks
ONE_LINE = 40  # failures that are told in one line

_Item = tuple[Task, "Event | None", int]  # without an event: the task has ended


class Stream:
    """Shows what the tasks of `result` print, display and raise."""

    def __init__(self, result: AsyncResult, fold: bool) -> None:
        self._tasks = list(result._tasks)
        self._connection = result._client._connection
        self._labelled = not result._single_result or any(task.request.ranks > 1 for task in self._tasks)
        self._shows_errors = not result._return_exceptions
        # Who runs a balanced task is known when it speaks.
        engines = [task.engine for task in self._tasks if task.engine != NOBODY and not task.request.ranks]
        n_engines = len(set(engines)) if len(engines) == len(self._tasks) else 0
        self._screen = Screen(self._labelled, compact=fold, n_engines=n_engines)
        self._folder = Folder(
            engines if self._labelled else (),
            fold=fold and self._labelled,
            live=self._screen.live,
            others=len(engines) < len(self._tasks),
        )
        self._left = Counter(engines)
        self._n_left = len(self._tasks)
        self._arrived: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = self._abandoned = False
        self._numbers: dict[str, int] = {}  # of the first event of each task that is to be shown
        self._failed: list[Task] = []
        self._errors_due = 0.0  # when they are shown
        self._in_full: set[Hashable] = set()  # errors whose tracebacks were shown
        self._ranks_shown: set[int] = set()  # whose errors were shown
        self._rows_at = 0.0  # when lines that are overwritten may be drawn again
        self._rows_due = False
        self._looked = 0.0  # when the screen was written to last
        self._busy = False  # whether there was something to write
        self._problem: BaseException | None = None
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="mpiparallel-output", daemon=True
        )

    def start(self) -> None:
        """Show what has come by now, and begin to wait for more."""
        # Watching comes first: what is in both, the past and the stream, is told by its number.
        for task in self._tasks:
            task.watch(self._take)
        now = time.monotonic()
        for task in self._tasks:
            self._numbers[task.msg_id] = show_past(self._folder, task, now)
        for task in self._tasks:
            task.listen(self._ended)
        self._thread.start()

    def stop(self) -> None:
        """Show what has come by now, and no more.

        A KeyboardInterrupt ends this at once; the rest is not shown then.
        """
        for task in self._tasks:
            task.unwatch(self._take)
        self._arrived.put(None)
        try:
            self._thread.join()
        except BaseException:
            self._abandoned = True
            raise
        self._closed = True
        if self._problem is not None:
            raise self._problem

    # ------------------------------------------------------------ the I/O thread

    def _take(self, task: Task, event: Event, size: int) -> bool:
        self._arrived.put((task, event, size))
        return True

    def _ended(self, task: Task) -> None:
        if not self._closed:
            self._arrived.put((task, None, 0))

    # ------------------------------------------------------------ the thread that shows

    def _run(self) -> None:
        more = True
        while more:
            items, more = self._wait()
            try:
                if self._problem is None and not self._abandoned:
                    self._show(items, more)
            except BaseException as problem:  # the stream is closed, say: told when the context ends
                self._problem = problem
            self._give_credit(items)

    def _wait(self) -> tuple[list[_Item], bool]:
        """Return what has come, when there is something to do, and whether more may come."""
        items: list[_Item] = []
        size = 0
        deadline = self._deadline()
        until: float | None = None
        while True:
            now = time.monotonic()
            end = deadline if until is None else until
            if (end is not None and now >= end and self._arrived.empty()) or size > AT_ONCE:
                return items, True
            if until is not None and now >= until:
                return items, True
            try:
                item = self._arrived.get(timeout=None if end is None else max(0.0, end - now))
            except queue.Empty:
                return items, True
            if item is None:
                return items, False
            items.append(item)
            size += item[2]
            if until is None:
                until = time.monotonic() + GATHER
                if self._busy:
                    until = max(until, self._looked + PACE[self._screen.place])

    def _deadline(self) -> float | None:
        times = [self._folder.deadline()]
        if self._failed:
            times.append(self._errors_due)
        if self._rows_due:
            times.append(self._rows_at)
        return min((moment for moment in times if moment is not None), default=None)

    def _show(self, items: list[_Item], more: bool) -> None:
        now = time.monotonic()
        for task, event, _ in items:
            if event is None:
                self._note_end(task, now)
            elif event[0] >= self._numbers.get(task.msg_id, 0):
                _feed(self._folder, event, now)
        everything = not more or not self._labelled or not self._n_left
        errors_due = bool(self._failed) and (everything or now >= self._errors_due)
        blocks = self._folder.take(now, everything or errors_due)
        rows = self._folder.rows() if self._screen.live else []
        self._rows_due = bool(rows) and not blocks and now < self._rows_at
        if self._rows_due:
            return
        if rows:
            self._rows_at = now + ROWS_EVERY
        self._busy = bool(blocks)
        self._screen.write(blocks, rows)
        if errors_due:
            self._show_errors()
        if not more:
            self._screen.close()
        self._looked = time.monotonic()

    def _note_end(self, task: Task, now: float) -> None:
        self._n_left -= 1
        self._left[task.engine] -= 1
        if self._labelled and self._left[task.engine] == 0:
            self._folder.end(task.engine)
        if task.status != "ok" and self._shows_errors:
            name = task.failure.ename if isinstance(task.failure, Failure) else ""
            due = now + (VICTIMS_HOLD if name == "PeerFailed" else ERRORS_HOLD)
            self._errors_due = min(self._errors_due, due) if self._failed else due
            self._failed.append(task)

    def _give_credit(self, items: list[_Item]) -> None:
        sizes: Counter[int] = Counter()
        for _, event, size in items:
            if event is not None:
                sizes[event[4]] += size
        for engine, size in sizes.items():
            if size and self._connection.gone is None:
                self._connection.send(Consumed(engine, size))

    # ------------------------------------------------------------ errors

    def _show_errors(self) -> None:
        entries = [entry for task in sorted(self._failed, key=_order) for entry in _entries(task)]
        self._failed = []
        causes, waiting = arrange(entries, self._ranks_shown)
        lines: list[str] = []
        rest: list[Cause] = []
        for cause in causes:
            self._ranks_shown.update(info["rank"] for info in cause.infos if "rank" in info)
            same = sameness(cause.entry)
            if same in self._in_full or len(self._in_full) == IN_FULL:
                rest.append(cause)
            else:
                self._in_full.add(same)
                lines += [*cause.full(), ""]
        self._screen.errors([*lines, *_one_line_each(rest), *waiting])


def _one_line_each(causes: list[Cause]) -> list[str]:
    """Return a line for each failure; those that read the same are one."""
    groups: dict[str, list[Any]] = {}
    labels: dict[str, str] = {}
    for cause in causes:
        text = cause.short().removeprefix(cause.label)
        groups.setdefault(text, []).extend(cause.ids)
        labels.setdefault(text, cause.label)
    lines = []
    for text, ids in groups.items():
        label = labels[text]
        if None not in ids:
            label = f"[{ranges(set(ids))}:{label.rpartition(':')[2]}"
        lines.append(label + text + (f" ({len(ids)} times)" if len(set(ids)) < len(ids) else ""))
    if len(lines) > ONE_LINE:
        left = sum(len(ids) for ids in list(groups.values())[ONE_LINE:])
        lines[ONE_LINE:] = [f"... {left} more exceptions ..."]
    return lines


def _order(task: Task) -> tuple[int, int]:
    return task.engine, task.number


def _entries(task: Task) -> list[Entry]:
    """Return what went wrong in a task that has failed."""
    failure = task.error()
    if isinstance(failure, error.CompositeError):
        return failure.elist
    if isinstance(failure, error.RemoteError):
        return [(failure.ename, failure.evalue, failure.traceback, failure.engine_info)]
    text = re.sub(r"^task \S+ ", "the task ", str(failure))  # the same for all
    return [(type(failure).__name__, text, "", task._engine_info() or None)]


# ---------------------------------------------------------------- events


def show_past(folder: Folder, task: Task, now: float) -> int:
    """Give `folder` what has come by now; return the number of the next event."""
    stdout, stderr, outputs, number = task.metadata.shown_so_far()
    engine = task.speaker if task.engine == NOBODY else task.engine
    folder.feed(engine, "stdout", stdout, now)
    folder.feed(engine, "stderr", stderr, now)
    for output in outputs:
        folder.put(engine, "display", display_key(output), output, now)
    return number


def _feed(folder: Folder, event: Event, now: float) -> None:
    _, kind, text, payload, engine = event
    if kind in STREAMS:
        folder.feed(engine, kind, text, now)
    elif kind == "display":
        content = objects.loads(payload)
        folder.put(engine, "display", display_key(content), content, now)
    elif kind == "clear_output":
        content = objects.loads(payload) if payload else {}
        folder.put(engine, "clear_output", bool(content.get("wait")), content, now)
