"""A backend of joblib whose jobs run on engines; joblib is optional, and imported with this module."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joblib.parallel import (
    AutoBatchingMixin,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.wire.calls import run_captured

if TYPE_CHECKING:
    from mpiparallel.client.balanced import LoadBalancedView


class EnginesBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs joblib's batches as balanced tasks.

    Parameters
    ----------
    find_view
        Returns the view to use; called when the first jobs come.
    """

    default_n_jobs = -1
    supports_retrieve_callback = True

    def __init__(self, find_view: Callable[[], LoadBalancedView], **options: Any) -> None:
        super().__init__(**options)
        self._find_view = find_view
        self._view: LoadBalancedView | None = None
        self._calls: weakref.WeakSet[AsyncResult] = weakref.WeakSet()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def view(self) -> LoadBalancedView:
        """The view by which jobs run."""
        if self._view is None:
            self._view = self._find_view()._snapshot()
            self._view.set_flags(block=False)
        return self._view

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many jobs can run at once: as many as there are engines, or fewer if so asked for.

        Raises
        ------
        ValueError
            If `n_jobs` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        engines = max(1, len(self.view) // self.view.ranks)
        if n_jobs is None:
            return engines
        return min(n_jobs, engines) if n_jobs > 0 else max(1, engines + 1 + n_jobs)

    def start_call(self) -> None:
        """Start the thread that tells joblib what is done: it draws the next jobs, which are user code."""
        # In the I/O thread that code could not wait for anything that comes from an engine.
        self._done = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_tell, args=[self._done], name="mpiparallel-joblib", daemon=True
        )
        self._thread.start()

    def stop_call(self) -> None:
        """End that thread."""
        self._done.put(None)
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def submit(self, func: Any, callback: Any = None) -> AsyncResult:
        """Send a batch and return the future of its results."""
        call = self.view.apply_async(run_captured, func)
        self._calls.add(call)
        if callback is not None:
            done = self._done
            call.add_done_callback(lambda call: done.put((callback, call)))
        return call

    def retrieve_result_callback(self, out: AsyncResult) -> Any:
        """Return the results of a batch, or raise what a job raised, as that very exception."""
        return out.get().value()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Take batches that have not begun out of the queues."""
        calls = [call for call in list(self._calls) if not call.done()]
        self.view.client._connection.abort([task for call in calls for task in call._tasks])
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Return what ``Parallel`` within a job uses: an engine is one rank, and runs one thing at a time."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


def _tell(done: queue.SimpleQueue[Any]) -> None:
    while (item := done.get()) is not None:
        callback, call = item
        callback(call)


def register(name: str, view: LoadBalancedView, make_default: bool = False) -> None:
    """Do what `LoadBalancedView.register_joblib_backend` says."""
    register_factory(name, lambda: view, make_default)


def register_factory(name: str, find_view: Callable[[], LoadBalancedView], make_default: bool) -> None:
    """Register a backend of this name, whose view is found when it is needed."""

    def make(**options: Any) -> EnginesBackend:
        return EnginesBackend(find_view, **options)

    names = {name, "mpiparallel"} if name == "ipyparallel" else {name}
    for one in sorted(names, key=lambda one: one == name):
        register_parallel_backend(one, make, make_default=make_default and one == name)
