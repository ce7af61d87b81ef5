"""The asyncio half of `Cluster`: each method runs its ``_sync`` twin in a thread; and the context managers.

Only `cluster.Cluster` derives from it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

    from mpiparallel.client.client import Client

T = TypeVar("T")


class AsyncCluster:
    """What `Cluster` offers to coroutines."""

    given_up: threading.Event
    start_controller_sync: Callable[[], None]
    start_engines_sync: Callable[..., str]
    start_cluster_sync: Callable[..., Any]
    start_and_connect_sync: Callable[..., Client]
    connect_client_sync: Callable[..., Client]
    stop_engines_sync: Callable[..., None]
    stop_controller_sync: Callable[[], None]
    stop_cluster_sync: Callable[[], None]
    restart_engines_sync: Callable[..., None]
    resize_sync: Callable[..., None]
    signal_engines_sync: Callable[..., None]
    _context_client: Client | None = None

    async def start_controller(self) -> None:
        """Start the controller and wait until it takes connections."""
        await self._in_thread(self.start_controller_sync)

    async def start_engines(self, n: int | None = None, engine_set_id: str | None = None) -> str:
        """Start a set of `n` engines, one MPI world, and return its name."""
        return await self._in_thread(lambda: self.start_engines_sync(n, engine_set_id))

    async def start_cluster(self, n: int | None = None) -> Self:
        """Start the controller and one set of `n` engines."""
        await self._in_thread(lambda: self.start_cluster_sync(n), undo=lambda _: self.stop_cluster_sync())
        return self

    async def start_and_connect(self, n: int | None = None, activate: bool = False) -> Client:
        """Start the cluster, wait for its engines and return a client."""
        return await self._in_thread(lambda: self.start_and_connect_sync(n, activate), self._disconnect)

    async def connect_client(self, **kwargs: Any) -> Client:
        """Return a `Client` of this cluster; `kwargs` are its."""
        return await self._in_thread(lambda: self.connect_client_sync(**kwargs))

    async def stop_engines(self, engine_set_id: str | None = None) -> None:
        """Stop one set of engines, or all of them."""
        await self._in_thread(lambda: self.stop_engines_sync(engine_set_id))

    async def stop_controller(self) -> None:
        """Stop the controller; its engines go with it."""
        await self._in_thread(self.stop_controller_sync)

    async def stop_cluster(self) -> None:
        """Stop everything, and leave no file behind."""
        await self._in_thread(self.stop_cluster_sync)

    async def restart_engines(self, engine_set_id: str | None = None, same_ids: bool = True) -> None:
        """Stop one set of engines, or all, and start as many again, with the same ids or with new ones."""
        await self._in_thread(lambda: self.restart_engines_sync(engine_set_id, same_ids))

    async def resize(self, n: int, restart: bool = False) -> None:
        """Have `n` engines from now on, by worlds that join or leave; with `restart`, as one new world."""
        await self._in_thread(lambda: self.resize_sync(n, restart))

    async def signal_engines(self, signum: int, engine_set_id: str | None = None) -> None:
        """Send a signal to every engine of one set, or of all."""
        await self._in_thread(lambda: self.signal_engines_sync(signum, engine_set_id))

    def _disconnect(self, client: Client) -> None:
        client.close()
        self.stop_cluster_sync()

    async def _in_thread(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Run `work` in a thread; when the caller is cancelled, `work` has cleaned up before we return.

        What had succeeded by then, too late to be given up, is taken back by `undo`.
        """
        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.given_up.set()
            await asyncio.wait([task])
            self.given_up.clear()
            if undo is not None and task.exception() is None:
                await asyncio.to_thread(undo, task.result())
            raise

    def __enter__(self) -> Client:
        self._context_client = self.start_and_connect_sync()
        return self._context_client

    def __exit__(self, *error: object) -> None:
        if self._context_client is not None:
            self._context_client.close()
            self._context_client = None
        self.stop_cluster_sync()

    async def __aenter__(self) -> Client:
        return await self._in_thread(self.__enter__, lambda _: self.__exit__())

    async def __aexit__(self, *error: object) -> None:
        await self._in_thread(lambda: self.__exit__(*error))
