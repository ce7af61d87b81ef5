"""Worlds that lose ranks and go on, whose bridge dies, and that ask for the ids of another."""

from __future__ import annotations

import pytest

from mpiparallel.controller import state as tables
from mpiparallel.controller.lives import WorldState
from mpiparallel.controller.worlds import ADRIFT_FOR
from mpiparallel.wire.messages import (
    Abort,
    Ask,
    Consumed,
    EnginesChanged,
    EnginesLost,
    Goodbye,
    Heartbeat,
    HelloWorld,
    Lacks,
    Notice,
    Output,
    Refused,
    Resend,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    WelcomeWorld,
)

from .driver import Driver


@pytest.fixture
def hub() -> Driver:
    """A hub with a client and a world of four engines that survives."""
    driver = Driver()
    driver.world(4, "w", peer="old", survives=True)
    driver.client("a")
    return driver


def recover(hub: Driver, lost: list[int], held: list[list[str]] | None, peer: str = "new") -> list[object]:
    """Let a new bridge connect; return what it is sent after the welcome."""
    hub.say(peer, HelloWorld("v", "w", ["h"] * 4, list(range(4)), survives=True, lost=lost, held=held))
    welcome, *rest = hub.heard(peer)
    assert isinstance(welcome, WelcomeWorld), welcome
    return rest


def failures(hub: Driver) -> dict[int, str]:
    results = [header for header in hub.heard("a") if isinstance(header, Result)]
    return {result.engine: result.failure.evalue for result in results if result.failure}


class TestLostRanks:
    def test_only_their_tasks_fail(self, hub: Driver) -> None:
        hub.submit("a", 1, [0, 1, 3])
        hub.die("w", [3, 1], "rank 3 was killed")
        *failed, changed = hub.heard("a")
        assert [one.failure.evalue for one in failed] == [
            "Engine 3 died while running task a-1_3: rank 3 was killed",
            "Engine 1 died while running task a-1_1: rank 3 was killed",
        ]
        assert changed == EnginesChanged(removed=[3, 1], reason="rank 3 was killed")
        hub.answer("old", "a-1", 0)
        assert hub.heard("a") == [Result("a-1", 0, "ok")]
        hub.submit("a", 2, [1])
        assert failures(hub)[1] == "Engine 1 is gone: it died: rank 3 was killed"

    def test_the_worlds_word_and_the_servers_are_one(self, hub: Driver) -> None:
        hub.submit("a", 1, [2])
        hub.say("old", EnginesLost([2, 99], "it does not answer"))
        hub.die("w", [2], "killed")
        hub.say("old", EnginesLost([2], "again"))
        failed, changed = hub.heard("a")
        assert failed.failure.evalue.endswith(": it does not answer")
        assert changed.removed == [2]

    def test_the_bridge_hears_of_deaths_that_the_server_has_seen(self, hub: Driver) -> None:
        hub.inbox.clear()
        hub.die("w", [3], "it ended by itself")
        assert hub.heard("old") == [EnginesLost([3], "it ended by itself")]

    def test_a_world_that_does_not_survive_is_lost_with_one(self) -> None:
        hub = Driver()
        hub.world(2)
        hub.client("a")
        hub.die("w", [1])
        assert hub.heard("a") == [EnginesChanged(removed=[0, 1], reason="killed")]
        hub.die("w", [0])
        assert hub.heard("a") == []
        assert not hub.hub.state.worlds

    def test_ids_stay_dead(self, hub: Driver) -> None:
        hub.die("w", [3])
        hub.say("x", HelloWorld("v", "x", ["h"], [1]))
        assert hub.heard("x")[0].engines == [4]
        hub.say("y", HelloWorld("v", "y", ["h"], [1], first=3))
        assert "belong to world 'w'" in hub.heard("y")[0].reason

    def test_a_world_that_has_lost_all_is_gone_with_its_bridge(self, hub: Driver) -> None:
        hub.die("w", [1, 2, 3])
        hub.die("w", [0])
        assert not hub.hub.state.worlds
        hub.say("a", Goodbye())
        hub.assert_forgotten()

    def test_a_world_may_come_with_ranks_lost_already(self) -> None:
        hub = Driver()
        hub.client("a")
        hub.say("w", HelloWorld("v", "w", ["h"] * 2, [1, 2], survives=True, lost=[1]))
        added, removed = hub.heard("a")
        assert [engine.id for engine in added.added] == [0, 1]
        assert removed.removed == [1]

    def test_a_notice_reaches_its_client(self, hub: Driver) -> None:
        hub.say("old", Notice("a", "a-1", "waiting for 30 s"))
        hub.say("old", Notice("b", "b-1", "to nobody"))
        assert hub.heard("a") == [Notice("a", "a-1", "waiting for 30 s")]


class TestNewBridge:
    def test_what_is_held_stays_open_and_what_is_lost_fails(self, hub: Driver) -> None:
        for number in (1, 2):
            hub.submit("a", number, [0, 1, 2, 3])
        hub.answer("old", "a-1", 3)
        hub.inbox.clear()
        hub.die("w", [0], "rank 0 was killed")
        assert hub.hub.state.worlds["w"].state is WorldState.ADRIFT
        assert set(failures(hub)) == {0}
        hub.say("old", Heartbeat())
        assert "not said Hello" in hub.heard("old")[0].reason
        assert recover(hub, [0], [[], ["a-1", "a-2"], ["a-2"], ["a-2"]]) == []
        lost = failures(hub)
        assert lost == {
            2: "Task a-1_2 has failed: its request or its result was lost when engine 0 (rank 0 on h, the "
            "bridge) died"
        }
        assert hub.hub.state.worlds["w"].state is WorldState.UP
        for number, engine in [(1, 1), (2, 1), (2, 2), (2, 3)]:
            hub.answer("new", f"a-{number}", engine)
        assert [one.status for one in hub.heard("a")] == ["ok"] * 4
        assert not hub.hub.state.requests

    def test_a_bridge_of_a_bridge(self, hub: Driver) -> None:
        hub.die("w", [0])
        recover(hub, [0], [[]] * 4)
        hub.submit("a", 1, [2])
        hub.die("w", [1], "rank 1 was killed")
        hub.heard("a")
        assert hub.hub.state.worlds["w"].state is WorldState.ADRIFT
        recover(hub, [0, 1], [[]] * 4, "newest")
        assert "engine 1 (rank 1 on h, the bridge) died" in failures(hub)[2]
        assert hub.hub.state.worlds["w"].bridge == 2

    def test_the_new_bridge_may_come_before_the_death_is_known(self, hub: Driver) -> None:
        hub.submit("a", 1, [0, 1, 2])
        hub.inbox.clear()
        assert recover(hub, [0], [[], [], ["a-1"], []]) == []
        assert hub.heard("old") == [Refused("a newer connection has taken this one's place")]
        assert failures(hub) == {
            0: "Engine 0 died while running task a-1_0: its process died",
            1: "Task a-1_1 has failed: its request or its result was lost when engine 0 (rank 0 on h, the "
            "bridge) died",
        }
        assert list(hub.hub.state.engines) == [1, 2, 3]
        hub.die("w", [0])
        hub.lose("old")
        assert hub.heard("a") == []
        hub.answer("new", "a-1", 2)
        assert hub.heard("a") == [Result("a-1", 2, "ok")]

    def test_requests_wait_for_it_in_order(self, hub: Driver) -> None:
        hub.die("w", [0])
        hub.heard("a")
        hub.submit("a", 1, [1, 2], b"c", b"1", b"2", parts=[1, 1])
        hub.say("a", Signal([2], 2, query=1))
        hub.submit("a", 2, [3])
        hub.submit("a", 3, [1])
        hub.say("a", Abort("a-3", [1]))
        hub.heard("a")
        hub.die("w", [2], "killed, too")
        assert list(failures(hub)) == [2]
        hub.say("new", HelloWorld("v", "w", ["h"] * 4, list(range(4)), lost=[0], held=[[]] * 4))
        first = hub.inbox["new"][1]
        assert first.header == Submit("a-1", "a", "execute", [1], 1, [1])
        assert list(first.payload) == [b"c", b"1"]
        kinds = [type(header) for header in hub.heard("new")]
        assert kinds == [WelcomeWorld, Submit, Signal, Submit, Submit, Abort]
        assert hub.heard("a") == []
        hub.answer("new", "a-2", 3)
        assert hub.heard("a") == [Result("a-2", 3, "ok")]

    def test_the_queue_is_bounded(self, hub: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tables, "MAX_WAITING", 2)
        monkeypatch.setattr(tables, "MAX_WAITING_BYTES", 100)
        hub.die("w", [0])
        hub.heard("a")
        hub.submit("a", 1, [1], bytes(100))
        hub.submit("a", 2, [1], b"x")
        hub.submit("a", 3, [1])
        hub.submit("a", 4, [2])
        hub.submit("a", 5, [3])
        hub.say("a", Signal([3], 2, query=1))
        assert "Engine 3 cannot take more" in hub.heard("a")[0].failure.evalue
        # What there was no room for is sent again by its client, and so is what comes after it.
        assert [header.request for header in recover(hub, [0], [[]] * 4)] == ["a-1", "a-4"]
        assert hub.heard("a") == [Resend("a-2", [1]), Resend("a-3", [1]), Resend("a-5", [3])]
        assert hub.hub.state.worlds["w"].waiting_bytes == 0
        hub.submit("a", 6, [1])
        assert hub.heard("a") == [Resend("a-6", [1])]
        for number in (2, 3, 6):
            hub.submit("a", number, [1], again=True)
        assert [header.request for header in hub.heard("new")] == ["a-2", "a-3", "a-6"]
        hub.submit("a", 7, [1])
        assert [header.request for header in hub.heard("new")] == ["a-7"]

    def test_credit_begins_anew(self, hub: Driver) -> None:
        def output(peer: str, size: int) -> None:
            hub.say(peer, Output("a-1", "a", 1, "stdout", "text", size))

        output("old", 30)
        hub.say("a", Consumed(1, 10))
        assert hub.heard("old") == [Consumed(1, 10)]
        hub.die("w", [0])
        hub.say("a", Consumed(1, 5))
        assert recover(hub, [0], [[]] * 4) == []
        output("new", 7)
        hub.say("a", Consumed(1, 15))  # of before
        hub.say("a", Consumed(1, 4))
        hub.say("a", Consumed(1, 4))
        assert hub.heard("new") == [Consumed(1, 4), Consumed(1, 3)]
        assert not hub.hub.state.clients["a"].debts

    def test_a_bridge_that_comes_back_itself_gets_what_it_is_owed(self, hub: Driver) -> None:
        hub.submit("a", 1, [1])
        hub.say("old", Output("a-1", "a", 1, "stdout", "text", 30))
        hub.say("old", Lacks("a", 1, b"f"))
        hub.lose("old", "its connection is closed")
        assert list(hub.hub.state.engines) == [0, 1, 2, 3]
        hub.say("a", Consumed(1, 10))
        hub.say("a", Consumed(1, 10))
        hub.say("a", Supply(1, b"f"), b"code")
        hub.submit("a", 2, [2])
        hub.heard("a")
        rest = recover(hub, [], None)
        assert [type(one) for one in rest] == [Consumed, Supply, Submit]
        assert rest[0] == Consumed(1, 20)
        assert "had to connect again" in failures(hub)[1]
        hub.answer("new", "a-2", 2)
        assert hub.heard("a") == [Result("a-2", 2, "ok")]

    def test_functions_are_asked_for_again(self, hub: Driver) -> None:
        hub.say("old", Lacks("a", 1, b"f"))
        hub.die("w", [0])
        recover(hub, [0], [[]] * 4)
        hub.heard("a")
        assert not hub.hub.state.engines[1].debtors
        hub.say("new", Lacks("a", 1, b"f"))
        assert hub.heard("a") == [Lacks("a", 1, b"f")]

    def test_engines_stopped_meanwhile_are_told(self, hub: Driver) -> None:
        hub.die("w", [0])
        hub.say("a", Stop([2]))
        rest = recover(hub, [0], [[]] * 4)
        assert [one.engines for one in rest] == [[2]]
        hub.die("w", [1])
        hub.say("a", Stop([3]))
        (rest,) = recover(hub, [0, 1], [[]] * 4, "newest")
        assert rest.engines == [2, 3]
        assert hub.hub.state.worlds["w"].state is WorldState.STOPPING
        hub.say("newest", Goodbye())
        hub.say("a", Goodbye())
        hub.assert_forgotten()

    def test_none_comes(self, hub: Driver) -> None:
        hub.submit("a", 1, [1])
        hub.die("w", [0], "rank 0 was killed")
        hub.submit("a", 2, [2])
        hub.heard("a")
        assert hub.hub.due(hub.now) == ADRIFT_FOR
        hub.tick(ADRIFT_FOR - 0.1)
        assert hub.heard("a") == [Heartbeat(echo=True)]
        hub.tick(0.1)
        *failed, changed = (one for one in hub.heard("a") if not isinstance(one, Heartbeat))
        why = "rank 0 was killed; no other rank has connected within 15 s"
        assert [one.failure.evalue for one in failed] == [
            f"Engine 1 died while running task a-1_1: {why}",
            f"Engine 2 died while running task a-2_2: {why}",
        ]
        assert changed == EnginesChanged(removed=[1, 2, 3], reason=why)
        hub.say("late", HelloWorld("v", "w", ["h"] * 4, list(range(4)), lost=[0], held=[[]] * 4))
        assert hub.heard("late") == [Refused("world 'w' has been given up")]
        hub.say("a", Goodbye())
        hub.assert_forgotten()

    def test_all_die_meanwhile(self, hub: Driver) -> None:
        hub.die("w", [0])
        hub.die("w", [1, 2])
        hub.die("w", [3])
        assert not hub.hub.state.worlds
        assert not hub.hub.state.adrift

    def test_the_controller_stops_meanwhile(self, hub: Driver) -> None:
        hub.die("w", [0])
        hub._deliver(hub.hub.shut_down("done", hub.now))
        hub.say("new", HelloWorld("v", "w", ["h"] * 4, list(range(4)), lost=[0], held=[[]] * 4))
        assert hub.heard("new") == [Refused("the controller is shutting down: done")]
        assert not hub.hub.state.worlds

    def test_a_bridge_that_dies_while_the_world_stops(self, hub: Driver) -> None:
        hub.say("a", Stop([0, 1, 2, 3]))
        hub.die("w", [0])
        assert not hub.hub.state.worlds

    @pytest.mark.parametrize(
        ("lost", "held", "reason"),
        [
            ([0], [[]] * 3, "a world of 4 ranks told what 3 ranks hold"),
            ([4], [[]] * 4, "a world of 4 ranks has lost rank 4"),
        ],
    )
    def test_nonsense_is_refused(self, hub: Driver, lost, held, reason) -> None:
        hub.say("new", HelloWorld("v", "w", ["h"] * 4, list(range(4)), lost=lost, held=held))
        assert hub.heard("new") == [Refused(reason)]
        assert hub.hub.state.worlds["w"].peer == "old"


class TestIds:
    def hello(self, hub: Driver, name: str, first: int, size: int = 2) -> object:
        hub.say(name, HelloWorld("v", name, ["h"] * size, [1] * size, first=first))
        (reply,) = hub.heard(name)
        return reply.engines if isinstance(reply, WelcomeWorld) else reply.reason

    def test_a_restarted_world_keeps_its_ids(self) -> None:
        hub = Driver()
        hub.client("a")
        assert self.hello(hub, "w", -1) == [0, 1]
        assert self.hello(hub, "v", -1) == [2, 3]
        hub.lose("w", "killed")
        assert self.hello(hub, "u", 0) == [0, 1]
        assert self.hello(hub, "t", -1) == [4, 5]
        hub.heard("a")
        hub.submit("a", 1, [0])
        assert [header.engines for header in hub.heard("u")] == [[0]]
        assert 0 not in hub.hub.state.gone

    @pytest.mark.parametrize(("first", "size"), [(0, 1), (1, 1), (1, 5), (3, 1), (0, 9)])
    def test_ids_that_are_taken_are_refused(self, first: int, size: int) -> None:
        hub = Driver()
        self.hello(hub, "w", -1)
        self.hello(hub, "v", -1)
        assert "which is still there" in str(self.hello(hub, "u", first, size))
        assert self.hello(hub, "t", -1) == [4, 5]

    def test_ids_ahead_are_given_and_not_given_twice(self) -> None:
        hub = Driver()
        assert self.hello(hub, "w", 10) == [10, 11]
        assert self.hello(hub, "v", -1) == [12, 13]
        assert self.hello(hub, "u", 3) == [3, 4]
        assert self.hello(hub, "t", -1) == [14, 15]
        assert self.hello(hub, "s", (1 << 31) - 1) == "no engine ids are left"

    def test_what_is_remembered_of_the_gone_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tables, "MAX_GONE", 3)
        hub = Driver()
        hub.client("a")
        self.hello(hub, "w", -1, 5)
        hub.lose("w", "killed")
        assert list(hub.hub.state.gone) == [2, 3, 4]
        hub.submit("a", 1, [0, 4])
        assert failures(hub) == {
            0: "Engine 0 is gone: it died, left or was stopped",
            4: "Engine 4 is gone: it died: killed",
        }


class TestWhatIsSaidOfTheLost:
    def lost(self, hub: Driver) -> dict:
        hub.say("a", Ask(1, "status"))
        return hub.heard("a")[-1].value["lost"]

    @pytest.mark.parametrize("survives", [True, False])
    def test_a_world_whose_engines_have_died(self, survives: bool) -> None:
        hub = Driver()
        hub.world(2, "v", engine_set="before")
        hub.world(3, "w", engine_set="one", survives=survives)
        hub.client("a")
        assert self.lost(hub) == {}
        hub.die("w", [2], "killed")
        if survives:
            assert self.lost(hub) == {}  # as long as one lives
            hub.die("w", [3, 4], "killed")
        assert self.lost(hub) == {"one": {"first": 2, "reason": "killed"}}
        hub.world(3, "again", engine_set="one", first=2)
        hub.client("a")
        assert self.lost(hub) == {}

    def test_a_world_that_leaves_or_is_stopped(self) -> None:
        hub = Driver()
        for name in ("v", "w"):
            hub.world(2, name, engine_set=name)
        hub.client("a")
        hub.say("v", Goodbye())
        hub.say("a", Stop([2, 3], query=1))
        hub.lose("w", "cable cut")
        assert self.lost(hub) == {}
