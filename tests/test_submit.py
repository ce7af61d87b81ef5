"""``mpiparallel submit``, ``logs``, ``wait``, jobs in ``list`` and ``status``; commands play Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mpiparallel as ipp
from mpiparallel.commandline.jobs import of_allocation
from mpiparallel.commandline.run import AGAIN, copies
from mpiparallel.launch.following import as_exit_code

JOB = "4711"
COMMANDS = {
    "sbatch": """
        printf '%s\\n' "$@" > "$FAKE/arguments"
        for script; do :; done
        cp "$script" "$FAKE/script"
        [ ! -e "$FAKE/refusal" ] || { cat "$FAKE/refusal" >&2; exit 1; }
        echo 4711
    """,
    "squeue": 'cat "$FAKE/queue"',
    "scancel": 'echo "$@" >> "$FAKE/cancelled"; echo "4711|CANCELLED|None|N/A||15|0|1:00|" > "$FAKE/queue"',
    "sinfo": "echo 'debug*|up|30:00|4|16|64000'",
    "srun": "exit 1",
}


class Fake:
    """Commands that play Slurm, with one job; and the ``mpiparallel`` command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.work = folder / "work"
        bin_ = folder / "bin"
        for made in (self.state, self.work, bin_):
            made.mkdir()
        for name, text in COMMANDS.items():
            (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_ / name).chmod(0o755)
        self.environ = {
            **os.environ, "FAKE": str(folder), "MPIPARALLEL_STATE": str(self.state),
            "MPIPARALLEL_SITE": str(folder / "site"), "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "MPIPARALLEL_MPIEXEC": "/bin/true",
        }  # fmt: skip
        self.queue("PENDING", reason="Resources")
        (self.work / "script.py").write_text("print('never run here')\n")

    def queue(self, state: str, *, reason: str = "None", node: str = "", status: int = 0) -> None:
        """Let the job be in this state."""
        new = self.folder / "queue.new"
        new.write_text(f"{JOB}|{state}|{reason}|N/A|{node}|{status}|0|1:00|\n")
        new.rename(self.folder / "queue")

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mpiparallel", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environ, cwd=self.work,
        )  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    @property
    def cancelled(self) -> bool:
        return (self.folder / "cancelled").exists()

    @property
    def submitted(self) -> bool:
        return (self.folder / "arguments").exists()


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


# ---------------------------------------------------------------- submit


def test_a_script_is_submitted_and_found_again(fake: Fake) -> None:
    done = fake.run("submit", "script.py", "-n", "4", "--", "-n", "7", "a b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"job {JOB} was submitted: script.py with 4 engines; it prints to {fake.work}/script-{JOB}.out",
        f"job {JOB} is PENDING: Resources",
        f"See what it prints: mpiparallel logs -f {JOB}",
        f"See what its engines do: mpiparallel where --cluster-id {JOB}",
        f"End it: mpiparallel stop --cluster-id {JOB}",
    ]
    script = (fake.folder / "script").read_text()
    assert "script.py -n 7 'a b' &" in script
    # What was submitted is kept beside the logs.
    assert (fake.state / f"default/cluster-{JOB}/job.sbatch").read_text() == script

    [row] = json.loads(fake.run("list", "--json").stdout)
    assert (row["cluster_id"], row["state"], row["engines"]) == (JOB, "waiting", 4)
    assert row["job"] == f"{JOB} PENDING: Resources"
    fake.queue("RUNNING", node="node7")
    parts = json.loads(fake.run("status", "--cluster-id", JOB, "--json").stdout)["parts"]
    assert [(part["part"], part["state"], part["job"]) for part in parts] == [
        ("controller", "running", f"{JOB} RUNNING on node7"),
        ("engines job", "running", f"{JOB} RUNNING on node7"),
    ]
    (fake.work / f"script-{JOB}.out").write_text("one\ntwo\n")
    assert fake.run("logs", JOB).stdout == "one\ntwo\n"
    assert fake.run("logs", JOB, "-n", "1").stdout == "two\n"
    assert fake.run("logs", JOB, "--path").stdout == f"{fake.work}/script-{JOB}.out\n"

    fake.queue("FAILED", reason="NonZeroExitCode", node="node7", status=7 << 8)
    done = fake.run("list")
    assert "no cluster runs" in done.stdout and f"jobs that have ended: {JOB};" in done.stdout
    assert fake.run("logs", JOB).stdout == "one\ntwo\n"
    done = fake.run("status", "--cluster-id", JOB)
    assert done.returncode == 12 and f"job {JOB} failed with exit code 7 on node7" in done.stderr
    assert fake.run("stop", "--all").returncode == 11
    assert fake.run("logs", "-f", JOB).returncode == 7


def test_a_job_that_waits_is_stopped(fake: Fake) -> None:
    fake.run("submit", "script.py", "-n", "4")
    assert fake.run("stop", "--cluster-id", JOB).returncode == 0
    assert fake.cancelled


def test_what_was_submitted_as_json(fake: Fake) -> None:
    done = fake.run("submit", "script.py", "-n", "4", "--json", "-o", "x%j.log")
    told = json.loads(done.stdout)
    assert (told["job"], told["engines"], told["output"]) == (JOB, 4, f"{fake.work}/x{JOB}.log")


def test_printed_it_is_not_submitted(fake: Fake) -> None:
    done = fake.run("submit", "script.py", "-n", "4", "--print")
    assert done.stdout.startswith("#!/bin/bash\n") and "#SBATCH --ntasks=4\n" in done.stdout
    assert not fake.submitted


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.py", "-n", "4"], 2, "no such file: none.py"),
        (["wrong.py", "-n", "4"], 2, "wrong.py, line 2: "),
        (["script.py"], 2, "-n 64"),
    ],
    ids=["no file", "a syntax error", "no number"],
)
def test_what_can_be_seen_to_fail_is_not_submitted(
    fake: Fake, words: list[str], code: int, said: str
) -> None:
    (fake.work / "wrong.py").write_text("x = 1\ndef f(:\n")
    done = fake.run("submit", *words)
    assert done.returncode == code and said in done.stderr
    assert not fake.submitted


def test_a_refusal_is_told_with_the_remedy(fake: Fake) -> None:
    (fake.folder / "refusal").write_text("sbatch: error: invalid partition specified: nosuch\n")
    done = fake.run("submit", "script.py", "-n", "4")
    assert done.returncode == 1
    assert "invalid partition specified: nosuch" in done.stderr and "debug (default, 4 nodes" in done.stderr
    assert [path for path in fake.state.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_job_that_can_never_start_is_cancelled(fake: Fake, follow: list[str]) -> None:
    fake.queue("PENDING", reason="PartitionNodeLimit")
    done = fake.run("submit", "script.py", "-n", "4", *follow)
    assert done.returncode == 1 and "will never start (PENDING, PartitionNodeLimit)" in done.stderr
    assert fake.cancelled


# ---------------------------------------------------------------- --follow


def test_following_shows_what_it_prints_and_ends_with_its_exit_code(fake: Fake) -> None:
    process = fake.start("submit", "script.py", "-n", "4", "--follow")
    with process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith(f"job {JOB} was submitted")
        assert process.stderr.readline() == f"mpiparallel: job {JOB} is PENDING: Resources\n"
        fake.queue("RUNNING", node="node7")
        assert process.stderr.readline() == f"mpiparallel: job {JOB} runs on node7\n"
        (fake.work / f"script-{JOB}.out").write_text("going\n")
        assert process.stdout.readline() == "going\n"
        with (fake.work / f"script-{JOB}.out").open("a") as file:
            file.write("last words")
        fake.queue("FAILED", reason="NonZeroExitCode", node="node7", status=7 << 8)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (7, "last words")
    assert errors == f"mpiparallel: job {JOB} failed with exit code 7 on node7\n"


def test_the_time_limit(fake: Fake) -> None:
    fake.queue("TIMEOUT", reason="TimeLimit", node="node7", status=15)
    done = fake.run("submit", "script.py", "-n", "4", "--follow")
    assert done.returncode == 143
    assert done.stderr == f"mpiparallel: job {JOB} reached its time limit of 1:00\n"


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_ctrl_c_leaves_the_job_alone_and_again_ends_it(fake: Fake, again: bool) -> None:
    fake.queue("RUNNING", node="node7")
    process = fake.start("submit", "script.py", "-n", "4", "--follow")
    with process:
        assert process.stderr
        assert process.stderr.readline() == f"mpiparallel: job {JOB} runs on node7\n"
        process.send_signal(signal.SIGINT)
        goes_on = f"mpiparallel: job {JOB} goes on: mpiparallel logs -f {JOB}"
        assert process.stderr.readline().startswith(goes_on)
        if again:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert fake.cancelled == again
    assert ("was cancelled" in errors) == again


@pytest.mark.parametrize(("code", "shown"), [(0, 0), (7, 7), (-9, 137), (None, 1)])
def test_exit_codes_are_those_of_a_shell(code: int | None, shown: int) -> None:
    assert as_exit_code(code) == shown


# ---------------------------------------------------------------- logs


def test_logs_of_nobody(fake: Fake) -> None:
    done = fake.run("logs")
    assert done.returncode == 12 and "no logs in" in done.stderr
    done = fake.run("logs", "815")
    assert done.returncode == 12 and "nothing is known of job 815" in done.stderr


def test_the_logs_of_a_cluster(fake: Fake) -> None:
    folder = fake.state / "default/cluster-x"
    folder.mkdir(parents=True)
    (folder / "controller.log").write_text("".join(f"{i}\n" for i in range(100)))
    (folder / "engines-1.log").write_text("hello\n")
    lines = fake.run("logs", "--cluster-id", "x").stdout.splitlines()
    assert lines[0] == "==> controller.log <==" and lines[1:41] == [str(i) for i in range(60, 100)]
    assert lines[41:] == ["", "==> engines-1.log <==", "hello"]
    assert fake.run("logs", "--cluster-id", "x", "--part", "engines").stdout == "hello\n"


def test_logs_are_followed_until_the_cluster_ends(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(fake.state))
    cluster = ipp.Cluster(n=0, cluster_id="x")
    cluster.start_cluster_sync()
    try:
        process = fake.start("logs", "-f", "--cluster-id", "x")
        with process:
            assert process.stdout
            assert " serves " in process.stdout.readline()
            cluster.stop_cluster_sync()
            assert process.wait(timeout=30) == 0
    finally:
        cluster.stop_cluster_sync()


# ---------------------------------------------------------------- run


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, ""),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, ""),  # a batch script
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ""),  # srun --pty
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "srun has started this command 4 times"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, AGAIN),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "mpiexec has started"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, AGAIN),
    ],
)
def test_a_script_runs_once(environ: dict[str, str], said: str) -> None:
    found = copies(environ)
    assert found.startswith(said) and bool(found) == bool(said)


IN_A_JOB = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "6"}


@pytest.mark.parametrize(
    ("given", "environ", "decided"),
    [
        ({}, {}, {}),
        ({}, IN_A_JOB, {"engines": "mpi", "controller": "mpi", "n": 6}),
        ({"n": 2, "engines": "srun"}, IN_A_JOB, {"controller": "mpi"}),
        ({}, {**IN_A_JOB, "MPIPARALLEL_ENGINES": "slurm"}, {"controller": "mpi", "n": 6}),
    ],
)
def test_in_a_job_the_profile_does_not_say_how_to_submit_one(
    given: dict[str, Any], environ: dict[str, str], decided: dict[str, Any]
) -> None:
    assert of_allocation(given, environ) == decided


def test_a_dedicated_bridge_takes_one_of_the_tasks() -> None:
    assert of_allocation({}, IN_A_JOB, dedicated_bridge=True)["n"] == 5


def test_copies_are_refused(fake: Fake) -> None:
    fake.environ |= {"PMI_SIZE": "2", "PMI_RANK": "0"}
    done = fake.run("run", "-n", "0", "script.py")
    assert done.returncode == 2 and "leave mpiexec out" in done.stderr


# ---------------------------------------------------------------- wait


def test_waiting_for_a_cluster_that_never_comes(fake: Fake) -> None:
    done = fake.run("wait", "-n", "2", "--timeout", "0.5")
    assert done.returncode == 12
    assert "no controller has come within 0.5 s" in done.stderr


@pytest.mark.mpi
def test_waiting_for_engines(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(fake.state))
    with ipp.Cluster(n=2, cluster_id="x"):
        done = fake.run("wait", "-n", "2", "--cluster-id", "x")
        assert (done.returncode, done.stdout) == (0, "2 engines ready\n")
        done = fake.run("wait", "-n", "3", "--cluster-id", "x", "--timeout", "1")
        assert done.returncode == 1
        assert done.stderr == "mpiparallel: 2 of 3 engines came within 1 s\n"
