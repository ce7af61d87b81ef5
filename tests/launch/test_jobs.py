"""Jobs, as far as they are the same for all batch systems: asked about in one call, and not often."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from helpers import wait_until

from mpiparallel.launch import batch, jobs
from mpiparallel.launch.batch import JobInfo, Phase, QueueError, System
from mpiparallel.launch.jobs import Job, Queue, pause
from mpiparallel.launch.launched import EngineSet, attach
from mpiparallel.launchoptions import LaunchOptions

PENDING = JobInfo(Phase.WAITING, "PENDING", "Resources", "2099-01-02T14:05:00")
RUNNING = JobInfo(Phase.RUNNING, "RUNNING", nodes="n[1-2]")
DONE = JobInfo(Phase.ENDED, "COMPLETED", exit_code=0, end="ended with exit code 0")
FAILED = JobInfo(Phase.ENDED, "FAILED", exit_code=3, end="failed with exit code 3 on n1")


class Toy(System):
    """A batch system in memory."""

    name, title, suffix = "toy", "Toy", "toy"

    def __init__(self) -> None:
        self.jobs: dict[str, JobInfo] = {}
        self.asked: list[tuple[str, ...]] = []
        self.cancelled: list[str] = []
        self.signals: list[tuple[str, int, bool]] = []
        self.silent = False

    def submit(self, script: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
        job = str(len(self.jobs) + 1)
        self.jobs[job] = PENDING
        return job

    def query(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        self.asked.append(tuple(ids))
        if self.silent:
            raise QueueError("toy is down")
        return {job: self.jobs[job] for job in ids if job in self.jobs}

    def recall(self, job: str) -> JobInfo:
        return JobInfo(Phase.ENDED, "UNKNOWN", end="has ended; nobody knows how")

    def cancelling(self, ids: Sequence[str]) -> list[str]:
        return ["true", *ids]

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids
        for job in ids:
            self.jobs[job] = JobInfo(Phase.ENDED, "CANCELLED", exit_code=-15, end="was cancelled")

    def signal(self, job: str, signum: int, *, script: bool) -> None:
        self.signals.append((job, signum, script))

    def why_never(self, job: str, info: JobInfo) -> str:
        return f"job {job} will never start" if info.reason == "Never" else ""

    def values(self, options: LaunchOptions, ranks: int, log: Path) -> dict[str, str]:
        return {}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    system = Toy()
    queue = Queue(system)
    real = batch.system
    monkeypatch.setattr(batch, "system", lambda name: system if name == "toy" else real(name))
    monkeypatch.setattr(jobs, "queue", lambda name: queue)
    return system


def submit(toy: Toy, tmp_path: Path, **options: bool) -> Job:
    return Job.submit(toy, tmp_path / "x", log=tmp_path / "log", environ={}, **options)


def test_questions_become_rarer_while_nothing_changes() -> None:
    assert [pause(seconds) for seconds in (0, 1, 10, 60, 150, 1e6)] == [0.5, 0.5, 1.0, 6.0, 15.0, 15.0]


def test_all_jobs_are_asked_about_in_one_call(toy: Toy, tmp_path: Path) -> None:
    first, second, third = (submit(toy, tmp_path) for _ in range(3))
    assert all(job.running for job in (first, second, third))
    assert toy.asked == [("1", "2", "3")]
    for _ in range(100):
        assert second.what_it_waits_for()
    assert len(toy.asked) == 1


def test_what_has_ended_is_not_asked_about_again(toy: Toy, tmp_path: Path) -> None:
    first, second = submit(toy, tmp_path), submit(toy, tmp_path)
    toy.jobs["1"] = FAILED
    assert not first.running
    assert first.exit_code == 3
    toy.asked.clear()
    second.info(0.0)
    assert toy.asked == [("2",)]
    assert (first.describe_end(), second.describe_end()) == ("failed with exit code 3 on n1", "is PENDING")


def test_who_watches_is_told_once(toy: Toy, tmp_path: Path) -> None:
    job, told = submit(toy, tmp_path), []
    job.watch(lambda: told.append(threading.current_thread().name))
    toy.jobs["1"] = RUNNING
    assert wait_until(lambda: job.info().phase is Phase.RUNNING)
    assert told == []
    toy.jobs["1"] = DONE
    assert wait_until(lambda: told)
    job.watch(lambda: told.append("late"))
    assert wait_until(lambda: len(told) == 2)
    assert told == ["job-1", "late"]
    assert wait_until(lambda: "jobs-toy" not in [one.name for one in threading.enumerate()])


def test_a_batch_system_that_does_not_answer_ends_no_job(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(toy, tmp_path)
    toy.silent = True
    with caplog.at_level(logging.WARNING):
        assert job.running
        assert job.what_it_waits_for() == "job 1 is UNKNOWN: toy is down"
        job.info(0.0)
        job.info(0.0)
    assert caplog.text.count("toy is down") == 1  # the first time
    toy.silent, toy.jobs["1"] = False, RUNNING
    assert job.info(0.0) is RUNNING
    toy.silent = True
    assert job.info(0.0) is RUNNING


def test_a_job_that_the_queue_has_forgotten(toy: Toy, tmp_path: Path) -> None:
    job = submit(toy, tmp_path)
    del toy.jobs["1"]
    assert job.running  # it may not be known yet
    old = Job("9", "toy", tmp_path / "log", time.time() - 3600)
    assert not old.running
    assert (old.describe_end(), old.exit_code) == ("has ended; nobody knows how", None)


def test_what_it_waits_for(toy: Toy, tmp_path: Path) -> None:
    job = submit(toy, tmp_path)
    today = time.strftime("%Y-%m-%d")
    for info, words in [
        (PENDING, "job 1 is PENDING: Resources, estimated start 2099-01-02 14:05"),
        (JobInfo(Phase.WAITING, "PENDING", "Priority", f"{today}T14:05:00"),
         "job 1 is PENDING: Priority, estimated start 14:05"),
        (JobInfo(Phase.WAITING, "PENDING", "None"), "job 1 is PENDING"),
        (JobInfo(Phase.WAITING, "PENDING", "BeginTime", restarts=1),
         "job 1 is PENDING: BeginTime (restarted 1 times)"),
        (JobInfo(Phase.WAITING, "QUEUED", "ncpus", "Tue Nov 24 14:05:00 2026"),
         "job 1 is QUEUED: ncpus, estimated start Tue Nov 24 14:05:00 2026"),
        (RUNNING, ""),
    ]:  # fmt: skip
        toy.jobs["1"] = info
        job.info(0.0)
        assert job.what_it_waits_for() == words
    assert job.where() == "job 1 on n[1-2]"


def test_why_it_never_starts(toy: Toy, tmp_path: Path) -> None:
    job = submit(toy, tmp_path)
    assert job.why_never() == ""
    toy.jobs["1"] = JobInfo(Phase.WAITING, "PENDING", "Never")
    job.info(0.0)
    assert job.why_never() == "job 1 will never start"


def test_stopping(toy: Toy, tmp_path: Path) -> None:
    job = submit(toy, tmp_path)
    job.stop(1.0)
    assert (toy.cancelled, job.asked_to_stop) == (["1"], True)
    assert job.describe_end() == "was cancelled"
    job.stop(1.0)
    job.finish()
    assert toy.cancelled == ["1"]
    assert EngineSet(job, "a", 2).state == "stopped"


def test_signals(toy: Toy, tmp_path: Path) -> None:
    ranks, script, waiting = submit(toy, tmp_path), submit(toy, tmp_path, script=True), submit(toy, tmp_path)
    toy.jobs["1"] = toy.jobs["2"] = RUNNING
    for job in (ranks, script, waiting):
        job.send_signal(signal.SIGUSR1)
    assert toy.signals == [("1", signal.SIGUSR1, False), ("2", signal.SIGUSR1, True)]
    waiting.send_signal(signal.SIGTERM)
    assert toy.cancelled == ["3"]


def test_found_again_by_another_program(toy: Toy, tmp_path: Path) -> None:
    job = submit(toy, tmp_path, script=True)
    record = EngineSet(job, "a", 2).to_dict()
    again = attach(record)
    assert isinstance(again, Job)
    assert (again.id, again.log, again.created, again.script) == (job.id, job.log, job.created, True)
    assert again.to_dict() == job.to_dict()


def test_the_log(toy: Toy, tmp_path: Path) -> None:
    job = Job("1", "toy", tmp_path / "log", time.time(), also=[tmp_path / "job.log"])
    assert job.tail() == ""
    (tmp_path / "log").write_bytes(b"x" * (1 << 17) + b"\n" + b"".join(b"%d\n" % i for i in range(50)))
    assert job.tail(2) == "48\n49"
    (tmp_path / "job.log").write_text("slurmstepd: DUE TO TIME LIMIT\n")
    assert job.tail(1) == "slurmstepd: DUE TO TIME LIMIT\n49"


def test_a_guard_cancels_when_nobody_holds_it(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    monkeypatch.setattr(toy, "cancelling", lambda ids: ["sh", "-c", f"echo {ids[0]} >> {marks}"])
    monkeypatch.setattr(jobs, "UNTOLD", 0)
    kept, lost = submit(toy, tmp_path), submit(toy, tmp_path)
    for job in (kept, lost):
        job.guard(tmp_path / "guard.log")
    kept.stop(1.0)
    assert lost._guard is not None
    lost._guard.close_lifeline()
    assert wait_until(marks.exists)
    lost.stop(1.0)
    assert marks.read_text() == "2\n"
    assert os.path.exists(tmp_path / "guard.log")
