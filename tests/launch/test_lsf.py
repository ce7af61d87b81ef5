"""What LSF says, and what is made of it. There is no LSF here: its commands pretend."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mpiparallel.error import LaunchError
from mpiparallel.launch import lsf
from mpiparallel.launch.batch import JobInfo, Phase, QueueError
from mpiparallel.launchoptions import LaunchOptions

JOBS = """\
12|PEND|-|-|Nov 21 14:05|-|Job's requirements for resource reservation not satisfied: 3 hosts;
13|RUN|-|2*node1:2*node2|-|-|-
14|EXIT|3|node1|-|-|-
15|EXIT|143|node1|-|TERM_OWNER: job killed by owner|-
16|EXIT|140|node1|-|TERM_RUNLIMIT: job killed after reaching LSF run time limit|-
17|DONE|-|node1|-|-|-
18|EXIT|137|node1|-|-|-
19|PSUSP|-|-|-|-|The job was suspended by the user while pending;
20|EXIT|130|node1|-|TERM_MEMLIMIT: job killed after reaching LSF memory usage limit|-
Job <99> is not found
"""


def test_jobs_that_wait_and_run() -> None:
    found = lsf.parse_jobs(JOBS)
    assert list(found) == [str(number) for number in range(12, 21)]
    assert (found["12"].phase, found["12"].state, found["12"].start) == (
        Phase.WAITING,
        "PEND",
        "Nov 21 14:05",
    )
    assert found["12"].reason == "Job's requirements for resource reservation not satisfied: 3 hosts"
    assert (found["13"].phase, found["13"].nodes, found["13"].reason) == (Phase.RUNNING, "node1+node2", "")
    assert found["19"].phase is Phase.WAITING


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ("14", 3, "failed with exit code 3 on node1"),
        ("15", -15, "was cancelled by its owner"),
        ("16", -12, "reached its time limit"),
        ("17", 0, "ended with exit code 0 on node1"),
        ("18", -9, "was killed by SIGKILL"),
        ("20", -2, "ran out of memory: ask for more (mem)"),
    ],
)
def test_how_a_job_has_ended(job: str, code: int, words: str) -> None:
    found = lsf.parse_jobs(JOBS)[job]
    assert (found.phase, found.exit_code, found.end) == (Phase.ENDED, code, words)


def test_a_job_that_can_never_run() -> None:
    assert not lsf.SYSTEM.why_never("1", lsf.parse_jobs(JOBS)["12"])
    info = JobInfo(Phase.WAITING, "PEND", "The job's resource requirement cannot be satisfied")
    assert "job 1 will never start (PEND)" in lsf.SYSTEM.why_never("1", info)


@pytest.mark.parametrize(
    ("options", "ranks", "needs"),
    [
        (LaunchOptions(), 4, ""),
        (LaunchOptions(nodes=2), 4, "'span[ptile=2]'"),
        (LaunchOptions(ntasks_per_node=3, cpus_per_task=2), 6, "'span[ptile=3] affinity[core(2)]'"),
        (LaunchOptions(constraint="ib"), 1, "'select[ib]'"),
    ],
)
def test_how_ranks_are_laid_out(options: LaunchOptions, ranks: int, needs: str) -> None:
    assert lsf.SYSTEM.values(options, ranks, Path("/x"))["needs"] == needs


@pytest.mark.parametrize(
    ("time", "expected"), [("", ""), ("90", "1:30"), ("0:30", "0:01"), ("1-00:30", "24:30")]
)
def test_time_limits_are_minutes(time: str, expected: str) -> None:
    assert lsf.SYSTEM.values(LaunchOptions(time=time), 1, Path("/x"))["time"] == expected


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


def test_the_script_goes_to_standard_input(fake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    called = fake("bsub", f"cat > {tmp_path}/got; echo 'Job <12> is submitted to queue <normal>.'")
    (tmp_path / "x.bsub").write_text("#BSUB -n 2\n")
    assert lsf.SYSTEM.submit(tmp_path / "x.bsub", ["-x"], os.environ) == "12"
    assert (called.read_text(), (tmp_path / "got").read_text()) == ("-x\n", "#BSUB -n 2\n")


def test_a_refusal(fake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    fake("bsub", "echo 'x: No such queue. Job not submitted.' >&2; exit 255")
    (tmp_path / "x.bsub").touch()
    with pytest.raises(LaunchError, match=r"LSF refused the job: x: No such queue.*\nbqueues says which"):
        lsf.SYSTEM.submit(tmp_path / "x.bsub", [], os.environ)


def test_asking(fake) -> None:  # type: ignore[no-untyped-def]
    called = fake("bjobs", f"cat <<'EOF'\n{JOBS}EOF\nexit 255")
    assert set(lsf.SYSTEM.query(["12", "14", "99"])) == {"12", "14"}
    assert called.read_text().startswith("-a -noheader -o jobid stat ")
    assert called.read_text().endswith(" delimiter='|' 12 14 99\n")
    fake("bjobs", "echo 'Job <99> is not found' >&2; exit 255")
    assert lsf.SYSTEM.query(["99"]) == {}
    fake("bjobs", "echo 'LSF is down. Please wait ...' >&2; exit 255")
    with pytest.raises(QueueError, match="LSF is down"):
        lsf.SYSTEM.query(["99"])


def test_signals_and_cancelling(fake) -> None:  # type: ignore[no-untyped-def]
    killed = fake("bkill", "echo 'Job <1>: Job has already finished' >&2; exit 255")
    lsf.SYSTEM.signal("1", signal.SIGUSR1, script=False)
    lsf.SYSTEM.cancel(["1"])
    assert killed.read_text() == "-s USR1 1\n1\n"
    fake("bkill", "echo 'Job <1>: Operation not permitted' >&2; exit 255")
    with pytest.raises(QueueError, match="not permitted"):
        lsf.SYSTEM.cancel(["1"])
