"""Conditions on other tasks that a balanced task waits for.

What an engine must have is said by the decorators of `wire.references`: ``depend`` and ``require``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.tasks import Task
from mpiparallel.wire.fields import LONGEST_ID, MOST_TASKS
from mpiparallel.wire.messages import Needs
from mpiparallel.wire.references import depend as depend
from mpiparallel.wire.references import dependent as dependent
from mpiparallel.wire.references import require as require


class Dependency(set[str]):
    """Tasks that must have ended before another one begins.

    >>> wanted = Dependency(["a", "b"], all=False)
    >>> wanted.check(completed={"b"}), wanted.check(completed=set())
    (True, False)

    Parameters
    ----------
    dependencies
        A msg_id, an AsyncResult, or several of these. Of a long map which is still being sent, all that is
        to be sent is waited for here.
    all
        Whether all of them must have ended, or any.
    success, failure
        Whether tasks count that went well, and those that ended with an error.

    Raises
    ------
    TypeError
        If something is neither a msg_id nor an AsyncResult.
    ValueError
        If neither `success` nor `failure` counts: nothing could ever meet it; if a string cannot be a
        msg_id; if there are more tasks than a message can name.
    """

    def __init__(
        self, dependencies: Any = (), all: bool = True, success: bool = True, failure: bool = False
    ) -> None:
        if not (success or failure):
            raise ValueError("Must depend on at least one of success or failure!")
        super().__init__(_msg_ids(dependencies))
        if len(self) > MOST_TASKS:
            raise ValueError(f"a dependency on {len(self)} tasks; at most {MOST_TASKS}")
        self.all, self.success, self.failure = bool(all), bool(success), bool(failure)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (sorted(self), self.all, self.success, self.failure)

    def __repr__(self) -> str:
        how = f"all={self.all}, success={self.success}, failure={self.failure}"
        return f"<Dependency on {len(self)} task{'s' * (len(self) != 1)}, {how}>"

    def check(self, completed: Iterable[str], failed: Iterable[str] | None = None) -> bool:
        """Return whether it holds when the tasks in `completed` went well and those in `failed` did not."""
        counting = self._among(completed, self.success) | self._among(failed, self.failure)
        if not self:
            return True
        return len(counting) == len(self) if self.all else bool(counting)

    def unreachable(self, completed: Iterable[str], failed: Iterable[str] | None = None) -> bool:
        """Return whether it can never hold, whatever the other tasks do."""
        lost = self._among(completed, not self.success) | self._among(failed, not self.failure)
        if not self:
            return False
        return bool(lost) if self.all else len(lost) == len(self)

    def _among(self, tasks: Iterable[str] | None, counts: bool) -> set[str]:
        return self.intersection(tasks) if counts and tasks is not None else set()

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dictionary."""
        return {
            "dependencies": sorted(self), "all": self.all, "success": self.success, "failure": self.failure,
        }  # fmt: skip

    def needs(self, known: Mapping[str, Task] | None = None) -> Needs | None:
        """Return it as the hub gets it; None when `known` tasks, which have ended here, meet it already.

        Those that count are left out: the hub forgets tasks when many others have ended since.
        """
        met = {name for name in self if self._counts((known or {}).get(name))}
        if met == self or (met and not self.all):
            return None
        return Needs(sorted(self - met), self.all, self.success, self.failure)

    def _counts(self, task: Task | None) -> bool:
        return task is not None and task.done and (self.success if task.status == "ok" else self.failure)


def _msg_ids(jobs: Any) -> list[str]:
    if isinstance(jobs, str):
        if not 0 < len(jobs) <= LONGEST_ID:
            raise ValueError(f"no msg_id: {jobs[:80]!r}")
        return [jobs]
    if isinstance(jobs, AsyncResult):
        if len(jobs._when_sent()) > MOST_TASKS:
            raise ValueError(f"a dependency on the {len(jobs._tasks)} tasks of a map; at most {MOST_TASKS}")
        return jobs.msg_ids
    if isinstance(jobs, Iterable):
        return [msg_id for job in jobs for msg_id in _msg_ids(job)]
    raise TypeError(f"a dependency is a msg_id or an AsyncResult, or several of these, not {jobs!r}")


def as_dependency(value: Any) -> Dependency | None:
    """Return what a view's ``after`` or ``follow`` means; None when there is nothing to wait for.

    Raises
    ------
    ValueError
        If it is no dependency.
    """
    if value is None:
        return None
    try:
        wanted = value if isinstance(value, Dependency) else Dependency(value)
    except TypeError as problem:
        raise ValueError(f"invalid dependency: {problem}") from None
    return wanted if wanted else None
