"""Messages between ranks, without controller and engines: real mpiexec, 1 to 5 ranks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpiparallel.launch import argv, local, mpi

pytestmark = pytest.mark.mpi
SCRIPT = Path(__file__).with_name("mail_ranks.py")


@pytest.mark.parametrize(
    ("scenario", "n"),
    [("to_rank_0", 2), ("to_rank_0", 4)]
    + [("from_rank_0", n) for n in (1, 2, 4, 5)]
    + [("control_overtakes", 1)],
)
def test_scenario(scenario: str, n: int) -> None:
    flavour = mpi.detect(mpi.find_mpiexec(os.environ))
    command = [flavour.mpiexec, *argv.mpiexec_arguments(n, [sys.executable, str(SCRIPT), scenario, "7"])]
    env = argv.world_environment(os.environ, flavour, n=n, cores=local.cores(), root=os.geteuid() == 0)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    # Ranks may write into one another's lines.
    assert sorted(re.findall(r"rank \d+ fine", done.stdout)) == [f"rank {rank} fine" for rank in range(n)]
