"""What a `Cluster` asks its controller about engines, as a client: have they come, which are they.

Only `cluster` calls this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel.error import EngineError, LaunchError
from mpiparallel.launch.local import EngineSet

if TYPE_CHECKING:
    from mpiparallel.client.client import Client


def wait_for(client: Client, n: int, engine_sets: Iterable[EngineSet], timeout: float) -> None:
    """Wait until `client` sees `n` engines; it asks its cluster meanwhile whether they can still come.

    Raises
    ------
    LaunchError
        If they do not come within `timeout` seconds, or not as one world for each set.
    """
    engine_sets = list(engine_sets)
    try:
        client.wait_for_engines(n, timeout=timeout)
    except EngineError as error:
        raise LaunchError(str(error)) from error
    except TimeoutError as error:
        said = "\n".join(one.get_output(40) for one in engine_sets).strip() or "nothing"
        raise LaunchError(
            f"{len(client.ids)} of {n} engines connected within {timeout:g} s (engine_timeout). "
            f"They said: {said}"
        ) from error
    _check_worlds(client, engine_sets)


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


def _worlds(client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
    return [world for world in client._ask("status")["worlds"] if world["engine_set"] in names]
