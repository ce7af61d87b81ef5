"""Claims of results, and what else needs the store to be answered, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiparallel.controller.claims import CLIENTS_BACK
from mpiparallel.controller.store import Answered
from mpiparallel.wire.messages import Answer, Ask, Claim, Output, Result

from .peers import wait_until
from .test_departed import Kept


class Asked(Kept):
    """A driver whose store is asked."""

    queries = 0

    def look_up(self) -> None:
        """Let the store answer what it is asked, and the hub go on."""
        while errands := self.hub.take_errands():
            self.store.put(self.hub.take_records())
            for errand in errands:
                self.store.ask(errand, errand.read)
            answers: list[Answered] = []

            def answered(answers: list[Answered] = answers, count: int = len(errands)) -> bool:
                tasks, more = self.store.take()
                self._deliver(self.hub.stored(tasks, self.now))
                answers += more
                return len(answers) == count

            wait_until(answered, "the store")
            for errand, value, error in answers:
                self._deliver(self.hub.found(errand, value, error, self.now))

    def claim(self, client: str, *tasks: str) -> int:
        self.queries += 1
        self.say(client, Claim(self.queries, list(tasks)))
        return self.queries

    def told(self, client: str) -> list[Any]:
        """Return answers as unknown and known tasks, and Results as their names and outcome."""
        said: list[Any] = []
        for one in self.heard(client):
            if isinstance(one, Answer):
                value = one.value if one.failure is None else one.failure.evalue
                said.append(
                    (value["unknown"], {task: about["status"] for task, about in value["tasks"].items()})
                    if isinstance(value, dict) and "unknown" in value
                    else value
                )
            elif isinstance(one, Result):
                said.append((one.request, one.engine, one.failure.ename if one.failure else one.status))
        return said


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path)
    yield made
    if made.store._thread.is_alive():
        made.store.close()


def test_open_and_done_and_unknown(driver: Asked) -> None:
    driver.world(2)
    driver.client("a")
    driver.client("b")
    done, opened = driver.balance("a", 2)
    driver.finish(done, 0)
    driver.claim("b", done, opened, "a-9_0", "nonsense")
    assert driver.told("b") == []  # the store is asked first
    driver.look_up()
    assert driver.told("b") == [
        (["a-9_0", "nonsense"], {opened: None, done: "ok"}), (done, 0, "ok")
    ]  # fmt: skip
    driver.finish(opened, 1)
    assert driver.told("b") == [(opened, 1, "ok")]
    assert not driver.hub.state.followers


def test_a_task_that_ends_while_the_store_is_asked(driver: Asked) -> None:
    driver.world(2)
    driver.client("a")
    driver.client("b")
    (task,) = driver.balance("a")
    driver.claim("b", task)
    driver.finish(task, 0)
    assert driver.told("b") == []
    driver.look_up()
    assert driver.told("b") == [([], {task: None}), (task, 0, "ok")]


def test_a_task_that_begins_while_the_store_is_asked(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    driver.client("b")
    driver.claim("b", "a-1_0")
    (task,) = driver.balance("a")
    driver.look_up()
    assert driver.told("b") == [([], {task: None})]
    driver.finish(task, 0)
    assert driver.told("b") == [(task, 0, "ok")]


def test_several_follow_one_task_and_one_of_them_leaves(driver: Asked) -> None:
    driver.world()
    for name in "abcd":
        driver.client(name)
    (task,) = driver.balance("a")
    for name in "bcdb":
        driver.claim(name, task)
    driver.look_up()
    driver.lose("d")
    driver.inbox.clear()
    driver.finish(task, 0)
    assert driver.told("b") == [(task, 0, "ok")] * 2
    assert driver.told("c") == driver.told("a") == [(task, 0, "ok")]
    assert driver.told("d") == []
    assert not driver.hub.state.followers


def test_gangs_are_claimed_whole(driver: Asked) -> None:
    driver.world(2)
    driver.client("a")
    driver.client("b")
    (task,) = driver.balance("a", ranks=2)
    driver.claim("b", task)
    driver.look_up()
    assert driver.told("b") == [([], {task: None})]
    driver.finish(task, 1)
    assert driver.told("b") == []
    driver.finish(task, 0)
    assert driver.told("b") == [(task, 0, "ok"), (task, 1, "ok")]
    driver.claim("b", task)
    driver.look_up()
    assert driver.told("b") == [([], {task: "ok"}), (task, 0, "ok"), (task, 1, "ok")]


def test_parts_of_direct_requests(driver: Asked) -> None:
    driver.world(2)
    driver.client("a")
    driver.client("b")
    request = driver.submit("a", 1, [0, 1], b"p")
    driver.answer("w", request, 0)
    driver.claim("b", f"{request}_0", f"{request}_1", f"{request}_2")
    driver.look_up()
    assert driver.told("b") == [
        ([f"{request}_2"], {f"{request}_1": None, f"{request}_0": "ok"}), (request, 0, "ok")
    ]  # fmt: skip
    driver.answer("w", request, 1)
    assert driver.told("b") == [(request, 1, "ok")]


def test_unknown_is_not_said_while_worlds_are_awaited(driver: Asked) -> None:
    """After a restart: a task may be on a world that has not connected yet."""
    driver.world(2)
    driver.client("a")
    opened, done, left = driver.balance("a", 3)
    driver.finish(done, 1)
    driver.write()
    driver.kill("w")
    driver.client("b")
    driver.tick(CLIENTS_BACK)
    driver.claim("b", opened, done, "a-9_0")
    driver.look_up()
    assert driver.told("b") == []
    driver.back([opened], [])
    driver.look_up()
    assert driver.told("b") == [(["a-9_0"], {opened: None, done: "ok"}), (done, 1, "ok")]
    driver.finish(opened, 0)
    assert driver.told("b") == [(opened, 0, "ok")]
    driver.claim("b", left)  # it was not sent again in time
    driver.look_up()
    assert driver.told("b") == [([left], {})]


def test_unknown_is_not_said_before_clients_had_the_time_to_come_back(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    names = driver.balance("a", 2)
    driver.kill("w")
    driver.back([names[0]])
    driver.client("b")
    driver.claim("b", *names)
    driver.look_up()
    assert driver.told("b") == []
    driver.client("a")
    driver.balance("a", 2, request="a-1", again=True)
    driver.tick(0.5)
    driver.look_up()
    assert driver.told("b") == [([], dict.fromkeys(names))]
    driver.finish(names[0], 0)
    driver.finish(names[1], 0)
    assert driver.told("b") == driver.told("a") == [(name, 0, "ok") for name in names]
    driver.tick(CLIENTS_BACK)
    driver.claim("b", "a-9_0")
    driver.look_up()
    assert driver.told("b") == [(["a-9_0"], {})]


def test_what_is_known_is_not_held_up(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    (done,) = driver.balance("a")
    driver.finish(done, 0)
    driver.write()
    driver.kill("w")
    driver.client("b")
    driver.claim("b", done)
    driver.look_up()
    assert driver.told("b") == [([], {done: "ok"}), (done, 0, "ok")]


def test_worlds_that_do_not_come_back_are_not_awaited_for_ever(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    (task,) = driver.balance("a")
    driver.kill("w")
    driver.client("b")
    driver.claim("b", task)
    driver.look_up()
    assert driver.told("b") == []
    driver.tick(30.0)
    driver.look_up()
    assert driver.told("b") == [([task], {})]


def test_who_has_gone_meanwhile_is_not_answered(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    (task,) = driver.balance("a")
    driver.kill("w")
    driver.client("b")
    driver.claim("b", task)
    driver.look_up()
    driver.lose("b")
    driver.back([task])
    driver.look_up()
    assert driver.told("b") == []
    assert not driver.hub.state.postponed and not driver.hub.state.followers


def test_queued_tasks_of_clients_that_are_gone(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    first, second = driver.balance("a", 2)
    driver.lose("a")
    driver.write()
    driver.kill("w")
    driver.client("b")
    driver.claim("b", first, second)
    driver.look_up()
    assert driver.told("b") == [([], {first: None, second: None})]
    driver.back([first])
    driver.finish(first, 0)
    driver.finish(second, 0)
    assert driver.told("b") == [(first, 0, "ok"), (second, 0, "ok")]


def test_resubmitted_tasks_outlive_the_controller(driver: Asked) -> None:
    """Their client has not the inputs, and cannot send them again."""
    driver.world()
    driver.client("a")
    (task,) = driver.balance("a")
    driver.finish(task, 0)
    driver.client("b")
    driver.say("b", Ask(1, "resubmit", msg_ids=[task], requests=["b-1"]))
    driver.look_up()
    driver.write()
    driver.heard("w")
    driver.kill("w")
    driver.back([])
    (sent,) = driver.submits()
    assert sent.header.request == "b-1_0"
    assert list(sent.payload)[-1] == b"part0"


def test_what_is_forgotten_is_unknown(driver: Asked) -> None:
    driver.world()
    driver.client("a")
    (task,) = driver.balance("a")
    driver.finish(task, 0)
    driver.say("a", Ask(1, "purge_results", msg_ids=[task]))
    driver.look_up()
    driver.heard("a")
    driver.claim("a", task)
    driver.look_up()
    assert driver.told("a") == [([task], {})]


def test_what_an_open_task_prints_reaches_who_claims_it(driver: Asked) -> None:
    """Once, and whole: before the claim, until it is answered, and after that."""
    world = driver.world()
    driver.client("a")
    driver.client("b")
    request = driver.submit("a", 1, [0])
    task = f"{request}_0"

    def say(kind: str, text: str) -> None:
        driver.say(world, Output(request, "a", 0, kind, text, len(text)))  # type: ignore[arg-type]

    say("stdout", "to its own client")
    driver.lose("a")
    say("stdout", "one ")
    say("stderr", "trouble")
    driver.claim("b", task)
    say("stdout", "two ")
    driver.look_up()
    say("stdout", "three")
    driver.answer(world, request, 0)
    answer, *rest = [one for one in driver.heard("b") if isinstance(one, (Answer, Output, Result))]
    about = answer.value["tasks"][task]
    assert (about["stdout"], about["stderr"]) == ("one ", "trouble")
    assert [one.text if isinstance(one, Output) else one.status for one in rest] == ["two ", "three", "ok"]
    driver.write()
    assert not driver.hub.state.printed
    assert driver.store._databases[0].metadata([task])[task]["stdout"] == "one two three"
