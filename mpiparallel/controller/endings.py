"""How balanced tasks end: each does so once, in `finish`."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from mpiparallel.controller import delivery
from mpiparallel.controller.jobs import Balanced, Job
from mpiparallel.controller.lives import BalancedEvent, BalancedState
from mpiparallel.controller.records import Record
from mpiparallel.controller.state import State
from mpiparallel.wire.messages import NOBODY, Balance, Failure, Message, Result, msg_id

ENDS = {"ok": BalancedEvent.OK, "error": BalancedEvent.ERROR, "aborted": BalancedEvent.ABORTED}


def finish(state: State, task: Balanced, event: BalancedEvent, results: Sequence[Message]) -> None:
    """End a task, which is on no engine any longer, by its results; forget it."""
    table = state.balancing
    if task.state is BalancedState.QUEUED and table.headless.pop(task.name, None) is None:
        _dequeue(state, task)
    task.advance(event)
    job = task.job
    header = job.header
    del state.balanced[task.name]
    first: Result = results[0].header  # type: ignore[assignment]
    if len(results) == 1:
        status, started, completed, failure = first.status, first.started, first.completed, first.failure
        engines = [] if first.engine == NOBODY else [first.engine]
    else:
        status, started, completed, failure = _all_in_all([one.header for one in results])  # type: ignore[misc, assignment]
        engines = [one.header.engine for one in results]  # type: ignore[union-attr]
    state.journal.append(
        Record(
            task.name, header.client, header.verb, header.label, header.submitted, header.ranks, engines,
            status, started, completed, failure, list(results), inputs(task),
        )
    )  # fmt: skip
    for one in results:
        delivery.deliver(state, header.client, one, task.saved)
    table.remember(task.name, status == "ok", tuple(engines))
    job.open -= 1
    if not job.open:
        forget_job(state, job)


def forget_job(state: State, job: Job) -> None:
    """Give back what a job without open tasks has held."""
    table = state.balancing
    table.functions.release(job.function)
    if job.pool is not None:
        table.release(job.pool)
    job.function.parked.pop(job, None)
    if job.watching:
        unwatch(state, job)
    job.parked = []


def unwatch(state: State, job: Job) -> None:
    """Take a job out of the table of those who wait."""
    watches = state.balancing.watches
    job.watching = False
    for needs in (job.header.after, job.header.follow):
        for name in needs.tasks if needs else ():
            waiting = watches.get(name)
            if waiting is not None:
                waiting.pop(job, None)
                if not waiting:
                    del watches[name]


def replaced(state: State, task: Balanced) -> Balanced:
    """Take a task out of its queue, where it counts as ended; return another in its place."""
    if task.state is BalancedState.QUEUED and state.balancing.headless.pop(task.name, None) is None:
        _dequeue(state, task)
    task.advance(BalancedEvent.ABORTED)
    other = Balanced(task.name, task.number, task.job, task.part, task.seq, task.since)
    other.aborting, other.saved = task.aborting, task.saved
    return other


def _dequeue(state: State, task: Balanced) -> None:
    pool = task.job.pool
    assert pool is not None
    table = state.balancing
    ranks = task.job.header.ranks
    if ranks == 1:
        pool.queue_of(task, table.turns).dropped()
        pool.tidy()
        return
    queue = table.gangs[ranks, pool]
    queue.dropped()
    table.look_at_gangs = True  # engines may be reserved for it
    if not queue.size:
        del table.gangs[ranks, pool]


def _all_in_all(results: Sequence[Result]) -> tuple[str, float | None, float | None, Failure | None]:
    """Return status, beginning, end and failure of a gang task."""
    statuses = {one.status for one in results}
    status = next(one for one in ("error", "aborted", "ok") if one in statuses)
    started = [one.started for one in results if one.started is not None]
    completed = [one.completed for one in results if one.completed is not None]
    failure = next((one.failure for one in results if one.failure is not None), None)
    return status, min(started, default=None), max(completed, default=None), failure


def inputs(task: Balanced) -> Message | None:
    """Return a Balance of this task alone; None when its payload is not here."""
    if task.part is None:
        return None
    job = task.job
    header = job.header
    frames = job.function.frames or ()
    part = task.part
    return Message(
        Balance(
            header.request, header.client, header.verb, [len(part)], task.number,
            len(frames) + len(job.common), header.function, len(frames), header.options, header.ranks,
            header.targets, header.retries, header.timeout, header.after, header.follow, header.label,
            header.submitted,
        ),
        (*frames, *job.common, *part),
    )  # fmt: skip


def fail(state: State, task: Balanced, ename: str, text: str, event: BalancedEvent | None = None) -> None:
    """End a task by an error of the hub's."""
    header = Result(task.name, NOBODY, "error", failure=Failure(ename, text))
    finish(state, task, event or BalancedEvent.HOPELESS, [Message(header)])


def drop(state: State, message: Message) -> None:
    """Let a result go that ends nothing, as its task is run again: nobody need keep it."""
    header: Result = message.header  # type: ignore[assignment]
    engine = state.engines.get(header.engine)
    if engine is not None and header.engine not in state.kept.get(header.request, ()):
        delivery.settle(state, engine.world.name, header.request, header.engine)


def aborted(task: Balanced) -> Message:
    """Return the Result of a task that was taken back before it began."""
    return Message(Result(task.name, NOBODY, "aborted"))


def set_deadline(state: State, what: Job | Balanced, deadline: float) -> None:
    """Note until when a task, or all tasks of a job, may wait for an engine."""
    table = state.balancing
    if isinstance(what, Balanced):
        what.deadline = deadline
    heappush(table.deadlines, (deadline, next(table.numbers), what))
    if len(table.deadlines) > 2 * table.timed + 100:
        table.deadlines = [entry for entry in table.deadlines if _is_open(state, entry[2])]
        heapify(table.deadlines)
        table.timed = len(table.deadlines)


def _is_open(state: State, what: Job | Balanced) -> bool:
    return what.open > 0 if isinstance(what, Job) else what.name in state.balanced


def expire(state: State, now: float) -> None:
    """End tasks that have waited for too long."""
    deadlines = state.balancing.deadlines
    while deadlines and deadlines[0][0] <= now:
        deadline, _, what = heappop(deadlines)
        if isinstance(what, Balanced):
            tasks = [what] if what.deadline == deadline else []
        else:
            header = what.header
            names = (msg_id(header.request, header.first + i) for i in range(len(header.parts)))
            found = (state.balanced.get(name) for name in names)
            tasks = [task for task in found if task is not None and task.job is what and not task.placed]
        for task in tasks:
            if task.state is BalancedState.WAITING or task.state is BalancedState.QUEUED:
                waited = now - task.since
                fail(state, task, "TaskTimeout", f"Task {task.name} waited {waited:.1f} s for an engine")
