"""Random orders of messages from many clients and worlds, with losses, duplicates and lies.

Held throughout: no target of a request is answered or run twice; output credit is neither lost nor made;
whoever asked for a function hears of it; questions are answered once. In the end: every target and question
has been answered, and nothing is left. Some worlds survive the death of ranks, that of the bridge too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpiparallel.controller.hub import Hub
from mpiparallel.controller.lives import TaskState
from mpiparallel.controller.state import Send
from mpiparallel.wire.messages import (
    Abort,
    Answer,
    Consumed,
    EnginesLost,
    Goodbye,
    Heartbeat,
    Hello,
    HelloWorld,
    Lacks,
    Message,
    Output,
    Received,
    Refused,
    Result,
    Settled,
    Signal,
    Stop,
    Submit,
    Supply,
    WelcomeWorld,
    Where,
    Whereabouts,
)
from mpiparallel.wire.waits import Place

numbers = st.integers(0, 1 << 16)
functions = st.sampled_from([b"f", b"g"])
some_engines = st.lists(st.integers(0, 3) | st.integers(0, 9), unique=True, max_size=6)


class ManyPeers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(records=20)
        self.now = 0.0
        self.made = 0  # names given
        self.clients: dict[str, str] = {}  # name -> peer, of those connected
        self.worlds: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.engines: dict[int, str] = {}  # engine -> world, as the worlds were told
        self.asked: dict[tuple[str, int], str] = {}  # (request, engine) -> client
        self.sent: list[tuple[str, Submit, tuple[bytes, ...]]] = []
        self.answered: Counter[tuple[str, int]] = Counter()
        self.ran: Counter[tuple[str, int]] = Counter()
        self.produced: Counter[int] = Counter()
        self.credited: Counter[int] = Counter()
        self.questions: set[tuple[str, int, bytes]] = set()  # put to the connection that is there now
        self.lacking: set[tuple[str, int, bytes]] = set()  # client, engine, function: not heard of yet
        self.route: dict[tuple[str, int], str] = {}  # over which connection a task was sent
        self.survivors: set[str] = set()
        self.dead: dict[str, set[int]] = {}  # ranks that have died, by world
        self.adrift: set[str] = set()
        self.queries: dict[tuple[str, int], list[int]] = {}  # what clients have asked
        self.missing: dict[tuple[str, int], set[int]] = {}  # engines that were not there when asked about
        self.replied: Counter[tuple[str, int]] = Counter()
        self.tickets: list[tuple[str, int, list[int]]] = []  # of worlds that have not answered

    # ------------------------------------------------------------ plumbing

    def new(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def say(self, peer: str, header: Any, *payload: bytes) -> None:
        self.take(self.hub.receive(peer, Message(header, payload), self.now))

    def take(self, sends: list[Send]) -> None:
        clients = {peer: name for name, peer in self.clients.items()}
        worlds = {peer: name for name, peer in self.worlds.items()}
        for peer, (header, payload) in sends:
            if peer in clients:
                self.to_client(clients[peer], header)
            elif peer in worlds:
                self.to_world(worlds[peer], header, payload)
            else:
                # Others are turned away, and hear nothing of anybody's work.
                assert isinstance(header, Refused), header

    def to_client(self, name: str, header: Any) -> None:
        if isinstance(header, Lacks):
            assert header.client == name
            self.questions.add((name, header.engine, header.function))
        if isinstance(header, Result):
            assert self.asked[header.request, header.engine] == name
            self.answered[header.request, header.engine] += 1
            self.say(self.clients[name], Received(1))
        if isinstance(header, Answer) and (name, header.query) in self.queries:
            self.replied[name, header.query] += 1
            places = msgspec.convert(header.value, list[Place])
            assert [place.engine for place in places] == self.queries[name, header.query]
            gone = {place.engine for place in places if place.state == "gone"}
            absent = {place.engine for place in places} - self.hub.state.engines.keys()
            assert absent <= gone <= absent | self.missing[name, header.query]

    def to_world(self, name: str, header: Any, payload: Any) -> None:
        if isinstance(header, WelcomeWorld):
            assert len(header.engines) == self.sizes[name]
            for engine in header.engines:
                assert self.engines.setdefault(engine, name) == name
        if isinstance(header, Where):
            self.tickets.append((name, header.query, header.engines))
        if isinstance(header, Submit):
            common, rest = list(payload[: header.common]), list(payload[header.common :])
            assert common == [b"common"]
            assert rest == ([b"%d" % engine for engine in header.engines] if header.parts else [])
            for engine in header.engines:
                assert self.engines[engine] == name
                self.ran[header.request, engine] += 1
                self.route[header.request, engine] = self.worlds[name]
        if isinstance(header, Settled):
            assert len(header.requests) == len(header.engines) > 0
        if isinstance(header, Consumed):
            self.credited[header.engine] += header.size
        if isinstance(header, Supply):
            self.lacking = {one for one in self.lacking if one[1:] != (header.engine, header.function)}

    def pick(self, table: dict[str, str], number: int) -> str:
        return sorted(table)[number % len(table)]

    # ------------------------------------------------------------ coming

    @initialize()
    def begin(self) -> None:
        self.join_client()
        self.join_world(2)

    @rule()
    def join_client(self) -> None:
        name = self.new("c")
        self.clients[name] = name
        self.say(name, Hello("v", name, "h", 1))

    @rule(size=st.integers(1, 3), survives=st.booleans())
    def join_world(self, size: int, survives: bool = False) -> None:
        name = self.new("w")
        self.worlds[name] = name
        self.sizes[name] = size
        self.dead[name] = set()
        if survives:
            self.survivors.add(name)
        self.say(name, HelloWorld("v", name, ["h"] * size, [1] * size, survives=survives))

    @precondition(lambda self: self.clients)
    @rule(number=numbers)
    def client_comes_back(self, number: int) -> None:
        name = self.pick(self.clients, number)
        self.clients[name] = self.new("again")
        self.questions = {one for one in self.questions if one[0] != name}
        self.say(self.clients[name], Hello("v", name, "h", 1))

    @precondition(lambda self: self.worlds)
    @rule(number=numbers)
    def world_comes_back(self, number: int) -> None:
        name = self.pick(self.worlds, number)
        self.worlds[name] = self.new("again")
        self.hello_again(name, None)

    def hello_again(self, name: str, held: list[list[str]] | None) -> None:
        size, lost, peer = self.sizes[name], sorted(self.dead[name]), self.worlds[name]
        survives = name in self.survivors
        fields = {"survives": survives, "lost": lost if survives else [], "held": held}
        self.say(peer, HelloWorld("v", name, ["h"] * size, [1] * size, **fields))  # type: ignore[arg-type]
        # What was on its way on the old connection is lost, so that nothing may wait for it, unless its
        # client has been asked to send it again.
        world = self.hub.state.worlds[name]
        for number, engine in world.engines.items():
            kept = held[number - world.first] if held is not None else []
            for request in engine.open:
                resent = self.hub.state.missing.get((self.asked[request, number], number), ())
                assert self.route.get((request, number)) == peer or request in kept or request in resent

    @precondition(lambda self: self.adrift)
    @rule(number=numbers, data=st.data(), same=st.booleans())
    def a_bridge_comes(self, number: int, data: st.DataObject, same: bool) -> None:
        name = sorted(self.adrift)[number % len(self.adrift)]
        self.adrift.discard(name)
        self.worlds[name] = self.new("bridge")
        if same:
            self.hello_again(name, None)
            return
        world = self.hub.state.worlds[name]
        held = []
        for engine in world.numbers:
            tasks = [request for request, target in self.ran if target == engine]
            held.append(data.draw(st.lists(st.sampled_from(tasks), max_size=4)) if tasks else [])
            # All that was on its way is lost, and engines begin anew.
            self.produced[engine] = self.credited[engine] = 0
            self.lacking = {one for one in self.lacking if one[1] != engine}
        self.hello_again(name, held)

    @precondition(lambda self: self.survivors & self.worlds.keys())
    @rule(number=numbers, rank=st.integers(0, 2), told=st.booleans(), copies=st.integers(1, 2))
    def rank_dies(self, number: int, rank: int, told: bool, copies: int) -> None:
        names = sorted(self.survivors & self.worlds.keys())
        name = names[number % len(names)]
        world = self.hub.state.worlds[name]
        self.dead[name].add(rank % self.sizes[name])
        engine = world.first + rank % self.sizes[name]
        for _ in range(copies):
            if told and name in self.worlds:
                self.say(self.worlds[name], EnginesLost([engine], "died"))
            else:
                self.take(self.hub.engines_lost(name, [engine], "died", self.now))
            self.sync()
        assert engine not in self.hub.state.engines

    def sync(self) -> None:
        """Note which worlds are adrift or gone."""
        worlds = self.hub.state.worlds
        for name in [name for name in self.worlds if name not in worlds or worlds[name].peer is None]:
            del self.worlds[name]
            if name in worlds:
                assert name in self.survivors
                self.adrift.add(name)
        self.adrift &= worlds.keys()

    # ------------------------------------------------------------ work

    @precondition(lambda self: self.clients)
    @rule(number=numbers, engines=some_engines.filter(bool), parts=st.booleans())
    def submit(self, number: int, engines: list[int], parts: bool) -> None:
        name = self.pick(self.clients, number)
        self.made += 1
        request = f"{name}-{self.made}"
        for engine in engines:
            self.asked[request, engine] = name
        payload = (b"common", *(b"%d" % engine for engine in engines)) if parts else (b"common",)
        header = Submit(request, name, "execute", engines, 1, [1] * len(engines) if parts else [])
        self.sent.append((name, header, payload))
        self.say(self.clients[name], header, *payload)

    @precondition(lambda self: self.sent)
    @rule(number=numbers)
    def submit_again(self, number: int) -> None:
        # The hub knows a copy as long as it remembers the request.
        name, header, payload = self.sent[max(-3, -len(self.sent)) + number % min(3, len(self.sent))]
        if header.request in self.hub.state.requests or header.request in self.hub.state.finished:
            self.say(self.clients.get(name, name), header, *payload)

    @precondition(lambda self: self.ran)
    @rule(task=numbers, status=st.sampled_from(["ok", "error", "aborted"]), copies=st.integers(1, 2))
    def result(self, task: int, status: Any, copies: int) -> None:
        request, engine = list(self.ran)[-1 - task % min(6, len(self.ran))]
        name = self.engines[engine]
        for _ in range(copies if name in self.worlds else 0):
            self.say(self.worlds[name], Result(request, engine, status))

    @precondition(lambda self: self.worlds and self.asked)
    @rule(world=numbers, task=numbers)
    def result_from_anybody(self, world: int, task: int) -> None:
        request, engine = sorted(self.asked)[task % len(self.asked)]
        self.say(self.worlds[self.pick(self.worlds, world)], Result(request, engine, "ok"))

    def speaker(self, number: int, engine: int) -> tuple[str, int]:
        """Return a world and an engine, mostly one of its own."""
        name = self.pick(self.worlds, number)
        own = sorted(self.hub.state.worlds[name].engines)
        return self.worlds[name], own[engine % len(own)] if own and engine < 8 else engine

    def reader(self, number: int) -> str:
        """Return the name of a client, mostly of one that is there."""
        return "c0" if number % 5 == 0 or not self.clients else self.pick(self.clients, number)

    @precondition(lambda self: self.worlds)
    @rule(world=numbers, engine=st.integers(0, 9), client=numbers, size=st.integers(0, 5))
    def output(self, world: int, engine: int, client: int, size: int) -> None:
        peer, engine = self.speaker(world, engine)
        if engine in self.hub.state.peers[peer].engines:
            self.produced[engine] += size
        self.say(peer, Output("r", self.reader(client), engine, "stdout", "", size))

    @precondition(lambda self: self.clients)
    @rule(number=numbers, engine=numbers, size=st.integers(0, 8))
    def consumed(self, number: int, engine: int, size: int) -> None:
        name = self.pick(self.clients, number)
        self.say(self.clients[name], Consumed(self.creditor(name, engine), size))

    @precondition(lambda self: self.worlds)
    @rule(world=numbers, engine=st.integers(0, 9), client=numbers, function=functions)
    def lacks(self, world: int, engine: int, client: int, function: bytes) -> None:
        peer, engine = self.speaker(world, engine)
        name = self.reader(client)
        if engine in self.hub.state.peers[peer].engines:
            self.lacking.add((name, engine, function))
        self.say(peer, Lacks(name, engine, function))

    @precondition(lambda self: self.clients)
    @rule(number=numbers, engine=numbers, function=functions)
    def supply(self, number: int, engine: int, function: bytes) -> None:
        name = self.pick(self.clients, number)
        self.say(self.clients[name], Supply(self.creditor(name, engine), function), b"code")

    def creditor(self, client: str, number: int) -> int:
        """Return an engine that waits for this client, if there is one."""
        engines = list(self.hub.state.clients[client].debts)
        return engines[number % len(engines)] if engines else number % 10

    @precondition(lambda self: self.clients and self.asked)
    @rule(number=numbers, task=numbers, engines=some_engines)
    def abort(self, number: int, task: int, engines: list[int]) -> None:
        request, _ = sorted(self.asked)[task % len(self.asked)]
        self.say(self.clients[self.pick(self.clients, number)], Abort(request, engines))

    @precondition(lambda self: self.clients)
    @rule(number=numbers, engines=some_engines)
    def signal(self, number: int, engines: list[int]) -> None:
        self.say(self.clients[self.pick(self.clients, number)], Signal(engines, 2))

    @precondition(lambda self: self.clients)
    @rule(number=numbers, engines=some_engines)
    def where(self, number: int, engines: list[int]) -> None:
        name = self.pick(self.clients, number)
        self.made += 1
        self.queries[name, self.made] = engines
        self.missing[name, self.made] = set(engines) - self.hub.state.engines.keys()
        self.say(self.clients[name], Where(engines, self.made))

    @precondition(lambda self: self.tickets)
    @rule(ticket=numbers, left_out=st.integers(0, 1), anybody=st.booleans(), world=numbers)
    def whereabouts(self, ticket: int, left_out: int, anybody: bool, world: int) -> None:
        name, query, engines = self.tickets[ticket % len(self.tickets)]
        if anybody and self.worlds:
            name = self.pick(self.worlds, world)
        if name in self.worlds:
            places = [Place(engine, "idle") for engine in engines[left_out:]]
            self.say(self.worlds[name], Whereabouts(query, places))

    # ------------------------------------------------------------ going

    @precondition(lambda self: self.clients)
    @rule(number=numbers, engines=some_engines)
    def stop(self, number: int, engines: list[int]) -> None:
        self.say(self.clients[self.pick(self.clients, number)], Stop(engines))

    @precondition(lambda self: len(self.clients) > 1)
    @rule(number=numbers, polite=st.booleans())
    def client_goes(self, number: int, polite: bool) -> None:
        self.leave(self.clients, self.pick(self.clients, number), polite)

    @precondition(lambda self: self.worlds)
    @rule(number=numbers, polite=st.booleans())
    def world_goes(self, number: int, polite: bool) -> None:
        self.leave(self.worlds, self.pick(self.worlds, number), polite)

    def leave(self, table: dict[str, str], name: str, polite: bool) -> None:
        peer = table[name]
        if polite or table is self.clients:
            del table[name]
        if polite:
            self.say(peer, Goodbye())
        else:
            self.take(self.hub.lost(peer, "lost", self.now))
        self.sync()
        assert name not in table

    @rule(seconds=st.floats(0, 40))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        for peer in [*self.clients.values(), *self.worlds.values()]:
            self.say(peer, Heartbeat(echo=True))
        self.take(self.hub.tick(self.now))
        self.sync()

    # ------------------------------------------------------------ what holds

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.answered.values())
        assert all(count == 1 for count in self.ran.values())
        assert all(count == 1 for count in self.replied.values())

    @invariant()
    def tables_agree(self) -> None:
        state = self.hub.state
        open_tasks = {
            (name, engine)
            for name, request in state.requests.items()
            for engine, task in request.tasks.items()
            if task is TaskState.OPEN
        }
        assert open_tasks == {
            (name, number) for number, engine in state.engines.items() for name in engine.open
        }
        for request in state.requests.values():
            assert request.open == sum(task is TaskState.OPEN for task in request.tasks.values()) > 0
        assert {n: e for world in state.worlds.values() for n, e in world.engines.items()} == state.engines
        assert set(state.peers) == {*self.clients.values(), *self.worlds.values()}
        assert len(state.finished) == sum(len(request.tasks) for request in state.finished)
        assert set(state.adrift) == self.adrift
        assert set(state.worlds) == self.adrift | self.worlds.keys()
        for asked in state.asked.values():
            assert asked.question.client in self.clients
            assert asked.world in self.worlds
            assert self.now < asked.question.deadline + 40
        assert not state.out

    @invariant()
    def everything_is_owed_or_paid(self) -> None:
        state = self.hub.state
        owed: Counter[int] = Counter()
        lacking = set()
        for client in state.clients.values():
            for engine, debt in client.debts.items():
                assert debt.unconsumed or debt.written_off or debt.lacks
                assert client.name in state.engines[engine].debtors
                owed[engine] += debt.unconsumed
                lacking |= {(client.name, engine, function) for function in debt.lacks}
        for number, engine in state.engines.items():
            kept = engine.world.credit[number]  # for the new bridge
            assert self.produced[number] == self.credited[number] + owed[number] + kept
            assert all(number in state.clients[name].debts for name in engine.debtors)
        # An engine that heard of a function for one client has it for all; the hub may ask the others still.
        coming = {
            (message.header.engine, message.header.function)
            for world in state.adrift.values()
            for message in world.waiting
            if isinstance(message.header, Supply)
        }
        unheard = {one for one in self.lacking if one[1] in state.engines and one[1:] not in coming}
        assert unheard <= lacking
        assert lacking <= self.questions, "a client that could answer was not asked"
        assert sum(self.credited.values()) <= sum(self.produced.values())

    def teardown(self) -> None:
        for name in list(self.worlds):
            self.leave(self.worlds, name, polite=False)
        self.now += 20.0
        for peer in self.clients.values():
            self.say(peer, Heartbeat())
        self.take(self.hub.tick(self.now))
        self.sync()
        for (client, query), _ in self.queries.items():
            if client in self.clients:
                assert self.replied[client, query] == 1, f"question {query} was not answered"
        for task, client in self.asked.items():
            if client in self.clients:
                assert self.answered[task] == 1, f"{task} was not answered"
        for name in list(self.clients):
            self.leave(self.clients, name, polite=False)
        state = self.hub.state
        for table in (
            state.peers, state.clients, state.worlds, state.adrift, state.engines, state.requests,
            state.asked, state.out, state.kept, state.missing, state.away,
        ):  # fmt: skip
            assert not table, "something was left behind"
        self.nothing_happens_twice()


TestManyPeers = ManyPeers.TestCase
TestManyPeers.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
