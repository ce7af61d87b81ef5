"""What a `Cluster` asks its controller about engines, as a client: have they come, are they lost.

Only `cluster` and `cluster_restart` call this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel import cluster_waiting
from mpiparallel.error import EngineError, LaunchError
from mpiparallel.launch.jobs import Job
from mpiparallel.launch.launched import EngineSet

if TYPE_CHECKING:
    from mpiparallel.client.client import Client
    from mpiparallel.wire.messages import EngineInfo

JOB_ENDS = 10.0  # seconds for a job to be over when the controller in it has ended


def wait_for(
    client: Client,
    n: int,
    engine_sets: Iterable[EngineSet],
    timeout: float,
    queue_timeout: float,
    interactive: bool | None = None,
) -> None:
    """Wait until `client` sees `n` engines; it asks its cluster meanwhile whether they can still come.

    Raises
    ------
    LaunchError
        If they do not come within `timeout` seconds, or not as one world for each set; `timeout` counts from
        when their jobs run, for which there are `queue_timeout` seconds.
    """
    engine_sets = list(engine_sets)

    def come(seconds: float) -> bool:
        try:
            client.wait_for_engines(n, timeout=seconds, interactive=False)
        except TimeoutError:
            return False
        return True

    while True:
        try:
            cluster_waiting.await_start(lambda: engine_sets, queue_timeout, pause=come)
            client.wait_for_engines(n, timeout=timeout, interactive=interactive)
        except EngineError as error:
            raise LaunchError(str(error)) from error
        except RuntimeError:  # the controller is gone
            _explain_by_job(engine_sets)
            raise
        except TimeoutError as error:
            if any(one.process.what_it_waits_for() for one in engine_sets):
                continue  # it was sent back to the queue
            raise _too_late(f"{len(client.ids)} of {n}", engine_sets, timeout) from error
        break
    _check_worlds(client, engine_sets)


def wait_for_sets(
    client: Client,
    current: Callable[[], Sequence[EngineSet]],
    hopeless: Callable[[EngineSet], bool],
    timeout: float,
    queue_timeout: float,
) -> None:
    """Wait until `client` sees all engines of the sets that `current` returns; they may change meanwhile.

    Raises
    ------
    LaunchError
        If they do not come within `timeout` seconds once their jobs run, or not these within `queue_timeout`,
        or one of the sets is `hopeless`.
    """
    connection = client._connection

    def missing() -> int:
        engine_sets = current()
        come = dict.fromkeys([one.name for one in engine_sets], 0)
        for world in _worlds(client, list(come)):
            come[world["engine_set"]] += sum(engine in connection.engines for engine in world["engines"])
        return sum(max(0, one.n - come[one.name]) for one in engine_sets)

    def pause(seconds: float) -> bool:
        if not missing():
            return True
        for one in current():
            if hopeless(one):
                raise one.failure()
        with connection.changed:
            connection.changed.wait(seconds)
        return False

    cluster_waiting.await_start(current, queue_timeout, pause=pause)
    deadline = time.monotonic() + timeout
    while not pause(min(0.2, max(0.0, deadline - time.monotonic()))):
        if time.monotonic() > deadline:
            engine_sets = current()
            wanted = sum(one.n for one in engine_sets)
            raise _too_late(f"{wanted - missing()} of {wanted}", engine_sets, timeout)


def _explain_by_job(engine_sets: Iterable[EngineSet]) -> None:
    """Raise how a job has ended that had controller and engines in it: these may have been the cause."""
    for one in engine_sets:
        if isinstance(one.process, Job) and one.process.wait(JOB_ENDS) and one.state == "failed":
            raise one.failure()


def _too_late(how_many: str, engine_sets: Sequence[EngineSet], timeout: float) -> LaunchError:
    said = "\n".join(one.get_output(40) for one in engine_sets).strip() or "nothing"
    where = cluster_waiting.names_of(engine_sets)
    return LaunchError(
        f"{how_many} engines connected within {timeout:g} s (engine_timeout; {where}). They said: {said}"
    )


def _check_worlds(client: Client, engine_sets: Sequence[EngineSet]) -> None:
    for one in engine_sets:
        worlds = _worlds(client, [one.name])
        if one.running and len(worlds) > 1:
            raise LaunchError(
                f"mpiexec started {len(worlds)} worlds instead of one world of {one.n} engines: it belongs "
                f"to another MPI than the one that mpi4py uses ({worlds[0]['mpi']}). Put the mpiexec of that "
                "MPI first on the PATH, or name it by MPIPARALLEL_MPIEXEC"
            )


def ids_of(client: Client, names: Sequence[str]) -> list[int]:
    """Return the engines of these sets."""
    return [engine for world in _worlds(client, names) for engine in world["engines"]]


def worlds_of(client: Client, names: Sequence[str]) -> set[str]:
    """Return the names of the worlds of these sets."""
    return {world["name"] for world in _worlds(client, names)}


def learn_ids(client: Client, engine_sets: Iterable[EngineSet]) -> bool:
    """Note the first id of each set whose engines are there; return whether one was new."""
    return note_ids(client._ask("status"), client._connection.engines, engine_sets)


def note_ids(
    status: Mapping[str, Any], known: Mapping[int, EngineInfo], engine_sets: Iterable[EngineSet]
) -> bool:
    """Note the first id of each set by what the controller says; return whether one was new."""
    new = False
    for one in engine_sets:
        worlds = [world for world in status["worlds"] if world["engine_set"] == one.name]
        for engine in [engine for world in worlds for engine in world["engines"]]:
            if engine in known and one.first != engine - known[engine].rank:
                one.first = engine - known[engine].rank
                new = True
    return new


def how_lost(client: Client, engine_set: EngineSet, timeout: float) -> str:
    """Return why the world of a set was lost, when the controller has noticed; empty if it left in peace.

    The ids that it had are noted, too.
    """
    deadline = time.monotonic() + timeout
    while True:
        status = client._ask("status")
        if not any(world["engine_set"] == engine_set.name for world in status["worlds"]):
            break
        learn_ids(client, [engine_set])
        if time.monotonic() > deadline:
            return "its mpiexec ended"
        time.sleep(0.05)
    lost = status.get("lost", {}).get(engine_set.name)
    if lost is None:
        return ""
    engine_set.first = lost["first"]
    return str(lost["reason"])


def _worlds(client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
    return [world for world in client._ask("status")["worlds"] if world["engine_set"] in names]
