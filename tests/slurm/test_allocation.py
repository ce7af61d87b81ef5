"""Engines over the nodes of an allocation that the program is in, by mpiexec and by srun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from mpiparallel.launch import mpi
from mpiparallel.launch.argv import Dialect

pytestmark = pytest.mark.usefixtures("separate")

TWICE_TWO = ["-N2", "--ntasks-per-node=2"]

DRIVER = """
import json, os, signal, socket, sys, time
import mpiparallel as ipp

options, steps = json.loads(sys.argv[1])
place = lambda: (__import__("socket").gethostname(), mpi_rank, mpi_size)
told, began = {"here": socket.gethostname()}, time.monotonic()
try:
    with ipp.Cluster(**options) as rc:
        told["places"] = rc[:].apply_sync(place)
        told["sum"] = rc[:].apply_sync(lambda: comm.allreduce(engine_id))
        told["addresses"] = rc._connection.info.addresses
        told["what"] = rc.cluster.engine_set.what
        if "second" in steps:
            rc.cluster.start_engines_sync(2)
            rc.cluster.wait_for_engines_sync(rc, len(rc) + 2)
            told["second"] = rc[-2:].apply_sync(place)
        if "kill" in steps:
            os.kill(rc.cluster.engine_set.pid, signal.SIGKILL)
            rc.cluster.engine_set.ended.wait(30)
            told["lost"] = str(rc.cluster.engine_set.failure())
except Exception as error:
    told["error"] = f"{type(error).__name__}: {error}"
told["seconds"] = time.monotonic() - began
print("\\n" + json.dumps(told))
"""


@pytest.fixture
def drive(slurm):
    """Run a program with a `Cluster` in an allocation, and return what it tells."""

    def drive(
        *steps: str, allocation: list[str] = TWICE_TWO, before: list[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        command = [
            "salloc", "--quiet", "-J", "tests-allocation", *slurm.here, *allocation, *(before or []),
            sys.executable, "-c", DRIVER, json.dumps([options, steps]),
        ]  # fmt: skip
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    return drive


def layout(places: list[list[Any]]) -> list[tuple[int, int]]:
    """Return rank and size of each engine; the first half has to be on one node, the rest on another."""
    hosts = [host for host, *_ in places]
    half = len(hosts) // 2
    assert len(set(hosts[:half])) == len(set(hosts[half:])) == 1 and hosts[0] != hosts[-1], hosts
    return [(rank, size) for _, rank, size in places]


@pytest.mark.mpi
@pytest.mark.parametrize("way", ["mpi", "srun"])
def test_two_worlds_in_one_allocation(way, drive, nodes):
    told = drive("second", engines=way)
    assert "error" not in told, told["error"]
    assert layout(told["places"]) == [(rank, 4) for rank in range(4)]
    assert told["sum"] == [6] * 4
    assert [place[1:] for place in told["second"]] == [[0, 2], [1, 2]]
    assert {host for host, *_ in told["places"] + told["second"]} <= set(nodes)
    assert told["here"] not in nodes and told["what"] == ("srun" if way == "srun" else "mpiexec")
    # Nodes cannot reach this host's loopback, which comes last.
    assert "127.0.0.1" in told["addresses"][-1] and len(told["addresses"]) > 1


@pytest.mark.mpi
@pytest.mark.parametrize("way", ["mpi", "srun"])
def test_from_a_step_on_a_node(way, drive, nodes):
    told = drive(engines=way, before=["srun", "--overlap", "-N1", "-n1"])
    assert "error" not in told, told["error"]
    assert told["here"] in nodes
    assert layout(told["places"]) == [(rank, len(told["places"])) for rank in range(len(told["places"]))]


@pytest.mark.mpi
@pytest.mark.parametrize("way", ["mpi", "srun"])
def test_more_engines_than_tasks_and_a_dedicated_bridge(way, drive):
    told = drive(engines=way, n=5, dedicated_bridge=True, allocation=["-N2", "--ntasks-per-node=1"])
    assert "error" not in told, told["error"]
    assert [rank for _, rank, _ in told["places"]] == list(range(5))
    assert len({host for host, *_ in told["places"]}) == 2


@pytest.mark.mpi
def test_mpiexec_stands_in_for_srun(drive):
    told = drive(engines="srun", srun_mpi="none", n=2, allocation=["-N2", "--ntasks-per-node=1"])
    assert "error" not in told, told["error"]
    assert told["what"] == "mpiexec" and layout(told["places"]) == [(0, 2), (1, 2)]


@pytest.mark.mpi
def test_srun_is_killed(drive):
    """Nothing is left of its ranks: the fixture looks for them on all nodes."""
    told = drive("kill", engines="srun", n=2, allocation=["-N2", "--ntasks-per-node=1"])
    assert "error" not in told, told["error"]
    assert told["lost"].startswith("srun was killed by SIGKILL")


def test_a_batch_script_by_hand(slurm, nodes, tmp_path):
    """The two launch scripts are all that a script of one's own needs."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    plugin = "pmix" if mpi_is_open() else "pmi2"
    script = tmp_path / "job.sh"
    python = sys.executable
    script.write_text(
        f"""#!/bin/sh
set -eu
{python} -m mpiparallel.controller --directory {tmp_path}/cluster --remove-directory --ip '*' &
controller=$!
trap 'kill $controller 2>/dev/null || true' EXIT
while [ ! -e {tmp_path}/cluster/client.json ]; do sleep 0.1; done
export MPIPARALLEL_N=4 MPIPARALLEL_SRUN_MPI={plugin}
{root}/launchers/srun.sh -n4 {python} -m mpiparallel.engine --connection-file {tmp_path}/cluster/engine.json &
{python} - <<'EOF'
import mpiparallel as ipp
with ipp.Client("{tmp_path}/cluster/client.json") as rc:
    rc.wait_for_engines(4, timeout=60)
    print("SUM", rc[:].apply_sync(lambda: comm.allreduce(mpi_rank)))
    rc.shutdown(hub=True)
EOF
wait
"""
    )
    output = tmp_path / "output"
    command = ["sbatch", "--wait", "-J", "tests-by-hand", *slurm.here, *TWICE_TWO, "-o", output, script]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=110)
    said = output.read_text()
    assert done.returncode == 0, f"{done.stderr}\n{said}"
    assert "SUM [6, 6, 6, 6]" in said


@pytest.mark.mpi
def test_a_pmi_that_this_mpi_does_not_speak(drive):
    wrong, right = ("pmi2", "pmix") if mpi_is_open() else ("pmix", "pmi2")
    told = drive(engines="srun", srun_mpi=wrong)
    assert told["error"].startswith("LaunchError: ") and told["seconds"] < 30, told
    assert f"set srun_mpi to '{right}'" in told["error"], told["error"]


@pytest.mark.mpi
def test_srun_without_a_pmi(drive, tmp_path, monkeypatch):
    """A site's own script that forgets it: n worlds of one rank come, and one of them says so."""
    site = tmp_path / "launchers"
    site.mkdir()
    (site / "srun.sh").write_text('exec srun --mpi=none --overlap --kill-on-bad-exit=1 "$@"\n')
    monkeypatch.setenv("MPIPARALLEL_SITE", str(tmp_path))
    told = drive(engines="srun")
    wanted = "pmix" if mpi_is_open() else "pmi2"
    assert told["error"].count("srun started 4 worlds instead of one world of 4 engines") == 1, told
    assert f"needs --mpi={wanted}" in told["error"] and told["seconds"] < 30


def test_a_controller_that_nodes_cannot_reach(drive):
    told = drive(engines="srun", controller_ip="127.0.0.1")
    assert told["seconds"] < 30, told
    for part in ("no controller answers on", "tried from node", "(tcp://127.0.0.1:", "refused", "--ip '*'"):
        assert part in told["error"], told["error"]


def test_a_folder_that_nodes_do_not_see(drive, monkeypatch, nodes):
    """/dev/shm of a node is its own."""
    folder = f"/dev/shm/mpiparallel-tests-{os.getpid()}"
    monkeypatch.setenv("MPIPARALLEL_STATE", folder)
    told = drive(engines="srun", n=2)
    for part in (f"no connection file {folder}/", " on node", "MPIPARALLEL_STATE"):
        assert part in told["error"], told["error"]


def test_time_passes_for_nobody_who_asks_in_vain(slurm):
    """Outside of an allocation, there is no waiting for one."""
    began = time.monotonic()
    command = [sys.executable, "-c", DRIVER, json.dumps([{"engines": "srun", "n": 2}, []])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = json.loads(done.stdout.splitlines()[-1])
    assert "this program is in none" in told["error"] and "salloc" in told["error"]
    assert time.monotonic() - began < 30


def mpi_is_open() -> bool:
    """Whether these tests run with Open MPI."""
    return mpi.detect(mpi.find_mpiexec(os.environ)).dialect is Dialect.OPENMPI
