"""A profile, by the command alone: made, started, looked at, restarted, stopped, on a real Slurm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import wait_until

from mpiparallel import Client
from slurm import machine
from slurm.machine import Slurm

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command to its end, with a folder of profiles of its own."""
    monkeypatch.setenv("MPIPARALLEL_SITE", str(tmp_path / "site"))

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mpiparallel", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    return run


@pytest.mark.timeout(240)
def test_a_profile(run: Run, slurm: Slurm) -> None:
    def about() -> tuple[str, str, str, str]:
        """Return host, a variable of the profile's, the job's name and its time limit."""
        import os
        import subprocess

        job = os.environ["SLURM_JOB_ID"]
        said = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
        ).stdout
        limit = said.partition("TimeLimit=")[2].split()[0]
        return os.uname().nodename, os.environ["COLOUR"], os.environ["SLURM_JOB_NAME"], limit

    where = [f"--batch-args={word}" for word in slurm.here]
    made = run(
        "profile", "new", "hpc", "--engines", "slurm", "-n", 2, "-N", 2, "-t", 10, "--set", "job_name=ours",
        "--set", "environment.COLOUR=blue", *where,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert run("profile", "check", "hpc").stdout.endswith("hpc.toml: right\n")
    names = ["--profile", "hpc"]
    started = run("start", "--daemonize", *names, "--set", "job_name=mine")
    assert started.returncode == 0, started.stderr
    try:
        with Client(profile="hpc") as client:
            assert len(set(client[:].apply_sync(about))) == 2  # on two nodes
            assert {one[1:] for one in client[:].apply_sync(about)} == {("blue", "mine", "00:10:00")}
            status = json.loads(run("status", *names, "--json").stdout)
            assert (status["engines"], [part["n"] for part in status["parts"]]) == (2, [1, 2])
            again = run("restart", *names)
            assert again.stdout == "engines 0-1 started again\n", again.stderr
            assert {one[1:] for one in client[:].apply_sync(about)} == {("blue", "mine", "00:10:00")}
    finally:
        assert run("stop", *names).returncode == 0
    assert run("clean", "--results").returncode == 0
    assert wait_until(lambda: "mine" not in machine.run("squeue", "--me", "-h", "-o", "%j"), 20)


def test_a_partition_that_is_not_there(run: Run, slurm: Slurm) -> None:
    """What is wrong in a profile is told by Slurm, and what there is by us."""
    assert run("profile", "new", "hpc", "--engines", "slurm", "-n", 1, "-p", "nosuch").returncode == 0
    started = run("start", "--profile", "hpc", "--daemonize")
    assert started.returncode == 1
    assert "nosuch" in started.stderr
    assert run("list").stdout == "no cluster runs\n"
