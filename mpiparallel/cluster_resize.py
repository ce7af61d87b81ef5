"""The part of `Cluster` that makes its engines more or fewer.

Only `cluster.Cluster` derives from it. The size of an MPI world is fixed when it starts: more engines are a
further world, fewer are fewer worlds, and anything else is a new start.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mpiparallel import cluster_engines
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.ranges import engines as engines_text
from mpiparallel.ranges import ranges

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

NOTICED = 5.0  # seconds that this program's clients may take to hear of the change


class ResizingCluster:
    """What `Cluster` does to have another number of engines."""

    n: int | None
    engines: dict[str, EngineSet]
    start_engines_sync: Callable[..., str]
    stop_engines_sync: Callable[..., None]
    connect_client_sync: Callable[..., Client]
    wait_for_sets_sync: Callable[..., None]
    learn_ids: Callable[[Client], None]
    update_cluster_file: Callable[[], None]
    _living_controller: Callable[[], Controller | None]
    _will_restart: Callable[[EngineSet], bool]
    _clients: list[weakref.ref[Client]]
    _resizing: threading.Lock

    def _prepare_clients(self) -> None:
        self._clients, self._resizing = [], threading.Lock()

    def _note_client(self, client: Client) -> Client:
        """Remember a client of this cluster as long as somebody holds it."""
        self._clients = [*(ref for ref in self._clients if ref() is not None), weakref.ref(client)]
        return client

    def living_clients(self) -> list[Client]:
        """Return the clients that this object has made and that are connected."""
        clients = [ref() for ref in self._clients]
        return [
            client
            for client in clients
            if client is not None and client._connection.gone is None and client._connection.lost is None
        ]

    def resize_sync(self, n: int, restart: bool = False) -> None:
        """Have `n` engines from now on, and return when that is so.

        An MPI world keeps its size. *More* engines join as a world of their own: those that are there keep
        their ids and variables, and ``comm`` on the new ones is among the new ones. *Fewer*: whole worlds
        leave, the youngest first. Where that does not give `n`, nothing is done and an error says what is
        possible.

        Parameters
        ----------
        n
            How many engines. Those which other programs have added to this cluster do not count.
        restart
            Start all engines again, as one world of `n`: ``comm`` is among all of them, and all that was in
            their namespaces is lost.

        Raises
        ------
        ValueError
            If no number of whole worlds that leave would leave `n` engines.
        RuntimeError
            If the cluster does not run.
        LaunchError
            If the new engines do not come; the others are as they were.
        """
        if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
            raise ValueError(f"n={n!r}: the number of engines is a whole number, not below zero")
        if self._living_controller() is None:
            raise RuntimeError(f"{self!r} does not run: start_and_connect_sync({n}) starts it")
        with self._resizing, self.connect_client_sync() as client:
            self.learn_ids(client)
            if restart:
                leaving, more = list(self.engines), n
                first = min((one.first for one in self.engines.values() if one.first >= 0), default=-1)
            else:
                (leaving, more), first = self._plan(client, n), -1
            self._replace(client, leaving, more, first)
            self.n = n
            self.update_cluster_file()

    def resize_plan(self, n: int) -> tuple[list[str], int]:
        """Return which engine sets would leave and how many engines would join for `resize_sync` of `n`.

        Raises
        ------
        ValueError
            As there.
        """
        with self.connect_client_sync() as client:
            return self._plan(client, n)

    def _plan(self, client: Client, n: int) -> tuple[list[str], int]:
        return plan(self._sizes(client), n, {name: _ids(one) for name, one in list(self.engines.items())})

    def _replace(self, client: Client, leaving: Iterable[str], more: int, first: int) -> None:
        """Stop some sets and start one of `more` engines; wait for both, here and at our clients."""
        leaving, wanted = list(leaving), self.n
        old = cluster_engines.worlds_of(client, leaving)
        for name in leaving:
            self.stop_engines_sync(name)
        new: set[str] = set()
        if more:
            name = self.start_engines_sync(more, first=first)
            try:
                self.wait_for_sets_sync(client, [name])
            except BaseException:
                self.n = wanted
                self.stop_engines_sync(name)
                raise
            self.learn_ids(client)
            new = cluster_engines.worlds_of(client, [name])
        deadline = time.monotonic() + NOTICED
        for other in self.living_clients():
            _await_worlds(other, old, new, more, deadline)

    def _sizes(self, client: Client) -> dict[str, int]:
        """Return how many engines of each set are there, or on their way."""
        sizes = {}
        for name, one in list(self.engines.items()):
            alive = one.running or self._will_restart(one)
            sizes[name] = (len(cluster_engines.ids_of(client, [name])) or one.n) if alive else 0
        return sizes


def plan(sizes: Mapping[str, int], n: int, ids: Mapping[str, str] | None = None) -> tuple[list[str], int]:
    """Return which worlds leave, and how many engines join, for `n` engines.

    Parameters
    ----------
    sizes
        How many engines each world has, the oldest first. One that has none any more leaves in any case.
    n
        How many engines there shall be.
    ids
        Names of the worlds' engines, for people.

    Raises
    ------
    ValueError
        If whole worlds do not do.

    Examples
    --------
    >>> plan({"a": 4, "b": 2}, 8)
    ([], 2)
    >>> plan({"a": 4, "b": 2}, 4)
    (['b'], 0)
    """
    ended = [name for name, size in sizes.items() if not size]
    there = sum(sizes.values())
    if n >= there:
        return ended, n - there
    # For each number of engines the worlds that have so many, the youngest where there is a choice.
    leave: dict[int, list[str]] = {0: []}
    for name, size in reversed(list(sizes.items())):
        if size:
            for count, names in list(leave.items()):
                leave.setdefault(count + size, [*names, name])
    if there - n in leave:
        return [*ended, *leave[there - n]], 0
    possible = ranges(sorted(there - count for count in leave))
    worlds = [(ids or {}).get(name, "") or f"{size} engines" for name, size in sizes.items() if size]
    raise ValueError(
        f"an MPI world keeps its size, and there is one of {', one of '.join(worlds)}: only whole worlds can "
        f"leave, and {possible} engines stay, not {n}. With restart=True all engines are started again, as "
        f"one world of {n}; what is in their namespaces is lost then"
    )


def _ids(one: EngineSet) -> str:
    return "" if one.first < 0 else engines_text(range(one.first, one.first + one.n))


def _await_worlds(client: Client, old: set[str], new: set[str], size: int, deadline: float) -> None:
    """Wait until a client has heard that the `old` worlds have left and the `new` have come."""
    connection: Any = client._connection

    def heard() -> bool:
        worlds = [info.world for info in connection.engines.values()]
        come = sum(world in new for world in worlds) >= size
        return connection.gone is not None or (come and not old.intersection(worlds))

    with connection.changed:
        connection.changed.wait_for(heard, max(0.0, deadline - time.monotonic()))
