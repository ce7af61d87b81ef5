"""Wait for engines to come, and for jobs to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ALL_COMPLETED, Future
from concurrent.futures import wait as wait_for_futures
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client import progress
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.tasks import Task

if TYPE_CHECKING:
    from mpiparallel.client.client import Client


def wait_for_engines(
    client: Client, n: int | None, timeout: float, block: bool, interactive: bool | None, widget: bool | None
) -> Any:
    """Do what `Client.wait_for_engines` says."""
    if n is None:
        n = getattr(client.cluster, "n", None)
        if n is None:
            raise TypeError("wait_for_engines needs n, the number of engines, for a client without a cluster")
    if not block:
        return _in_background(client, n, timeout)
    if interactive is None:
        interactive = get_ipython() is not None and not client._config.noninteractive
    if not interactive:
        _wait(client, n, timeout, None)
        return None
    if len(client) < n:
        bar = progress.make_bar(widget, total=n, unit="engine", initial=len(client), desc="engines")
        try:
            _wait(client, n, timeout, bar)
        finally:
            bar.close()
    return None


def _in_background(client: Client, n: int, timeout: float) -> Future[None]:
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            _wait(client, n, timeout, None)
        except Exception as problem:  # whatever it is belongs to the future's owner
            future.set_exception(problem)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="mpiparallel-wait", daemon=True).start()
    return future


def _wait(client: Client, n: int, timeout: float, bar: Any) -> None:
    connection = client._connection
    deadline = time.monotonic() + timeout if timeout >= 0 else None
    left = dict(connection.departed)
    with connection.changed:
        while True:
            connection.check()
            ready = len(connection.engines)
            if bar is not None:
                bar.update(ready - bar.n)
            if ready >= n:
                return
            for engine, reason in connection.departed.items():
                if engine not in left:
                    raise error.EngineError(f"engine {engine} left while we waited for {n} engines: {reason}")
            _check_cluster(client, n)
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                raise TimeoutError(f"{n} engines not ready in {timeout:g} seconds. Currently ready: {ready}")
            connection.changed.wait(1.0 if rest is None else min(1.0, rest))


def _check_cluster(client: Client, n: int) -> None:
    """Raise EngineError if the cluster knows that its engines will not come."""
    reason = getattr(client.cluster, "engines_failed", None)
    if callable(reason):
        reason = reason(n)
    if reason:
        raise error.EngineError(f"waiting for {n} engines: {reason}")


def find_tasks(client: Client, jobs: Any) -> list[Task]:
    """Return the tasks of msg_ids, history indices, AsyncResults, or lists of these, that are still known.

    Raises
    ------
    TypeError
        If something is none of these.
    """
    if isinstance(jobs, AsyncResult):
        return jobs._sent_tasks()
    if isinstance(jobs, int) and not isinstance(jobs, bool):
        jobs = client.history[jobs]
    if isinstance(jobs, str):
        task = client._connection.tasks.get(jobs)
        return [task] if task is not None else []
    if isinstance(jobs, slice):
        jobs = client.history[jobs]
    if isinstance(jobs, Iterable):
        return [task for job in jobs for task in find_tasks(client, job)]
    raise TypeError(f"a job is a msg_id, an index of the history or an AsyncResult, not {jobs!r}")


def stop_sending(client: Client, jobs: Any, owner: object = None) -> None:
    """Let the maps among `jobs`, or all (of one view), send no more than they have sent."""
    if isinstance(jobs, AsyncResult):
        jobs._send_no_more()
    elif isinstance(jobs, (list, tuple, set)):
        for job in jobs:
            stop_sending(client, job)
    elif jobs is None:
        for result in _feeding(client, owner):
            result._send_no_more()


def _feeding(client: Client, owner: object) -> list[Any]:
    """Return the maps (of one view) that are still being sent: they have more tasks than are outstanding."""
    return [result for result in list(client._feeding) if owner is None or result._view._token is owner]


def wait(client: Client, jobs: Any, timeout: float, owner: object = None) -> bool:
    """Do what `Client.wait` says; without `jobs`, for all of `owner`, a view's token, if there is one."""
    futures: list[Future[Any]] = []
    if jobs is None:
        tasks = client._connection.outstanding()
        if owner is not None:
            tasks = [task for task in tasks if task.request.owner is owner]
        futures.extend(_feeding(client, owner))
    else:
        tasks = _split_futures(client, jobs, futures)
    result = AsyncResult(client, tasks, "wait", owner=False)
    everything: set[Any] = {result, *futures}
    return not wait_for_futures(everything, None if timeout < 0 else timeout, ALL_COMPLETED).not_done


def _split_futures(client: Client, jobs: Any, futures: list[Future[Any]]) -> list[Task]:
    """Return the tasks among `jobs`; put futures of other kinds into `futures`."""
    if isinstance(jobs, (str, int, slice)):
        return find_tasks(client, jobs)
    if isinstance(jobs, Future):
        futures.append(jobs)
        return []
    if isinstance(jobs, Iterable):
        return [task for job in jobs for task in _split_futures(client, job, futures)]
    return find_tasks(client, jobs)
