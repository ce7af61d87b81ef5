"""The hub, message by message."""

from __future__ import annotations

from typing import get_args

import pytest

from mpiparallel.controller.lives import WorldState
from mpiparallel.controller.permitted import PERMITTED
from mpiparallel.wire.between import Drop, Made, Want
from mpiparallel.wire.messages import (
    Abort,
    Answer,
    AnyHeader,
    Blocked,
    Broken,
    Complete,
    Completed,
    Consumed,
    Cut,
    EnginesChanged,
    EnginesLost,
    Examine,
    Failure,
    FromClient,
    FromWorld,
    Goodbye,
    Heartbeat,
    Held,
    Hello,
    HelloWorld,
    Lacks,
    Ledgers,
    Notice,
    Output,
    Recall,
    Refused,
    Release,
    Remains,
    Renew,
    Resend,
    Result,
    Settled,
    Signal,
    Stop,
    Submit,
    Supply,
    Welcome,
    WelcomeWorld,
    Where,
    Whereabouts,
)

from .driver import Driver


@pytest.fixture
def hub() -> Driver:
    return Driver()


def output(engine: int, size: int = 10, client: str = "a") -> Output:
    return Output(f"{client}-1", client, engine, "stdout", "text", size)


SAMPLES = {
    Submit: Submit("a-1", "a", "execute", [0]),
    Abort: Abort("a-1", [0]),
    Signal: Signal([0], 2),
    Stop: Stop([0]),
    Consumed: Consumed(0, 1),
    Supply: Supply(0, b"d"),
    Result: Result("a-1", 0, "ok"),
    Output: output(0),
    Lacks: Lacks("a", 0, b"d"),
    Where: Where([0], 1),
    Whereabouts: Whereabouts(1, []),
    Notice: Notice("a", "a-1", "slow"),
    EnginesLost: EnginesLost([0], "killed"),
    Heartbeat: Heartbeat(echo=True),
    Goodbye: Goodbye(),
    Hello: Hello("v", "a", "h", 1),
    HelloWorld: HelloWorld("v", "w", ["h"], [1]),
}


class TestWhoMaySayWhat:
    def test_the_table_says_what_the_wire_says(self) -> None:
        assert {kind for kind, roles in PERMITTED.items() if "client" in roles} == set(get_args(FromClient))
        assert {kind for kind, roles in PERMITTED.items() if "engine" in roles} == set(get_args(FromWorld))

    @pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize("role", ["client", "engine"])
    def test_a_key_allows_its_role_alone(self, hub: Driver, kind, role) -> None:
        hub.say("x", SAMPLES[kind], role=role)
        (reply,) = hub.heard("x")
        allowed = role in PERMITTED[kind]
        if allowed and kind in (Hello, HelloWorld):
            assert isinstance(reply, (Welcome, WelcomeWorld))
            return
        assert isinstance(reply, Refused)
        assert ("may not send" in reply.reason) is not allowed
        assert kind.__name__ in reply.reason
        assert reply.request == ("a-1" if kind is Submit else "")
        counter = "messages before Hello" if allowed else "forbidden messages"
        assert hub.hub.state.counters[counter] == 1
        hub.assert_forgotten()

    @pytest.mark.parametrize(
        "kind", [one for one in get_args(AnyHeader) if one not in PERMITTED], ids=lambda kind: kind.__name__
    )
    def test_what_only_the_controller_or_ranks_say_is_refused(self, hub: Driver, kind) -> None:
        header = {
            "Refused": Refused("no"),
            "Answer": Answer(1),
            "EnginesChanged": EnginesChanged(),
            "Welcome": Welcome("v", "", [], 1.0),
            "WelcomeWorld": WelcomeWorld("v", "", [0], 1.0),
            "Blocked": Blocked(0, "r", None),
            "Broken": Broken(0, "world", [0]),
            "Renew": Renew("world", "world~1", 1, [0]),
            "Remains": Remains(0, "world"),
            "Complete": Complete("world"),
            "Completed": Completed(0, "world"),
            "Release": Release("world", True),
            "Want": Want([0]),
            "Made": Made([0], 1),
            "Drop": Drop([0]),
            "Examine": Examine(1, []),
            "Ledgers": Ledgers(0, 1, 0, 0, False, None, {}),
            "Held": Held(0, 1, {}, {}),
            "Cut": Cut(1, Failure("E", "v")),
            "Recall": Recall(0, ["a-1_0"]),
            "Settled": Settled(["a-1"], [0]),
            "Resend": Resend("a-1", [0]),
        }[kind.__name__]
        for peer in ("stranger", hub.client("a"), hub.world(1)):
            hub.say(peer, header)
            (reply,) = hub.heard(peer)
            assert isinstance(reply, Refused)

    def test_on_the_private_socket_the_first_message_decides(self, hub: Driver) -> None:
        client, world = hub.client("a"), hub.world(1)
        hub.say(client, HelloWorld("v", "w2", ["h"], [1]))
        hub.say(world, Hello("v", "b", "h", 1))
        assert hub.heard(client) == [Refused("a client may not send HelloWorld")]
        assert hub.heard(world) == [Refused("an engine may not send Hello")]


class TestMeeting:
    def test_ids_follow_and_are_never_used_again(self, hub: Driver) -> None:
        hub.say("w1", HelloWorld("v", "w1", ["h", "i"], [7, 8], "MPI"))
        hub.say("w2", HelloWorld("v", "w2", ["h"], [9]))
        hub.lose("w1")
        hub.say("w3", HelloWorld("v", "w3", ["h"], [9]))
        assert [hub.heard(peer)[0].engines for peer in ("w1", "w2", "w3")] == [[0, 1], [2], [3]]

    def test_a_client_learns_of_engines_that_are_there_that_come_and_that_go(self, hub: Driver) -> None:
        hub.world(2, "w1")
        hub.say("a", Hello("v", "a", "h", 1))
        (welcome,) = hub.heard("a")
        assert [(engine.id, engine.rank, engine.size, engine.world) for engine in welcome.engines] == [
            (0, 0, 2, "w1"),
            (1, 1, 2, "w1"),
        ]
        hub.say("w2", HelloWorld("v", "w2", ["x"], [5]))
        (changed,) = hub.heard("a")
        assert [(engine.id, engine.host, engine.pid) for engine in changed.added] == [(2, "x", 5)]
        hub.lose("w1", "power cut")
        assert hub.heard("a") == [EnginesChanged(removed=[0, 1], reason="power cut")]
        hub.say("w2", Goodbye())
        assert hub.heard("a") == [EnginesChanged(removed=[2], reason="it said goodbye")]

    def test_a_world_with_unequal_lists_is_refused(self, hub: Driver) -> None:
        hub.say("w", HelloWorld("v", "w", ["h", "h"], [1]))
        assert hub.heard("w") == [Refused("a world of 2 hosts and 1 processes")]
        hub.assert_forgotten()

    def test_two_worlds_may_not_share_a_name_nor_one_connection(self, hub: Driver) -> None:
        hub.world(2, "w")
        hub.say("other", HelloWorld("v", "w", ["h"], [1]))
        assert hub.heard("other") == [Refused("another world is called 'w'")]
        hub.say("w", HelloWorld("v", "v", ["h"], [1]))
        assert hub.heard("w") == [Refused("this connection is world 'w' already")]

    def test_hello_twice_on_one_connection_changes_nothing(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("w", output(0))
        hub.heard("a")
        hub.say("a", Hello("v", "a", "h", 1))
        assert [type(header) for header in hub.heard("a")] == [Welcome]
        assert hub.heard("w") == []
        hub.say("a", Hello("v", "b", "h", 1))
        assert hub.heard("a") == [Refused("this connection is client 'a' already")]

    def test_a_client_that_comes_back_takes_the_place_of_its_old_connection(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a", peer="old")
        hub.say("old", Submit("a-1", "a", "execute", [0]))
        hub.say("w", output(0, 10))
        hub.say("w", Lacks("a", 0, b"f"))
        hub.heard("w"), hub.heard("old")
        hub.say("new", Hello("v", "a", "h", 1))
        assert [type(header) for header in hub.heard("new")] == [Welcome, Lacks]
        assert [type(header) for header in hub.heard("old")] == [Refused]
        assert hub.heard("w") == [Consumed(0, 10)]
        hub.say("old", Heartbeat(echo=True))
        assert "not said Hello" in hub.heard("old")[0].reason
        hub.say("new", Supply(0, b"f"), b"function")
        assert hub.heard("w") == [Supply(0, b"f")]
        hub.answer("w", "a-1", 0)
        assert hub.heard("new") == [Result("a-1", 0, "ok")]

    def test_a_world_that_comes_back_keeps_its_ids_and_fails_what_was_open(self, hub: Driver) -> None:
        hub.world(1, "before")
        hub.world(2, "w", peer="old")
        hub.client("a")
        hub.submit("a", 1, [1, 2])
        hub.say("new", HelloWorld("v", "w", ["h"] * 2, [0, 1]))
        assert [header.engines for header in hub.heard("new")] == [[1, 2]]
        failures = hub.heard("a")
        assert [(one.engine, one.failure.ename) for one in failures] == [
            (1, "EngineError"),
            (2, "EngineError"),
        ]
        assert "a-1_1" in failures[0].failure.evalue
        hub.answer("new", "a-1", 1)
        assert hub.heard("a") == []
        hub.submit("a", 2, [2])
        assert [header.request for header in hub.heard("new")] == ["a-2"]
        hub.lose("old")
        assert hub.heard("a") == []


class TestRequests:
    def test_one_world_gets_the_request_as_it_is(self, hub: Driver) -> None:
        hub.world(3)
        hub.client("a")
        frames = [bytearray(b"common"), b"x", b"yy", b"z"]
        hub.submit("a", 1, [2, 0], *frames, parts=[1, 2])
        (message,) = hub.inbox["w"]
        assert message.header == Submit("a-1", "a", "execute", [2, 0], 1, [1, 2])
        assert all(got is sent for got, sent in zip(message.payload, frames, strict=True))

    def test_a_request_for_two_worlds_is_split_with_its_parts(self, hub: Driver) -> None:
        hub.world(2, "w")
        hub.world(2, "v")
        hub.client("a")
        hub.submit("a", 1, [3, 0, 2, 1], b"c", b"3", b"0a", b"0b", b"1", parts=[1, 2, 0, 1], function=b"f")
        (first,), (second,) = hub.inbox["w"], hub.inbox["v"]
        assert first.header == Submit("a-1", "a", "execute", [0, 1], 1, [2, 1], b"f")
        assert list(first.payload) == [b"c", b"0a", b"0b", b"1"]
        assert second.header == Submit("a-1", "a", "execute", [3, 2], 1, [1, 0], b"f")
        assert list(second.payload) == [b"c", b"3"]

    def test_a_request_without_parts_is_split_too(self, hub: Driver) -> None:
        hub.world(1, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.submit("a", 1, [0, 1], b"c")
        assert [list(hub.inbox[peer][0].payload) for peer in "wv"] == [[b"c"], [b"c"]]
        assert hub.inbox["v"][0].header.parts == []

    def test_engines_that_are_not_there_are_answered_for(self, hub: Driver) -> None:
        hub.world(2, "gone")
        hub.world(1, "w")
        hub.client("a")
        hub.lose("gone")
        hub.heard("a")
        hub.submit("a", 1, [7, 2, 1], b"7", b"2", b"1", parts=[1, 1, 1])
        assert list(hub.inbox["w"][0].payload) == [b"2"]
        answers = hub.heard("a")
        assert [(one.engine, one.status, one.failure.ename) for one in answers] == [
            (7, "error", "EngineError"),
            (1, "error", "EngineError"),
        ]
        assert "does not exist" in answers[0].failure.evalue
        assert "gone" in answers[1].failure.evalue
        hub.answer("w", "a-1", 2)
        assert hub.heard("a") == [Result("a-1", 2, "ok")]
        assert not hub.hub.state.requests

    @pytest.mark.parametrize(
        ("request_id", "client", "engines", "word"),
        [
            ("a-1", "b", [0], "in the name of"),
            ("b-1", "a", [0], "begin"),
            ("a-1", "a", [], "names no engines"),
        ],
    )
    def test_a_request_that_makes_no_sense_is_refused(self, hub, request_id, client, engines, word) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("a", Submit(request_id, client, "execute", engines))
        (refused,) = hub.heard("a")
        assert word in refused.reason
        assert refused.request == request_id
        assert hub.heard("w") == []
        assert not hub.hub.state.requests

    def test_a_copy_of_a_request_is_not_run(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.submit("a", 1, [0])
        hub.submit("a", 1, [0])
        hub.answer("w", "a-1", 0)
        hub.submit("a", 1, [0])
        assert len(hub.heard("w")) == 1
        assert hub.heard("a") == [Result("a-1", 0, "ok")]
        assert hub.hub.state.counters["duplicate requests"] == 2

    def test_a_result_counts_once_and_from_its_own_world(self, hub: Driver) -> None:
        hub.world(1, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.submit("a", 1, [0])
        for world, request, engine in [("v", "a-1", 0), ("v", "a-1", 1), ("w", "a-2", 0), ("w", "a-1", 9)]:
            hub.answer(world, request, engine)
            assert hub.heard("a") == []
        hub.answer("w", "a-1", 0, b"value")
        hub.answer("w", "a-1", 0, b"value")
        assert [list(message.payload) for message in hub.inbox["a"]] == [[b"value"]]
        assert hub.hub.state.counters["results of tasks not open"] == 3
        assert hub.hub.state.counters["messages about engines not in the sender's world"] == 2

    def test_a_world_that_dies_fails_its_open_tasks_and_no_others(self, hub: Driver) -> None:
        hub.world(2, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.submit("a", 1, [0, 1, 2])
        hub.answer("w", "a-1", 0)
        hub.heard("a")
        hub.lose("w", "the process of engine 1 (rank 1 on n7, pid 12) is gone")
        failed, changed = hub.heard("a")
        assert failed.failure.evalue == (
            "Engine 1 died while running task a-1_1: the process of engine 1 (rank 1 on n7, pid 12) is gone"
        )
        assert changed.removed == [0, 1]
        hub.answer("v", "a-1", 2)
        assert hub.heard("a") == [Result("a-1", 2, "ok")]

    def test_tasks_of_a_client_that_goes_run_on_and_their_results_are_dropped(self, hub: Driver) -> None:
        hub.world(2)
        hub.client("a")
        hub.submit("a", 1, [0, 1])
        hub.say("a", Goodbye())
        hub.answer("w", "a-1", 0)
        hub.heard("w")
        assert hub.heard("a") == []
        hub.lose("w")
        hub.assert_forgotten()


class TestOutput:
    def test_credit_goes_back_to_the_engine_and_not_twice(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("w", output(0, 30))
        assert hub.heard("a") == [output(0, 30)]
        hub.say("a", Consumed(0, 20))
        hub.say("a", Consumed(0, 20))
        hub.say("a", Consumed(0, 20))
        assert hub.heard("w") == [Consumed(0, 20), Consumed(0, 10)]
        assert not hub.hub.state.clients["a"].debts
        assert not hub.hub.state.engines[0].debtors

    def test_the_hub_consumes_for_a_client_that_is_gone(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("w", output(0, 30))
        hub.lose("a")
        hub.say("w", output(0, 5))
        hub.say("w", output(0, 0))
        assert hub.heard("w") == [Consumed(0, 30), Consumed(0, 5)]
        assert not hub.hub.state.engines[0].debtors

    def test_what_is_printed_meanwhile_waits_for_a_client_that_is_away(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.submit("a", 1, [0])
        hub.cut("a")
        hub.inbox.clear()
        hub.say("w", Output("a-1", "a", 0, "display", "", 3, 7), b"png")
        hub.say("w", output(0, 5))
        hub.answer("w", "a-1", 0)
        assert hub.heard("w")[:2] == [Consumed(0, 3), Consumed(0, 5)]
        hub.say("a2", Hello("v", "a", "h", 1))
        payloads = [bytes(*one.payload) for one in hub.inbox["a2"] if isinstance(one.header, Output)]
        assert payloads == [b"png", b""]
        told = [one for one in hub.heard("a2") if isinstance(one, (Output, Result))]
        assert told == [Output("a-1", "a", 0, "display", "", 0, 7), output(0, 0), Result("a-1", 0, "ok")]
        hub.cut("a2")
        hub.say("a3", Hello("v", "a", "h", 1))
        assert not [one for one in hub.heard("a3") if isinstance(one, Output)]

    def test_what_is_kept_for_a_client_that_is_away_is_bounded(
        self, hub: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mpiparallel.controller.delivery.MAX_OUTPUT", 10)
        hub.world(1)
        hub.client("a")
        hub.submit("a", 1, [0])
        hub.cut("a")
        for _ in range(3):
            hub.say("w", output(0, 4))
        hub.say("a2", Hello("v", "a", "h", 1))
        told = [one for one in hub.heard("a2") if isinstance(one, (Output, Notice))]
        assert told[:2] == [output(0, 0)] * 2
        [notice] = told[2:]
        assert notice.request == "a-1" and notice.text.startswith("Of 12 bytes that were printed while")

    def test_nothing_is_owed_to_an_engine_that_is_gone(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("w", output(0, 30))
        hub.lose("w")
        assert not hub.hub.state.clients["a"].debts
        hub.say("a", Consumed(0, 30))
        hub.lose("a")
        hub.assert_forgotten()

    def test_output_of_another_worlds_engine_is_dropped(self, hub: Driver) -> None:
        hub.world(1, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.say("v", output(0))
        assert hub.heard("a") == []


class TestFunctions:
    def test_a_function_is_asked_for_and_supplied(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("w", Lacks("a", 0, b"f"))
        assert hub.heard("a") == [Lacks("a", 0, b"f")]
        hub.say("a", Supply(0, b"f"), b"code")
        hub.say("a", Supply(0, b"f"), b"code")
        assert [list(message.payload) for message in hub.inbox["w"]] == [[b"code"]]
        assert not hub.hub.state.engines[0].debtors

    def test_of_a_client_that_is_gone_the_function_is_gone(self, hub: Driver) -> None:
        hub.world(1)
        hub.client("a")
        hub.say("w", Lacks("a", 0, b"f"))
        hub.lose("a")
        hub.say("w", Lacks("a", 0, b"g"))
        assert hub.heard("w") == [Supply(0, b"f"), Supply(0, b"g")]
        assert not hub.hub.state.engines[0].debtors


class TestControl:
    def test_abort_goes_to_the_worlds_for_open_tasks(self, hub: Driver) -> None:
        hub.world(2, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.submit("a", 1, [0, 1, 2])
        hub.answer("w", "a-1", 0)
        hub.inbox.clear()
        hub.say("a", Abort("a-1", [0, 1, 2, 9]))
        hub.say("a", Abort("a-9", [0]))
        assert hub.heard("w") == [Abort("a-1", [1])]
        assert hub.heard("v") == [Abort("a-1", [2])]
        hub.say("w", Result("a-1", 1, "aborted"))
        assert hub.heard("a") == [Result("a-1", 1, "aborted")]

    def test_a_signal_reaches_those_who_are_there(self, hub: Driver) -> None:
        hub.world(1, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.say("a", Signal([1, 0], 2, query=5))
        assert (hub.heard("w"), hub.heard("v"), hub.heard("a")) == (
            [Signal([0], 2)],
            [Signal([1], 2)],
            [Answer(5)],
        )
        hub.say("a", Signal([1, 8], 2, query=6))
        (answer,) = hub.heard("a")
        assert answer.failure.ename == "EngineError"
        assert "Engine 8 does not exist" in answer.failure.evalue
        assert hub.heard("v") == [Signal([1], 2)]

    def test_stopped_engines_are_gone_at_once(self, hub: Driver) -> None:
        hub.world(2)
        hub.client("a")
        hub.submit("a", 1, [0, 1])
        hub.heard("w")
        hub.say("a", Stop([1], query=3, reason="enough"))
        assert hub.heard("w") == [Stop([1], reason="enough")]
        failed, changed, answer = hub.heard("a")
        assert failed.failure.evalue == "Engine 1 was stopped while running task a-1_1: enough"
        assert changed == EnginesChanged(removed=[1], reason="enough")
        assert answer == Answer(3)
        hub.answer("w", "a-1", 1)
        hub.answer("w", "a-1", 0)
        assert hub.heard("a") == [Result("a-1", 0, "ok")]
        hub.say("a", Stop([0, 1]))
        assert [header.engines for header in hub.heard("w")] == [[0]]
        hub.heard("a")
        hub.say("w", Goodbye())
        assert hub.heard("a") == []
        assert not hub.hub.state.worlds

    def test_stop_of_the_controller_stops_all_worlds_and_takes_nobody_more(self, hub: Driver) -> None:
        hub.world(2, "w")
        hub.world(1, "v")
        hub.client("a")
        hub.submit("a", 1, [0])
        hub.heard("w")
        hub.say("a", Stop([], controller=True, query=1, reason="done"))
        assert hub.hub.stopping == "done"
        assert [header.engines for header in hub.heard("w")] == [[0, 1]]
        assert [header.engines for header in hub.heard("v")] == [[2]]
        assert [type(header) for header in hub.heard("a")] == [Result, EnginesChanged, Answer]
        hub.say("b", Hello("v", "b", "h", 1))
        hub.say("u", HelloWorld("v", "u", ["h"], [1]))
        for peer in "bu":
            assert hub.heard(peer) == [Refused("the controller is shutting down: done")]
        hub.submit("a", 2, [0])
        assert [header.status for header in hub.heard("a")] == ["error"]
        hub.say("w", Goodbye())
        hub.lose("v")
        hub._deliver(hub.hub.farewell())
        assert hub.heard("a") == [Goodbye("done")]
        hub.assert_forgotten()


class TestLiveness:
    def test_a_heartbeat_is_answered_when_asked(self, hub: Driver) -> None:
        hub.client("a")
        hub.say("a", Heartbeat())
        hub.say("a", Heartbeat(echo=True))
        assert hub.heard("a") == [Heartbeat()]

    def test_the_silent_are_asked_and_then_given_up(self) -> None:
        hub = Driver(heartbeat=5.0, lost_after=12.0)
        hub.world(1)
        hub.client("a")
        hub.submit("a", 1, [0])
        hub.heard("w")
        for _ in range(11):
            hub.tick(1.0)
            hub.say("a", Heartbeat())
        assert hub.heard("w") == [Heartbeat(echo=True)] * 2
        assert hub.heard("a") == []
        hub.tick(1.5)
        assert hub.hub.state.worlds["w"].state is WorldState.ADRIFT
        assert hub.heard("a") == []
        for _ in range(2):
            hub.say("a", Heartbeat())
            hub.tick(6.0)
        failed, changed = (one for one in hub.heard("a") if not isinstance(one, Heartbeat))
        why = "nothing was heard of it for 12 s; it has not connected within 12 s"
        assert why in failed.failure.evalue
        assert changed.removed == [0]

    def test_a_watched_peer_may_be_silent_for_ever(self) -> None:
        hub = Driver(heartbeat=5.0, lost_after=12.0)
        hub.client("a")
        hub.hub.watch("a")
        hub.tick(1000.0)
        assert hub.heard("a") == [Heartbeat(echo=True)]
        assert hub.hub.state.clients

    def test_losing_an_unknown_peer_changes_nothing(self, hub: Driver) -> None:
        hub.lose("nobody")
        hub.assert_forgotten()
