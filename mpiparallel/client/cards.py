"""What is on the cards of clients and views.

The functions with plain arguments are pure. Those that take an object look at what is known here; of the
controller only `queues` asks something, and it waits for a moment at most.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout  # another class before Python 3.11
from typing import TYPE_CHECKING, Any

from mpiparallel import error
from mpiparallel.client.looks import (
    Card,
    Mood,
    Squares,
    has_magic,
    mpi_name,
    name_of,
    one_line,
    shell_command,
    some,
)
from mpiparallel.ranges import engines as engines_text
from mpiparallel.ranges import ranges
from mpiparallel.wire.messages import Ask, EngineInfo

if TYPE_CHECKING:
    from mpiparallel.client.client import Client
    from mpiparallel.client.connection import Connection
    from mpiparallel.client.view_base import View

CLOSED = "Connections have been closed."  # why there is none, when the user has closed it
PATIENCE = 0.25  # seconds that the controller has to say how long the queues are
Command = tuple[str, str]
Queues = Mapping[int, int]  # how many tasks each engine has


# ---------------------------------------------------------------- engines


def engine_table(
    engines: Sequence[EngineInfo],
    tasks: Queues | None,
    all_engines: Iterable[EngineInfo] | None = None,
    idle: Mood = "good",
) -> tuple[list[str], list[list[str | Squares]]]:
    """Return a table of engines by host and world.

    `tasks` says how many each of them has; `all_engines` are those that there are, if these are some of them;
    `idle` is the mood of those without tasks.
    """
    worlds: dict[str, int] = {}
    groups: dict[tuple[str, str], list[EngineInfo]] = {}
    for engine in engines:
        worlds.setdefault(engine.world, len(worlds) + 1)
        groups.setdefault((engine.host, engine.world), []).append(engine)
    there: dict[str, int] = {}
    for engine in engines if all_engines is None else all_engines:
        there[engine.world] = there.get(engine.world, 0) + 1
    rows: list[list[str | Squares]] = []
    for (host, world), several in groups.items():
        ids = [engine.id for engine in several]
        busy = [number for number in ids if tasks is not None and tasks.get(number)]
        size = several[0].size
        named = f"{worlds[world]}" if len(worlds) > 1 else ""
        if there[world] < size:
            named = f"{named}: {there[world]} of {size} ranks".removeprefix(": ")
        rows.append([host, ranges(ids), named, _work(ids, busy, tasks), _squares(several, tasks, idle)])
    return ["host", "engines", "world", "work", ""], rows


def _work(ids: Sequence[int], busy: Sequence[int], tasks: Queues | None) -> str:
    if tasks is None:
        return ""
    if not busy:
        return "idle"
    waiting = sum(tasks[number] - 1 for number in busy)
    who = "busy" if len(busy) == len(ids) else f"{len(busy)} busy"
    return who + (f", {waiting} queued" if waiting else "")


def _squares(engines: Sequence[EngineInfo], tasks: Queues | None, idle: Mood) -> Squares:
    moods: list[tuple[Mood, str]] = []
    for engine in engines:
        count = (tasks or {}).get(engine.id, 0)
        work = "" if tasks is None else ", idle" if not count else f", {some(count, 'task')}"
        says = f"engine {engine.id}: rank {engine.rank} of {engine.size}, pid {engine.pid}{work}"
        moods.append(("busy" if count else idle, says))
    return Squares(moods)


def where_text(engines: Sequence[EngineInfo]) -> str:
    """Return how many engines there are on how many hosts and in how many worlds.

    >>> where_text([])
    'no engines'
    """
    count = some(len(engines), "engine")
    if not engines:
        return count
    hosts = list(dict.fromkeys(engine.host for engine in engines))
    worlds = len({engine.world for engine in engines})
    where = f"on {hosts[0]}" if len(hosts) == 1 else f"on {len(hosts)} hosts"
    return f"{count} {where}" + (f", in {worlds} worlds" if worlds > 1 else "")


def _mpis(engines: Iterable[EngineInfo]) -> str:
    return ", ".join(dict.fromkeys(mpi_name(engine.mpi) for engine in engines if engine.mpi))


def _departures(departed: Mapping[int, str]) -> list[str]:
    """Return which engines have left and why, the last first."""
    reasons: dict[str, list[int]] = {}
    for number, reason in reversed(list(departed.items())):
        reasons.setdefault(reason, []).append(number)
    return [
        f"{engines_text(several)} left" + (f": {reason}" if reason else "")
        for reason, several in reasons.items()
    ]


def queues(connection: Connection) -> tuple[Queues, int] | None:
    """Return how many tasks each engine has and how many wait for one, or None if nobody says so at once."""
    if trouble(connection) or connection.lost is not None or connection._io.is_current():
        return None
    if not connection._io.has_room:
        return None
    try:
        answer = connection.ask(lambda query: Ask(query, "queue_status")).result(PATIENCE)
    except (FutureTimeout, RuntimeError, error.RemoteError):
        return None  # it has just ended, or is busy: what is known here has to do
    counts = {int(key): int(value["queue"]) for key, value in answer.items() if str(key).isdigit()}
    return counts, int(answer["unassigned"])


def status(connection: Connection, patience: float) -> dict[str, Any]:
    """Return what the controller says of its worlds, if it does so within `patience` seconds.

    Raises
    ------
    TimeoutError
        If it does not.
    """
    try:
        return dict(connection.ask(lambda query: Ask(query, "status")).result(patience))
    except FutureTimeout:
        raise TimeoutError(
            f"the controller did not say within {patience:g} s which worlds there are"
        ) from None


def trouble(connection: Connection) -> str:
    """Return why a connection cannot be used; empty when it can."""
    if os.getpid() != connection.pid:
        return f"it belongs to process {connection.pid}, of which this one is a child"
    return connection.gone or ""


# ---------------------------------------------------------------- clients


def client_card(client: Client) -> Card:
    """Return the card of a client."""
    connection = client._connection
    cluster, name = client.cluster, name_of(client, "rc")
    problem = trouble(connection)
    if problem:
        if cluster is not None:
            how = "connect_client_sync" if cluster.controller is not None else "start_and_connect_sync"
            again = f"{name_of(cluster, f'{name}.cluster')}.{how}()"
        elif connection.path is not None and connection.path.exists():
            again = f"ipp.Client({str(connection.path)!r})"
        else:
            again = "ipp.Client()"
        return ended_client("" if problem == CLOSED else problem, name, again)
    if connection.lost is not None:
        return lost_client(connection.lost, name, list(connection.engines.values()))
    status = queues(connection)
    tasks, waiting = (None, 0) if status is None else status
    return present_client(
        list(connection.engines.values()),
        dict(connection.departed),
        name=name,
        host=connection.info.host,
        cluster_id=connection.cluster_id,
        tasks=tasks,
        unassigned=waiting,
        pending=len(connection.outstanding()),
        more=_how_to_add(client),
        magic=has_magic(),
    )


def _how_to_add(client: Client) -> str:
    if client.cluster is not None:
        cluster = name_of(client.cluster, f"{name_of(client, 'rc')}.cluster")
        return f"{cluster}.start_engines_sync(4)"
    words = ["mpiparallel", "engines", "-n", "4", "--daemonize"]
    if client.profile not in ("", "default"):
        words += ["--profile", client.profile]
    if client._connection.cluster_id:
        words += ["--cluster-id", client._connection.cluster_id]
    return shell_command(words)


def present_client(
    engines: Sequence[EngineInfo],
    departed: Mapping[int, str],
    *,
    name: str = "rc",
    host: str = "",
    cluster_id: str = "",
    tasks: Queues | None = None,
    unassigned: int = 0,
    pending: int = 0,
    more: str = "",
    magic: bool = False,
) -> Card:
    """Return the card of a client whose controller is there."""
    columns, rows = engine_table(engines, tasks)
    facts = [("controller", f"on {host}" + (f", cluster {cluster_id}" if cluster_id else ""))]
    if engines:
        facts.append(("MPI", _mpis(engines)))
    queue = [f"{some(pending, 'task')} of this client not done"] if pending else []
    queue += [f"{some(unassigned, 'task')} waiting for an engine"] if unassigned else []
    if queue:
        facts.append(("queue", ", ".join(queue)))
    commands: list[Command]
    if engines:
        commands = [
            (f"{name}[:].apply_sync(f, x)", "f(x) on every engine"),
            (f"{name}.load_balanced_view().map_sync(f, items)", "items, to whoever is free"),
        ]
        if magic:
            commands.append(("%%px", "a cell on every engine"))
        if pending or any((tasks or {}).values()):
            commands.append((f"{name}.where()", "what they are doing"))
    else:
        commands = [(f"{name}.wait_for_engines(4)", "if they are on their way"), (more, "starts some")]
    mood: Mood = "good" if engines else "busy"
    if engines and any((tasks or {}).values()):
        mood = "busy"
    state = where_text(engines)
    if tasks is not None and engines:
        busy = sum(bool(count) for count in tasks.values())
        state += f", {busy} busy" if busy else ", idle"
    return Card(
        "Client",
        state,
        mood,
        [fact for fact in facts if fact[1]],
        columns,
        rows,
        _departures(departed),
        commands,
    )


def lost_client(reason: str, name: str, engines: Sequence[EngineInfo]) -> Card:
    """Return the card of a client that looks for its controller."""
    columns, rows = engine_table(engines, None, idle="off")
    return Card(
        "Client",
        "looks for its controller",
        "busy",
        [("last seen", where_text(engines))],
        columns,
        rows,
        [reason, "Requests wait until it is back; what runs on engines goes on."],
        [
            (shell_command(["mpiparallel", "list"]), "which clusters run"),
            (f"{name}.close()", "to give it up"),
        ],
    )


def ended_client(problem: str, name: str, again: str) -> Card:
    """Return the card of a client that is closed, or has lost its controller for good (`problem`)."""
    commands: list[Command] = [(f"{name} = {again}", "a new one")]
    if problem:
        commands.append((shell_command(["mpiparallel", "list"]), "which clusters run"))
    mood: Mood = "bad" if problem else "off"
    state = "connection lost" if problem else "closed"
    notes = [problem] if problem else []
    return Card("Client", state, mood, notes=notes, commands=commands)


# ---------------------------------------------------------------- views


def view_card(view: View) -> Card:
    """Return the card of a view."""
    client = view.client
    connection = client._connection
    title, owner = type(view).__name__, name_of(client, "rc")
    balanced = "retries" in view._flag_names
    if trouble(connection):
        remedy = client_card(client).commands
        return Card(title, "its client is closed", "off", commands=remedy)
    known = connection.engines
    wanted = list(known) if view.targets in (None, "all") else _listed(view.targets)
    there = [known[number] for number in wanted if number in known]
    gone = {number: connection.departed.get(number, "") for number in wanted if number not in known}
    columns, rows = engine_table(there, None, known.values())
    how = name_of(view, "") or _expression(view.targets, list(known), owner, balanced)
    state = where_text(there)
    if view.targets in (None, "all"):
        state += ", and all that come later"
    mood: Mood = "good" if there and not gone else "busy" if there or not gone else "bad"
    commands: list[Command]
    if not known:
        commands = [(f"{owner}.wait_for_engines(4)", "if they are on their way")]
    elif gone:
        commands = [(f"{owner}[:]", "a view of those that are there")]
    elif balanced:
        commands = [
            (f"{how}.map_sync(f, items)", "items, to whoever is free"),
            (f"{how}.apply_async(f, x)", "one call, somewhere"),
        ]
    else:
        commands = [(f"{how}.apply_sync(f, x)", "f(x) on each"), (f'{how}["name"]', "a name on each")]
        if has_magic():
            commands.append((f"{how}.activate()", "%px goes to these"))
    pending = len(view.outstanding)
    facts = [("flags", _flags(view)), ("queue", f"{some(pending, 'task')} of this view not done")]
    return Card(
        title,
        state,
        mood,
        facts if pending else facts[:1],
        columns,
        rows,
        _departures(gone),
        commands,
    )


def _listed(targets: Any) -> list[int]:
    return [targets] if isinstance(targets, int) else [int(number) for number in targets]


def _expression(targets: Any, known: Sequence[int], client: str, balanced: bool) -> str:
    """Return how a view that has no name is written."""
    if balanced:
        return f"{client}.load_balanced_view({'' if targets in (None, 'all') else repr(targets)})"
    if targets == "all" or targets == list(known):
        return f"{client}[:]"
    return f"{client}[{one_line(repr(targets), 40)}]"


def _flags(view: View) -> str:
    """Return the flags of a view that say something."""
    words = [f"block={view.block}"]
    for flag in view._flag_names:
        value = getattr(view, flag)
        says_nothing = value in (None, False, 0) or (flag, value) == ("ranks", 1)
        if flag not in ("targets", "block") and not says_nothing:
            words.append(f"{flag}={one_line(repr(value), 40)}")
    return ", ".join(words)
