"""What PBS says, and what is made of it. There is no PBS here: its commands pretend."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mpiparallel.error import LaunchError
from mpiparallel.launch import pbs
from mpiparallel.launch.batch import JobInfo, Phase, QueueError
from mpiparallel.launchoptions import LaunchOptions

STATUS = """\
Job Id: 12.head
    Job_Name = mpiparallel
    job_state = Q
    Resource_List.walltime = 01:00:00
    comment = Not Running: Insufficient amount of resource: ncpus (R: 64 A: 3
\t2 T: 96)
    estimated.start_time = Sat Nov 21 14:05:00 2026

Job Id: 13.head
    job_state = R
    exec_host = node1/0*2+node2/0*2
    run_count = 2
    Variable_List = PBS_O_HOME=/home/me,PBS_O_PATH=/usr/bin:/b
\tin

Job Id: 14.head
    job_state = F
    Exit_status = 3
    exec_host = node1/0
    comment = Job run at Sat Nov 21 and failed
Job Id: 15.head
    job_state = F
    Exit_status = 271
    exec_host = node1/0
Job Id: 16.head
    job_state = F
    Exit_status = -29
    Resource_List.walltime = 00:01:00
Job Id: 17.head
    job_state = F
    Exit_status = 0
Job Id: 18.head
    job_state = F
    comment = Can Never Run: deleted by root
Job Id: 19.head
    job_state = H
Job Id: 20.head
    job_state = F
    Exit_status = -1
"""


def infos() -> dict[str, JobInfo]:
    return {job.partition(".")[0]: pbs.info_of(one) for job, one in pbs.parse_status(STATUS).items()}


def test_long_lines_are_joined() -> None:
    found = pbs.parse_status(STATUS)
    assert list(found)[:2] == ["12.head", "13.head"]
    assert found["12.head"]["comment"].endswith("(R: 64 A: 32 T: 96)")
    assert found["13.head"]["Variable_List"] == "PBS_O_HOME=/home/me,PBS_O_PATH=/usr/bin:/bin"


def test_jobs_that_wait_and_run() -> None:
    found = infos()
    assert (found["12"].phase, found["12"].state) == (Phase.WAITING, "QUEUED")
    assert found["12"].reason == "Insufficient amount of resource: ncpus (R: 64 A: 32 T: 96)"
    assert found["12"].start == "Sat Nov 21 14:05:00 2026"
    assert (found["13"].phase, found["13"].nodes, found["13"].restarts) == (Phase.RUNNING, "node1+node2", 1)
    assert found["19"].phase is Phase.WAITING


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ("14", 3, "failed with exit code 3 on node1"),
        ("15", -15, "was killed by SIGTERM"),
        ("16", -29, "reached its time limit of 00:01:00"),
        ("17", 0, "ended with exit code 0"),
        ("18", None, "ended (Can Never Run: deleted by root)"),
        ("20", -1, "could not be started by PBS (-1)"),
    ],
)
def test_how_a_job_has_ended(job: str, code: int | None, words: str) -> None:
    found = infos()[job]
    assert (found.phase, found.exit_code, found.end) == (Phase.ENDED, code, words)


def test_a_job_that_can_never_run() -> None:
    info = pbs.info_of({"job_state": "Q", "comment": "Can Never Run: Insufficient amount of resource: ncpus"})
    assert "job 1 will never start (QUEUED)" in pbs.SYSTEM.why_never("1", info)
    assert not pbs.SYSTEM.why_never("1", infos()["12"])


@pytest.mark.parametrize(
    ("options", "ranks", "select"),
    [
        (LaunchOptions(), 4, "1:ncpus=4:mpiprocs=4"),
        (LaunchOptions(nodes=2), 4, "2:ncpus=2:mpiprocs=2"),
        (LaunchOptions(nodes=3), 4, "3:ncpus=2:mpiprocs=2"),
        (LaunchOptions(ntasks_per_node=2), 5, "3:ncpus=2:mpiprocs=2"),
        (LaunchOptions(nodes=2, ntasks_per_node=1, cpus_per_task=8), 2, "2:ncpus=8:mpiprocs=1"),
        (LaunchOptions(mem="4gb", gres="ngpus:1"), 1, "1:ncpus=1:mpiprocs=1:mem=4gb:ngpus=1"),
    ],
)
def test_how_ranks_are_laid_out(options: LaunchOptions, ranks: int, select: str) -> None:
    assert pbs.SYSTEM.values(options, ranks, Path("/x"))["select"] == select


def test_values_in_its_own_spelling() -> None:
    options = LaunchOptions(time="1-00:30", job_name="a name that is too long", requeue=True)
    values = pbs.SYSTEM.values(options, 1, Path("/a b"))
    assert (values["time"], values["job_name"], values["requeue"]) == ("24:30:00", "a_name_that_is_", "y")
    assert values["output"] == "'/a b'"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Make commands of a batch system."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.called\n{script}\n')
        path.chmod(0o755)
        return tmp_path / f"{name}.called"

    return make


def test_submitting(fake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    called = fake("qsub", "echo 12.head")
    assert pbs.SYSTEM.submit(tmp_path / "x.pbs", ["-W", "group_list=a"], os.environ) == "12.head"
    assert called.read_text() == f"-W group_list=a {tmp_path}/x.pbs\n"


def test_a_refusal(fake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    fake("qsub", "echo 'qsub: Unknown queue' >&2; exit 170")
    with pytest.raises(LaunchError, match=r"PBS refused the job: qsub: Unknown queue\nqstat -Q says which"):
        pbs.SYSTEM.submit(tmp_path / "x.pbs", [], os.environ)


def test_asking(fake) -> None:  # type: ignore[no-untyped-def]
    called = fake("qstat", f"cat <<'EOF'\n{STATUS}EOF\nexit 153")
    assert set(pbs.SYSTEM.query(["12.head", "14.head", "99.head"])) == {"12.head", "14.head"}
    assert called.read_text() == "-x -f 12.head 14.head 99.head\n"
    fake("qstat", "echo 'qstat: Unknown Job Id 99.head' >&2; exit 153")
    assert pbs.SYSTEM.query(["99.head"]) == {}
    fake("qstat", "echo 'Connection refused' >&2; exit 111")
    with pytest.raises(QueueError, match="Connection refused"):
        pbs.SYSTEM.query(["99.head"])


def test_signals_and_cancelling(fake) -> None:  # type: ignore[no-untyped-def]
    signalled, deleted = fake("qsig", ""), fake("qdel", "echo 'qdel: Job has finished 1.head' >&2; exit 35")
    pbs.SYSTEM.signal("1.head", signal.SIGUSR1, script=True)
    pbs.SYSTEM.cancel(["1.head"])
    assert (signalled.read_text(), deleted.read_text()) == ("-s SIGUSR1 1.head\n", "1.head\n")
    fake("qdel", "echo 'qdel: Unauthorized Request 1.head' >&2; exit 159")
    with pytest.raises(QueueError, match="Unauthorized"):
        pbs.SYSTEM.cancel(["1.head"])
