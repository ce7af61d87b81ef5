"""``mpiparallel submit``, ``logs`` and ``wait``: what can be told without Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mpiparallel as ipp


def mpiparallel(*words: str, state: Path, **more: str) -> subprocess.CompletedProcess[str]:
    folders = {"MPIPARALLEL_STATE": str(state), "MPIPARALLEL_SITE": str(state / "site")}
    return subprocess.run(
        [sys.executable, "-m", "mpiparallel", *words],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **folders, **more},
    )  # fmt: skip


# ---------------------------------------------------------------- wait


def test_waiting_for_a_cluster_that_never_comes(tmp_path: Path) -> None:
    run = mpiparallel("wait", "-n", "2", "--timeout", "0.5", state=tmp_path)
    assert run.returncode == 12
    assert "no controller has come within 0.5 s" in run.stderr


@pytest.mark.mpi
def test_waiting_for_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path))
    with ipp.Cluster(n=2, cluster_id="x"):
        run = mpiparallel("wait", "-n", "2", "--cluster-id", "x", state=tmp_path)
        assert (run.returncode, run.stdout) == (0, "2 engines ready\n")
        run = mpiparallel("wait", "-n", "3", "--cluster-id", "x", "--timeout", "1", state=tmp_path)
        assert run.returncode == 1
        assert run.stderr == "mpiparallel: 2 of 3 engines came within 1 s\n"
