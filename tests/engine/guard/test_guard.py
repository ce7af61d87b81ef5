"""Guarded communicators on real ranks: results, interrupts, cuts, ledgers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpiparallel.launch import argv, local, mpi

pytestmark = pytest.mark.mpi
HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent


def run_ranks(
    n: int, script: str, *arguments: str, options: tuple[str, ...] = (), timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder on n ranks."""
    flavour = mpi.detect(mpi.find_mpiexec(os.environ))
    command = [sys.executable, str(HERE / script), *arguments]
    env = argv.world_environment(os.environ, flavour, n=n, cores=local.cores(), root=os.geteuid() == 0)
    env = {**env, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [flavour.mpiexec, *options, *argv.mpiexec_arguments(n, command)],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def all_fine(done: subprocess.CompletedProcess[str], n: int) -> None:
    """Check that every rank came to its end."""
    assert done.returncode == 0, done.stdout + done.stderr
    # Ranks may write into one another's lines.
    assert sorted(re.findall(r"rank \d+ fine", done.stdout)) == [f"rank {rank} fine" for rank in range(n)]


@pytest.mark.parametrize("n", [1, 3, 4])
def test_results_are_those_of_mpi4py(n: int) -> None:
    all_fine(run_ranks(n, "equality_ranks.py"), n)


@pytest.mark.parametrize("n", [2, 3])
def test_an_interrupt_ends_every_call_and_the_communicator_is_healed(n: int) -> None:
    all_fine(run_ranks(n, "guard_ranks.py", "interrupts"), n)


@pytest.mark.parametrize("scenario", ["cuts", "ledgers", "requests", "derived", "world", "threads"])
def test_scenario(scenario: str) -> None:
    all_fine(run_ranks(3, "ledger_ranks.py", scenario), 3)


def test_abort_says_who_called_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    done = run_ranks(2, "ledger_ranks.py", "abort", str(log))
    assert done.returncode != 0
    told = log.read_text()
    assert re.fullmatch(
        r"mpiparallel: rank 1 \(pid \d+\) called MPI_Abort\(3\) at ledger_ranks.py:\d+ in abort\n", told
    )


@pytest.mark.parametrize(("scenario", "fine"), [("killed", [0, 2]), ("stuck", [0, 1, 2])])
def test_where_mpi_survives_lost_ranks(scenario: str, fine: list[int]) -> None:
    options = argv.ft_arguments(mpi.detect(mpi.find_mpiexec(os.environ)))
    if not options:
        pytest.skip("this MPI does not survive lost ranks")
    done = run_ranks(3, "ulfm_ranks.py", scenario, options=tuple(options))
    assert sorted(re.findall(r"rank \d+ fine", done.stdout)) == [f"rank {rank} fine" for rank in fine], (
        done.stderr
    )
