"""Balanced tasks whose clients are gone: they outlive the controller, without a server and by the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiparallel.controller import departed, restore
from mpiparallel.controller.hub import Hub
from mpiparallel.controller.records import Printed, Record
from mpiparallel.controller.store import Store
from mpiparallel.wire.balanced import Needs
from mpiparallel.wire.messages import HelloWorld, Message, Received, Settled, Submit

from .balancing_driver import Balancer
from .peers import wait_until


class Kept(Balancer):
    """A driver with a store, whose hub can be killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(hwm=1)
        self.folder = folder
        self.store = Store(folder)
        self.open_store()

    def open_store(self) -> None:
        self.hub.state.storing, self.hub.state.find = True, self.store.find

    def write(self) -> list[Record]:
        """Let the store write what it is told; return the records."""
        entries = self.hub.take_records()
        self.store.put(entries)
        self.store.ask(None, lambda reader: None)
        tasks: list[str] = []

        def answered() -> bool:
            ended, answers = self.store.take()
            tasks.extend(ended)
            return bool(answers)

        wait_until(answered, "the store")
        self._deliver(self.hub.stored(tasks, self.now))
        return [one for one in entries if isinstance(one, Record)]

    def kill(self, *worlds: str) -> None:  # type: ignore[override]
        """Let the hub be killed, and another take its place."""
        found = [one for one in restore.saved_worlds(self.hub.state) if one.hello.name in worlds]
        self.store.close()  # what was put has been written
        self.store = Store(self.folder, again=True)
        self.hub = Hub("cluster", {"host": "h"}, hwm=1)
        self.open_store()
        adrift = [(restore.to_world(one, self.now), one.stopped) for one in found]
        self.hub.restore(adrift, 10, self.now, self.store.waiting, self.store.ended)

    def back(self, *held: list[str]) -> None:
        size = len(held)
        owners = {name: "a" for names in held for name in names}
        fields: dict[str, Any] = {"held": list(held), "owners": owners}
        self.say("w", HelloWorld("v", "w", ["h"] * size, list(range(size)), **fields))

    def submits(self) -> list[Message]:
        return [one for one in self.inbox.pop("w", []) if isinstance(one.header, Submit)]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    if made.store._thread.is_alive():
        made.store.close()


def test_tasks_outlive_client_and_controller(driver: Kept) -> None:
    driver.world()
    driver.client()
    names = driver.balance("a", 5, retries=2)
    assert driver.sent() == [(names[0], [0])]
    assert driver.write() == []  # whoever is there sends them again
    driver.lose("a")
    assert [one.task for one in driver.write()] == names
    assert [one["status"] for one in driver.store._databases[0].metadata(names).values()] == [None] * 5
    driver.finish(names[0], 0)
    assert [one.task for one in driver.write()] == names[:1]
    assert driver.submits()[0].header.request == names[1]
    driver.kill("w")
    assert list(driver.hub.state.balanced) == names[1:]
    driver.back([names[1]])
    assert driver.submits() == []
    driver.finish(names[1], 0)
    for name in names[2:]:
        (sent,) = driver.submits()
        number = int(name.rpartition("_")[2])
        assert sent.header.request == name
        assert list(sent.payload)[-2:] == [b"common", b"part%d" % number]
        driver.finish(name, 0)
    driver.write()
    about = driver.store._databases[0].metadata(names)
    assert [one["status"] for one in about.values()] == ["ok"] * 5
    driver.hub.client_died("a")
    driver.assert_no_work_left()
    assert not driver.hub.state.kept
    driver.store.close()
    last = Store(driver.folder, again=True)
    assert last.waiting == []
    last.close()


def test_they_are_written_little_by_little(driver: Kept, monkeypatch: Any) -> None:
    monkeypatch.setattr(departed, "BATCH", 2)
    driver.client()
    names = driver.balance("a", 5)
    driver.lose("a")
    assert driver.hub.due(driver.now) == driver.now
    assert [len(driver.write()) for _ in range(4)] == [2, 2, 1, 0]
    assert driver.hub.due(driver.now) > driver.now
    driver.kill()
    assert list(driver.hub.state.balanced) == names


def test_a_function_and_what_is_common_are_kept_once(driver: Kept) -> None:
    driver.client()
    driver.balance("a", 50)
    driver.lose("a")
    driver.write()
    shared = driver.store._databases[0]._sql.execute("SELECT count(*) FROM shared").fetchone()
    assert shared == (1,)
    driver.kill()
    jobs = [task.job for task in driver.hub.state.balanced.values()]
    assert len({id(job.function) for job in jobs}) == 1


def test_those_that_come_after_others(driver: Kept) -> None:
    driver.world(3)
    driver.client()
    (done,) = driver.balance("a")
    driver.finish(done, 0)
    (running,) = driver.balance("a")
    both = Needs([done, running])
    (after,) = driver.balance("a", after=both)
    (last,) = driver.balance("a", after=Needs([after]), follow=Needs([running]))
    driver.lose("a")
    driver.write()
    driver.submits()
    driver.kill("w")
    driver.back([], [running], [])
    assert driver.submits() == []
    driver.finish(running, 1)
    (sent,) = driver.submits()
    assert sent.header.request == after
    driver.finish(after, sent.header.engines[0])
    (sent,) = driver.submits()
    assert (sent.header.request, sent.header.engines) == (last, [1])
    driver.finish(last, 1)
    assert not driver.hub.state.balanced


def test_a_client_that_is_back_first_is_not_done_twice(driver: Kept) -> None:
    driver.world()
    driver.client()
    names = driver.balance("a", 3)
    driver.cut("a")  # it may be back
    driver.write()
    assert len(driver.submits()) == 1
    driver.kill("w")
    driver.client()
    driver.balance("a", 3, request="a-1", again=True)
    driver.back([names[0]])
    driver.finish(names[0], 0)
    for name in names[1:]:
        (sent,) = driver.submits()
        assert sent.header.request == name
        driver.finish(name, 0)
    assert [name for name, _, _ in driver.results("a")] == names


def test_a_result_is_settled_when_the_store_has_it(driver: Kept) -> None:
    """Its client is back and has it; but for the store the task is open still, and would be run again."""
    driver.world()
    driver.client()
    (name,) = driver.balance("a")
    driver.cut("a")
    driver.write()
    driver.client()
    driver.heard("w")
    driver.finish(name, 0)
    driver.say("a", Received(1))
    assert not [one for one in driver.heard("w") if isinstance(one, Settled)]
    driver.write()
    assert [one for one in driver.heard("w") if isinstance(one, Settled)] == [Settled([name], [0])]
    assert not driver.hub.state.kept


def test_an_orderly_end_leaves_none(driver: Kept) -> None:
    driver.client()
    names = driver.balance("a", 2)
    driver.lose("a")
    driver.write()
    driver.client("b")
    driver.balance("b", 2)
    driver._deliver(driver.hub.shut_down("enough", driver.now))
    driver._deliver(driver.hub.farewell())
    driver.write()
    about = driver.store._databases[0].metadata(names)
    assert [one["status"] for one in about.values()] == ["error"] * 2
    assert "has ended (enough)" in about[names[0]]["evalue"]


def test_a_controller_that_begins_anew_does_not_run_them(driver: Kept) -> None:
    driver.client()
    (name,) = driver.balance("a")
    driver.lose("a")
    driver.write()
    driver.store.close()
    store = Store(driver.folder)
    assert store.waiting == []
    assert store._databases[0].metadata([name])[name]["ename"] == "EngineError"
    store.close()


def test_what_they_print_is_kept(driver: Kept) -> None:
    driver.world()
    driver.client()
    (name,) = driver.balance("a")
    driver.lose("a")
    driver.store.put([Printed(name, "stdout", "before ")])
    driver.write()
    driver.store.put([Printed(name, "stdout", "and after")])
    driver.write()
    driver.finish(name, 0)
    driver.write()
    assert driver.store._databases[0].metadata([name])[name]["stdout"] == "before and after"
