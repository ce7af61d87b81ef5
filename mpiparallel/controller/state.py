"""What the hub knows: the peers, worlds, engines, open requests, and a bounded record of finished ones.

`hub` and `work` change these tables and nobody else does. All look-ups are by key: no event looks through all
tasks or all engines.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mpiparallel.controller.lives import (
    ENGINE,
    TASK,
    WORLD,
    EngineEvent,
    EngineState,
    TaskEvent,
    TaskState,
    WorldEvent,
    WorldState,
    advance,
)
from mpiparallel.wire.messages import AnyHeader, EngineInfo, HelloWorld, Message

Peer = Hashable  # names one connection; the server makes them


class Send(NamedTuple):
    """What the hub wants sent."""

    peer: Peer
    message: Message


@dataclass(slots=True)
class Debt:
    """What one client still owes one engine."""

    unconsumed: int = 0  # bytes of output passed on and not given back by Consumed
    lacks: set[bytes] = field(default_factory=set)  # functions asked for


@dataclass(slots=True)
class Client:
    name: str
    peer: Peer
    host: str
    pid: int
    heard: float
    asked: float = 0.0
    watched: bool = False
    debts: dict[int, Debt] = field(default_factory=dict)  # by engine


@dataclass(slots=True)
class World:
    name: str
    peer: Peer
    hello: HelloWorld
    heard: float
    asked: float = 0.0
    watched: bool = False
    state: WorldState = WorldState.NEW
    first: int = 0  # engine id of rank 0
    engines: dict[int, Engine] = field(default_factory=dict)  # those that are up, by id

    def advance(self, event: WorldEvent) -> None:
        self.state = advance(WORLD, self.state, event)


@dataclass(slots=True)
class Engine:
    info: EngineInfo
    world: World
    state: EngineState = EngineState.NEW
    open: dict[str, None] = field(default_factory=dict)  # requests not answered, in the order sent
    completed: int = 0
    debtors: set[str] = field(default_factory=set)  # clients that have a Debt for this engine

    def advance(self, event: EngineEvent) -> None:
        self.state = advance(ENGINE, self.state, event)


@dataclass(slots=True)
class Request:
    """One request of a client and the state of each of its tasks."""

    name: str
    client: str
    tasks: dict[int, TaskState]  # by engine
    open: int

    def advance(self, engine: int, event: TaskEvent) -> None:
        self.tasks[engine] = advance(TASK, self.tasks[engine], event)


class Records:
    """Finished requests, the newest `limit` tasks of them, for those who ask how a task ended."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._tasks = 0

    def __len__(self) -> int:
        return self._tasks

    def __contains__(self, request: str) -> bool:
        return request in self._requests

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def get(self, request: str) -> Request | None:
        return self._requests.get(request)

    def add(self, request: Request) -> None:
        self._requests[request.name] = request
        self._tasks += len(request.tasks)
        # The newest stays even when it alone breaks the limit: somebody may be about to ask for it.
        while self._tasks > self.limit and len(self._requests) > 1:
            _, oldest = self._requests.popitem(last=False)
            self._tasks -= len(oldest.tasks)

    def forget(self, request: str, engine: int) -> None:
        """Forget one task, if it is known."""
        found = self._requests.get(request)
        if found is None or found.tasks.pop(engine, None) is None:
            return
        self._tasks -= 1
        if not found.tasks:
            del self._requests[request]

    def clear(self) -> None:
        self._requests.clear()
        self._tasks = 0


class State:
    """All tables of a hub, and the messages waiting to be sent."""

    def __init__(self, cluster_id: str, about: dict[str, Any], heartbeat: float, records: int) -> None:
        self.cluster_id = cluster_id
        self.about = about  # what Ask("status") says of the controller itself
        self.heartbeat = heartbeat
        self.peers: dict[Peer, Client | World] = {}
        self.clients: dict[str, Client] = {}
        self.worlds: dict[str, World] = {}
        self.engines: dict[int, Engine] = {}  # those that are up
        self.next_engine = 0
        self.requests: dict[str, Request] = {}  # those with an open task
        self.finished = Records(records)
        self.counters: Counter[str] = Counter()
        self.out: list[Send] = []

    def send(self, peer: Peer, header: AnyHeader, payload: Iterable[Any] = ()) -> None:
        self.out.append(Send(peer, Message(header, payload)))  # type: ignore[arg-type]

    def tell_clients(self, header: AnyHeader) -> None:
        message = Message(header)
        self.out.extend(Send(client.peer, message) for client in self.clients.values())

    def debt(self, client: Client, engine: Engine) -> Debt:
        """Return what `client` owes `engine`, from now on if not before."""
        found = client.debts.get(engine.info.id)
        if found is None:
            found = client.debts[engine.info.id] = Debt()
            engine.debtors.add(client.name)
        return found

    def settle(self, client: Client, engine: Engine) -> None:
        """Forget the debt of `client` to `engine` when nothing is owed."""
        found = client.debts.get(engine.info.id)
        if found is not None and not found.unconsumed and not found.lacks:
            self.write_off(client, engine)

    def write_off(self, client: Client, engine: Engine) -> None:
        client.debts.pop(engine.info.id, None)
        engine.debtors.discard(client.name)
