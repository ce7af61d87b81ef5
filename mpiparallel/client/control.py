"""The client's questions and orders to the controller: abort, signals, shutdown, status, purging."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mpiparallel.client import interrupting, waiting
from mpiparallel.client import where as whereabouts
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.connection import Connection
from mpiparallel.client.tasks import History, Task, TaskMapping
from mpiparallel.wire.messages import Signal, Stop

if TYPE_CHECKING:
    from mpiparallel.client.views import DirectView
    from mpiparallel.client.where import Whereabouts


class ControlMixin:
    """The part of `Client` that is not about engines and views."""

    block: bool
    cluster: Any
    history: History
    results: TaskMapping
    outstanding: Any
    _connection: Connection
    _engine_ids: Any
    direct_view: Any
    _ask: Any

    # ------------------------------------------------------------ jobs

    def wait(self, jobs: Any = None, timeout: float = -1) -> bool:
        """Wait for `jobs`, by default all that are not done; return whether they are done.

        Parameters
        ----------
        jobs
            A msg_id, an index of the history, an AsyncResult or any Future, or a list of these.
        timeout
            Seconds; negative: as long as it takes.
        """
        return waiting.wait(self, jobs, timeout)  # type: ignore[arg-type]

    def wait_interactive(self, jobs: Any = None, interval: float = 1.0, timeout: float = -1.0) -> bool:
        """Wait as `wait` does, with a progress bar over all of the jobs."""
        return waiting.wait_interactive(self, jobs, interval, timeout)  # type: ignore[arg-type]

    def _tasks(self, jobs: Any) -> list[Task]:
        return waiting.find_tasks(self, jobs)  # type: ignore[arg-type]

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> None:
        """Take jobs out of their engines' queues where they have not begun.

        Parameters
        ----------
        jobs
            A msg_id, an AsyncResult, or a list of these; by default all that are not done.
        targets
            Only on these engines.
        block
            Wait until each of them has been aborted or has ended.

        Raises
        ------
        TypeError
            If a job is something else.
        """
        if targets is None:
            waiting.stop_sending(self, jobs)  # type: ignore[arg-type]
        tasks = self._connection.outstanding() if jobs is None else self._tasks(_check_jobs(jobs))
        if targets is not None:
            chosen = set(self._engine_ids(targets))
            tasks = [task for task in tasks if task.engine in chosen]
        self._connection.abort(tasks)
        if block:
            self.wait([task.msg_id for task in tasks])

    def clear(self, targets: Any = None, block: bool | None = None) -> AsyncResult | None:
        """Empty the namespaces of these engines, by default of all."""
        view = self.direct_view("all")
        return self._clear(
            view, "all" if targets is None else targets, bool(self.block if block is None else block)
        )

    def _clear(self, view: DirectView, targets: Any, block: bool) -> AsyncResult | None:
        tasks = view._submit("clear", self._engine_ids(targets), block=block, track=False)
        result = AsyncResult(self, tasks, "clear")  # type: ignore[arg-type]
        if not block:
            return result
        result.get()
        return None

    # ------------------------------------------------------------ engines

    def _answer(self, future: Future[Any], block: bool | None) -> Any:
        return future.result() if (self.block if block is None else block) else future

    def send_signal(self, sig: Any, targets: Any = None, block: bool | None = None) -> Any:
        """Send a Unix signal, by name or number, to the processes of these engines, by default of all."""
        number = signal_number(sig)
        engines = self._engine_ids(targets)
        return self._answer(self._connection.ask(lambda query: Signal(engines, number, query)), block)

    def interrupt(self, targets: Any = None) -> None:
        """Interrupt what runs on these engines, by default on all, as Ctrl-C does at a prompt.

        It reaches Python code, ``time.sleep`` and MPI calls, and raises KeyboardInterrupt there. Returns when
        the controller has passed it on; engines that are idle do not notice.
        """
        interrupting.interrupt(self._connection, self._engine_ids(targets))

    def where(self, targets: Any = None, timeout: float = whereabouts.PATIENCE) -> Whereabouts:
        """Return what these engines, by default all, are doing at this moment.

        Works while requests run, from any thread, and when engines hang.

        >>> rc.where()  # doctest: +SKIP
        engines 0-2, 4-63  blocked 12.1 s in Allreduce (COMM_WORLD, with engine 3)  cell line 5: f(x)
        engine 3           running 12.4 s                                           cell line 3: g(x)

        Parameters
        ----------
        targets
            Which engines.
        timeout
            Seconds that the answer may take.

        Raises
        ------
        TimeoutError
            If the controller does not answer in time.
        """
        return whereabouts.ask(self._connection, self._engine_ids(targets, empty=True), timeout)

    def shutdown(
        self, targets: Any = "all", restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> Any:
        """End engines, and with `hub` the controller too.

        Parameters
        ----------
        targets
            Which engines.
        restart
            Start them again; this needs the `Cluster` that started them.
        hub
            End everything; the client is closed afterwards.
        block
            Wait until the controller has said that it is done.
        """
        if restart:
            return self.restart_engines(targets, block=bool(self.block if block is None else block))
        engines = self._engine_ids("all" if hub else targets, empty=hub)
        future = self._connection.ask(lambda query: Stop(engines, controller=hub, query=query))
        if not hub:
            return self._answer(future, block)
        try:
            future.result(30)
        except RuntimeError:
            pass  # it left without an answer, which is what was asked for
        self._connection.close()
        return None

    def restart_engines(self, targets: Any = None, same_ids: bool = True, block: bool = True) -> None:
        """Start engines again: all of each world that one of `targets` is in, by default all.

        Parameters
        ----------
        targets
            Which engines; they may have left.
        same_ids
            Whether they get the ids that they had, so that views of them work again, or new ones.
        block
            Wait until they are there.

        Raises
        ------
        RuntimeError
            If this client has no `Cluster`, which starts engines.
        ValueError
            If the cluster did not start one of them.
        LaunchError
            If they do not come.
        """
        if self.cluster is None:
            raise RuntimeError(
                "starting engines again needs the Cluster that started them, which this client lacks: "
                "use Cluster.restart_engines, or start engines with: mpiparallel engines -n N"
            )
        if targets is None or (isinstance(targets, str) and targets == "all"):
            ids = None
        elif isinstance(targets, int):
            ids = [targets]
        else:
            ids = self._engine_ids(targets) if isinstance(targets, slice) else list(targets)
        names = self.cluster.sets_of(self, ids)
        for name in names:
            self.cluster.restart_engines_sync(name, same_ids)
        if block:
            self.cluster.wait_for_sets_sync(self, names)

    # ------------------------------------------------------------ questions

    def queue_status(self, targets: Any = "all", verbose: bool = False) -> dict[Any, Any]:
        """Return for each engine how many tasks are queued and completed, or with `verbose` which."""
        engines = self._engine_ids(targets)
        answer = self._ask("queue_status", engines=engines, verbose=verbose)
        status: dict[Any, Any] = {int(key): value for key, value in answer.items() if str(key).isdigit()}
        status.update((key, value) for key, value in answer.items() if not str(key).isdigit())
        return status[targets] if isinstance(targets, int) and targets in status else status


def _check_jobs(jobs: Any) -> list[Any]:
    listed = [jobs] if isinstance(jobs, (str, AsyncResult)) or not isinstance(jobs, Iterable) else list(jobs)
    for job in listed:
        if not isinstance(job, (str, AsyncResult)):
            raise TypeError(f"a job is a msg_id or an AsyncResult, not {job!r}")
    return listed


def signal_number(sig: Any) -> int:
    """Return the number of a signal given by number or name."""
    if isinstance(sig, str) and not sig.isdigit():
        name = sig.upper() if sig.upper().startswith("SIG") else f"SIG{sig.upper()}"
        try:
            return int(signal.Signals[name])
        except KeyError:
            raise ValueError(f"no signal is called {sig!r}") from None
    number = int(sig)
    if not 0 <= number <= 64:
        raise ValueError(f"no signal has the number {number}")
    return number
