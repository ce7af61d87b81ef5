"""What the hub answers when asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mpiparallel.wire.messages import Answer, Ask, Result

from .driver import Driver


@pytest.fixture
def hub() -> Driver:
    """Two engines of world w, one of v; of request a-1 one task is done, of b-1 one failed."""
    hub = Driver(records=10)
    hub.world(2, "w")
    hub.world(1, "v")
    hub.client("a")
    hub.client("b")
    hub.submit("a", 1, [0, 1])
    hub.submit("a", 2, [0])
    hub.submit("b", 1, [2])
    hub.answer("w", "a-1", 0)
    hub.say("v", Result("b-1", 2, "error"))
    hub.inbox.clear()
    return hub


def ask(hub: Driver, what: Any, **fields: Any) -> Answer:
    hub.say("a", Ask(7, what, **fields))
    (answer,) = hub.heard("a")
    assert answer.query == 7
    msgspec.msgpack.encode(answer)  # it can travel
    return answer


def test_queue_status(hub: Driver) -> None:
    assert ask(hub, "queue_status").value == {
        "0": {"queue": 1, "completed": 1, "tasks": 0},
        "1": {"queue": 1, "completed": 0, "tasks": 0},
        "2": {"queue": 0, "completed": 1, "tasks": 0},
        "unassigned": 0,
    }
    assert ask(hub, "queue_status", engines=[1]).value == {
        "1": {"queue": 1, "completed": 0, "tasks": 0},
        "unassigned": 0,
    }


def test_queue_status_names_tasks_when_verbose(hub: Driver) -> None:
    assert ask(hub, "queue_status", engines=[0, 2], verbose=True).value == {
        "0": {"queue": ["a-2_0"], "completed": ["a-1_0"], "tasks": []},
        "2": {"queue": [], "completed": ["b-1_2"], "tasks": []},
        "unassigned": [],
    }


def test_queue_status_of_an_engine_that_is_not_there(hub: Driver) -> None:
    failure = ask(hub, "queue_status", engines=[9]).failure
    assert failure is not None
    assert (failure.ename, failure.evalue) == ("KeyError", "there is no engine 9")


def test_result_status(hub: Driver) -> None:
    answer = ask(hub, "result_status", msg_ids=["a-1_0", "a-1_1", "a-2_0", "b-1_2"])
    assert answer.value == {"pending": ["a-1_1", "a-2_0"], "completed": ["a-1_0", "b-1_2"]}


@pytest.mark.parametrize("task", ["", "nonsense", "a-1_7", "a-9_0", "a-1_²"])
def test_result_status_of_an_unknown_task(hub: Driver, task: str) -> None:
    failure = ask(hub, "result_status", msg_ids=["a-1_0", task]).failure
    assert failure is not None
    assert failure.ename == "KeyError"
    assert repr(task) in failure.evalue


def test_purging_forgets_what_is_finished_and_not_what_is_open(hub: Driver) -> None:
    hub.answer("w", "a-1", 1)
    hub.heard("a")
    assert ask(hub, "purge_results", msg_ids=["a-1_1", "a-2_0", "z-1_0"]) == Answer(7)
    assert ask(hub, "result_status", msg_ids=["a-1_1"]).failure is not None
    assert ask(hub, "result_status", msg_ids=["a-1_0", "a-2_0", "b-1_2"]).failure is None
    assert ask(hub, "purge_results", engines=[2]) == Answer(7)
    assert ask(hub, "result_status", msg_ids=["b-1_2"]).failure is not None
    assert ask(hub, "purge_results", msg_ids=["all"]) == Answer(7)
    assert ask(hub, "result_status", msg_ids=["a-1_0"]).failure is not None
    assert len(hub.hub.state.finished) == 0
    assert ask(hub, "result_status", msg_ids=["a-2_0"]).value["pending"] == ["a-2_0"]
    failure = ask(hub, "purge_results", msg_ids=["nonsense"]).failure
    assert failure is not None


def test_the_record_is_bounded(hub: Driver) -> None:
    for number in range(100, 200):
        hub.submit("a", number, [0, 1])
        hub.answer("w", f"a-{number}", 0)
        hub.answer("w", f"a-{number}", 1)
    hub.inbox.clear()
    assert len(hub.hub.state.finished) == 10
    assert ask(hub, "result_status", msg_ids=["a-199_0", "a-195_1"]).failure is None
    assert ask(hub, "result_status", msg_ids=["a-194_0"]).failure is not None


def test_status(hub: Driver) -> None:
    value = ask(hub, "status").value
    world = {"engine_set": "", "mpi": "", "job": "", "time_left": None}
    assert value["worlds"] == [
        {**world, "name": "w", "engines": [0, 1], "hosts": ["h", "h"]},
        {**world, "name": "v", "engines": [2], "hosts": ["h"]},
    ]
    assert (value["clients"], value["cluster_id"], value["host"]) == (2, "cluster", "h")
