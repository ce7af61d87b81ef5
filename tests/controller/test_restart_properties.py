"""Connections and controllers that are lost at random, between peers that keep to the protocol.

Clients and worlds are modelled as they are: a client keeps a request until it has its results, and sends it
again when it has lost its connection or is asked to; a bridge keeps a result until it is settled. Messages
take their time, and those on a connection that is lost are lost, in both directions. Held throughout:
nothing is run twice, and requests of one client run on each engine in the order sent. In the end: every task
has ended exactly once at its client, every result is settled, and nothing is left. Of clients that die every
balanced task ends that the store was told of.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mpiparallel.controller import restore
from mpiparallel.controller.hub import Hub
from mpiparallel.controller.records import Record
from mpiparallel.wire.messages import (
    Balance,
    Goodbye,
    Hello,
    HelloWorld,
    Message,
    Recall,
    Received,
    Refused,
    Resend,
    Result,
    Returned,
    Settled,
    Submit,
    Welcome,
    WelcomeWorld,
    msg_id,
)

numbers = st.integers(0, 1 << 16)
N_CLIENTS, N_WORLDS, SIZE = 2, 2, 2


class Line:
    """One connection, with what is under way on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.to_hub: deque[Message] = deque()
        self.to_peer: deque[Message] = deque()


class ModelClient:
    def __init__(self, name: str) -> None:
        self.name = name
        self.line: Line | None = None
        self.welcomed = False  # on this line: until then what is new waits
        self.made = 0
        self.pending: dict[str, tuple[Message, set[int]]] = {}  # engines, or -1 for what the hub places
        self.parts: dict[str, list[Result]] = {}  # of gangs
        self.ended: Counter[tuple[str, int]] = Counter()
        self.asked: set[tuple[str, int]] = set()

    def say(self, header: Any) -> None:
        if self.line is not None:
            self.line.to_hub.append(Message(header))

    def hello(self) -> None:
        self.welcomed = False
        self.say(Hello("v", self.name, "h", 1))

    def take(self, message: Message) -> None:
        header = message.header
        if isinstance(header, Welcome):
            self.parts.clear()
            self.welcomed = True
            for pending, engines in self.pending.values():
                self.again(pending.header, sorted(engines))
        elif isinstance(header, Resend):
            found = self.pending.get(header.request)
            if found is not None:
                self.again(found[0].header, [one for one in header.engines if one in found[1]])
        elif isinstance(header, Result):
            self.say(Received(1))
            self.end(header)
        elif isinstance(header, Refused):
            assert not header.request, header
            self.hello()

    def again(self, header: Any, engines: list[int]) -> None:
        if isinstance(header, Submit):
            if engines:
                self.say(msgspec.structs.replace(header, engines=engines, again=True))
        else:
            self.say(msgspec.structs.replace(header, again=True))

    def end(self, header: Result) -> None:
        assert header.status == "ok", header
        found = self.pending.get(header.request)
        if found is not None:
            _, engines = found
            if header.engine not in engines:
                return
            engines.discard(header.engine)
            self.ended[header.request, header.engine] += 1
            if not engines:
                del self.pending[header.request]
            return
        balanced = header.request.rpartition("_")[0]
        found = self.pending.get(balanced)
        if found is None:
            return
        ranks = found[0].header.ranks  # type: ignore[union-attr]
        parts = self.parts.setdefault(header.request, [])
        parts.append(header)
        if len(parts) == ranks:
            assert [one.engine for one in parts] == sorted({one.engine for one in parts})
            del self.pending[balanced]
            self.ended[balanced, -1] += 1


class ModelWorld:
    def __init__(self, name: str, checks: Losses) -> None:
        self.name = name
        self.line: Line | None = None
        self.welcomed = False
        self.engines: list[int] = []
        self.queues: list[deque[tuple[str, str]]] = [deque() for _ in range(SIZE)]
        self.unsettled: dict[tuple[str, int], str] = {}  # request and engine -> client
        self.checks = checks

    def say(self, header: Any) -> None:
        if self.line is not None:
            self.line.to_hub.append(Message(header))

    def hello(self) -> None:
        held: list[list[str]] | None = None
        owners = {}
        if self.welcomed:
            held = []
            for rank, queue in enumerate(self.queues):
                results = [one for one in self.unsettled if one[1] == self.engines[rank]]
                held.append([request for request, _ in [*results, *queue]])
                owners.update(queue)
            owners.update({request: client for (request, _), client in self.unsettled.items()})
        fields: Any = {"held": held, "owners": owners}
        self.say(HelloWorld("v", self.name, ["h"] * SIZE, [1] * SIZE, **fields))

    def take(self, message: Message) -> None:
        header = message.header
        if isinstance(header, WelcomeWorld):
            assert self.engines in ([], header.engines)
            self.engines, self.welcomed = header.engines, True
            for request, engine in self.unsettled:
                self.say(Result(request, engine, "ok"))
        elif isinstance(header, Submit):
            for engine in header.engines:
                self.queues[self.engines.index(engine)].append((header.request, header.client))
        elif isinstance(header, Settled):
            for one in zip(header.requests, header.engines, strict=True):
                self.unsettled.pop(one, None)
        elif isinstance(header, Recall):
            queue = self.queues[self.engines.index(header.engine)]
            back = [one for one in queue if one[0] in header.tasks]
            for one in back:
                queue.remove(one)
            if back:
                self.say(Returned(header.engine, [request for request, _ in back]))
        elif isinstance(header, Refused):
            assert "not said Hello" in header.reason or "newer connection" in header.reason, header
            self.hello()

    def run(self, rank: int) -> None:
        if not self.queues[rank]:
            return
        request, client = self.queues[rank].popleft()
        engine = self.engines[rank]
        self.checks.ran(request, client, engine)
        self.unsettled[request, engine] = client
        self.say(Result(request, engine, "ok"))


class Losses(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub()
        self.storing = False
        self.put: list[Record] = []  # not on disk yet
        self.disk: dict[str, Record] = {}
        self.gone: list[str] = []  # clients that have died
        self.now = 0.0
        self.made = 0
        self.lines: dict[str, Line] = {}  # by the hub's name for them, those that work
        self.lost: list[str] = []  # those that the hub has not noticed to be lost
        self.clients = [ModelClient(f"c{number}") for number in range(N_CLIENTS)]
        self.worlds = [ModelWorld(f"w{number}", self) for number in range(N_WORLDS)]
        self.peers: list[ModelClient | ModelWorld] = [*self.clients, *self.worlds]
        self.runs: Counter[tuple[str, int]] = Counter()
        self.last: dict[tuple[str, int], int] = {}  # direct requests: the last that ran, by client and engine

    # ------------------------------------------------------------ plumbing

    def open_store(self) -> None:
        self.hub.state.storing, self.hub.state.find = self.storing, self.find

    def find(self, task: str) -> list[Message] | None:
        records = {**self.disk, **{one.task: one for one in self.put}}
        return records[task].results if task in records else None

    def commit(self) -> None:
        put, self.put = self.put, []
        self.disk.update((one.task, one) for one in put)
        ended = [one.task for one in put if one.status is not None]
        self.send(self.hub.stored(ended, self.now))

    def send(self, sends: Any) -> None:
        entries = self.hub.take_records()
        if self.storing:
            self.put += [one for one in entries if isinstance(one, Record)]
        for peer, message in sends:
            if peer in self.lines:
                self.lines[peer].to_peer.append(message)

    def connect(self, peer: ModelClient | ModelWorld) -> None:
        self.made += 1
        peer.line = self.lines[f"l{self.made}"] = Line(f"l{self.made}")
        peer.hello()

    def drop(self, peer: ModelClient | ModelWorld) -> None:
        if peer.line is not None:
            self.lost.append(peer.line.name)
            del self.lines[peer.line.name]
            peer.line = None
            if isinstance(peer, ModelClient):
                peer.welcomed = False

    def move(self, peer: ModelClient | ModelWorld, up: bool) -> bool:
        line = peer.line
        if line is None or not (line.to_hub if up else line.to_peer):
            return False
        if up:
            self.send(self.hub.receive(line.name, line.to_hub.popleft(), self.now))
        else:
            peer.take(line.to_peer.popleft())
        return True

    def move_all(self) -> int:
        return sum(self.move(peer, up) for peer in self.peers for up in (True, False))

    def ran(self, request: str, client: str, engine: int) -> None:
        task = request.rpartition("-")[2]
        if "_" in task:
            self.runs[request, 0 if self.ranks(client, request) == 1 else engine] += 1
            assert sum(count for (name, _), count in self.runs.items() if name == request) <= self.ranks(
                client, request
            )
            return
        self.runs[request, engine] += 1
        assert self.runs[request, engine] == 1, f"{msg_id(request, engine)} ran twice"
        assert int(task) > self.last.get((client, engine), 0), f"{request} on {engine} is out of order"
        self.last[client, engine] = int(task)

    def ranks(self, client: str, request: str) -> int:
        return 2 if int(request.rpartition("-")[2].partition("_")[0]) % 5 == 0 else 1

    # ------------------------------------------------------------ what happens

    @initialize(storing=st.booleans())
    def begin(self, storing: bool) -> None:
        self.storing = storing
        self.open_store()
        for world in self.worlds:
            self.connect(world)
            while self.move(world, True) or self.move(world, False):
                pass
        for client in self.clients:
            self.connect(client)

    @rule(number=numbers, engines=st.sets(st.integers(0, N_WORLDS * SIZE - 1), min_size=1))
    def submit(self, number: int, engines: set[int]) -> None:
        client = self.clients[number % N_CLIENTS]
        client.made += 1
        header = Submit(f"{client.name}-{client.made}", client.name, "apply", sorted(engines))
        client.pending[header.request] = Message(header), set(engines)
        client.asked |= {(header.request, engine) for engine in engines}
        if client.welcomed:
            client.say(header)

    @rule(number=numbers)
    def balance(self, number: int) -> None:
        client = self.clients[number % N_CLIENTS]
        client.made += 1
        name = f"{client.name}-{client.made}"
        header = Balance(name, client.name, "apply", [0], ranks=self.ranks("", name))
        client.pending[name] = Message(header), {-1}
        client.asked.add((name, -1))
        if client.welcomed:
            client.say(header)

    @rule(number=numbers, up=st.booleans(), count=st.integers(1, 5))
    def messages_arrive(self, number: int, up: bool, count: int) -> None:
        for _ in range(count):
            self.move(self.peers[number % len(self.peers)], up)

    @rule(world=numbers, rank=numbers)
    def a_task_runs(self, world: int, rank: int) -> None:
        self.worlds[world % N_WORLDS].run(rank % SIZE)

    @rule(number=numbers)
    def a_connection_is_lost(self, number: int) -> None:
        self.drop(self.peers[number % len(self.peers)])

    @precondition(lambda self: any(peer.line is None for peer in self.peers))
    @rule(number=numbers)
    def somebody_connects_again(self, number: int) -> None:
        alone = [peer for peer in self.peers if peer.line is None]
        self.connect(alone[number % len(alone)])

    @precondition(lambda self: self.lost)
    @rule(number=numbers)
    def the_hub_notices(self, number: int) -> None:
        self.send(self.hub.cut(self.lost.pop(number % len(self.lost)), "cut", self.now))

    @rule()
    def the_controller_is_killed(self) -> None:
        found = restore.saved_worlds(self.hub.state)
        next_engine = self.hub.state.next_engine
        for peer in self.peers:
            self.drop(peer)
        self.lost.clear()
        self.put.clear()
        self.hub = Hub()
        self.open_store()
        worlds = [(restore.to_world(one, self.now), one.stopped) for one in found]
        waiting = [one.inputs for one in self.disk.values() if one.status is None and one.inputs]
        self.hub.restore(worlds, next_engine, self.now, waiting)

    @rule()
    def the_store_writes(self) -> None:
        self.commit()

    @rule(number=numbers)
    def a_client_dies(self, number: int) -> None:
        client = self.clients[number % N_CLIENTS]
        if client.line is not None:
            del self.lines[client.line.name]
            self.send(self.hub.lost(client.line.name, "killed", self.now))
        self.send(self.hub.client_died(client.name))
        self.gone.append(client.name)
        self.clients[number % N_CLIENTS] = other = ModelClient(f"c{number % N_CLIENTS}x{len(self.gone)}")
        self.peers[self.peers.index(client)] = other
        self.connect(other)

    @rule(seconds=st.floats(0.0, 0.3))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.send(self.hub.tick(self.now))

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        for line in self.lost:
            self.send(self.hub.cut(line, "cut", self.now))
        # Clients may be back long before the worlds are, or after them.
        for group in (self.clients, self.worlds) if self.made % 2 else (self.worlds, self.clients):
            for peer in group:
                if peer.line is None:
                    self.connect(peer)
            while self.move_all():
                pass
        for _ in range(100):
            busy = 1
            while busy:
                busy = self.move_all()
                for world in self.worlds:
                    for rank in range(SIZE):
                        world.run(rank)
            for name in self.gone:
                self.send(self.hub.client_died(name))
            self.commit()
            if not any(client.pending for client in self.clients) and not any(
                world.unsettled for world in self.worlds
            ):
                break
            self.now += 0.05
            self.send(self.hub.tick(self.now))
        for client in self.clients:
            assert not client.pending, f"{list(client.pending)} has not ended"
            assert client.ended == Counter(client.asked)
        assert not any(world.unsettled for world in self.worlds), "a result is not settled"
        for name, one in self.disk.items():
            assert one.status is not None, f"{name} has not ended"
            if one.status == "ok" and one.ranks:
                assert sum(count for (task, _), count in self.runs.items() if task == name) == one.ranks
        state = self.hub.state
        assert not state.paused and not state.unsaved
        for table in (state.requests, state.balanced, state.missing, state.kept, state.adrift, state.away):
            assert not table, "something was left behind"
        assert not any(engine.open for engine in state.engines.values())
        for peer in self.peers:
            peer.say(Goodbye())
            while self.move(peer, True):
                pass
        for table in (state.peers, state.clients, state.worlds, state.engines, state.settled):
            assert not table, "something was left behind"


TestLosses = Losses.TestCase
TestLosses.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
