"""What the launcher of this machine decides before it starts anything."""

from __future__ import annotations

import socket

import pytest

from mpiparallel.launch.local import default_ip
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
