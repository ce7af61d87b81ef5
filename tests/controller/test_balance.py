"""Balanced tasks on the hub: who gets which task, and how they end."""

from __future__ import annotations

import sys
from collections import deque

import pytest

from mpiparallel.config import SCHEMES, Config
from mpiparallel.controller import fleet, nobody, restore
from mpiparallel.controller.policies import POLICIES
from mpiparallel.wire.messages import (
    NOBODY,
    Abort,
    Ask,
    Hello,
    HelloWorld,
    Lacks,
    Needs,
    Notice,
    Recall,
    Refused,
    Result,
    Returned,
    Submit,
    Supply,
)
from tests.controller.balancing_driver import Balancer


@pytest.fixture
def hub() -> Balancer:
    """A client "a" and a world of four engines."""
    driver = Balancer()
    driver.client("a")
    driver.world(4)
    return driver


def run_all(hub: Balancer, took: float = 0.001, peer: str = "w") -> list[str]:
    """Let engines finish what they are sent until nothing is; return the tasks in the order sent."""
    order = []
    queue = hub.sent(peer)
    while queue:
        task, (engine,) = queue.pop(0)
        order.append(task)
        hub.now += took
        hub.finish(task, engine, took, peer=peer)
        queue += hub.sent(peer)
    return order


def learn(hub: Balancer, took: float, peer: str = "w") -> None:
    """Let the hub see how long the function takes."""
    hub.balance("a")
    run_all(hub, took, peer)
    hub.heard("a")


def test_each_of_four_tasks_gets_its_own_engine(hub: Balancer) -> None:
    tasks = hub.balance("a", 4)
    assert hub.sent() == [(task, [engine]) for engine, task in enumerate(tasks)]


def test_an_engine_gets_function_common_and_part_and_the_function_only_once(hub: Balancer) -> None:
    hub.balance("a", 5, options={"x": 1}, label="l", submitted=7.0)
    messages = hub.inbox.pop("w")
    first = messages[0]
    assert first.header == Submit(
        "a-1_0", "a", "apply", [0], 3, [], b"f", 1, {"x": 1}, "l", 7.0
    )  # fmt: skip
    assert list(first.payload) == [b"code", b"common", b"part0"]
    hub.finish("a-1_0", 0)
    (again,) = hub.inbox.pop("w")
    assert again.header.request == "a-1_4"
    assert (again.header.common, again.header.function_frames) == (2, 0)
    assert list(again.payload) == [b"common", b"part4"]


def test_all_tasks_end_and_nothing_is_left(hub: Balancer) -> None:
    tasks = hub.balance("a", 100)
    run_all(hub)
    assert sorted(task for task, _, _ in hub.results("a")) == sorted(tasks)
    hub.assert_no_work_left()


def test_the_journal_has_all_that_another_try_needs(hub: Balancer) -> None:
    hub.balance("a", 2, label="l", retries=1)
    run_all(hub)
    record = hub.hub.take_records()[1]
    assert (record.task, record.client, record.engines, record.status) == ("a-1_1", "a", [1], "ok")
    assert (record.ranks, record.label, record.verb) == (1, "l", "apply")
    assert record.inputs is not None
    header = record.inputs.header
    assert (header.request, header.first, header.parts, header.retries) == ("a-1", 1, [1], 1)
    assert list(record.inputs.payload) == [b"code", b"common", b"part1"]
    assert (header.common, header.function_frames) == (2, 1)


# ---------------------------------------------------------------- room


def test_no_task_waits_behind_one_that_nobody_has_timed(hub: Balancer) -> None:
    hub.balance("a", 10)
    assert len(hub.sent()) == 4


@pytest.mark.parametrize(("took", "each"), [(10.0, 1), (0.1, 2), (0.001, 11), (0.00001, 128)])
def test_short_tasks_are_sent_ahead_and_long_ones_are_not(hub: Balancer, took: float, each: int) -> None:
    learn(hub, took)
    hub.balance("a", 1000)
    counts = [0] * 4
    for _, (engine,) in hub.sent():
        counts[engine] += 1
    assert all(each - 1 <= count <= each for count in counts), counts


@pytest.mark.parametrize(("hwm", "sent"), [(1, 4), (3, 12), (0, 50)])
def test_a_high_water_mark_is_kept(hwm: int, sent: int) -> None:
    hub = Balancer(hwm=hwm)
    hub.client("a")
    hub.world(4)
    hub.balance("a", 50)
    assert len(hub.sent()) == sent


def test_direct_requests_count_as_load(hub: Balancer) -> None:
    hub.submit("a", 100, [0, 2])
    hub.heard("w")
    hub.balance("a", 3)
    assert [engines for _, engines in hub.sent()] == [[1], [3]]
    hub.answer("w", "a-100", 2)
    assert hub.sent() == [("a-1_2", [2])]


@pytest.mark.parametrize("scheme", POLICIES)
def test_every_scheme_uses_all_engines_and_ends_all_tasks(scheme: str) -> None:
    hub = Balancer(scheme=scheme)
    hub.client("a")
    hub.world(4)
    hub.balance("a", 40)
    queue, used = hub.sent(), set()
    while queue:
        task, (engine,) = queue.pop(0)
        used.add(engine)
        hub.finish(task, engine)
        queue += hub.sent()
    assert used == {0, 1, 2, 3}
    assert len(hub.results("a")) == 40
    hub.assert_no_work_left()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="no scheme 'best'; there are leastload"):
        Balancer(scheme="best")


def test_schemes_and_high_water_marks_may_be_set() -> None:
    assert set(SCHEMES) == set(POLICIES)
    config = Config.from_environment({"MPIPARALLEL_SCHEME": "lru", "MPIPARALLEL_HWM": "0"})
    assert (config.scheme, config.hwm) == ("lru", 0)
    assert Config.from_environment({}).hwm is None
    for wrong in ({"MPIPARALLEL_SCHEME": "best"}, {"MPIPARALLEL_HWM": "-1"}):
        with pytest.raises(ValueError, match="expected"):
            Config.from_environment(wrong)


# ---------------------------------------------------------------- fairness and order


def test_clients_take_turns_and_each_keeps_its_order(hub: Balancer) -> None:
    hub.client("b")
    hub.world(1, "v")
    for engine in range(4):  # these are busy
        hub.submit("a", 100 + engine, [engine])
    hub.heard("w")
    hub.balance("a", 4)
    hub.balance("b", 2)
    assert run_all(hub, 10.0, "v") == ["a-1_0", "a-1_1", "b-2_0", "a-1_2", "b-2_1", "a-1_3"]


def test_turns_hold_among_different_targets(hub: Balancer) -> None:
    hub.client("b")
    hub.submit("a", 100, [0])
    hub.balance("a", 3, targets=[0])
    hub.balance("b", 2, targets=[0, 9])
    hub.heard("w")
    hub.answer("w", "a-100", 0)
    assert run_all(hub, 10.0) == ["a-1_0", "b-2_0", "a-1_1", "b-2_1", "a-1_2"]
    hub.assert_no_work_left()


def test_targets_are_kept(hub: Balancer) -> None:
    hub.balance("a", 4, targets=[1, 2])
    assert [engines for _, engines in hub.sent()] == [[1], [2]]
    hub.finish("a-1_0", 1, took=10.0)
    assert hub.sent() == [("a-1_2", [1])]


def test_a_task_whose_targets_are_not_there_fails_and_names_them(hub: Balancer) -> None:
    hub.balance("a", targets=[7, 8])
    assert "engines 7, 8" in hub.reason("a")
    hub.assert_no_work_left()


def test_tasks_wait_while_there_are_no_engines() -> None:
    hub = Balancer()
    hub.client("a")
    tasks = hub.balance("a", 3)
    hub.say("w", hub_world(2))
    assert [task for task, _ in hub.sent()] == tasks[:2]


def hub_world(size: int) -> object:
    return HelloWorld("v", "w", ["h"] * size, list(range(size)))


# ---------------------------------------------------------------- calling back


def test_what_waits_behind_a_long_task_goes_to_an_engine_that_is_free(hub: Balancer) -> None:
    learn(hub, 0.001)
    tasks = hub.balance("a", 8)
    where = {task: engine for task, (engine,) in hub.sent()}
    behind = [task for task in tasks if where[task] == where[tasks[0]] and task != tasks[0]]
    for task in tasks:
        if where[task] != where[tasks[0]]:
            hub.finish(task, where[task])
    hub.tick(0.001)
    assert not hub.recalls()
    assert hub.hub.due(hub.now) == pytest.approx(0.006, abs=0.001)
    hub.tick(0.006)
    assert hub.recalls() == [Recall(where[tasks[0]], behind)]
    hub.say("w", Returned(where[tasks[0]], behind))
    ((task, (engine,)),) = hub.sent()
    assert task in behind and engine != where[tasks[0]]
    hub.finish(task, engine)
    hub.finish(tasks[0], where[tasks[0]])
    assert len(hub.results("a")) == 8
    hub.assert_no_work_left()


def test_nothing_is_called_back_while_all_engines_have_work(hub: Balancer) -> None:
    learn(hub, 0.001)
    hub.balance("a", 8)
    hub.heard("w")
    hub.tick(1.0)
    assert not hub.recalls()


def test_what_had_begun_when_it_was_called_back_stays(hub: Balancer) -> None:
    learn(hub, 0.1)
    tasks = hub.balance("a", 5)
    where = {task: engine for task, (engine,) in hub.sent()}
    behind = tasks[4]
    (first,) = [task for task in tasks[:4] if where[task] == where[behind]]
    for task in tasks[:4]:
        if task != first:
            hub.finish(task, where[task])
    hub.tick(1.0)
    (recall,) = hub.recalls()
    assert (recall.engine, recall.tasks) == (where[behind], [behind])
    hub.say("w", Returned(recall.engine, []))
    assert not hub.sent()
    hub.finish(first, where[first])
    hub.finish(behind, where[behind])
    assert len(hub.results("a")) == 5
    hub.assert_no_work_left()


def test_one_call_after_the_other_goes_to_the_engine_that_is_awake(hub: Balancer) -> None:
    learn(hub, 0.001)
    used = set()
    for _ in range(6):
        (task,) = hub.balance("a")
        ((_, (engine,)),) = hub.sent()
        hub.finish(task, engine)
        used.add(engine)
    assert len(used) == 1


# ---------------------------------------------------------------- failures


def test_an_error_is_the_end_without_retries(hub: Balancer) -> None:
    (task,) = hub.balance("a")
    hub.fail(task, 0)
    assert hub.results("a") == [(task, 0, "ValueError")]
    hub.assert_no_work_left()


def test_a_retry_goes_to_another_engine_each_time(hub: Balancer) -> None:
    (task,) = hub.balance("a", retries=2)
    tried = []
    for _ in range(3):
        ((name, (engine,)),) = hub.sent()
        assert name == task
        tried.append(engine)
        hub.fail(task, engine)
    assert len(set(tried)) == 3
    assert hub.results("a") == [(task, tried[-1], "ValueError")]
    assert hub.hub.take_records()[0].status == "error"
    hub.assert_no_work_left()


def test_retries_end_when_no_engine_is_left_to_try(hub: Balancer) -> None:
    (task,) = hub.balance("a", retries=9, targets=[1, 2])
    hub.fail(task, 1)
    hub.fail(task, 2)
    assert hub.results("a") == [(task, 2, "ValueError")]
    hub.assert_no_work_left()


def test_a_task_that_waits_for_another_try_does_not_hold_others_up(hub: Balancer) -> None:
    (first,) = hub.balance("a", retries=1, targets=[0, 1])
    hub.submit("a", 100, [1])
    (second,) = hub.balance("a", targets=[0])
    hub.heard("w")
    hub.fail(first, 0)
    assert hub.sent() == [(second, [0])]
    hub.answer("w", "a-100", 1)
    assert hub.sent() == [(first, [1])]


def test_unmet_dependencies_try_every_engine_and_then_fail(hub: Balancer) -> None:
    (task,) = hub.balance("a")
    for engine in range(4):
        assert hub.sent() == [(task, [engine])]
        hub.fail(task, engine, "UnmetDependency")
    reason = hub.reason("a")
    assert "tried: 0, 1, 2, 3" in reason and reason.endswith("said: no")  # what `fail` lets an engine say
    hub.assert_no_work_left()


def test_what_an_engine_that_dies_had_not_begun_goes_elsewhere() -> None:
    hub = Balancer()
    hub.client("a")
    hub.world(2, survives=True)
    learn(hub, 0.1)
    tasks = hub.balance("a", 4)
    where = {task: engine for task, (engine,) in hub.sent()}
    mine = [task for task in tasks if where[task] == 1]
    hub.kill(1)
    ((failed, engine, ename),) = hub.results("a")
    assert (failed, engine, ename) == (mine[0], NOBODY, "EngineError")
    rest = [task for task in tasks if task != mine[0]]
    for task in rest:
        hub.finish(task, 0)
    assert [task for task, _, _ in hub.results("a")] == rest
    hub.assert_no_work_left()


def test_a_task_with_retries_survives_its_engine() -> None:
    hub = Balancer()
    hub.client("a")
    hub.world(2, survives=True)
    (task,) = hub.balance("a", retries=1)
    hub.heard("w")
    hub.kill(0)
    assert hub.sent() == [(task, [1])]
    hub.kill(1)
    assert "Engine 1 died while running task" in hub.reason("a")
    hub.assert_no_work_left()


def test_tasks_fail_when_the_last_of_their_targets_goes() -> None:
    hub = Balancer()
    hub.client("a")
    hub.world(2, survives=True)
    hub.balance("a", 2, targets=[1])
    hub.kill(1)
    assert sorted(ename for _, _, ename in hub.results("a")) == ["EngineError", "ImpossibleDependency"]
    hub.assert_no_work_left()


def test_a_world_adrift_gets_nothing_until_it_is_back() -> None:
    hub = Balancer()
    hub.client("a")
    hub.world(2, survives=True)
    first = hub.balance("a", 2)
    hub.lose("w")
    (later,) = hub.balance("a")
    hub.heard("w")
    hub.say("w2", hub_world_again(held=[[], [first[1]]], lost=[]))
    sent = hub.sent("w2")
    assert sent == [(first[0], [0])]  # it did not arrive
    hub.finish(first[1], 1, peer="w2")
    assert hub.sent("w2")[0][0] == later


def hub_world_again(held: list[list[str]], lost: list[int]) -> object:
    return HelloWorld("v", "w", ["h", "h"], [0, 1], survives=True, held=held, lost=lost)


# ---------------------------------------------------------------- timeouts and aborts


def test_a_task_that_waits_for_too_long_fails(hub: Balancer) -> None:
    hub.balance("a", 4)
    (late,) = hub.balance("a", timeout=2.0)
    assert hub.hub.due(hub.now) == 2.0
    hub.tick(1.9)
    assert not hub.results("a")
    hub.tick(0.2)
    assert "waited 2.1 s for an engine" in hub.reason("a")
    assert late not in hub.hub.state.balanced


def test_a_task_that_has_its_engine_may_take_long(hub: Balancer) -> None:
    (task,) = hub.balance("a", timeout=2.0)
    hub.tick(10.0)
    hub.finish(task, 0)
    assert hub.results("a") == [(task, 0, "ok")]
    assert not hub.hub.state.balancing.deadlines


def test_a_queued_task_is_aborted_at_once(hub: Balancer) -> None:
    tasks = hub.balance("a", 6)
    hub.say("a", Abort("a-1", [4]))
    assert hub.results("a") == [(tasks[4], NOBODY, "aborted")]
    hub.heard("w")
    hub.finish(tasks[0], 0)
    assert hub.sent() == [(tasks[5], [0])]


def test_an_open_task_is_aborted_by_its_engine(hub: Balancer) -> None:
    (task,) = hub.balance("a", retries=3)
    hub.heard("w")
    hub.say("a", Abort("a-1", [0]))
    assert hub.heard("w") == [Abort(task, [0])]
    hub.finish(task, 0, status="aborted")
    assert hub.results("a") == [(task, 0, "aborted")]
    hub.assert_no_work_left()


def test_a_task_that_was_aborted_because_of_another_one_is_sent_again(hub: Balancer) -> None:
    (task,) = hub.balance("a")
    hub.heard("w")
    hub.finish(task, 0, status="aborted")
    assert [name for name, _ in hub.sent()] == [task]
    assert not hub.results("a")


def test_tasks_of_a_client_that_is_gone_go_on(hub: Balancer) -> None:
    hub.balance("a", 6)
    hub.lose("a")
    run_all(hub)
    assert len(hub.hub.take_records()) == 6
    hub.assert_no_work_left()


# ---------------------------------------------------------------- functions


def test_the_hub_asks_for_a_function_that_it_does_not_have(hub: Balancer) -> None:
    tasks = hub.balance("a", 2, function=b"g", send=False)
    assert hub.heard("a") == [Lacks("a", NOBODY, b"g")]
    assert not hub.sent()
    hub.say("a", Supply(NOBODY, b"g"), b"code")
    assert [task for task, _ in hub.sent()] == tasks
    run_all(hub)


def test_one_that_comes_back_is_asked_again(hub: Balancer) -> None:
    hub.balance("a", function=b"g", send=False)
    hub.heard("a")
    hub.say("a2", Hello("v", "a", "h", 1))
    assert Lacks("a", NOBODY, b"g") in hub.heard("a2")


def test_a_function_that_is_gone_for_good_is_an_error(hub: Balancer) -> None:
    hub.balance("a", 2, function=b"g", send=False)
    hub.heard("a")
    hub.say("a", Supply(NOBODY, b"g"))
    assert [ename for _, _, ename in hub.results("a")] == ["EngineError"] * 2
    hub.assert_no_work_left()


def test_so_it_is_when_its_client_is(hub: Balancer) -> None:
    hub.balance("a", 2, function=b"g", send=False)
    hub.lose("a")
    assert [record.status for record in hub.hub.take_records()] == ["error"] * 2
    hub.assert_no_work_left()


def test_engines_that_lack_a_function_get_it_from_the_hub(hub: Balancer) -> None:
    hub.balance("a")
    hub.heard("w")
    hub.say("w", Lacks("a", 0, b"f"))
    assert hub.heard("w") == [Supply(0, b"f")]
    assert not hub.heard("a")


# ---------------------------------------------------------------- dependencies


def test_a_task_runs_after_others(hub: Balancer) -> None:
    first = hub.balance("a", 2)
    (later,) = hub.balance("a", after=Needs(first))
    hub.heard("w")
    hub.finish(first[0], 0)
    assert not hub.sent()
    hub.finish(first[1], 1)
    assert [task for task, _ in hub.sent()] == [later]


def test_any_of_several_is_enough(hub: Balancer) -> None:
    first = hub.balance("a", 2)
    (later,) = hub.balance("a", after=Needs(first, all=False))
    hub.heard("w")
    hub.finish(first[1], 1)
    assert [task for task, _ in hub.sent()] == [later]
    hub.finish(later, 2)
    hub.finish(first[0], 0)
    hub.assert_no_work_left()


@pytest.mark.parametrize(
    ("success", "failure", "ends", "runs"),
    [
        (True, False, ["ok", "ok"], True), (True, False, ["ok", "error"], False),
        (False, True, ["error", "error"], True), (False, True, ["error", "ok"], False),
        (True, True, ["ok", "error"], True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [False, True], ids=["waits", "has ended"])
def test_how_others_ended_matters(
    hub: Balancer, success: bool, failure: bool, ends: list[str], runs: bool, before: bool
) -> None:
    first = hub.balance("a", 2)
    needs = Needs(first, True, success, failure)
    if not before:
        hub.balance("a", after=needs)
    for engine, (task, end) in enumerate(zip(first, ends, strict=True)):
        hub.finish(task, engine, status=end)
    hub.heard("w")
    hub.results("a") if before else None
    if before:
        hub.balance("a", after=needs)
    assert ("ImpossibleDependency" in str(hub.results("a"))) is not runs


def test_a_task_follows_others_to_their_engine(hub: Balancer) -> None:
    first = hub.balance("a", 3)
    (later,) = hub.balance("a", follow=Needs(first[2:]))
    hub.heard("w")
    hub.finish(first[0], 0)
    hub.finish(first[2], 2)
    assert hub.sent() == [(later, [2])]
    hub.finish(first[1], 1)
    hub.finish(later, 2)
    hub.assert_no_work_left()


def test_nobody_can_follow_two_who_ran_apart(hub: Balancer) -> None:
    first = hub.balance("a", 2)
    hub.finish(first[0], 0)
    hub.finish(first[1], 1)
    hub.heard("a")
    hub.balance("a", follow=Needs(first))
    assert "may run on" in hub.reason("a")
    (task,) = hub.balance("a", follow=Needs(first, all=False))
    assert hub.sent()[-1][1][0] in (0, 1)
    assert task in hub.hub.state.balanced


def test_direct_tasks_may_be_named(hub: Balancer) -> None:
    hub.submit("a", 100, [3])
    (task,) = hub.balance("a", follow=Needs(["a-100_3"]))
    hub.heard("w")
    hub.answer("w", "a-100", 3)
    assert hub.sent() == [(task, [3])]


def test_unknown_tasks_are_an_error(hub: Balancer) -> None:
    hub.balance("a", after=Needs(["a-77_0"]))
    assert "a-77_0" in hub.reason("a")
    hub.assert_no_work_left()


def test_long_chains_fail_from_end_to_end(hub: Balancer) -> None:
    names = hub.balance("a")
    for _ in range(3000):
        names += hub.balance("a", after=Needs(names[-1:]))
    hub.fail(names[0], 0)
    assert len(hub.results("a")) == 3001
    hub.assert_no_work_left()


# ---------------------------------------------------------------- what is refused


def test_known_tasks_are_passed_over(hub: Balancer) -> None:
    hub.balance("a", 2)
    hub.heard("w")
    hub.balance("a", 3, request="a-1")
    assert [task for task, _ in hub.sent()] == ["a-1_2"]
    run = hub.hub.state.counters["duplicate requests"]
    assert run == 2


def test_wrong_requests_are_refused(hub: Balancer) -> None:
    hub.balance("a", request="b-1")
    assert isinstance(hub.heard("a")[0], Refused)
    assert not hub.sent()


def test_late_results_are_not_passed_on(hub: Balancer) -> None:
    (task,) = hub.balance("a")
    hub.finish(task, 0)
    hub.heard("a")
    hub.finish(task, 0)
    hub.say("w", Result(task, 2, "ok"))
    assert not hub.heard("a")


# ---------------------------------------------------------------- questions and costs


def test_the_queue_status_counts_balanced_tasks(hub: Balancer) -> None:
    tasks = hub.balance("a", 6)
    hub.heard("w")
    hub.say("a", Ask(1, "queue_status"))
    (answer,) = hub.heard("a")
    assert answer.value["0"] == {"queue": 0, "completed": 0, "tasks": 1}
    assert answer.value["unassigned"] == 2
    hub.say("a", Ask(2, "queue_status", verbose=True))
    (answer,) = hub.heard("a")
    assert answer.value["1"]["tasks"] == [tasks[1]]
    assert answer.value["unassigned"] == tasks[4:]


def test_the_result_status_knows_balanced_tasks(hub: Balancer) -> None:
    tasks = hub.balance("a", 2)
    hub.finish(tasks[0], 0)
    hub.heard("a")
    hub.say("a", Ask(1, "result_status", msg_ids=tasks))
    (answer,) = hub.heard("a")
    assert answer.value == {"pending": tasks[1:], "completed": tasks[:1]}


def lines_for(engines: int, tasks: int) -> float:
    """Return how many lines of Python the hub runs for each of `tasks` tasks."""
    hub = Balancer()
    hub.client("a")
    hub.world(engines)
    hub.balance("a", tasks)
    queue = deque(hub.sent())
    lines = done = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += 1
        return count

    sys.settrace(count)
    try:
        while queue and done < 300:
            task, (engine,) = queue.popleft()
            hub.now += 1e-4
            hub.finish(task, engine)
            hub.inbox.pop("a")
            queue += hub.sent()
            done += 1
    finally:
        sys.settrace(None)
    return lines / done


def test_what_a_task_costs_does_not_grow_with_engines_or_tasks() -> None:
    little = lines_for(10, 500)
    assert lines_for(3000, 500) < 1.5 * little
    assert lines_for(10, 50_000) < 1.5 * little


class TestWithoutEngines:
    def notices(self, hub: Balancer, client: str) -> list[str]:
        hub.tick(0.0)
        return [one.text for one in hub.heard(client) if isinstance(one, Notice)]

    def test_clients_are_told_once_that_their_tasks_wait_for_engines(self) -> None:
        hub = Balancer()
        hub.client("a")
        hub.client("b")
        hub.world(1)
        hub.kill(0)
        hub.lose("w")
        hub.balance("a", 3)
        assert self.notices(hub, "a") == []
        hub.tick(nobody.TOLD_AFTER)
        (text,) = self.notices(hub, "a")
        assert "3 tasks wait for engines" in text
        hub.tick(nobody.TOLD_AFTER)
        assert self.notices(hub, "a") == self.notices(hub, "b") == []

    def test_those_who_get_engines_in_time_are_told_nothing(self) -> None:
        hub = Balancer()
        hub.client("a")
        hub.balance("a", 1)
        assert self.notices(hub, "a") == []
        hub.world(1)
        assert hub.hub.state.balancing.everywhere.queue.size == 0
        hub.tick(nobody.TOLD_AFTER)
        assert self.notices(hub, "a") == []


class TestAdoptedTasks:
    """Those that a world brings along when the controller was started again."""

    @pytest.fixture
    def hub(self) -> Balancer:
        before, hub = Balancer(), Balancer()
        before.world(2)
        saved = restore.saved_worlds(before.hub.state)
        found = [(restore.to_world(one, hub.now), one.stopped) for one in saved]
        hub.hub.restore(found, 2, hub.now)
        hub.world(2, held=[["a-1_0"], []], owners={"a-1_0": "a"})
        return hub

    def test_an_error_waits_for_the_client_who_knows_of_retries(self, hub: Balancer) -> None:
        hub.fail("a-1_0", 0)
        hub.client("a")
        hub.balance("a", 1, "a-1", retries=1, again=True)
        assert hub.sent() == [("a-1_0", [1])]
        hub.finish("a-1_0", 1)
        assert hub.results("a") == [("a-1_0", 1, "ok")]
        hub.assert_no_work_left()

    def test_an_error_ends_a_task_without_retries(self, hub: Balancer) -> None:
        hub.fail("a-1_0", 0)
        hub.client("a")
        hub.balance("a", 1, "a-1", again=True)
        assert hub.sent() == []
        assert hub.results("a") == [("a-1_0", 0, "ValueError")]
        hub.assert_no_work_left()

    def test_an_error_ends_a_task_whose_client_does_not_come_back(self, hub: Balancer) -> None:
        hub.fail("a-1_0", 0)
        assert hub.records == []
        hub.tick(fleet.CLIENT_PATIENCE + 1)
        (record,) = hub.hub.take_records()
        assert (record.task, record.status) == ("a-1_0", "error")
        hub.assert_no_work_left()
