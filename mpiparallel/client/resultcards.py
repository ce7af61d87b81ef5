"""What is on the cards of results: of an AsyncResult, and of the iterator that ``imap`` makes.

No value is looked at: it may be large, and unpickling it runs code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.looks import Card, Mood, duration, name_of, one_line, some
from mpiparallel.ranges import ranges
from mpiparallel.tracebacks import of_any
from mpiparallel.wire.messages import NOBODY, Failure

PUBLIC = ("AsyncHubResult", "AsyncMapResult", "AsyncResult")

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult
    from mpiparallel.client.lazymap import LazyMapIterator
    from mpiparallel.client.tasks import Task


def result_card(result: AsyncResult) -> Card:
    """Return the card of an AsyncResult."""
    tasks = list(result._sent_tasks())
    name = name_of(result, "ar" if get_ipython() is None else "_")
    client = name_of(result._client, "rc")
    total, ready = len(result), result.done()
    failed = [task for task in tasks if task.done and task.status != "ok"]
    aborted = [task for task in failed if task.status == "aborted"]
    rows = [
        [word, _engines_of(several)]
        for word, several in (
            ("done", [task for task in tasks if task.done and task.status == "ok"]),
            ("failed", [task for task in failed if task.status != "aborted"]),
            ("not begun", aborted),
            ("not done", [task for task in tasks if not task.done]),
        )
        if several
    ]
    state = "finished" if ready else "pending"
    if failed:
        state = f"failed, {len(failed)} of {some(len(tasks), 'task')}" if ready else "pending, with failures"
    facts = [("progress", f"{result.progress} of {total} done")]
    if tasks:
        facts.append(("took" if ready else "since", duration(result.elapsed)))
    if tasks and tasks[0].request.label:
        facts.append(("label", one_line(tasks[0].request.label)))
    printed = any(task.n_events for task in tasks)
    commands: list[tuple[str, str]] = []
    if not ready:
        commands = [(f"{name}.wait_interactive()", "waits, with a bar")]
        commands.append((f"{client}.where()", "what engines do"))
        if len(tasks) == 1:
            commands.append((f"{client}.get_result({tasks[0].msg_id!r})", "from anywhere, later"))
        elif tasks:
            commands.append((f"{name}.msg_ids", f"for {client}.get_result, from anywhere, later"))
    else:
        commands = [(f"{name}.get()", "raises the error" if failed else "the value" + "s" * (total > 1))]
        if failed and len(failed) < len(tasks):
            commands.append((f"{name}.get(return_exceptions=True)", "the other values"))
        if printed:
            commands.append((f"{name}.display_outputs()", "what was printed"))
    mood: Mood = "bad" if failed else "good" if ready else "busy"
    return Card(
        f"{_kind(result)} of {one_line(result._fname, 60)}",
        state,
        mood,
        facts,
        ["", "engines"],
        rows,
        [*failures(failed), *result.notices],
        commands,
    )


def _kind(result: AsyncResult) -> str:
    """Return the name of the first public class of a result."""
    return next(kind.__name__ for kind in type(result).__mro__ if kind.__name__ in PUBLIC)


def _engines_of(tasks: Sequence[Task]) -> str:
    """Return on which engines tasks are, as far as anybody knows."""
    placed = {number for task in tasks for number in task.engines or [task.engine] if number != NOBODY}
    nowhere = sum(task.engine == NOBODY for task in tasks)
    words = [ranges(placed)] if placed else []
    if len(tasks) - nowhere > len(placed):
        words[0] += f" ({some(len(tasks) - nowhere, 'task')})"
    return ", ".join([*words, *([f"{some(nowhere, 'task')} on whichever is free"] if nowhere else [])])


def failures(tasks: Iterable[Task]) -> list[str]:
    """Return what went wrong, identical ones in one line, those that only waited for others last."""
    folded: dict[tuple[str, str], list[int]] = {}
    for task in tasks:
        failure = task.failure
        if isinstance(failure, Failure):
            name, value = failure.ename, failure.evalue
        elif failure is None:
            name, value = "TaskAborted", "it did not begin"
        else:
            name, value = type(failure).__name__, str(failure)
        first = (of_any(name, value).strip().splitlines() or [""])[0]
        folded.setdefault((name, first), []).append(task.engine)
    order = sorted(folded.items(), key=lambda item: item[0][0] == "PeerFailed")
    lines = []
    for (name, value), several in order:
        placed = {number for number in several if number != NOBODY}
        label = f"[{ranges(placed)}] " if placed else ""
        lines.append(f"{label}{name}: {value}" if value else f"{label}{name}")
    return lines


def lazymap_card(values: LazyMapIterator) -> Card:
    """Return the card of an iterator that ``imap`` has made."""
    name = name_of(values, "values")
    waiting = len(values._sent.tasks)
    under_way = sum(not task.done for task in list(values._sent.tasks.values()))
    reads = values._inputs is not None
    state = "reads its inputs as values are taken" if reads else "all is sent" if waiting else "ended"
    facts = [
        ("sent", some(values._count, "task")),
        ("given", some(values._count - waiting, "value")),
        ("ready", some(waiting - under_way, "value")),
        ("under way", some(under_way, "task")),
    ]
    commands = [(f"for value in {name}: ...", "takes them"), (f"{name}.close()", "ends it early")]
    mood: Mood = "busy" if waiting or reads else "off"
    notes = [] if values._problem is None else [f"its inputs raised {values._problem!r}"]
    if mood == "off":
        commands = []
    return Card("LazyMapIterator", state, mood, facts, notes=notes, commands=commands)
