"""The cluster itself is what the other tests take it for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import wait_until

from slurm import machine
from slurm.machine import Slurm, run

HELLO = (
    "from mpi4py import MPI; import os, socket; world = MPI.COMM_WORLD\n"
    "line = f'{world.rank} {world.size} {world.allreduce(world.rank)} {socket.gethostname()}\\n'\n"
    "os.write(1, line.encode())"
)


def test_nodes_have_names_and_addresses_of_their_own(slurm, separate, nodes):
    names = run("srun", *slurm.here, f"-N{len(nodes)}", "hostname").split()
    assert sorted(names) == sorted(nodes)
    addresses = run("srun", *slurm.here, f"-N{len(nodes)}", "hostname", "-I").split()
    assert len(set(addresses)) == len(nodes) and slurm.address not in addresses


@pytest.mark.mpi
@pytest.mark.parametrize("way", ["srun", "mpiexec"])
def test_an_mpi_program_has_one_world_on_all_nodes(way, slurm, separate, nodes, srun_mpi, environ):
    layout = [*slurm.here, "-N3", "-n6", "--ntasks-per-node=2"]
    program = [sys.executable, "-c", HELLO]
    if way == "srun":
        printed = run("srun", f"--mpi={srun_mpi}", *layout, *program, environ=environ)
    else:
        mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
        printed = run("salloc", "--quiet", *layout, mpiexec, "-n", "6", *program, environ=environ)
    lines = sorted(line.split() for line in printed.splitlines() if line.strip())
    assert [line[:3] for line in lines] == [[str(rank), "6", "15"] for rank in range(6)]
    assert len({line[3] for line in lines}) == 3


def test_jobs_and_processes_of_a_session_are_known(slurm: Slurm, nodes):
    tag = os.environ[machine.TAG]
    process = subprocess.Popen(["srun", "--quiet", *slurm.here, "-J", "known", "sleep", "300"])
    try:

        def places() -> set[str]:
            return {text.split(":")[0] for text in machine.processes(tag).values() if "sleep 300" in text}

        assert wait_until(lambda: places() & set(nodes))
        assert "this host" in places()  # srun
        assert [job.name for job in machine.jobs(tag)] == ["known"]
        assert not machine.jobs("another") and not machine.processes("another")
    finally:
        process.terminate()
        process.wait(20)


def test_a_node_is_killed_and_comes_back(slurm: Slurm, victims):
    node = victims[-1]
    slurm.node("kill", node)
    assert subprocess.run([machine.HERE / "slurm-node", "alive", node]).returncode != 0
    slurm.node("start", node)
    assert wait_until(lambda: slurm.up(node), 30.0)
    assert run("srun", f"--nodelist={node}", "hostname").strip() == node


@pytest.mark.mpi
def test_an_ordinary_user_may_use_it(slurm, person, srun_mpi):
    done = person.run("srun", f"--mpi={srun_mpi}", *slurm.here, "-N2", person.python, "-c", HELLO)
    assert sorted(line.split()[:3] for line in done.stdout.splitlines()) == [
        ["0", "2", "1"], ["1", "2", "1"]
    ], done.stderr  # fmt: skip
