"""Where: a question of a client to the worlds of many engines, and who answers when they do not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mpiparallel.controller import questions
from mpiparallel.wire.messages import Answer, EnginesLost, Goodbye, HelloWorld, Stop, Where, Whereabouts
from mpiparallel.wire.waits import Frame, Part, Place, Wait

from .driver import Driver


@pytest.fixture
def hub() -> Driver:
    """A hub with a client and two worlds, of engines 0 and 1 and of engine 2."""
    driver = Driver()
    driver.world(2, "w", survives=True)
    driver.world(1, "v")
    driver.client("a")
    return driver


def asked(hub: Driver, world: str) -> Where:
    (where,) = hub.heard(world)
    assert isinstance(where, Where)
    return where


def answers(hub: Driver, client: str = "a") -> list[tuple[int, list[Place]]]:
    return [
        (header.query, msgspec.convert(header.value, list[Place]))
        for header in hub.heard(client)
        if isinstance(header, Answer)
    ]


def states(places: list[Place]) -> list[tuple[int, str]]:
    return [(place.engine, place.state) for place in places]


def reply(hub: Driver, world: str, ticket: int, *engines: int, **fields: Any) -> None:
    hub.say(world, Whereabouts(ticket, [Place(engine, "idle", **fields) for engine in engines]))


def test_worlds_are_asked_under_tickets_and_answered_as_one(hub: Driver) -> None:
    hub.say("a", Where([2, 0, 1, 2], 77))
    one, other = asked(hub, "w"), asked(hub, "v")
    assert (one.engines, other.engines) == ([0, 1], [2])
    assert one.query != other.query
    reply(hub, "v", other.query, 2)
    assert answers(hub) == []
    wait = Wait(3, "Bcast", 1.5, [Part("collective", "world", "Bcast(root=0)", 4)], members={"world": [0, 1]})
    place = Place(0, "blocked", "a-1", "a", 2.0, 1, [Frame("cell", 3, "f", "f()")], wait, ["read"], "odd")
    hub.say("w", Whereabouts(one.query, [Place(1, "idle"), place]))
    assert answers(hub) == [(77, [Place(2, "idle"), place, Place(1, "idle")])]
    assert not hub.hub.state.asked


def test_two_questions_do_not_mix(hub: Driver) -> None:
    hub.client("b")
    hub.say("a", Where([0], 1))
    hub.say("b", Where([0], 1))
    first, second = (header.query for header in hub.heard("w"))
    reply(hub, "w", second, 0, detail="second")
    assert answers(hub, "a") == []
    assert answers(hub, "b")[0][1][0].detail == "second"
    reply(hub, "w", first, 0, detail="first")
    assert answers(hub, "a")[0][1][0].detail == "first"


def test_engines_that_are_gone_say_why(hub: Driver) -> None:
    hub.die("w", [1], "rank 1 on h (pid 1) was killed by signal 9 (SIGKILL)")
    hub.say("a", Stop([2], reason="enough"))
    hub.inbox.clear()
    hub.say("a", Where([0, 1, 2, 9], 1))
    reply(hub, "w", asked(hub, "w").query, 0)
    ((_, places),) = answers(hub)
    assert states(places) == [(0, "idle"), (1, "gone"), (2, "gone"), (9, "gone")]
    assert [place.detail for place in places[1:]] == [
        "Engine 1 is gone: it died: rank 1 on h (pid 1) was killed by signal 9 (SIGKILL)",
        "Engine 2 is gone: it was stopped: enough",
        "Engine 9 does not exist; there have been 3 engines so far",
    ]


@pytest.mark.parametrize("engines", [[], [7]])
def test_nobody_to_ask_is_answered_at_once(hub: Driver, engines: list[int]) -> None:
    hub.say("a", Where(engines, 5))
    ((query, places),) = answers(hub)
    assert (query, [place.state for place in places]) == (5, ["gone"] * len(engines))


def test_who_does_not_answer_in_time_is_stuck(hub: Driver) -> None:
    hub.submit("a", 1, [1])
    hub.submit("a", 2, [1])
    hub.inbox.clear()
    hub.say("a", Where([0, 1, 2], 1))
    one, other = asked(hub, "w"), asked(hub, "v")
    reply(hub, "v", other.query, 2)
    assert hub.hub.due(hub.now) == questions.LOOK_AFTER
    hub.tick(1.9)
    assert answers(hub) == []
    assert hub.hub.due(hub.now) == questions.PATIENCE
    hub.tick(0.1)
    ((_, places),) = answers(hub)
    assert states(places) == [(0, "stuck"), (1, "stuck"), (2, "idle")]
    assert places[1] == Place(1, "stuck", "a-1", "a", queued=1, detail=questions.SILENT)
    reply(hub, "w", one.query, 0, 1)
    assert answers(hub) == []
    assert hub.hub.state.counters["answers to questions not open"] == 1
    assert hub.hub.due(hub.now) == float("inf")


def test_what_the_server_saw_stands_unless_the_world_answers(hub: Driver) -> None:
    for late in (True, False):
        hub.say("a", Where([0, 1, 2], 1))
        one, other = asked(hub, "w"), asked(hub, "v")
        assert hub.hub.silent(hub.now) == []
        hub.now += 1.0
        reply(hub, "v", other.query, 2)
        (world,) = hub.hub.silent(hub.now)
        assert world.name == "w"
        hub.hub.saw(world, Place(0, "stuck", stack=[Frame("f.py", 1, "f")], detail="it holds the GIL"))
        hub.hub.saw(world, Place(2, "stuck", detail="not of this world"))
        if late:
            hub.tick(1.0)
        else:
            reply(hub, "w", one.query, 0, 1)
        ((_, places),) = answers(hub)
        assert [place.detail for place in places] == (
            ["it holds the GIL", questions.SILENT, ""] if late else ["", "", ""]
        )


def test_a_world_that_leaves_some_out(hub: Driver) -> None:
    hub.say("a", Where([0, 1], 1))
    reply(hub, "w", asked(hub, "w").query, 1, 2)
    ((_, places),) = answers(hub)
    assert states(places) == [(0, "stuck"), (1, "idle")]
    assert places[0].detail == "its world did not say"


def test_a_world_may_not_answer_for_another(hub: Driver) -> None:
    hub.say("a", Where([0], 1))
    ticket = asked(hub, "w").query
    reply(hub, "v", ticket, 0)
    assert answers(hub) == []
    reply(hub, "w", ticket, 0)
    assert len(answers(hub)) == 1


@pytest.mark.parametrize("polite", [True, False])
def test_a_world_that_goes_leaves_no_question_behind(hub: Driver, polite: bool) -> None:
    hub.say("a", Where([2, 0], 1))
    one, _ = asked(hub, "w"), asked(hub, "v")
    if polite:
        hub.say("v", Goodbye("time is up"))
    else:
        hub.lose("v", "time is up")
    reply(hub, "w", one.query, 0)
    ((_, places),) = answers(hub)
    assert states(places) == [(2, "gone"), (0, "idle")]
    assert places[0].detail.endswith("time is up")
    assert not hub.hub.state.asked


def test_an_engine_that_dies_meanwhile_is_gone(hub: Driver) -> None:
    hub.say("a", Where([0, 1], 1))
    ticket = asked(hub, "w").query
    hub.say("w", EnginesLost([1], "segmentation fault"))
    reply(hub, "w", ticket, 0)
    ((_, places),) = answers(hub)
    assert states(places) == [(0, "idle"), (1, "gone")]


def test_a_world_without_a_bridge_answers_at_once(hub: Driver) -> None:
    hub.say("a", Where([0, 1], 1))
    hub.heard("w")
    hub.die("w", [0], "rank 0 was killed")
    hub.say("a", Where([0, 1], 2))
    first, second = answers(hub)
    for _, places in (first, second):
        assert states(places) == [(0, "gone"), (1, "stuck")]
        assert places[1].detail == "its world has no bridge: rank 0 was killed"
    assert not hub.hub.state.asked


def test_a_world_that_connects_again_has_lost_the_question(hub: Driver) -> None:
    hub.say("a", Where([2], 1))
    hub.say("again", HelloWorld("v", "v", ["h"], [0]))
    ((_, places),) = answers(hub)
    assert states(places) == [(2, "stuck")]


def test_a_client_that_goes_leaves_no_question_behind(hub: Driver) -> None:
    hub.client("b")
    hub.say("a", Where([0, 2], 1))
    hub.say("b", Where([2], 1))
    tickets = [asked(hub, "w").query, hub.heard("v")[0].query]
    hub.say("a", Goodbye())
    assert len(hub.hub.state.asked) == 1
    reply(hub, "w", tickets[0], 0)
    reply(hub, "v", tickets[1], 2)
    hub.tick(5.0)
    assert hub.heard("a") == []
    assert len(answers(hub, "b")) == 1
    assert not hub.hub.state.asked


def test_too_many_questions_are_turned_away(hub: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAX_ASKED", 3)
    hub.say("a", Where([0, 2], 1))
    hub.say("a", Where([0, 2], 2))
    hub.say("a", Where([0], 3))
    (refused,) = hub.heard("a")
    assert refused.query == 2
    assert "2 questions wait" in refused.failure.evalue
    hub.tick(2.0)
    assert [query for query, _ in answers(hub)] == [1, 3]
