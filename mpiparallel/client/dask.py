"""Engines as workers of dask.distributed; dask is optional, and imported when it is asked for.

The scheduler runs in the client's process, so the engines' hosts must be able to reach the client's.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from mpiparallel.wire.references import Reference

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

_MODULE = "__import__('mpiparallel.engine.daskworker', fromlist=['start'])"


class DaskSession:
    """A scheduler here and a worker in each of some engines; made by `Client.become_dask`."""

    def __init__(self, client: Client, engines: list[int], port: int, scheduler_args: dict[str, Any]) -> None:
        import distributed

        self._client, self.engines = client, set(engines)
        options = {"host": _own_address(client, engines), "scheduler_port": port, "dashboard_address": ":0"}
        self.cluster = distributed.LocalCluster(n_workers=0, **{**options, **scheduler_args})
        self.dask_client = distributed.Client(self.cluster)

    def add(self, engines: list[int], worker_args: dict[str, Any]) -> None:
        """Start workers, and wait until the scheduler knows them."""
        address = self.cluster.scheduler_address
        calls = [
            self._client[engine].apply_async(
                Reference(f"{_MODULE}.start"), address,
                {"nthreads": 1, "name": f"engine-{engine}", "dashboard": False, **worker_args},
            )
            for engine in engines
        ]  # fmt: skip
        self.engines |= set(engines)
        for call in calls:
            call.get()
        self.dask_client.wait_for_workers(len(self.engines))

    def remove(self, engines: list[int]) -> bool:
        """Stop workers, and all when none is left; return whether that is so."""
        present = [engine for engine in engines if engine in self._client.ids and engine in self.engines]
        if present:
            self._client[present].apply_sync(Reference(f"{_MODULE}.stop"))
        self.engines -= set(engines)
        if not self.engines:
            self.close()
        return not self.engines

    def close(self) -> None:
        """End client and scheduler of dask."""
        self.dask_client.close()
        self.cluster.close()


def become(
    client: Client, targets: Any, port: int, nanny: bool, scheduler_args: Any, worker_args: dict[str, Any]
) -> Any:
    """Do what `Client.become_dask` says."""
    if nanny:
        raise ValueError(
            "nanny=True: a nanny restarts its worker, but an engine is a rank of an MPI job and cannot be "
            "started again on its own"
        )
    engines = client._engine_ids(targets)
    session: DaskSession | None = client._dask
    if session is None:
        session = client._dask = DaskSession(client, engines, port, dict(scheduler_args or {}))
    try:
        session.add(engines, worker_args)
    except BaseException:
        stop(client, targets)
        raise
    return session.dask_client


def stop(client: Client, targets: Any) -> None:
    """Do what `Client.stop_dask` says."""
    session: DaskSession | None = client._dask
    if session is None:
        return
    everybody = isinstance(targets, str) and targets == "all"
    if session.remove(sorted(session.engines) if everybody else client._engine_ids(targets)):
        client._dask = None


def _own_address(client: Client, engines: list[int]) -> str:
    """Return the address of this host by which the engines can reach it."""
    known, here = client._connection.engines, socket.gethostname()
    away = [known[engine].host for engine in engines if known[engine].host != here]
    if not away:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((away[0], 9))  # sends nothing: it only chooses the interface
        return str(probe.getsockname()[0])
