"""Balanced tasks under random orders of everything: worlds that come, go, lose ranks or their connection,
tasks of all kinds, failures, aborts, recalls with any answer.

Held throughout: a task ends at most once; what an engine has is within its limits; a gang's engines have
nothing else that the hub has chosen; the hub's tables agree with each other. In the end, with engines that
only do their work: every task has ended, and nothing is left in any table.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpiparallel.controller.lives import BalancedState
from mpiparallel.controller.placing import MOST, has_room
from mpiparallel.controller.pools import HELD
from mpiparallel.wire.messages import (
    Abort,
    Balance,
    EnginesLost,
    Failure,
    Hello,
    HelloWorld,
    Lacks,
    Needs,
    Recall,
    Resend,
    Result,
    Returned,
    Stop,
    Submit,
    Supply,
    msg_id,
)
from tests.controller.balancing_driver import Balancer

numbers = st.integers(0, 1 << 16)
HOW = [(True, True, False), (False, True, False), (True, True, True), (True, False, True)]  # see Needs
SCHEMES = ["leastload", "lru", "plainrandom", "twobin", "weighted"]


class World:
    """Engines that do what they are told."""

    def __init__(self, name: str, size: int, survives: bool) -> None:
        self.name, self.size, self.survives = name, size, survives
        self.peer = name
        self.first = -1
        self.queues: dict[int, list[str]] = {}  # by engine; the first task has begun
        self.dead: set[int] = set()

    @property
    def alive(self) -> list[int]:
        return [number for number in self.queues if number not in self.dead]


class Balanced(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.worlds: dict[str, World] = {}
        self.tasks: list[str] = []
        self.ended: Counter[str] = Counter()
        self.engines_of: dict[str, int] = {}
        self.made = 0

    @initialize(scheme=st.sampled_from(SCHEMES), hwm=st.sampled_from([None, None, 0, 1, 3]))
    def begin(self, scheme: str, hwm: int | None) -> None:
        self.driver = Balancer(scheme=scheme, hwm=hwm)
        self.hwm = hwm
        for name in ("a", "b"):
            self.driver.client(name)
        self.open_world(4, True)

    @property
    def state(self) -> Any:
        return self.driver.hub.state

    # ------------------------------------------------------------ worlds

    def open_world(self, size: int, survives: bool) -> World:
        self.made += 1
        world = World(f"w{self.made}", size, survives)
        self.worlds[world.name] = world
        hello = HelloWorld("v", world.name, ["h"] * size, list(range(size)), survives=survives)
        self.driver.say(world.peer, hello)
        for number in self.state.worlds[world.name].numbers:
            world.queues[number] = []
        world.first = min(world.queues)
        return world

    @rule(size=st.integers(1, 4), survives=st.booleans())
    @precondition(lambda self: len(self.worlds) < 4)
    def a_world_comes(self, size: int, survives: bool) -> None:
        self.open_world(size, survives)

    @rule(number=numbers)
    @precondition(lambda self: self.worlds)
    def a_world_goes(self, number: int) -> None:
        world = self.pick(number)
        hub, now = self.driver.hub, self.driver.now
        self.driver._deliver(hub.engines_lost(world.name, list(world.queues), "power cut", now))
        self.driver.lose(world.peer)
        del self.worlds[world.name]

    @rule(number=numbers, rank=numbers)
    @precondition(lambda self: self.worlds)
    def an_engine_dies(self, number: int, rank: int) -> None:
        world = self.pick(number)
        if not world.survives or len(world.alive) < 2:
            return
        engine = world.alive[1:][rank % (len(world.alive) - 1)]
        self.driver.say(world.peer, EnginesLost([engine], "killed"))
        world.dead.add(engine)

    @rule(number=numbers, rank=numbers)
    @precondition(lambda self: self.worlds)
    def an_engine_is_stopped(self, number: int, rank: int) -> None:
        world = self.pick(number)
        if len(world.alive) < 2:
            return
        engine = world.alive[rank % len(world.alive)]
        if engine != world.first:
            self.driver.say("a", Stop([engine]))
            world.dead.add(engine)

    @rule(number=numbers, knows=st.booleans())
    @precondition(lambda self: self.worlds)
    def a_connection_breaks(self, number: int, knows: bool) -> None:
        """What is on its way is lost; the world says what it has."""
        world = self.pick(number)
        self.driver._deliver(self.driver.hub.cut(world.peer, "cable cut", self.driver.now))
        self.driver.inbox.pop(world.peer, None)
        self.made += 1
        world.peer = f"{world.name}-{self.made}"
        held = [world.queues[engine] if engine in world.alive else [] for engine in sorted(world.queues)]
        hello = HelloWorld(
            "v", world.name, ["h"] * world.size, list(range(world.size)), survives=world.survives,
            held=[list(queue) for queue in held] if knows else None,
        )  # fmt: skip
        if not knows:
            for engine in world.queues:
                world.queues[engine].clear()
        self.driver.say(world.peer, hello)

    def pick(self, number: int) -> World:
        return self.worlds[sorted(self.worlds)[number % len(self.worlds)]]

    # ------------------------------------------------------------ clients

    @rule(
        client=st.sampled_from("ab"), count=st.integers(1, 6), ranks=st.sampled_from([1, 1, 1, 2, 3]),
        retries=st.sampled_from([0, 0, 1, 3]), among=st.sampled_from([[], [], [0], [1, 2], [0, 1, 2, 3, 4]]),
        timeout=st.sampled_from([None, None, None, 0.3]), known=st.sampled_from([True, True, True, False]),
        after=st.lists(numbers, max_size=2), follow=st.lists(numbers, max_size=1),
        how=st.sampled_from(HOW),
    )  # fmt: skip
    def submit(
        self, client: str, count: int, ranks: int, retries: int, among: list[int], timeout: float | None,
        known: bool, after: list[int], follow: list[int], how: tuple[bool, bool, bool],
    ) -> None:  # fmt: skip
        all_tasks = self.tasks or [""]
        named = [[all_tasks[one % len(all_tasks)] for one in ones] for ones in (after, follow)]
        needs = [Needs(some, *how) if some and self.tasks else None for some in named]
        tasks = self.driver.balance(
            client, count, ranks=ranks, retries=retries, targets=among, timeout=timeout, send=known,
            function=b"f" if known else b"g%d" % (self.made % 3), after=needs[0], follow=needs[1],
        )  # fmt: skip
        self.tasks += tasks
        self.look()

    @rule(number=numbers, good=st.booleans())
    def answer_for_functions(self, number: int, good: bool) -> None:
        for client in "ab":
            for header in self.driver.heard(client):
                if isinstance(header, Lacks):
                    payload = [b"code"] if good else []
                    self.driver.say(client, Supply(header.engine, header.function), *payload)
                elif isinstance(header, Resend):
                    again = Submit(header.request, client, "execute", header.engines, again=True)
                    self.driver.say(client, again)
        self.look()

    @rule(number=numbers)
    @precondition(lambda self: self.tasks)
    def abort(self, number: int) -> None:
        request, _, place = self.tasks[number % len(self.tasks)].rpartition("_")
        self.driver.say(request[0], Abort(request, [int(place)]))
        self.look()

    @rule(number=numbers, world=numbers)
    @precondition(lambda self: self.worlds)
    def direct(self, number: int, world: int) -> None:
        engines = self.pick(world).alive
        self.made += 1
        self.driver.submit("a", 10_000 + self.made, [engines[number % len(engines)]])

    @rule(client=st.sampled_from("ab"))
    def a_client_goes_and_comes(self, client: str) -> None:
        self.driver.lose(client)
        self.driver.say(client, Hello("v", client, "h", 1))
        self.look()

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.25, 2.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.driver.tick(seconds)
        self.look()

    # ------------------------------------------------------------ engines at work

    @rule(number=numbers, bits=numbers)
    @precondition(lambda self: self.worlds)
    def take_mail(self, number: int, bits: int) -> None:
        self.mail(self.pick(number), bits)

    def mail(self, world: World, bits: int) -> None:
        for header in self.driver.heard(world.peer):
            if isinstance(header, Submit):
                for engine in header.engines:
                    assert header.request not in world.queues[engine]
                    if engine not in world.dead:
                        world.queues[engine].append(header.request)
            elif isinstance(header, Recall) and header.engine not in world.dead:
                queue = world.queues[header.engine]
                chosen = [task for place, task in enumerate(header.tasks) if bits >> place & 1]
                back = [task for task in chosen if task in queue[1:]]
                for task in back:
                    queue.remove(task)
                self.driver.say(world.peer, Returned(header.engine, back))
            elif isinstance(header, Abort):
                for engine in header.engines:
                    if header.request in world.queues[engine][1:] and engine not in world.dead:
                        world.queues[engine].remove(header.request)
                        self.driver.say(world.peer, Result(header.request, engine, "aborted"))
        self.look()

    @rule(
        number=numbers, rank=numbers, took=st.sampled_from([0.0001, 0.001, 0.1, 10.0]),
        end=st.sampled_from(["ok", "ok", "ok", "ValueError", "UnmetDependency"]),
    )  # fmt: skip
    @precondition(lambda self: self.worlds)
    def finish(self, number: int, rank: int, took: float, end: str) -> None:
        world = self.pick(number)
        engine = world.alive[rank % len(world.alive)]
        if world.queues[engine]:
            self.work(world, engine, end, took)

    def work(self, world: World, engine: int, end: str = "ok", took: float = 0.001) -> None:
        task = world.queues[engine].pop(0)
        failure = None if end == "ok" else Failure(end, "no")
        status = "ok" if end == "ok" else "error"
        now = self.driver.now
        self.driver.say(world.peer, Result(task, engine, status, now - took, now, failure))
        self.look()

    # ------------------------------------------------------------ what holds

    def look(self) -> None:
        for record in self.driver.hub.take_records():
            self.ended[record.task] += 1
            if record.inputs is not None:
                assert isinstance(record.inputs.header, Balance)
                assert msg_id(record.inputs.header.request, record.inputs.header.first) == record.task

    @invariant()
    def tasks_end_once(self) -> None:
        self.look()
        assert all(count == 1 for count in self.ended.values()), self.ended
        for task in self.tasks:
            assert (task in self.state.balanced) is (task not in self.ended), task

    @invariant()
    def limits_are_kept(self) -> None:
        for seat in self.state.balancing.seats.values():
            assert len(seat.open) <= (self.hwm or 10**6 if self.hwm is not None else MOST)
            gangs = [task for task in seat.open.values() if task.team is not None]
            assert not gangs or len(seat.open) == 1
            assert all(task.team is None or seat in task.team.seats for task in seat.open.values())

    @invariant()
    def tables_agree(self) -> None:
        table = self.state.balancing
        assert set(table.seats) == set(self.state.engines)
        for pool in (table.everywhere, *table.pools.values()):
            assert pool.idle == sum(seat.level == 0 for seat in pool.seats.values())
            assert (pool in table.hungry) is bool(pool.behind)
            assert pool.recalls >= 0
            assert all(seat.behind is pool for seat in pool.behind)
            for seat in pool.seats.values():
                # Nothing waits that an engine with room may have.
                if has_room(table, seat):
                    assert seat.level >= 0
                    assert not pool.queue.size
                    assert all(seat.number in excluded for excluded in pool.picky)
        for seat in table.seats.values():
            engine = self.state.engines[seat.number]
            assert seat.direct == len(engine.open)
            assert (seat.level >= 0) is has_room(table, seat)
            assert (seat.number in seat.crew.idle) is (seat.level == 0)

    @invariant()
    def engines_are_held_for_gangs_that_wait(self) -> None:
        table = self.state.balancing
        held = {seat.number for seat in table.seats.values() if seat.closed & HELD}
        if table.reserved is None:
            assert not held
        else:
            assert table.reserved.task.state is BalancedState.QUEUED
            assert held == set(table.reserved.seats)
            assert len(held) == table.reserved.task.job.header.ranks

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.open_world(4, False)
        for _ in range(400):
            self.driver.tick(0.3)
            self.answer_for_functions(0, True)
            for world in list(self.worlds.values()):
                self.mail(world, -1)
                for engine in world.alive:
                    while world.queues[engine]:
                        self.work(world, engine)
            if not self.state.balanced and not self.state.requests:
                break
        self.tasks_end_once()
        assert not self.state.balanced
        self.tables_agree()
        self.driver.tick(10.0)
        assert not self.state.balancing.deadlines
        self.driver.assert_no_work_left()


TestBalanced = Balanced.TestCase
TestBalanced.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
