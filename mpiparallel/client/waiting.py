"""Wait for engines to come, and for jobs to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ALL_COMPLETED, Future
from concurrent.futures import wait as wait_for_futures
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client import progress
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.tally import Tally
from mpiparallel.client.tasks import Task
from mpiparallel.config import noninteractive

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
        interactive = get_ipython() is not None and not noninteractive()
    if not interactive or len(client) >= n:
        _wait(client, n, timeout, None)
        return None

    def count() -> Tally:
        tally = Tally()
        tally.done = len(client)
        return tally

    follower = progress.Follower(count, n, "", "engine", widget=widget)
    try:
        _wait(client, n, timeout, follower)
    finally:
        follower.close()
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


def _wait(client: Client, n: int, timeout: float, follower: progress.Follower | None) -> None:
    connection = client._connection
    deadline = time.monotonic() + timeout if timeout >= 0 else None
    left = dict(connection.departed)
    while True:
        with connection.changed:
            if _are_there(client, n, left):
                return
            rest = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if rest <= 0:
                ready = len(connection.engines)
                raise TimeoutError(f"{n} engines not ready in {timeout:g} seconds. Currently ready: {ready}")
            connection.changed.wait(rest if follower is None else min(rest, follower.until_next()))
        if follower is not None:  # not under the lock, which the I/O thread takes
            follower.tick()


def _are_there(client: Client, n: int, left: Mapping[int, str]) -> bool:
    """Whether there are `n` engines; raise EngineError if one has left, other than those that had before."""
    connection = client._connection
    connection.check()
    if len(connection.engines) >= n:
        return True
    for engine, reason in connection.departed.items():
        if engine not in left:
            raise error.EngineError(f"engine {engine} left while we waited for {n} engines: {reason}")
    _check_cluster(client, n)
    return False


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
    everything = _find(client, jobs, owner)
    return not wait_for_futures(everything, None if timeout < 0 else timeout, ALL_COMPLETED).not_done


def wait_interactive(
    client: Client, jobs: Any, interval: float, timeout: float, owner: object = None
) -> bool:
    """Do what `Client.wait_interactive` says; `owner` as for `wait`."""
    everything = _find(client, jobs, owner)
    results = [one for one in everything if isinstance(one, AsyncResult)]
    if len(results) == len(everything) == 1:
        results[0].wait_interactive(interval, timeout)
        return results[0].done()
    others = [one for one in everything if not isinstance(one, AsyncResult)]

    def count() -> Tally:
        tally = Tally.sum(result._tally() for result in results)
        for future in others:
            tally.add_future(future)
        return tally

    deadline = None if timeout < 0 else time.monotonic() + timeout
    follower = progress.Follower(count, sum(map(len, results)) + len(others), "wait", interval=interval)
    try:
        follower.tick()
        left: set[Any] = set(everything)
        while left:
            rest = follower.until_next()
            if deadline is not None:
                rest = min(rest, max(0.0, deadline - time.monotonic()))
            left = wait_for_futures(left, rest, ALL_COMPLETED).not_done
            follower.tick()
            if deadline is not None and time.monotonic() >= deadline:
                break
        return not left
    finally:
        follower.close()


def _find(client: Client, jobs: Any, owner: object) -> list[Any]:
    """Return futures that together are `jobs`, or all that is not done (of one view)."""
    futures: list[Future[Any]] = []
    if jobs is not None:
        tasks = _split_futures(client, jobs, futures)
    else:
        maps = _feeding(client, owner)
        futures.extend(maps)
        inside = {result._request for result in maps}
        tasks = [
            task
            for task in client._connection.outstanding()
            if (owner is None or task.request.owner is owner) and task.request not in inside
        ]
    if tasks or not futures:
        futures.append(AsyncResult(client, tasks, "wait", owner=False))
    return list(dict.fromkeys(futures))


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
