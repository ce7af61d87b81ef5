"""`time_left`, and how a world foretells the end of its job."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import mpiparallel
from mpiparallel.batchjob import BatchJob
from mpiparallel.engine.foretelling import ASK_EVERY, Foreteller
from mpiparallel.engine.jobtime import Clock
from mpiparallel.wire.messages import JobEnds

LIMIT = "job 75 reaches its time limit"


def local(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))


class Job:
    """Slurm, a clock, and a bridge that asks."""

    def __init__(self, limit: float | None, warn_before: float = 60.0) -> None:
        self.now = 1_800_000_000.0
        self.ends_at = None if limit is None else self.now + limit
        self.state, self.more = "RUNNING", ""
        self.asked: list[float] = []
        self.answers = True
        self.welcomes = 1
        self.said: list[tuple[float, JobEnds]] = []
        self.began = self.now
        self.teller = Foreteller(BatchJob("slurm", "75"), warn_before, self.ask, lambda: self.now)

    def ask(self, command: Sequence[str]) -> Job.Question:
        self.asked.append(self.now)
        limit = "UNLIMITED" if self.ends_at is None else "00:10:00"
        text = f"JobState={self.state} Reason=None D=x TimeLimit={limit} EndTime={local(self.ends_at or 0)}"
        return Job.Question(text + self.more if self.answers else None)

    class Question:
        answered = True

        def __init__(self, text: str | None) -> None:
            self.text = text

    def run(self, seconds: float, signalled: bool = False) -> list[JobEnds]:
        """Let time pass; return what is said meanwhile."""
        said = []
        for _ in range(round(seconds)):
            said += self.teller.tick(self.welcomes, signalled)
            signalled = False
            self.now += 1.0
        return said


def test_ranks_learn_of_the_limit_at_once_and_people_are_warned_once() -> None:
    job = Job(600.0)
    [first] = job.run(530)
    assert first.left == pytest.approx(599, abs=2)
    assert first.why == ""
    [warning] = job.run(69)
    assert warning.why == LIMIT
    assert warning.left == pytest.approx(60, abs=3)
    assert len(job.asked) <= 1 + 600 / ASK_EVERY + 1


def test_a_job_without_a_limit_is_warned_of_nothing() -> None:
    job = Job(None)
    assert job.run(10 * ASK_EVERY) == [JobEnds(None)]


def test_who_does_not_want_to_be_warned_is_not() -> None:
    job = Job(600.0, warn_before=0)
    assert [one.why for one in job.run(600)] == [""]
    job = Job(600.0, warn_before=0)
    assert [one.why for one in job.run(20) + job.run(20, signalled=True)] == [""]


def test_a_limit_that_was_extended_is_noticed_before_anybody_is_warned() -> None:
    job = Job(600.0)
    job.run(400)
    assert job.ends_at is not None
    job.ends_at += 600.0
    said = job.run(300)
    assert [one.why for one in said] == [""], "the new limit, and no warning"
    assert said[0].left == pytest.approx(660, abs=130)
    assert [one.why for one in job.run(500)] == [LIMIT]


def test_a_limit_that_was_extended_after_the_warning_is_warned_of_again() -> None:
    job = Job(100.0)
    assert [one.why for one in job.run(60)] == ["", LIMIT]
    assert job.ends_at is not None
    job.ends_at += 3600.0
    assert [one.why for one in job.run(3600 + 39)] == ["", LIMIT]


def test_the_signal_of_the_batch_system_brings_the_warning_forward() -> None:
    """Slurm sends it up to a minute before it is due."""
    job = Job(600.0)
    job.run(500)
    [warning] = job.run(10, signalled=True)
    assert warning.why == LIMIT
    assert warning.left == pytest.approx(100, abs=3)
    assert job.run(90) == [], "once is enough"


def test_a_job_that_is_to_make_room() -> None:
    job = Job(6000.0)
    job.run(10)
    job.ends_at, job.more = job.now + 30.0, f" PreemptTime={local(job.now)}"
    said = job.run(20, signalled=True)
    assert [one.why for one in said] == ["", "job 75 is to make room for others (preempted)"]
    assert said[-1].left == pytest.approx(30, abs=3)


def test_a_signal_of_which_the_batch_system_says_nothing() -> None:
    job = Job(600.0)
    job.answers = False
    assert job.run(20) == [JobEnds(None)]
    assert job.run(20, signalled=True) == [JobEnds(None, "the batch system has announced the end of job 75")]
    job = Job(None)
    job.run(20)
    assert [one.why for one in job.run(20, signalled=True)] == [
        "the batch system has announced the end of job 75"
    ]


def test_a_controller_that_was_started_again_is_told_anew() -> None:
    job = Job(600.0)
    job.run(100)
    job.welcomes += 1
    [told] = job.run(10)
    assert (told.why, told.left) == ("", pytest.approx(499, abs=3))
    assert [one.why for one in job.run(450)] == [LIMIT]
    job.welcomes += 1
    assert [one.why for one in job.run(5)] == ["", LIMIT]


def test_a_job_that_is_over_is_no_news() -> None:
    job = Job(600.0)
    job.run(10)
    job.state = "COMPLETING"
    assert job.run(5, signalled=True) == []


def test_outside_of_a_job_nobody_is_asked() -> None:
    teller = Foreteller(None, 60.0, lambda command: pytest.fail("asked"))
    assert teller.tick(1, signalled=True) == []


# ---------------------------------------------------------------- time_left


@pytest.fixture
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_job: None) -> Callable[[str], Path]:
    """Put a program in the place of Slurm's; return a function that has it say something."""

    def say(text: str) -> Path:
        program = tmp_path / "scontrol"
        program.write_text(
            f"#!{sys.executable}\nopen({str(tmp_path / 'asked')!r}, 'a').write('x')\nprint({text!r})\n"
        )
        program.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "75")
    return say


def test_outside_of_a_job_time_does_not_run_out(no_job: None) -> None:
    assert Clock().left() is None
    assert mpiparallel.time_left() is None


def test_a_program_in_a_job_asks_by_itself_and_not_in_every_step(scontrol: Callable[[str], Path]) -> None:
    end = local(time.time() + 500)
    asked = scontrol(f"JobState=RUNNING Reason=None D=x TimeLimit=00:10:00 EndTime={end}")
    clock = Clock()
    lefts = [clock.left() for _ in range(1000)]
    assert lefts[0] == pytest.approx(500, abs=10)
    assert lefts == sorted(lefts, reverse=True)  # type: ignore[type-var]
    assert asked.read_text() == "x"


def test_a_batch_system_that_does_not_answer_leaves_the_time_open(scontrol: Callable[[str], Path]) -> None:
    scontrol("slurm_load_jobs error: Unable to contact slurm controller")
    assert Clock().left() is None


def test_a_rank_waits_until_its_bridge_has_told_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.is_told = True
    timer = threading.Timer(0.1, clock.learn, [100.0])
    timer.start()
    assert clock.left() == pytest.approx(100, abs=5)
    clock.learn(0.0)
    assert clock.left() == 0.0
    clock.learn(None)
    assert clock.left() is None
    timer.join()


def test_the_signal_is_noted_and_ends_nobody() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    clock = Clock()
    try:
        clock.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert clock.warned
    finally:
        signal.signal(signal.SIGUSR1, before)
