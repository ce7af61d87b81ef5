"""Twelve ranks on three nodes run the tutorial; jobs join one controller; an ordinary user can do it."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import wait_until

import mpiparallel as ipp
from slurm.machine import Slurm, run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.py"
RANKS = 12
WAYS = {"srun": {}, "mpiexec": {"srun_mpi": "none"}}

# What twelve engines make of it; how many there are shows in every line.
SHOWN = f"""
rc.ids -> {list(range(RANKS))}
len(rc) -> {RANKS}
rc[2:4] -> <DirectView [2, 3]>
rc[::2] -> <DirectView [0, 2, 4, 6, ...]>
dview = rc[:] -> <DirectView [0, 1, 2, 3, ...]>
rc[:].apply(mul, 5, 6) -> {[30] * RANKS}
list(dview.map(mul, range(1, 10), range(2, 11))) -> [2, 6, 12, 20, 30, 42, 56, 72, 90]
dview.pull('b', targets=0) -> 3453
ar = dview.pull('a', block=False); ar.get() -> {[1.032] * RANKS}
dview.gather('a') -> {list(range(16))}
dview.block = False; dview.gather('a').get() -> {list(range(32))}
(pmul(A, A) == A * A).all() -> True
rc[0].apply(lambda: json.decoder.__name__) -> json.decoder
"""


@pytest.mark.parametrize("way", WAYS)
def test_twelve_ranks_on_three_nodes_run_the_tutorial(
    way: str, slurm: Slurm, nodes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path))
    cluster = ipp.Cluster(
        engines="slurm", n=RANKS, nodes=3, ntasks_per_node=4, batch_args=slurm.here, cluster_id="",
        **WAYS[way],
    )  # fmt: skip
    with cluster as rc:
        hosts = rc[:].apply_sync(socket.gethostname)
        assert len(rc[:].apply_sync(os.getpid)) == RANKS
        ranks = rc[:].apply_sync(lambda: __import__("mpi4py.MPI").MPI.COMM_WORLD.allreduce(1))
        assert ranks == [RANKS] * RANKS  # one world, not three
        if slurm.mode == "separate":
            assert sorted(hosts) == sorted(list(nodes[:3]) * 4)
        printed = run(sys.executable, TUTORIAL, timeout=120)
    lines = {re.sub(r" +-> ", " -> ", line) for line in printed.splitlines()}
    assert [line for line in SHOWN.strip().splitlines() if line not in lines] == [], printed
    assert "importing json.decoder on engine(s)" in printed
    pids = re.search(r"\[d\['pid'\] for d in .* -> \[(.*)\]", printed)
    assert pids and len(pids[1].split(",")) == RANKS


@pytest.fixture
def cluster(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ipp.Cluster]:
    """A cluster whose first job is a world of two."""
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path))
    made = ipp.Cluster(engines="slurm", n=2, nodes=2, batch_args=slurm.here)
    made.start_cluster_sync()
    yield made
    made.stop_cluster_sync()


BY_HAND = """\
#!/bin/sh
#SBATCH --ntasks=2 --nodes=1 --job-name=byhand
exec srun --mpi={srun_mpi} {python} -m mpiparallel.engine --connection-file {file}
"""


def test_jobs_join_one_controller(
    cluster: ipp.Cluster, slurm: Slurm, srun_mpi: str, tmp_path: Path
) -> None:
    with cluster.connect_client_sync() as rc:
        rc.wait_for_engines(2, timeout=60)
        cluster.start_engines_sync(n=1)
        rc.wait_for_engines(3, timeout=60)
        # A third, by a script that somebody has written.
        script = tmp_path / "more.sh"
        file = Path(cluster.connection_file).with_name("engine.json")
        script.write_text(BY_HAND.format(srun_mpi=srun_mpi, python=sys.executable, file=file))
        job = run("sbatch", "--parsable", *slurm.here, "-o", tmp_path / "more.out", script).strip()
        rc.wait_for_engines(5, timeout=60)
        assert rc.ids == [0, 1, 2, 3, 4]
        sizes = rc[:].apply_sync(lambda: __import__("mpi4py.MPI").MPI.COMM_WORLD.Get_size())
        assert sizes == [2, 2, 1, 2, 2]
        jobs = rc[:].apply_sync(lambda: __import__("os").environ["SLURM_JOB_ID"])
        assert len(set(jobs)) == 3 and jobs[3:] == [job, job]
        assert rc.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
        # One of them goes: the others stay.
        cluster.stop_engines_sync(list(cluster.engines)[1])
        assert wait_until(lambda: rc.ids == [0, 1, 3, 4], 30.0)
        assert rc[:].apply_sync(lambda: 6 * 7) == [42] * 4


ORDINARY = """\
import getpass, os, socket
import mpiparallel as ipp

with ipp.Cluster(engines="slurm", n=4, nodes=2, batch_args={here}) as rc:
    print(*sorted(set(rc[:].apply_sync(getpass.getuser))))
    print(*sorted(set(rc[:].apply_sync(socket.gethostname))))
    print(rc[:].apply_sync(lambda: __import__("mpi4py.MPI").MPI.COMM_WORLD.allreduce(1)))
"""


def test_an_ordinary_user_starts_engines(slurm: Slurm, person, nodes: list[str]) -> None:
    script = person.home / "ordinary.py"
    script.write_text(ORDINARY.format(here=slurm.here))
    done = person.run(person.python, script, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    user, hosts, sizes = done.stdout.splitlines()
    assert user == "nobody" and sizes == "[4, 4, 4, 4]"
    if slurm.mode == "separate":
        assert len(hosts.split()) == 2 and set(hosts.split()) <= set(nodes)
