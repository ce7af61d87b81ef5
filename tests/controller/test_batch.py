"""How the controller asks the batch system about worlds that are cut off or silent."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from mpiparallel.batchjob import BatchJob
from mpiparallel.controller.batch import MAX_AT_ONCE, PAUSES, Finding, Jobs
from mpiparallel.controller.state import World
from mpiparallel.wire.messages import Goodbye, HelloWorld

from .conftest import Start
from .peers import FakeClient

HEARTBEAT = 5.0
RUNNING = "JobState=RUNNING Reason=None Dependency=(null) Restarts=0 TimeLimit=00:01:00"
COMPLETING = RUNNING.replace("RUNNING", "COMPLETING")
TIMEOUT = RUNNING.replace("RUNNING", "TIMEOUT")
CANCELLED = RUNNING.replace("RUNNING", "CANCELLED")
NODE_FAIL = RUNNING.replace("RUNNING", "NODE_FAIL")
PENDING = RUNNING.replace("RUNNING", "PENDING").replace("Restarts=0", "Restarts=1")
FAILED = RUNNING.replace("RUNNING", "FAILED") + " ExitCode=3:0"
Answer = str | None


class FakeQuestion:
    def __init__(self, batch: FakeBatch, command: Sequence[str]) -> None:
        self.batch, self.command = batch, list(command)
        self.answered = False
        self.text: Answer = None
        self.closed = False

    def answer(self, text: Answer) -> None:
        self.answered, self.text = True, text

    def close(self) -> None:
        self.closed = True


class FakeBatch:
    """The batch system, a clock, and worlds."""

    def __init__(self) -> None:
        self.asked: list[FakeQuestion] = []
        self.askable = True
        self.now = 100.0
        self.worlds: list[World] = []
        self.jobs = Jobs(HEARTBEAT, self.ask, lambda job: self.askable)  # type: ignore[arg-type]

    def ask(self, command: Sequence[str]) -> FakeQuestion:
        self.asked.append(FakeQuestion(self, command))
        return self.asked[-1]

    def world(self, name: str = "w", job: str = "slurm:75", connected: bool = False) -> World:
        hello = HelloWorld("v", name, ["node4", "node5"], [1, 2], job=job)
        self.worlds.append(World(name, "peer" if connected else None, hello, self.now))
        return self.worlds[-1]

    def look(self, seconds: float = 0.0) -> list[Finding]:
        self.now += seconds
        return self.jobs.look(self.worlds, self.now)

    def say(self, *answers: Answer) -> list[Finding]:
        """Answer what is asked, one after the other, waiting as long as it takes; return what is found."""
        found: list[Finding] = []
        for answer in answers:
            for _ in range(20):
                if self.asked and not self.asked[-1].answered:
                    break
                found += self.look(1.0)
            self.asked[-1].answer(answer)
            found += self.look()
        return found


@pytest.fixture
def batch() -> FakeBatch:
    return FakeBatch()


def test_nobody_is_asked_about_worlds_that_speak(batch: FakeBatch) -> None:
    world = batch.world(connected=True)
    for _ in range(100):
        world.heard = batch.now
        assert batch.look(1.0) == []
    assert not batch.asked
    assert batch.jobs.due(batch.now) == float("inf")


@pytest.mark.parametrize("job", ["", "condor:7", "slurm:--help"])
def test_nobody_is_asked_about_worlds_in_no_job(batch: FakeBatch, job: str) -> None:
    batch.world(job=job)
    assert batch.look(60.0) == []
    assert not batch.asked


def test_nobody_is_asked_where_the_batch_system_cannot_be_reached(batch: FakeBatch) -> None:
    batch.askable = False
    assert not batch.jobs.knows(batch.world())
    assert batch.look(60.0) == []
    assert not batch.asked


def test_nobody_is_asked_about_processes_of_this_host(batch: FakeBatch) -> None:
    batch.world(connected=True).watched = True
    assert batch.look(600.0) == []
    assert not batch.asked


def test_a_world_that_is_cut_off_is_asked_about_at_once(batch: FakeBatch) -> None:
    batch.world()
    assert batch.look() == []
    assert [one.command for one in batch.asked] == [["scontrol", "--oneliner", "show", "job", "75"]]
    assert batch.jobs.due(batch.now) < batch.now + 0.1
    assert batch.look(0.1) == [], "it takes its time, and nobody waits"
    assert batch.say(TIMEOUT) == [Finding("w", "job 75 reached its time limit of 00:01:00")]
    assert len(batch.asked) == 1


def test_a_world_that_is_silent_is_asked_about_after_a_while(batch: FakeBatch) -> None:
    world = batch.world(connected=True)
    assert batch.look(3 * HEARTBEAT) == []
    assert not batch.asked
    assert batch.look(0.5) == []
    assert batch.say(RUNNING) == [Finding("w", "", runs=True)]
    world.heard = batch.now
    batch.look(10.0)
    assert len(batch.asked) == 1, "it has spoken"


def test_an_end_that_is_under_way_is_asked_about_again_and_again_ever_less_often(batch: FakeBatch) -> None:
    batch.world()
    batch.look()
    times = []
    for _ in range(len(PAUSES) + 2):
        times.append(batch.now)
        batch.asked[-1].answer(COMPLETING)
        count = len(batch.asked)
        assert batch.look() == []
        while len(batch.asked) == count:
            assert batch.look(0.25) == []
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] <= 0.5
    assert pauses == sorted(pauses)
    assert PAUSES[-1] <= pauses[-1] <= PAUSES[-1] + 0.5
    assert batch.say(TIMEOUT)[0].text == "job 75 reached its time limit of 00:01:00"


@pytest.mark.parametrize("nothing", [None, "scontrol: error: Unable to contact slurm controller"])
def test_no_answer_is_no_finding(batch: FakeBatch, nothing: Answer) -> None:
    batch.world()
    assert batch.say(nothing, nothing, nothing) == []
    assert batch.say(CANCELLED, "CANCELLED by 4000000000") == [
        Finding("w", "job 75 was cancelled by user 4000000000")
    ]
    assert batch.asked[-1].command[0] == "sacct"


def test_the_node_that_has_failed_is_named(batch: FakeBatch) -> None:
    batch.world()
    [found] = batch.say(NODE_FAIL, "node4|idle|none\nnode5|down*|Not responding\n")
    assert found == Finding("w", "node node5 failed (Not responding), and with it job 75 has ended")
    assert "node4,node5" in batch.asked[-1].command


def test_a_requeued_job_comes_back(batch: FakeBatch) -> None:
    batch.world()
    [found] = batch.say(PENDING, None)
    assert found == Finding("w", "job 75 was requeued", returns=True)


def test_a_job_that_runs_once_more_was_requeued(batch: FakeBatch) -> None:
    batch.world()
    [found] = batch.say(RUNNING.replace("Restarts=0", "Restarts=1"), "")
    assert found == Finding("w", "job 75 was requeued", returns=True)


def test_of_a_job_that_failed_by_itself_others_know_more(batch: FakeBatch) -> None:
    batch.world()
    assert batch.say(FAILED) == [Finding("w", "")]


def test_few_are_asked_at_the_same_time(batch: FakeBatch) -> None:
    for number in range(50):
        batch.world(f"w{number}", f"slurm:{number + 1}")
    found: list[Finding] = []
    most = 0
    for _ in range(200):
        found += batch.look(0.1)
        under_way = [one for one in batch.asked if not one.answered]
        most = max(most, len(under_way))
        for one in under_way:
            one.answer(TIMEOUT)
        gone = {one.world for one in found}
        batch.worlds = [world for world in batch.worlds if world.name not in gone]
    assert most == MAX_AT_ONCE
    assert len(found) == 50


def test_what_is_under_way_is_given_up_when_nobody_wants_to_know(batch: FakeBatch) -> None:
    world = batch.world()
    batch.look()
    world.peer = "peer"
    world.heard = batch.now
    assert batch.look(0.1) == []
    assert batch.asked[0].closed
    world.peer = None
    batch.look(0.1)
    batch.jobs.close()
    assert batch.asked[1].closed


def test_knows(batch: FakeBatch) -> None:
    seen: list[BatchJob] = []
    jobs = Jobs(HEARTBEAT, batch.ask, lambda job: bool(seen.append(job)) or True)  # type: ignore[arg-type]
    assert jobs.knows(batch.world(job="pbs:12.server"))
    assert seen == [BatchJob("pbs", "12.server")]


def test_hosts_are_looked_at_before_an_end_is_told_that_nobody_explains(batch: FakeBatch) -> None:
    world = batch.world()
    assert batch.say(FAILED) == [Finding("w", "")]
    assert batch.jobs.doubt(world, "rank 0 ended")
    assert batch.asked[-1].command[-2:] == ["node4", "node5"]
    assert batch.say("node5\n") == [
        Finding("w", "node node5 does not answer any more (power? network?); rank 0 ended")
    ]


@pytest.mark.parametrize(
    ("answer", "text"), [(CANCELLED, "job 75 was cancelled"), (RUNNING, "rank 0 was killed (SIGTERM)")]
)
def test_who_was_behind_a_sigterm(batch: FakeBatch, answer: str, text: str) -> None:
    """Of a world on this host, whose process was seen to end."""
    world = batch.world(connected=True)
    world.watched = True
    batch.jobs.suspect(world, "rank 0 was killed (SIGTERM)", batch.now)
    assert batch.say(COMPLETING) == []
    found = batch.say(answer, *([""] if answer is CANCELLED else []))
    assert found == [Finding("w", text)]
    assert batch.look(100.0) == []


def test_what_is_held_back_is_told_when_nobody_answers(batch: FakeBatch) -> None:
    world = batch.world(connected=True)
    batch.jobs.suspect(world, "rank 0 was killed (SIGTERM)", batch.now)
    batch.look(1.0)
    found = [one for _ in range(10) for one in batch.look(1.0)]
    assert found == [Finding("w", "rank 0 was killed (SIGTERM)")]
    assert batch.asked[0].closed


def test_a_world_on_one_host_needs_no_such_look(batch: FakeBatch) -> None:
    world = batch.world()
    alone = World("x", None, HelloWorld("v", "x", ["node4", "node4"], [1, 2], job="slurm:75"), 0.0)
    assert not batch.jobs.doubt(alone, "rank 0 ended")
    world.hello = HelloWorld("v", "w", ["node4", "node5"], [1, 2])
    assert not batch.jobs.doubt(world, "rank 0 ended")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (COMPLETING.replace("Reason=None", "Reason=TimeLimit"), "job 75 reached its time limit of 00:01:00"),
        (CANCELLED, "job 75 was cancelled"),
        (RUNNING, "signal SIGTERM"),
    ],
)
def test_a_controller_in_a_job_says_why_it_ends(start: Start, tmp_path: Path, said: str, why: str) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho '{said}'\n")
    scontrol.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    controller = start(environ={"SLURM_JOB_ID": "75", "PATH": path})
    with FakeClient(controller.info("client")) as client:
        client.hello()
        controller.process.send_signal(signal.SIGTERM)
        goodbye = client.expect(Goodbye)
        assert goodbye.reason == why
    assert controller.wait() == 0
