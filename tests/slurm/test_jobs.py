"""Engines, and controllers, as jobs of a real Slurm."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

from mpiparallel import Client, Cluster
from mpiparallel.error import LaunchError
from mpiparallel.launch import mpi
from mpiparallel.launch.argv import Dialect
from mpiparallel.launch.jobs import Job
from slurm import machine
from slurm.machine import Slurm

HOPELESS = 30.0  # seconds within which somebody has to be told


@pytest.fixture
def new(slurm: Slurm) -> Callable[..., Cluster]:
    """Make a cluster on the nodes that tests use."""

    def make(**options: Any) -> Cluster:
        more = options.pop("batch_args", [])
        return Cluster(**{"n": 2, "batch_args": [*slurm.here, *more], **options})

    return make


def job_of(cluster: Cluster) -> Job:
    engine_set = cluster.engine_set
    assert engine_set is not None
    assert isinstance(engine_set.process, Job)
    return engine_set.process


def state_of(job: str) -> str:
    return machine.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def check_world(client: Client) -> None:
    def place() -> tuple[str, int, int]:
        import socket

        from mpi4py import MPI

        return socket.gethostname(), MPI.COMM_WORLD.rank, MPI.COMM_WORLD.allreduce(1)

    hosts, ranks, sizes = zip(*client[:].apply_sync(place), strict=True)
    assert list(ranks) == [0, 1, 2, 3]
    assert set(sizes) == {4}
    assert len(set(hosts)) == 2
    assert socket.gethostname() not in hosts


@pytest.mark.mpi
@pytest.mark.parametrize("srun_mpi", ["", "none"], ids=["srun", "mpiexec"])
def test_engines_in_a_job(new: Callable[..., Cluster], separate: None, srun_mpi: str) -> None:
    cluster = new(engines="slurm", n=4, nodes=2, srun_mpi=srun_mpi, time="10:00", job_name="mpit-engines")
    with cluster as client:
        check_world(client)
        job = job_of(cluster)
        assert cluster.engine_set is not None
        assert cluster.engine_set.state == "running"
        script = cluster.folder / f"engines-{cluster.engine_set.name}.sbatch"
        assert "#SBATCH --time=10:00\n" in script.read_text()
        launched = script.read_text().splitlines()[-1]
        assert ("/srun.sh" in launched) == (srun_mpi != "none")
        asked = machine.run("scontrol", "show", "job", job.id)
        assert "TimeLimit=00:10:00" in asked
        assert "JobName=mpit-engines" in asked
        assert "NumNodes=2" in asked
    # They were sent home, and the job has ended by itself.
    assert state_of(job.id) == "COMPLETED"


@pytest.mark.mpi
def test_the_controller_in_the_job_found_from_another_program(
    new: Callable[..., Cluster], separate: None, command: list[str]
) -> None:
    cluster = new(controller="slurm", n=4, nodes=2, shutdown_atexit=False)
    with cluster.start_and_connect_sync() as client:
        check_world(client)
    job = job_of(cluster)
    found = Cluster.from_file(cluster.cluster_file)
    assert found.options.controller == found.options.engines == "slurm"
    assert found.controller is not None
    assert found.controller.state == "running"
    assert found.controller.process.name == job_of(found).name == f"job {job.id}"
    with found.connect_client_sync() as client:
        assert client.ids == [0, 1, 2, 3]
    stop = [*command, "stop", "--cluster-id", cluster.cluster_id]
    subprocess.run(stop, check=True, timeout=60)
    assert state_of(job.id) == "COMPLETED"
    left = [path.name for path in cluster.folder.iterdir()]
    assert left == ["results.db"]
    subprocess.run(
        [*command, "results", "--remove", "--cluster-id", cluster.cluster_id], check=True, timeout=60
    )


def test_a_job_that_waits_says_why_and_ctrl_c_cancels_it(slurm: Slurm, tmp_path: Path) -> None:
    code = (
        f"import mpiparallel; mpiparallel.Cluster(engines='slurm', n=2, batch_args={slurm.here} + ['--hold'])"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code + ".start_and_connect_sync()"], stderr=subprocess.PIPE, text=True
    )
    assert program.stderr is not None
    said = program.stderr.readline()
    found = re.fullmatch(r"job (\d+) is PENDING: JobHeldUser\n", said)
    assert found, said
    assert state_of(found.group(1)) == "PENDING"
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == -signal.SIGINT
    program.stderr.close()
    assert state_of(found.group(1)) == "CANCELLED"


def test_a_job_that_waits_does_not_outlive_a_program_that_is_killed(slurm: Slurm) -> None:
    code = (
        f"import mpiparallel; mpiparallel.Cluster(engines='slurm', n=2, batch_args={slurm.here} + ['--hold'])"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code + ".start_and_connect_sync()"], stderr=subprocess.PIPE, text=True
    )
    assert program.stderr is not None
    job = program.stderr.readline().split()[1]
    program.kill()
    program.wait(10)
    program.stderr.close()
    assert wait_until(lambda: state_of(job) == "CANCELLED", 20.0)


@pytest.mark.mpi
def test_time_in_the_queue_is_no_time_to_connect(new: Callable[..., Cluster]) -> None:
    cluster = new(engines="slurm", engine_timeout=30.0, queue_timeout=60.0, batch_args=["--hold"])
    cluster.start_cluster_sync()
    try:
        with cluster.connect_client_sync() as client:
            assert job_of(cluster).what_it_waits_for()
            machine.run("scontrol", "release", job_of(cluster).id)
            cluster.wait_for_engines_sync(client, 2)
            assert client.ids == [0, 1]
    finally:
        cluster.stop_cluster_sync()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"partition": "nosuch"},
            r"Slurm refused the job: .*invalid partition specified: nosuch(?s:.*)"
            r"Partitions that exist: main \(default, \d+ nodes",
        ),
        ({"gres": "gpu:7"}, r"Invalid generic resource(?s:.*)sinfo -o '%P %G'"),
        (
            {"n": 99, "nodes": 99},
            r"job \d+ will never start \(PENDING, Partition(?:NodeLimit|Config)\): (?s:.*)main \(",
        ),
        ({"partition": "short", "time": "1:00:00"}, r"PartitionTimeLimit(?s:.*)short \(.* up to 5:00\)"),
        (
            {"setup": ["echo where is my file", "exit 4"]},
            r"job \d+ failed with exit code 4 on node\d+\. It said:\nwhere is my file",
        ),
        ({"python": "/nosuch/python"}, r"failed with exit code 2 on (?s:.*)/nosuch/python: No such file"),
        ({"batch_args": ["--hold"], "queue_timeout": 1.0}, r"has not started within 1 s \(queue_timeout\)"),
    ],
    ids=["partition", "gres", "nodes", "time", "setup", "python", "queue_timeout"],
)
def test_what_cannot_start_is_told_at_once(
    new: Callable[..., Cluster], options: dict[str, Any], said: str
) -> None:
    cluster = new(**{"engines": "slurm", "srun_mpi": "pmi2", **options})
    began = time.monotonic()
    with pytest.raises(LaunchError, match=said):
        cluster.start_and_connect_sync()
    assert time.monotonic() - began < HOPELESS
    assert not cluster.engines
    assert not cluster.folder.exists()


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"setup": ["echo where is it", "exit 4"]}, r"job \d+ failed with exit code 4 on (?s:.*)where is it"),
        ({"controller_args": ["--nonsense"]}, r"job \d+ failed with exit code 2(?s:.*)arguments: --nonsense"),
        ({"engine_args": ["--nonsense"]}, r"job \d+ failed with exit code (?s:.*)arguments: --nonsense"),
    ],
    ids=["setup", "controller", "engines"],
)
def test_a_job_with_its_controller_that_cannot_start(
    new: Callable[..., Cluster], options: dict[str, Any], said: str
) -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError, match=said):
        new(controller="slurm", **options).start_and_connect_sync()
    assert time.monotonic() - began < HOPELESS


@pytest.mark.mpi
def test_a_job_that_is_cancelled(new: Callable[..., Cluster], caplog: pytest.LogCaptureFixture) -> None:
    cluster = new(engines="slurm")
    with cluster as client:
        pids = client[:].apply_sync(os.getpid)
        assert len(set(pids)) == 2
        engine_set, job = cluster.engine_set, job_of(cluster)
        assert engine_set is not None
        machine.run("scancel", job.id)
        assert wait_until(engine_set.ended.is_set, 30.0)
        assert engine_set.state == "failed"
        assert engine_set.end().startswith(f"job {job.id} was cancelled")
    assert f"job {job.id} was cancelled" in caplog.text


@pytest.mark.mpi
def test_signals_reach_the_ranks(new: Callable[..., Cluster]) -> None:
    cluster = new(engines="slurm", n=2)
    with cluster as client:
        client[:].execute(
            "import signal\nseen = []\n"
            "for one in signal.SIGUSR2, signal.SIGALRM: signal.signal(one, lambda n, _: seen.append(int(n)))",
            block=True,
        )
        job_of(cluster).send_signal(signal.SIGUSR2)
        # In some jobs, scancel alone (22.05, proctrack/linuxproc) was seen to bring it to each rank twice.
        assert wait_until(lambda: all(client[:]["seen"])), client[:]["seen"]
        cluster.signal_engines_sync(signal.SIGALRM)

        def alarms() -> list[int]:
            return [seen.count(signal.SIGALRM) for seen in client[:]["seen"]]

        assert wait_until(lambda: alarms() == [1, 1]), alarms()


@pytest.mark.mpi
def test_ranks_survive_others_under_mpiexec(new: Callable[..., Cluster]) -> None:
    if mpi.detect(mpi.find_mpiexec(os.environ)).dialect is not Dialect.OPENMPI:
        pytest.skip("this MPI has no ULFM")
    cluster = new(engines="slurm", n=3, nodes=2, srun_mpi="none")
    with cluster as client:
        client[:].push({"a": 7}, block=True)
        client[1].apply(os.kill, 0, 0).get(10)
        client[1].execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", block=False)
        assert wait_until(lambda: client.ids == [0, 2], 30.0)
        assert client[[0, 2]].pull("a", block=True) == [7, 7]
        assert job_of(cluster).running


@pytest.mark.mpi
def test_more_engines_are_another_job(new: Callable[..., Cluster]) -> None:
    cluster = new(engines="slurm", n=2)
    with cluster as client:
        cluster.resize_sync(3)
        first, second = cluster.engines.values()
        assert first.process.name != second.process.name
        assert client.ids == [0, 1, 2]
        cluster.resize_sync(2)
        assert not second.running
        assert client.ids == [0, 1]
