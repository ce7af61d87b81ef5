"""What the launcher of this machine decides before it starts anything."""

from __future__ import annotations

import socket

import pytest

from mpiparallel.launch.local import cores, default_ip, default_n
from mpiparallel.launchoptions import LaunchOptions

HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("engines", "nodes", "ip"),
    [
        ("mpi", None, ""),
        ("mpi", HERE, ""),
        ("mpi", f"{HERE},node2", "*"),
        ("mpi", "node[1-2]", "*"),
        ("srun", None, "*"),
        ("slurm", None, "*"),
        ("ssh", None, "*"),
        ("pbs", None, "*"),
    ],
)
def test_a_controller_listens_on_loopback_only_when_everything_is_here(
    engines: str, nodes: str | None, ip: str
) -> None:
    environ = {} if nodes is None else {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": nodes}
    assert default_ip(LaunchOptions(engines=engines), environ) == ip


JOB = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "6"}


@pytest.mark.parametrize("engines", ["mpi", "srun"])
def test_an_allocation_says_how_many_engines_there_are(engines: str) -> None:
    options = LaunchOptions(engines=engines)
    assert default_n(options, JOB) == 6
    assert default_n(LaunchOptions(engines=engines, engine_args=["--dedicated-bridge"]), JOB) == 5
    assert 1 <= default_n(options, {}) <= cores()


def test_another_job_has_nothing_to_do_with_this_one() -> None:
    assert default_n(LaunchOptions(engines="slurm"), JOB) <= cores()


def test_variables_that_are_not_understood_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert default_ip(LaunchOptions(), {**JOB, "SLURM_JOB_NODELIST": "node[1-"}) == ""
    assert "'node[1-' is not a list of hosts" in caplog.text
