"""What the hub knows: the peers, worlds, engines, open requests, and a bounded record of finished ones.

`hub` and `work` change these tables and nobody else does. All look-ups are by key: no event looks through all
tasks or all engines.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mpiparallel.controller.balancing import Balancing
from mpiparallel.controller.jobs import Balanced
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
from mpiparallel.controller.records import Entry
from mpiparallel.wire.frames import nbytes
from mpiparallel.wire.messages import AnyHeader, Consumed, EngineInfo, HelloWorld, Message, Supply
from mpiparallel.wire.waits import Place

MAX_WAITING = 1000  # messages that wait for the new bridge of a world
MAX_WAITING_BYTES = 256 << 20
MAX_PATIENCE = 60.0
MAX_GONE = 10_000  # engines remembered with what became of them
MAX_LOST = 1000  # worlds whose death is remembered

Peer = Hashable  # names one connection; the server makes them


class Send(NamedTuple):
    """What the hub wants sent."""

    peer: Peer
    message: Message


@dataclass(slots=True)
class Debt:
    """What one client still owes one engine."""

    unconsumed: int = 0  # bytes of output passed on and not given back by Consumed
    written_off: int = 0  # the same, which the engine does not want back: its world has a new bridge since
    lacks: set[bytes] = field(default_factory=set)  # functions asked for


@dataclass(slots=True, eq=False)
class Kept:
    """A Result that is not settled yet: its client has not said that it has it."""

    message: Message | None  # None: it is in the store, and its client is away
    world: str  # whose bridge keeps it, too; "" when the hub has made it
    owed: bool = True  # whether it is among some client's `unreceived`
    stored: bool = False
    saved: bool = False  # the store has the task as an open one: it is settled when that has changed


@dataclass(slots=True)
class Client:
    name: str
    peer: Peer | None  # None: away
    host: str
    pid: int
    heard: float
    asked: float = 0.0
    watched: bool = False
    debts: dict[int, Debt] = field(default_factory=dict)  # by engine
    unreceived: deque[Kept] = field(default_factory=deque)  # Results in the order sent
    away_since: float = 0.0
    output: list[Message] = field(default_factory=list)  # that came while it was away
    output_bytes: int = 0  # of these, and of what was too much
    output_cut: str = ""  # the first request of which something was too much


@dataclass(slots=True)
class World:
    name: str
    peer: Peer | None  # None: adrift
    hello: HelloWorld
    heard: float
    asked: float = 0.0
    watched: bool = False
    state: WorldState = WorldState.NEW
    first: int = 0  # engine id of rank 0
    engines: dict[int, Engine] = field(default_factory=dict)  # those that are up, by id
    dead: set[int] = field(default_factory=set)  # engines that died while others went on
    adrift_until: float = 0.0
    adrift_reason: str = ""
    lost_bridge: int = -1  # while adrift: the engine that held the connection
    cut: bool = False  # while adrift: by the connection, and not by the death of its bridge
    restored: bool = False  # known from an earlier run of the controller, and not back yet
    waiting: deque[Message] = field(default_factory=deque)  # while adrift
    waiting_bytes: int = 0
    credit: Counter[int] = field(default_factory=Counter)  # while adrift: output consumed, by engine
    ends_at: float | None = None  # when its batch job ends, if that is known
    ending: str = ""  # what people were told of that

    def advance(self, event: WorldEvent) -> None:
        self.state = advance(WORLD, self.state, event)

    @property
    def numbers(self) -> range:
        """The ids of all its engines, those that are gone too."""
        return range(self.first, self.first + len(self.hello.hosts))

    @property
    def processes(self) -> list[tuple[str, int]]:
        """Host and pid of each rank; a bridge that is no engine comes last, as the rank after the others."""
        hello = self.hello
        alone = [(hello.bridge_host, hello.bridge_pid)] if hello.bridge_host else []
        return [*zip(hello.hosts, hello.pids, strict=True), *alone]

    @property
    def bridge(self) -> int:
        """The engine that holds the connection: the first that has not died, or a number past the last."""
        alone = self.numbers.stop
        if self.hello.bridge_host and alone not in self.dead:
            return alone
        return next((number for number in self.numbers if number not in self.dead), self.first)

    def bridge_label(self, bridge: int) -> str:
        """How people are told of its bridge."""
        if bridge not in self.numbers:
            return f"the bridge on {self.hello.bridge_host}"
        rank = bridge - self.first
        return f"engine {bridge} (rank {rank} on {self.hello.hosts[rank]}, the bridge)"

    def keep(self, message: Message) -> bool:
        """Keep a message until a new bridge is there; return whether there was room."""
        header = message.header
        if isinstance(header, Consumed):
            self.credit[header.engine] += header.size
            return True
        size = sum(map(nbytes, message.payload))
        if isinstance(header, Supply) and self.waiting_bytes + size > MAX_WAITING_BYTES:
            message, size = Message(header), 0  # that it is gone for good is an answer, too
        if len(self.waiting) >= MAX_WAITING or self.waiting_bytes + size > MAX_WAITING_BYTES:
            return False
        self.waiting.append(message)
        self.waiting_bytes += size
        return True


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
    verb: str
    label: str = ""
    submitted: float | None = None
    number: int = 0  # in the order in which requests came

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

    def take(self, request: str) -> Request | None:
        """Forget a request, and return it if it was known."""
        found = self._requests.pop(request, None)
        if found is not None:
            self._tasks -= len(found.tasks)
        return found

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


@dataclass(slots=True)
class Question:
    """A client's Where which worlds have still to answer."""

    client: str
    query: int
    engines: list[int]
    deadline: float
    places: dict[int, Place] = field(default_factory=dict)  # by engine, as they come in
    waiting: int = 0  # worlds that have not answered


class Asked(NamedTuple):
    """The part of a question that one world was asked; its ticket is the number in Where."""

    question: Question
    world: str
    engines: list[int]
    since: float


class Errand(NamedTuple):
    """What is to be read in the store for a client, and what is to be done with it.

    `read` is called in another thread, and `then` by the hub: it may return messages that are to be taken as
    if the client had sent them.
    """

    client: str
    query: int
    read: Callable[[Any], Any]
    then: Callable[[State, Client, Any], list[Message] | None]


class State:
    """All tables of a hub, and the messages waiting to be sent."""

    def __init__(
        self,
        cluster_id: str,
        about: dict[str, Any],
        heartbeat: float,
        records: int,
        scheme: str = "leastload",
        hwm: int | None = None,
    ) -> None:
        self.now = 0.0  # when what is being handled came
        self.cluster_id = cluster_id
        self.about = about  # what Ask("status") says of the controller itself
        self.heartbeat = heartbeat
        self.peers: dict[Peer, Client | World] = {}
        self.instance = ""  # names this run of the controller
        self.clients: dict[str, Client] = {}  # those that are connected
        self.away: dict[str, Client] = {}  # those that may connect again, the longest away first
        self.worlds: dict[str, World] = {}
        self.adrift: dict[str, World] = {}
        self.patience = MAX_PATIENCE  # seconds that a world has to connect again when its connection is lost
        self.engines: dict[int, Engine] = {}  # those that are up
        self.gone: OrderedDict[int, str] = OrderedDict()  # what became of engines: the newest that went
        self.lost: OrderedDict[str, dict[str, Any]] = OrderedDict()  # worlds that died, by engine set
        # Worlds whose jobs wait for another turn: name and first id, by job, engine set and size.
        self.returning: OrderedDict[tuple[str, str, int], list[tuple[str, int]]] = OrderedDict()
        self.next_engine = 0
        self.idle_timeout = 0.0  # seconds without clients and work after which everything ends; 0: never
        self.idle_since: float | None = None  # since when there are neither clients nor work
        self.requests: dict[str, Request] = {}  # those with an open task
        self.finished = Records(records)
        self.balanced: dict[str, Balanced] = {}  # balanced tasks that have not ended
        self.balancing = Balancing(scheme, hwm)
        self.asked: dict[int, Asked] = {}  # by ticket, the oldest first
        self.next_ticket = 0
        self.counters: Counter[str] = Counter()
        self.journal: list[Entry] = []  # tasks that have ended, for the store
        self.looked = 0  # how much of the journal `claims` has seen
        self.followers: dict[str, list[Any]] = {}  # claims of open tasks
        self.printed: dict[str, list[int]] = {}  # by open tasks whose clients are gone: characters, by stream
        self.errands: list[Errand] = []  # what the server is to look up in the store
        self.out: list[Send] = []
        # What is not to get lost: see `delivery`, and `work` for `missing`.
        self.kept: dict[str, dict[int, Kept]] = {}  # Results not settled, by request and engine
        self.settled: dict[str, tuple[list[str], list[int]]] = {}  # what worlds are to be told, by name
        # Requests to be sent again, by client and engine, and whether they may have been there before.
        self.missing: dict[tuple[str, int], dict[str, bool]] = {}
        self.storing = False  # whether a store says what it has
        self.find: Callable[[str], list[Message] | None] = lambda task: None  # in the store
        self.paused = False  # no balanced task is placed: worlds that may hold some have yet to come back
        self.paused_until = 0.0
        self.unsaved: dict[str, None] = {}  # tasks of clients that are gone, which the store is to get
        self.restored: list[Message] = []  # tasks from the store, which wait for others
        self.postponed: list[tuple[str, Message]] = []  # claims that wait for worlds and clients to be back
        self.settled_at = 0.0  # until when clients of an earlier run may come back and send their tasks again
        self.requests_made = 0
        self.changed = False  # whether what a controller started again has to know is to be written

    def client(self, name: str) -> Client | None:
        """Return a client that is connected, or away."""
        return self.clients.get(name) or self.away.get(name)

    def send(self, peer: Peer, header: AnyHeader, payload: Iterable[Any] = ()) -> None:
        self.out.append(Send(peer, Message(header, payload)))  # type: ignore[arg-type]

    def tell(self, world: World, header: AnyHeader, payload: Sequence[Any] = ()) -> bool:
        """Send something to a world, or keep it for its new bridge; return whether there was room."""
        if world.peer is None:
            return world.keep(Message(header, payload))
        self.send(world.peer, header, payload)
        return True

    def bury(self, engine: int, reason: str) -> None:
        """Note what became of an engine."""
        self.gone[engine] = reason
        self.gone.move_to_end(engine)
        if len(self.gone) > MAX_GONE:
            self.gone.popitem(last=False)

    def note_lost(self, world: World, reason: str) -> None:
        """Note that all engines of a world have died, for the `Cluster` that may start them again."""
        if world.hello.engine_set:
            self.lost[world.hello.engine_set] = {"first": world.first, "reason": reason}
            self.lost.move_to_end(world.hello.engine_set)
            if len(self.lost) > MAX_LOST:
                self.lost.popitem(last=False)

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
        if found is not None and not (found.unconsumed or found.written_off or found.lacks):
            self.write_off(client, engine)

    def write_off(self, client: Client, engine: Engine) -> None:
        client.debts.pop(engine.info.id, None)
        engine.debtors.discard(client.name)
