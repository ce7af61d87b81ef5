"""The part of `Cluster` that starts engines again: when it is told to, and when a world has ended unasked.

Only `cluster.Cluster` derives from it. What has become of a world is asked of the controller, which knows
more than the exit code of mpiexec: one whose ranks survive each other ends well also when all were killed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel import cluster_engines
from mpiparallel.error import IPythonError, LaunchError
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launchoptions import LaunchOptions

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

log = logging.getLogger("mpiparallel.cluster")

WITHIN = 60.0  # seconds in which a set is started again only so often
NOTICED = 10.0  # ... that the controller may take to notice the end of a world
MODES = {False: "", None: "", True: "same", "same": "same", "fresh": "fresh"}


class RestartingCluster:
    """What `Cluster` does with engines that have to start again."""

    restart: str
    restart_limit: int
    controller: Controller | None
    engines: dict[str, EngineSet]
    engine_timeout: float
    options: LaunchOptions
    start_engines_sync: Callable[..., str]
    stop_engines_sync: Callable[..., None]
    connect_client_sync: Callable[..., Client]
    update_cluster_file: Callable[[], None]
    _sets: Callable[[str | None], list[str]]
    _living_controller: Callable[[], Controller | None]

    def _prepare_restarts(self, restart: Any, restart_limit: int) -> None:
        if restart not in MODES:
            raise ValueError(f"restart={restart!r}: expected False, 'same' or 'fresh'")
        self.restart, self.restart_limit = MODES[restart], restart_limit
        self._restarts: dict[str, deque[float]] = {}  # when each set was started again
        self._changing = threading.RLock()  # over the starting and the stopping of sets

    # ------------------------------------------------------------ as told

    def restart_engines_sync(self, engine_set_id: str | None = None, same_ids: bool = True) -> None:
        """Stop one set of engines, or all, and start as many again under the same name.

        With `same_ids` they get the ids that they had, so that views of them work again. It does not wait for
        them, as `Client.restart_engines` does.
        """
        names = self._sets(engine_set_id)
        if same_ids and any(self.engines[name].first < 0 for name in names):
            with self.connect_client_sync() as client:
                self.learn_ids(client)
        for name in names:
            engine_set = self.engines[name]
            self.stop_engines_sync(name)
            self.start_engines_sync(engine_set.n, name, engine_set.first if same_ids else -1)

    def learn_ids(self, client: Client) -> None:
        """Note which ids the engines of each set have, in the cluster file too."""
        if cluster_engines.learn_ids(client, self.engines.values()):
            self.update_cluster_file()

    def sets_of(self, client: Client, ids: Sequence[int] | None) -> list[str]:
        """Return the sets of these engines, by name; of all when None. Engines may have left.

        Raises
        ------
        ValueError
            If this cluster did not start one of them.
        """
        self.learn_ids(client)
        if ids is None:
            return list(self.engines)
        names = []
        for number in ids:
            known = [
                name for name, one in self.engines.items() if 0 <= one.first <= number < one.first + one.n
            ]
            if not known:
                raise ValueError(
                    f"engine {number} was not started by {self!r}, so that it cannot be started again"
                )
            names += [name for name in known if name not in names]
        return names

    def wait_for_sets_sync(self, client: Client, names: Sequence[str]) -> None:
        """Wait until `client` sees all engines of these sets.

        Raises
        ------
        LaunchError
            If one of the sets ends meanwhile, or they do not come within `engine_timeout`.
        """
        cluster_engines.wait_for_sets(
            client,
            lambda: [self.engines[name] for name in names],
            lambda one: not one.running and not self._will_restart(one),
            self.engine_timeout,
            self.options.queue_timeout,
        )

    # ------------------------------------------------------------ by itself

    def _engines_ended(self, engine_set: EngineSet) -> None:
        """See to a set whose mpiexec has ended; called in the thread that has waited for that."""
        controller = None if engine_set.process.asked_to_stop else self._living_controller()
        if controller is None:
            return
        if engine_set.state == "failed" and not self.restart:
            return  # which has been logged
        lost = self._how_lost(engine_set, controller)
        told = engine_set.state == "failed"
        engine_set.lost = lost
        if engine_set.state == "failed" and not told:
            log.warning("%s", engine_set.failure())
        if self.restart and engine_set.state == "failed":
            self._start_again(engine_set)

    def _how_lost(self, engine_set: EngineSet, controller: Controller | None) -> str:
        """Return why the world of a set was lost, by what the controller says; empty when it was not."""
        deadline = time.monotonic() + NOTICED
        # One that ends just now may never answer, so that it is asked with little patience.
        while controller is not None and not engine_set.process.asked_to_stop and time.monotonic() < deadline:
            try:
                with self.connect_client_sync(timeout=1.0) as client:
                    return cluster_engines.how_lost(client, engine_set, NOTICED)
            except TimeoutError:
                controller = self._living_controller()
            except (IPythonError, RuntimeError) as error:
                log.debug("the controller does not say what became of %r: %s", engine_set, error)
                break
        return ""

    def _will_restart(self, engine_set: EngineSet) -> bool:
        """Whether a set that has ended will be started again, now or when its end has been looked into."""
        wanted = bool(self.restart) and not engine_set.process.asked_to_stop
        # One that never came would not come the second time either.
        came = engine_set.first >= 0 or bool(engine_set.lost)
        times = self._restarts.setdefault(engine_set.name, deque())
        while times and time.monotonic() - times[0] > WITHIN:
            times.popleft()
        return wanted and came and len(times) < self.restart_limit

    def _start_again(self, engine_set: EngineSet) -> None:
        name = engine_set.name
        with self._changing:
            if self.engines.get(name) is not engine_set or engine_set.process.asked_to_stop:
                return  # it was replaced, or the cluster stops
            if not self._will_restart(engine_set):
                often = f"it was, {len(self._restarts[name])} times within {WITHIN:.0f} s (restart_limit)"
                why = often if engine_set.first >= 0 else "its engines had never come"
                log.warning("engine set %s is not started again: %s", name, why)
                return
            self._restarts[name].append(time.monotonic())
            first = engine_set.first if self.restart == "same" else -1
            which = "its old" if first >= 0 else "new"
            log.warning("engine set %s is started again, with %s ids: %s", name, which, engine_set.end())
            engine_set.clear_away()
            try:
                self.start_engines_sync(engine_set.n, name, first)
            except (LaunchError, OSError) as error:
                log.warning("engine set %s could not be started again: %s", name, error)
