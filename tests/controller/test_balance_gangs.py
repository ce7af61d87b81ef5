"""Gang tasks on the hub: several engines of one world at once, and nobody starves."""

from __future__ import annotations

import random

import pytest

from mpiparallel.wire.messages import NOBODY, Abort, HelloWorld, Result, Submit
from tests.controller.balancing_driver import Balancer


@pytest.fixture
def hub() -> Balancer:
    driver = Balancer()
    driver.client("a")
    driver.world(4, survives=True)
    return driver


def end(hub: Balancer, task: str, engines: list[int], **fields: object) -> None:
    for engine in engines:
        hub.finish(task, engine, **fields)  # type: ignore[arg-type]


def test_a_gang_gets_neighbours_and_its_results_come_together(hub: Balancer) -> None:
    (task,) = hub.balance("a", ranks=3)
    (message,) = hub.inbox.pop("w")
    assert isinstance(message.header, Submit)
    assert (message.header.request, message.header.engines) == (task, [0, 1, 2])
    assert message.header.options == {"gang": True}
    assert list(message.payload) == [b"code", b"common", b"part0"]
    hub.finish(task, 2)
    hub.finish(task, 0)
    assert not hub.results("a")
    hub.finish(task, 1)
    assert hub.results("a") == [(task, 0, "ok"), (task, 1, "ok"), (task, 2, "ok")]
    (record,) = hub.hub.take_records()
    assert (record.ranks, record.engines, record.status, len(record.results)) == (3, [0, 1, 2], "ok", 3)
    hub.assert_no_work_left()


def test_a_set_of_engines_that_was_used_before_is_used_again(hub: Balancer) -> None:
    hub.submit("a", 100, [0])
    hub.heard("w")
    (task,) = hub.balance("a", ranks=2)
    assert hub.sent() == [(task, [1, 2])]
    end(hub, task, [1, 2])
    hub.answer("w", "a-100", 0)
    (task,) = hub.balance("a", ranks=2)
    assert hub.sent() == [(task, [1, 2])]


def test_nothing_is_sent_behind_a_gang(hub: Balancer) -> None:
    for _ in range(4):
        hub.finish(hub.balance("a")[0], 0)
        for task, engines in hub.sent():
            if task in hub.hub.state.balanced:
                hub.finish(task, engines[0])
    (gang,) = hub.balance("a", ranks=4)
    hub.heard("w")
    hub.balance("a", 3)
    assert not hub.sent()
    hub.finish(gang, 2)
    assert {engines[0] for _, engines in hub.sent()} == {2}


def test_small_gangs_and_single_tasks_fill_gaps(hub: Balancer) -> None:
    hub.submit("a", 100, [0])
    (big,) = hub.balance("a", ranks=4)
    hub.heard("w")
    assert hub.hub.state.balancing.reserved is not None  # nothing else is there to be done
    hub.answer("w", "a-100", 0)
    assert hub.sent() == [(big, [0, 1, 2, 3])]


def test_a_gang_is_not_starved_by_single_tasks(hub: Balancer) -> None:
    """Single tasks come without end; each engine is always about to have the next one."""
    hub.balance("a", 40)
    running = {engines[0]: task for task, engines in hub.sent()}
    (gang,) = hub.balance("a", ranks=4)
    for step in range(400):
        hub.tick(0.01)
        for engine, task in list(running.items()):
            if step % 4 == engine:
                del running[engine]
                hub.finish(task, engine, 0.04)
        hub.balance("a", 1)
        for task, engines in hub.sent():
            if task == gang:
                assert hub.now < 0.5
                return
            running.setdefault(engines[0], task)
            if running[engines[0]] != task:
                hub.finish(task, engines[0], 0.04)
    pytest.fail("the gang waits for ever")


def test_single_tasks_are_not_starved_by_gangs(hub: Balancer) -> None:
    hub.balance("a", 20, ranks=4)
    (single,) = hub.balance("a", 1)
    for _ in range(20):
        for task, engines in hub.sent():
            if task == single:
                return
            for engine in engines:
                hub.finish(task, engine)
        hub.tick(0.01)
    pytest.fail("the single task waits for ever")


def test_two_gangs_share_a_world(hub: Balancer) -> None:
    tasks = hub.balance("a", 3, ranks=2)
    assert hub.sent() == [(tasks[0], [0, 1]), (tasks[1], [2, 3])]
    end(hub, tasks[1], [2, 3])
    assert hub.sent() == [(tasks[2], [2, 3])]


def test_a_gang_that_no_world_is_big_enough_for_fails_at_once(hub: Balancer) -> None:
    hub.balance("a", ranks=5)
    reason = hub.reason("a")
    assert "5 engines of one world" in reason and "w, 4 may" in reason
    hub.assert_no_work_left()


def test_it_waits_when_there_is_no_engine_at_all() -> None:
    hub = Balancer()
    hub.client("a")
    (task,) = hub.balance("a", ranks=2)
    hub.say("w", HelloWorld("v", "w", ["h"] * 4, list(range(4))))
    assert hub.sent() == [(task, [0, 1])]


def test_a_gang_that_waits_fails_when_its_world_shrinks(hub: Balancer) -> None:
    hub.submit("a", 100, [0])
    hub.balance("a", ranks=4)
    hub.kill(3)
    assert "no world has so many" in hub.reason("a")
    hub.answer("w", "a-100", 0)
    hub.assert_no_work_left()


def test_a_rank_that_fails_makes_the_gang_fail(hub: Balancer) -> None:
    (task,) = hub.balance("a", ranks=2)
    hub.finish(task, 0)
    hub.fail(task, 1)
    assert hub.results("a") == [(task, 0, "ok"), (task, 1, "ValueError")]
    assert hub.hub.take_records()[0].status == "error"


def test_retries_drop_all_results_of_a_try(hub: Balancer) -> None:
    (task,) = hub.balance("a", ranks=2, retries=1)
    hub.finish(task, 0)
    hub.fail(task, 1)
    assert not hub.results("a")
    again = hub.sent()[-1]
    assert again[0] == task
    end(hub, task, again[1])
    assert [end for _, _, end in hub.results("a")] == ["ok", "ok"]
    hub.assert_no_work_left()


def test_an_engine_that_dies_fails_its_gang_and_the_others_are_heard(hub: Balancer) -> None:
    (task,) = hub.balance("a", ranks=3)
    hub.kill(1)
    assert not hub.results("a")
    hub.finish(task, 0)
    hub.fail(task, 2, "PeerFailed")
    assert hub.results("a") == [(task, 0, "ok"), (task, 1, "EngineError"), (task, 2, "PeerFailed")]
    hub.assert_no_work_left()


def test_a_gang_ends_with_its_world(hub: Balancer) -> None:
    (task,) = hub.balance("a", ranks=3)
    hub._deliver(hub.hub.engines_lost("w", [0, 1, 2, 3], "power cut", hub.now))
    assert [(name, end) for name, _, end in hub.results("a")] == [(task, "EngineError")] * 3
    hub.assert_no_work_left()


def test_gangs_are_aborted_on_all_their_engines(hub: Balancer) -> None:
    tasks = hub.balance("a", 3, ranks=2)
    hub.heard("w")
    hub.say("a", Abort("a-1", [0, 2]))
    assert hub.results("a") == [(tasks[2], NOBODY, "aborted")]
    assert [one for one in hub.heard("w") if isinstance(one, Abort)] == [Abort(tasks[0], [0, 1])]
    end(hub, tasks[0], [0, 1], status="aborted")
    assert [end for _, _, end in hub.results("a")] == ["aborted", "aborted"]


def test_unmet_dependencies_keep_a_gang_away_from_an_engine(hub: Balancer) -> None:
    (task,) = hub.balance("a", ranks=2)
    hub.fail(task, 0, "UnmetDependency")
    hub.finish(task, 1)
    assert hub.sent()[-1] == (task, [1, 2])


def test_mixed_sizes_all_end_and_never_share_an_engine() -> None:
    hub = Balancer()
    hub.client("a")
    hub.world(8)
    chance = random.Random(3)
    for _ in range(60):
        hub.balance("a", chance.randint(1, 3), ranks=chance.choice([1, 1, 2, 3, 5, 8]))
    busy: dict[int, list[str]] = {}
    gangs: dict[str, list[int]] = {}
    for _ in range(3000):
        hub.tick(0.02)
        for task, engines in hub.sent():
            for engine in engines:
                queue = busy.setdefault(engine, [])
                assert len(engines) == 1 or not queue
                assert not queue or queue[-1] not in gangs
                queue.append(task)
            if len(engines) > 1:
                gangs[task] = engines
        if not any(busy.values()):
            break
        engine = chance.choice([number for number, queue in busy.items() if queue])
        task = busy[engine].pop(0)
        hub.say("w", Result(task, engine, "ok", hub.now - 0.1, hub.now))
    assert not hub.hub.state.balanced
    hub.assert_no_work_left()
