"""Random orders of messages from many clients and worlds, with losses, duplicates and lies.

Held throughout: no target of a request is answered or run twice; output credit is neither lost nor made;
whoever asked for a function hears of it. In the end: every target has been answered, and nothing is left.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpiparallel.controller.hub import Hub
from mpiparallel.controller.lives import TaskState
from mpiparallel.controller.state import Send
from mpiparallel.wire.messages import (
    Abort,
    Consumed,
    Goodbye,
    Heartbeat,
    Hello,
    HelloWorld,
    Lacks,
    Message,
    Output,
    Refused,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    WelcomeWorld,
)

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

    def to_world(self, name: str, header: Any, payload: Any) -> None:
        if isinstance(header, WelcomeWorld):
            assert len(header.engines) == self.sizes[name]
            for engine in header.engines:
                assert self.engines.setdefault(engine, name) == name
        if isinstance(header, Submit):
            common, rest = list(payload[: header.common]), list(payload[header.common :])
            assert common == [b"common"]
            assert rest == ([b"%d" % engine for engine in header.engines] if header.parts else [])
            for engine in header.engines:
                assert self.engines[engine] == name
                self.ran[header.request, engine] += 1
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

    @rule(size=st.integers(1, 3))
    def join_world(self, size: int) -> None:
        name = self.new("w")
        self.worlds[name] = name
        self.sizes[name] = size
        self.say(name, HelloWorld("v", name, ["h"] * size, [1] * size))

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
        size = self.sizes[name]
        self.say(self.worlds[name], HelloWorld("v", name, ["h"] * size, [1] * size))
        # What was on its way on the old connection is lost, so that nothing may wait for it.
        assert not any(engine.open for engine in self.hub.state.worlds[name].engines.values())

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
        peer = table.pop(name)
        if polite:
            self.say(peer, Goodbye())
        else:
            self.take(self.hub.lost(peer, "lost", self.now))

    @rule(seconds=st.floats(0, 40))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        for peer in [*self.clients.values(), *self.worlds.values()]:
            self.say(peer, Heartbeat(echo=True))
        self.take(self.hub.tick(self.now))

    # ------------------------------------------------------------ what holds

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.answered.values())
        assert all(count == 1 for count in self.ran.values())

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
        assert not state.out

    @invariant()
    def everything_is_owed_or_paid(self) -> None:
        state = self.hub.state
        owed: Counter[int] = Counter()
        lacking = set()
        for client in state.clients.values():
            for engine, debt in client.debts.items():
                assert debt.unconsumed or debt.lacks
                assert client.name in state.engines[engine].debtors
                owed[engine] += debt.unconsumed
                lacking |= {(client.name, engine, function) for function in debt.lacks}
        for number, engine in state.engines.items():
            assert self.produced[number] == self.credited[number] + owed[number]
            assert all(number in state.clients[name].debts for name in engine.debtors)
        # An engine that heard of a function for one client has it for all; the hub may ask the others still.
        assert {one for one in self.lacking if one[1] in state.engines} <= lacking
        assert lacking <= self.questions, "a client that could answer was not asked"
        assert sum(self.credited.values()) <= sum(self.produced.values())

    def teardown(self) -> None:
        for name in list(self.worlds):
            self.leave(self.worlds, name, polite=False)
        for task, client in self.asked.items():
            if client in self.clients:
                assert self.answered[task] == 1, f"{task} was not answered"
        for name in list(self.clients):
            self.leave(self.clients, name, polite=False)
        state = self.hub.state
        for table in (state.peers, state.clients, state.worlds, state.engines, state.requests, state.out):
            assert not table, "something was left behind"
        self.nothing_happens_twice()


TestManyPeers = ManyPeers.TestCase
TestManyPeers.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
