"""What the controller knows of tasks, whoever has submitted them: their results, their records, and how to
have them done once more, or forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime, timezone
from typing import Any

from mpiparallel import error
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.connection import Connection
from mpiparallel.client.tasks import History, Request, Task, TaskMapping
from mpiparallel.client.waiting import find_tasks
from mpiparallel.wire.messages import Ask, Claim, split_msg_id

TIMES = ("submitted", "started", "completed", "received")


class AsyncHubResult(AsyncResult):
    """Results that the controller keeps, or will have; it sends them by itself."""


class HubQueriesMixin:
    """The part of `Client` that is about results which the controller has."""

    block: bool
    history: History
    results: TaskMapping
    _connection: Connection
    _engine_ids: Any

    # ------------------------------------------------------------ results

    def get_result(
        self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = True
    ) -> AsyncResult:
        """Return the AsyncResult of tasks, of this client or of any other.

        Those of others are not among `outstanding`: `abort` and `wait` mean them only when they are named.

        >>> ipp.Client().get_result("6f1f4f9d31c5-1_0").get()  # doctest: +SKIP

        Parameters
        ----------
        indices_or_msg_ids
            A msg_id, an index or a slice of the history, an AsyncResult, or a list of these; by default the
            last task.
        block
            Wait for the results.
        owner
            Kept as the ``owner`` of what is returned.

        Raises
        ------
        KeyError
            If neither this client nor the controller knows one of them.
        """
        jobs: Any = -1 if indices_or_msg_ids is None else indices_or_msg_ids
        if isinstance(jobs, int) and not isinstance(jobs, bool):
            jobs = self._past(jobs)
        single = isinstance(jobs, str)
        msg_ids = self._msg_ids(jobs)
        held = {name: task for name in msg_ids if (task := self._connection.tasks.get(name)) is not None}
        rest = [name for name in dict.fromkeys(msg_ids) if name not in held]
        kind = AsyncHubResult if rest else AsyncResult
        if rest:
            held.update(self._claim(rest))
        tasks = [held[name] for name in msg_ids]
        result = kind(self, tasks, "get_result", single=single, owner=owner)  # type: ignore[arg-type]
        if self.block if block is None else block:
            result.wait()
        return result

    def _claim(self, msg_ids: Sequence[str]) -> dict[str, Task]:
        """Ask for the results of tasks that this client does not hold; they come by themselves."""
        connection = self._connection
        connection.check_thread()
        claimed: dict[str, Task] = {}
        ready = threading.Event()

        def answered(future: Future[Any]) -> None:
            # In the I/O thread, which takes the results after this.
            if future.exception() is None and not future.result()["unknown"]:
                for name, about in future.result()["tasks"].items():
                    claimed[name] = _expect(connection, name, about)
            ready.set()

        unknown = connection.ask(lambda query: Claim(query, list(msg_ids)), answered).result()["unknown"]
        ready.wait()
        if unknown:
            raise KeyError(
                f"no task {unknown[0]!r} is known here or to the controller: `client.hub_history()` "
                "lists those whose results are kept; the oldest are forgotten"
            )
        return claimed

    def _past(self, index: int) -> str:
        try:
            return self.history[index]
        except IndexError:
            raise IndexError(f"index {index}: the history holds {len(self.history)} tasks") from None

    def _msg_ids(self, jobs: Any) -> list[str]:
        """Return the msg_ids of a msg_id, an index, a slice, an AsyncResult, or a list of these."""
        if isinstance(jobs, str):
            return [jobs]
        if isinstance(jobs, AsyncResult):
            jobs._when_sent()
            return jobs.msg_ids
        if isinstance(jobs, slice):
            return self.history[jobs]
        if isinstance(jobs, int) and not isinstance(jobs, bool):
            return [self._past(jobs)]
        try:
            listed = list(jobs)
        except TypeError:
            raise TypeError(f"a msg_id, an index or an AsyncResult is expected, not {jobs!r}") from None
        return [name for job in listed for name in self._msg_ids(job)]

    def resubmit(self, ids: Any = None, metadata: Any = None, block: bool | None = None) -> AsyncHubResult:
        """Have tasks of load-balanced views done once more, with the arguments that the controller has kept.

        Parameters
        ----------
        ids
            As in `get_result`; by default the last task.
        metadata
            Accepted, as IPython Parallel has it; it means nothing here.
        block
            Wait for the results.

        Returns
        -------
        AsyncHubResult
            Of new tasks, which have new msg_ids.

        Raises
        ------
        RemoteError
            With ``ename`` KeyError if nobody knows one of them, ValueError if it cannot be done once more.
        """
        jobs: Any = -1 if ids is None else ids
        if isinstance(jobs, int) and not isinstance(jobs, bool):
            jobs = self._past(jobs)
        single = isinstance(jobs, str)
        msg_ids = self._msg_ids(jobs)
        connection = self._connection
        connection.check_thread()
        now = time.time()
        requests = [f"{connection.name}-{connection.next_request()}" for _ in msg_ids]
        tasks: list[Task] = []
        ready = threading.Event()

        def answered(future: Future[Any]) -> None:
            # In the I/O thread; only after this the tasks begin.
            if future.exception() is None:
                for request, about in zip(requests, future.result(), strict=True):
                    about = {**about, "submitted": now, "engine_id": None, "engine_uuid": None}
                    tasks.append(_expect(connection, f"{request}_0", about))
            ready.set()

        connection.ask(
            lambda query: Ask(query, "resubmit", msg_ids=msg_ids, requests=requests, submitted=now), answered
        ).result()
        ready.wait()
        self.history.add([task.msg_id for task in tasks])
        result = AsyncHubResult(self, tasks, "resubmit", single=single)  # type: ignore[arg-type]
        if self.block if block is None else block:
            result.wait()
        return result

    # ------------------------------------------------------------ questions

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Return which of these tasks are ``"pending"`` and which ``"completed"``.

        With ``status_only=False`` the values of those completed, or their errors, are there too, by msg_id.

        Raises
        ------
        KeyError
            If nobody knows one of them.
        """
        wanted = self._msg_ids(msg_ids)
        held = self._connection.tasks
        known = [task for task in map(held.get, wanted) if task is not None]
        if len(known) == len(wanted):
            answer: dict[str, Any] = {
                "pending": [task.msg_id for task in known if not task.done],
                "completed": [task.msg_id for task in known if task.done],
            }
        else:
            answer = dict(self._ask("result_status", msg_ids=wanted))
        if not status_only and answer["completed"]:
            done = self.get_result(list(answer["completed"]), block=True, owner=False)
            for task in done._tasks:
                problem = task.error()
                answer[task.msg_id] = task.value() if problem is None else problem
        return answer

    def hub_history(self) -> list[str]:
        """Return the msg_ids of all tasks that the controller knows, by the time of submission."""
        return list(self._ask("hub_history"))

    def db_query(self, query: dict[str, Any], keys: Any = None) -> list[dict[str, Any]]:
        """Return records of the tasks that a query finds, of all clients, by the time of submission.

        >>> rc.db_query({"status": "error", "completed": {"$gt": an_hour_ago}})  # doctest: +SKIP

        Parameters
        ----------
        query
            Key -> value, or key -> operator -> operand: ``$eq $ne $gt $gte $lt $lte $in $nin $glob``. Times
            are datetimes (naive ones are of this computer's zone), or seconds since the epoch.
        keys
            Which keys the records have beside ``msg_id``: by default all but ``buffers`` and
            ``result_buffers``. ``completed`` and ``status`` of a task that has not ended are None.

        Raises
        ------
        ValueError
            If a key, an operator or an operand is wrong, or the answer would be too large.
        """
        if not isinstance(query, dict):
            raise ValueError(f"a query is a dict, not {query!r}")
        wanted = [keys] if isinstance(keys, str) else None if keys is None else list(keys)
        records: list[dict[str, Any]] = self._ask("db_query", match=_to_wire(query), keys=wanted)
        for record in records:
            for key in TIMES:
                if record.get(key) is not None:
                    record[key] = datetime.fromtimestamp(record[key], timezone.utc)
        return records

    def _ask(self, what: Any, **question: Any) -> Any:
        try:
            return self._connection.ask(lambda query: Ask(query, what, **question)).result()
        except error.RemoteError as problem:
            local = {"KeyError": KeyError, "ValueError": ValueError}.get(problem.ename)
            if local is None:
                raise
            raise local(problem.evalue) from None

    # ------------------------------------------------------------ forgetting

    def purge_local_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget results here; AsyncResults that are still held keep theirs.

        Raises
        ------
        ValueError
            If neither `jobs` nor `targets` is given.
        RuntimeError
            If one of them is not done.
        """
        tasks = self._to_purge(jobs, targets)
        pending = [task.msg_id for task in tasks if not task.done]
        if pending:
            some = ", ".join(pending[:5]) + ", ..." * (len(pending) > 5)
            raise RuntimeError(
                f"Can't purge {len(pending)} outstanding tasks: {some}; wait for them, or abort them"
            )
        for task in tasks:
            self._connection.tasks.pop(task.msg_id, None)

    def _to_purge(self, jobs: Any, targets: Any) -> list[Task]:
        held = [task for task in (ref() for ref in self._connection.tasks.valuerefs()) if task is not None]
        if isinstance(jobs, str) and jobs == "all":
            return held
        _check_given(jobs, targets)
        tasks = [] if _is_nothing(jobs) else find_tasks(self, jobs)  # type: ignore[arg-type]
        if not _is_nothing(targets):
            engines = set(self._engine_ids(targets))
            tasks += [task for task in held if task.engine in engines and task not in tasks]
        return tasks

    def purge_hub_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Make the controller forget results, of whichever client; ``"all"`` is allowed.

        Raises
        ------
        ValueError
            If neither `jobs` nor `targets` is given.
        """
        _check_given(jobs, targets)
        msg_ids = [] if _is_nothing(jobs) else self._msg_ids(jobs)
        engines = [] if _is_nothing(targets) else self._engine_ids(targets)
        self._ask("purge_results", msg_ids=msg_ids, engines=engines)

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget results here and in the controller; ``"all"`` is allowed."""
        self.purge_local_results(jobs, targets)
        self.purge_hub_results(jobs, targets)

    def purge_everything(self) -> None:
        """Forget all results here and in the controller, and the history.

        Raises
        ------
        RuntimeError
            If something is not done.
        """
        self.purge_results("all")
        self.history.clear()


def _expect(connection: Connection, name: str, about: dict[str, Any]) -> Task:
    """Return a task whose Result the controller will send; in the I/O thread."""
    known = connection.tasks.get(name)
    if known is not None:
        return known
    request_name, number = split_msg_id(name)
    request = Request(
        request_name, about["verb"] or "apply", about["submitted"], about["label"] or None, None
    )
    request.ranks = about["ranks"]
    request.claimed = not request_name.startswith(f"{connection.name}-")
    request.exposed = True  # its data is not here: after a loss of the connection it is claimed, not sent
    if request.ranks:
        task = Task(request, number)
        connection.balanced[name] = task
    else:
        task = Task(request, number, number, connection.engines.get(number))
        connection.pending.setdefault(request_name, {})[number] = task
    connection.tasks[name] = task
    for kind in ("stdout", "stderr"):
        if about.get(kind):
            task.receive_output(kind, about[kind], (), task.engine)
    return task


def _to_wire(value: Any) -> Any:
    """Return a query with datetimes as seconds since the epoch."""
    if isinstance(value, dict):
        return {key: _to_wire(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_wire(inner) for inner in value]
    return value.timestamp() if isinstance(value, datetime) else value


def _check_given(jobs: Any, targets: Any) -> None:
    if _is_nothing(jobs) and _is_nothing(targets):
        raise ValueError("Must specify at least one of `targets` and `jobs`")


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple, set)) and not value)
