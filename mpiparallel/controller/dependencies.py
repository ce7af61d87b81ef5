"""Tasks that wait for others: ``after`` them, or to ``follow`` them to their engines.

All tasks of a job wait for the same. Who names a task that nobody knows, or one that can no longer end as is
needed, fails at once.
"""

from __future__ import annotations

from mpiparallel.controller import endings
from mpiparallel.controller.jobs import Job
from mpiparallel.controller.lives import BalancedState, TaskState
from mpiparallel.controller.state import State
from mpiparallel.wire.balanced import Needs
from mpiparallel.wire.messages import split_msg_id

_DIRECT_ENDS = {TaskState.OK, TaskState.ERROR, TaskState.ABORTED, TaskState.LOST}
_OPEN = "open"


class _Impossible(Exception):
    """A dependency cannot be met any more."""


def unknown(state: State, header_needs: Needs | None) -> str:
    """Return the first task that nobody knows among those needed; "" if there is none."""
    for name in header_needs.tasks if header_needs else ():
        if _look_up(state, name) is None:
            return name
    return ""


def _look_up(state: State, name: str) -> str | tuple[bool, tuple[int, ...]] | None:
    """Return how a task has ended, and where; or that it is open; or None."""
    if name in state.balanced:
        return _OPEN
    ended = state.balancing.ended.get(name)
    if ended is not None:
        return ended
    try:
        request, engine = split_msg_id(name)
    except ValueError:
        return None
    found = state.requests.get(request) or state.finished.get(request)
    life = found.tasks.get(engine) if found else None
    if life is None:
        return None
    return (life is TaskState.OK, (engine,)) if life in _DIRECT_ENDS else _OPEN


def enter(state: State, job: Job) -> bool:
    """Let a job wait for what it needs; return whether there is something, or it has failed."""
    header = job.header
    try:
        job.after = _open_ones(state, header.after)
        job.follow = _open_ones(state, header.follow)
    except _Impossible as error:
        fail_job(state, job, "ImpossibleDependency", str(error))
        return True
    job.watching = bool(job.after or job.follow)
    for name in job.after | job.follow:
        state.balancing.watches.setdefault(name, {})[job] = None
    return job.watching


def _open_ones(state: State, needs: Needs | None) -> set[str]:
    """Return the tasks that are still to be waited for."""
    left: set[str] = set()
    if needs is None:
        return left
    good = 0
    for name in needs.tasks:
        found = _look_up(state, name)
        if found == _OPEN:
            left.add(name)
        elif found is not None and _is_good(needs, found[0]):  # type: ignore[arg-type]
            good += 1
        elif needs.all:
            raise _Impossible(_why(needs, name))
    return _still(needs, left, good)


def _still(needs: Needs, left: set[str], good: int) -> set[str]:
    if not needs.all and needs.tasks:
        if good:
            return set()
        if not left:
            raise _Impossible(f"none of the {len(needs.tasks)} tasks that it needs ended {_how(needs)}")
    return left


def _is_good(needs: Needs, well: bool) -> bool:
    return needs.success if well else needs.failure


def _how(needs: Needs) -> str:
    return "with an error" if needs.failure and not needs.success else "well"


def _why(needs: Needs, name: str) -> str:
    return f"task {name}, which it needs, did not end {_how(needs)}"


def spread(state: State) -> list[Job]:
    """Tell those who wait of the tasks that have ended; return jobs that wait for no more."""
    table = state.balancing
    ready = []
    while table.news:
        name, well, _engines = table.news.pop()
        for job in table.watches.pop(name, ()):
            if not job.open:
                continue
            try:
                job.after = _without(job.after, job.header.after, name, well)
                job.follow = _without(job.follow, job.header.follow, name, well)
            except _Impossible as error:
                fail_job(state, job, "ImpossibleDependency", str(error))
                continue
            if not job.after and not job.follow:
                endings.unwatch(state, job)
                ready.append(job)
    return ready


def _without(left: set[str], needs: Needs | None, name: str, well: bool) -> set[str]:
    """Return what is left to wait for when `name` has ended."""
    if needs is None or name not in left:
        return left
    left.discard(name)
    good = _is_good(needs, well)
    if needs.all and not good:
        raise _Impossible(_why(needs, name))
    return _still(needs, left, int(good))


def places(state: State, job: Job) -> frozenset[int] | None:
    """Return the engines that tasks of a job may go to, now that nothing is left to wait for."""
    header = job.header
    targets = frozenset(header.targets) if header.targets else None
    needs = header.follow
    if needs is None or not needs.tasks:
        return targets
    chosen: set[int] | None = None
    for name in needs.tasks:
        found = _look_up(state, name)
        if not isinstance(found, tuple):
            continue
        well, engines = found
        if not needs.all and not _is_good(needs, well):
            continue
        if chosen is None:
            chosen = set(engines)
        elif needs.all:
            chosen &= set(engines)
        else:
            chosen |= set(engines)
    followed = frozenset(chosen or ())
    return followed if targets is None else followed & targets


def fail_job(state: State, job: Job, ename: str, text: str) -> None:
    """End all tasks of a job that has not begun."""
    parked, job.parked = job.parked, []
    for task in parked:
        if task.state is BalancedState.WAITING:
            endings.fail(state, task, ename, f"Task {task.name}: {text}")
