"""What clients learn of the job of a controller that is silent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mpiparallel.client.jobwatch import PAUSE, Fate, JobWatch
from mpiparallel.connection_file import ConnectionInfo

RUNNING = "JobState=RUNNING Reason=None D=x Restarts=0 TimeLimit=00:10:00"
TIMEOUT = RUNNING.replace("RUNNING", "TIMEOUT")
PENDING = RUNNING.replace("RUNNING", "PENDING").replace("Restarts=0", "Restarts=1")
NODE_FAIL = RUNNING.replace("RUNNING", "NODE_FAIL")


def info(job: str = "75") -> ConnectionInfo:
    return ConnectionInfo(
        cluster_id="", role="client", version="", host="node4", pid=1, addresses=[], local="",
        server_key="", public_key="", secret_key="", job=job,
    )  # fmt: skip


class Question:
    answered = True

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.closed = False

    def wait(self, patience: float) -> str | None:
        return self.text

    def close(self) -> None:
        self.closed = True


class Slurm:
    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[Question] = []
        self.commands: list[str] = []

    def ask(self, command: Sequence[str]) -> Question:
        self.commands.append(command[0])
        self.asked.append(Question(self.answers.pop(0)))
        return self.asked[-1]

    def watch(self, can_ask: bool = True) -> JobWatch:
        return JobWatch(self.ask, lambda job: can_ask)  # type: ignore[arg-type]


def look(watch: JobWatch, seconds: float = 60.0, job: str = "75") -> Fate | None:
    now = 0.0
    while now < seconds:
        fate = watch.fate(info(job), now)
        if fate is not None:
            return fate
        now += 0.5
    return None


def test_the_end_of_the_job_is_told() -> None:
    slurm = Slurm(None, RUNNING, RUNNING, TIMEOUT)
    assert look(slurm.watch()) == Fate("job 75 reached its time limit of 00:10:00", False)
    assert slurm.commands == ["scontrol"] * 4


def test_it_is_not_asked_all_the_time() -> None:
    slurm = Slurm(*[RUNNING] * 100)
    assert look(slurm.watch(), 60.0) is None
    assert len(slurm.asked) <= 60.0 / PAUSE + 1


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        (NODE_FAIL, Fate("node node4 failed (Not responding), and with it job 75 has ended", False)),
        (PENDING, Fate("node node4 failed (Not responding): job 75 was requeued", True)),
    ],
)
def test_the_node_is_named(answer: str, fate: Fate) -> None:
    slurm = Slurm(answer, "node4|down*|Not responding")
    assert look(slurm.watch()) == fate
    assert slurm.commands == ["scontrol", "sinfo"]


def test_a_controller_in_no_job_is_not_asked_about() -> None:
    slurm = Slurm()
    assert look(slurm.watch(), job="") is None
    assert look(slurm.watch(can_ask=False)) is None


def test_a_question_does_not_outlive_the_client() -> None:
    slurm = Slurm(RUNNING)
    watch = slurm.watch()
    watch.fate(info(), 0.0)
    watch.close()
    assert slurm.asked[0].closed
