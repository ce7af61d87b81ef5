"""A dask worker inside an engine, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

_running: list[_Worker] = []


class _Worker:
    """A `distributed.Worker` and the thread that it runs in."""

    def __init__(self, scheduler: str, options: dict[str, Any], timeout: float) -> None:
        self.started: Future[str] = Future()
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self._run(scheduler, options)), name="mpiparallel-dask", daemon=True
        )
        self.thread.start()
        self.address = self.started.result(timeout)

    async def _run(self, scheduler: str, options: dict[str, Any]) -> None:
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            from distributed import Worker

            worker = await Worker(scheduler, **options)
        except BaseException as problem:
            self.started.set_exception(problem)
            return
        self.started.set_result(worker.address)
        asked, ended = asyncio.ensure_future(self.stopping.wait()), asyncio.ensure_future(worker.finished())
        await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        await worker.close(reason="the engine's worker is stopped", nanny=False)
        await ended

    def stop(self, timeout: float) -> bool:
        """End the worker and return whether it has ended in time."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stopping.set)
            self.thread.join(timeout)
        return not self.thread.is_alive()


def start(scheduler: str, options: dict[str, Any], timeout: float = 60.0) -> str:
    """Start this engine's worker for the scheduler of this address; return the worker's own."""
    stop(timeout)
    _running.append(_Worker(scheduler, options, timeout))
    return _running[0].address


def stop(timeout: float = 30.0) -> bool:
    """End this engine's worker, if it has one, and return whether it had."""
    if not _running:
        return False
    if not _running[0].stop(timeout):
        raise TimeoutError(f"the dask worker of this engine did not end within {timeout:g} s")
    del _running[0]
    return True
