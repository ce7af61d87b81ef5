"""Ranks that are killed while the others talk: real mpiexec with fault tolerance, without engines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.deaths import plan
from mpiparallel.launch import argv, local, mpi

pytestmark = pytest.mark.mpi
SCRIPT = Path(__file__).with_name("recovery_ranks.py")
SEEDS = {"none": 1, "leader": 2, "order": 2, "two": 2, "recovery": 3, "random": 4}


def run(scenario: str, seed: int, n: int) -> subprocess.CompletedProcess[str]:
    flavour = mpi.detect(mpi.find_mpiexec(os.environ))
    options = ["--with-ft", "ulfm"] if flavour.dialect is argv.Dialect.OPENMPI else []
    program = [sys.executable, str(SCRIPT), scenario, str(seed)]
    env = argv.world_environment(os.environ, flavour, n=n, cores=local.cores(), root=os.geteuid() == 0)
    command = [flavour.mpiexec, *argv.mpiexec_arguments(n, program, options)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("scenario", "seed"), [(scenario, seed) for scenario, count in SEEDS.items() for seed in range(count)]
)
def test_the_living_lose_nothing(scenario: str, seed: int) -> None:
    n = 5
    if scenario != "none" and mpi.detect(mpi.find_mpiexec(os.environ)).dialect is not argv.Dialect.OPENMPI:
        pytest.skip("this MPI cannot lose ranks")
    done = run(scenario, seed, n)
    assert done.returncode == 0, done.stdout + done.stderr
    fine = {int(rank) for rank in re.findall(r"rank (\d+) fine", done.stdout)}
    assert fine == set(range(n)) - plan(scenario, seed, n).keys(), done.stdout + done.stderr
