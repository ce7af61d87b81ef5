"""What is on the card of a `Cluster` and of a `ClusterManager`.

The card of a cluster says what its processes do, and where its engines are as far as one of its clients here
knows. Nobody is asked anything.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpiparallel.client.looks import Card, Mood, Shown, Squares, mpi_name, name_of, some
from mpiparallel.ranges import ranges

if TYPE_CHECKING:
    from mpiparallel.client.client import Client
    from mpiparallel.client.connection import Connection
    from mpiparallel.cluster import Cluster

HOSTS = 4  # hosts of one engine set that are named


@dataclass(frozen=True)
class SetState:
    """An engine set for the card: `hosts` has the engines that are connected, by host; None: nobody knows."""

    name: str
    n: int
    state: str
    first: int = -1
    hosts: Mapping[str, Sequence[int]] | None = None
    mpi: str = ""
    end: str = ""  # how it has ended
    waits: str = ""  # in which queue, and why

    @property
    def connected(self) -> int | None:
        """How many of its engines are connected; None: nobody knows."""
        return None if self.hosts is None else sum(map(len, self.hosts.values()))


@dataclass(frozen=True)
class ClusterState:
    """A cluster for its card."""

    name: str = "cluster"  # what the user calls it
    n: int | None = None
    profile: str = "default"
    cluster_id: str = ""
    folder: Path = Path()
    controller: str = ""  # its state; empty: there is none
    where: str = ""  # the process, or the job
    end: str = ""  # how the controller has ended
    waits: str = ""  # in which queue the controller does, and why
    elsewhere: str = ""  # the host on which it runs, if not this one
    sets: Sequence[SetState] = field(default_factory=list)


class ShownCluster(Shown):
    """What `Cluster` shows of itself."""

    _panel: Any = None
    living_clients: Callable[[], list[Client]]

    def _card(self) -> Card:
        return cluster_card(state_of(self))  # type: ignore[arg-type]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mpiparallel import cluster_widget

        return cluster_widget.bundle(self)

    def living_connections(self) -> list[Connection]:
        """Return connections that tell which engines are there: those of clients here, and the panel's."""
        clients = [client._connection for client in self.living_clients()]
        own = None if self._panel is None else self._panel.connection
        return clients if own is None or own.gone or own.lost else [*clients, own]

    def _show_change(self) -> None:
        """Tell the panel in the notebook, if there is one, that something has changed."""
        if self._panel is not None:
            self._panel.changed()


def state_of(cluster: Cluster) -> ClusterState:
    """Return what there is to say of a cluster."""
    controller = cluster.controller
    return ClusterState(
        name=name_of(cluster, "cluster"),
        n=cluster.n,
        profile=cluster.profile,
        cluster_id=cluster.cluster_id,
        folder=cluster.folder,
        controller="" if controller is None else controller.state,
        where="" if controller is None else controller.process.name,
        end="" if controller is None or controller.running else controller.end(),
        waits="" if controller is None else controller.process.what_it_waits_for(),
        elsewhere="" if cluster.host == socket.gethostname() else cluster.host,
        sets=[_set_state(cluster, name) for name in list(cluster.engines)],
    )


def _set_state(cluster: Cluster, name: str) -> SetState:
    one = cluster.engines[name]
    hosts: dict[str, list[int]] | None = None
    mpi = ""
    for connection in cluster.living_connections()[:1] if one.first >= 0 else []:
        hosts = {}
        for number, info in connection.engines.items():
            if one.first <= number < one.first + one.n:
                hosts.setdefault(info.host, []).append(number)
                mpi = mpi_name(info.mpi)
    end = "" if one.running or one.process.asked_to_stop else one.end()
    return SetState(name, one.n, one.state, one.first, hosts, mpi, end, one.process.what_it_waits_for())


def cluster_card(state: ClusterState) -> Card:
    """Return the card of a cluster."""
    facts = [("cluster", f"{state.cluster_id or '(the default)'}, profile {state.profile}")]
    facts.append(("folder", str(state.folder)))
    name = state.name
    if not state.controller:
        count = "as many engines as cores" if state.n is None else some(state.n, "engine")
        return Card(
            "Cluster",
            "not started",
            "off",
            [*facts, ("starts", count)],
            commands=[
                (f"rc = {name}.start_and_connect_sync()", "start it and wait for the engines"),
                (f"rc = await {name}.start_and_connect()", "the same, while other code runs"),
            ],
        )
    if state.elsewhere:
        commands = [(f"rc = {name}.connect_client_sync()", "if it is still there")]
        return Card("Cluster", f"of host {state.elsewhere}", "busy", facts, commands=commands)
    facts.append(("controller", f"{state.controller}, {state.where}"))
    rows = [_row(one) for one in state.sets]
    mpis = ", ".join(dict.fromkeys(one.mpi for one in state.sets if one.mpi))
    facts += [("MPI", mpis)] if mpis else []
    broken = [one for one in state.sets if one.state == "failed"]
    notes = [state.end] if state.controller != "running" and state.end else []
    notes += [f"engine set {one.name}: {one.end}" for one in broken]
    notes += dict.fromkeys(waits for waits in (state.waits, *(one.waits for one in state.sets)) if waits)
    return Card(
        "Cluster",
        _state(state),
        _mood(state),
        facts,
        ["engine set", "size", "engines", "hosts", "state", ""],
        rows,
        notes,
        _commands(state, broken),
    )


def _state(state: ClusterState) -> str:
    if state.controller != "running":
        return f"its controller has {'failed' if state.controller == 'failed' else 'ended'}"
    if state.waits:
        return "waits in the queue"
    wanted = sum(one.n for one in state.sets if one.state == "running")
    connected = [one.connected for one in state.sets if one.state == "running"]
    known = sum(count for count in connected if count is not None)
    text = f"runs, {some(wanted, 'engine')}"
    if connected and None not in connected:
        text += "" if known == wanted else f", {known} of them connected"
    return text + (" in " + some(len(connected), "world") if len(connected) > 1 else "")


def _mood(state: ClusterState) -> Mood:
    if state.controller != "running":
        return "bad"
    if any(one.state == "failed" for one in state.sets):
        return "bad"
    if state.waits or any(one.waits for one in state.sets):
        return "busy"
    whole = all(one.connected in (None, one.n) for one in state.sets)
    return "good" if state.sets and whole else "busy"


def _row(one: SetState) -> list[str | Squares]:
    ids = hosts = ""
    squares: list[tuple[Mood, str]] = []
    if one.hosts is not None:
        present = {number: host for host, numbers in one.hosts.items() for number in numbers}
        ids = ranges(present)
        alone = len(one.hosts) == 1
        named = [host if alone else f"{host} ({ranges(numbers)})" for host, numbers in one.hosts.items()]
        hosts = ", ".join(named) if len(named) <= HOSTS else f"{len(named)} hosts"
        for number in range(one.first, one.first + one.n):
            where = f"on {present[number]}" if number in present else "is not there"
            squares.append(("good" if number in present else "off", f"engine {number} {where}"))
    elif one.first >= 0:
        ids = ranges(range(one.first, one.first + one.n))
    return [one.name, str(one.n), ids, hosts, "waiting" if one.waits else one.state, Squares(squares)]


def _commands(state: ClusterState, broken: Sequence[SetState]) -> list[tuple[str, str]]:
    name = state.name
    if state.controller != "running":
        return [
            (f"{name}.stop_cluster_sync()", "clears up; then it can be started again"),
            (f"print({name}.controller.get_output())", "what the controller said"),
        ]
    if broken:
        return [
            (f"print({name}.engines[{broken[0].name!r}].get_output())", "what they said"),
            (f"{name}.restart_engines_sync({broken[0].name!r})", "start them again"),
        ]
    if not state.sets:
        return [
            (f"{name}.start_engines_sync({state.n or 4})", "engines for it"),
            (f"{name}.stop_cluster_sync()", "end it"),
        ]
    more = 2 * sum(one.n for one in state.sets)
    return [
        (f"rc = {name}.connect_client_sync()", "a client"),
        (f"{name}.resize_sync({more})", "so many engines"),
        (f"{name}.stop_cluster_sync()", "end it"),
    ]


def manager_card(name: str, states: Mapping[str, ClusterState]) -> Card:
    """Return the card of a manager of several clusters, by key."""
    rows: list[list[str | Squares]] = []
    for key, state in states.items():
        card = cluster_card(state)
        rows.append([key, card.state, str(state.folder)])
    running = sum(state.controller == "running" for state in states.values())
    commands = [(f"{name}.get_cluster({next(iter(states))!r})", "one of them")] if states else []
    commands += [
        (f"key, cluster = {name}.new_cluster(n=4)", "a new one, not started"),
        (f"{name}.load_clusters()", "look for those that run"),
    ]
    text = f"{some(len(states), 'cluster')}" + (f", {running} running" if states else "")
    columns = ["key", "state", "folder"]
    return Card("ClusterManager", text, "good" if running else "off", (), columns, rows, (), commands)
