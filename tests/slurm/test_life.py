"""The life of jobs on a real Slurm: time limits, requeue, scancel, nodes that fail, clusters without use.

Slurm takes its time for all that (a minute for a time limit, half a minute for a node that has failed), so
that several jobs meet their fates side by side.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import wait_until

from mpiparallel import AsyncResult, Client, Cluster, time_left
from mpiparallel.error import CompositeError, EngineError
from slurm import machine
from slurm.machine import Slurm

SOON = 90.0  # seconds that anything here may take that is not bound to Slurm's clocks
NOTICED = 60.0  # seconds that Slurm may take to notice that a node has failed; it is configured for 25
WARN = 40  # seconds before the time limit


@pytest.fixture
def cluster(victims: list[str], tmp_path: Path) -> Iterator[Cluster]:
    """A controller here, whose engines are to come from nodes that may fail."""
    cluster = Cluster(engines="slurm", cluster_id="life", n=0, warn_before=WARN, idle_timeout=0.0)
    cluster.start_controller_sync()
    try:
        yield cluster
    finally:
        cluster.stop_cluster_sync()


def start(cluster: Cluster, name: str, nodes: list[str], n: int = 2, **options: Any) -> str:
    """Submit a job of `n` engines on these nodes; return its id."""
    batch_args = [f"--nodelist={','.join(nodes)}", *options.pop("batch_args", [])]
    options = {"time": "5:00", "requeue": False, **options}
    cluster.set_options(nodes=len(nodes), batch_args=batch_args, **options)
    cluster.start_engines_sync(n, name)
    job = cluster.engines[name].process.to_dict()["job"]
    assert isinstance(job, str)
    return job


def ids_of(client: Client, name: str) -> list[int]:
    """Return the engines of a set, once they are there."""

    def engines() -> list[int]:
        worlds = client._ask("status")["worlds"]
        return [engine for world in worlds if world["engine_set"] == name for engine in world["engines"]]

    assert wait_until(engines, SOON), f"no engines of {name} came"
    assert wait_until(lambda: set(engines()) <= set(client.ids), SOON)
    return engines()


def world_of(client: Client, engine: int) -> str:
    return client._connection.engines[engine].world


def occupy(client: Client, engines: list[int]) -> AsyncResult:
    """Give engines work that does not end by itself, and wait until they are at it."""
    result = client[engines].apply_async(time.sleep, 3600)
    assert wait_until(lambda: all(client.queue_status(engines)[one]["queue"] for one in engines), SOON)
    return result


def words(result: AsyncResult, patience: float) -> str:
    """Return what the user is told of tasks whose engines have gone."""
    with pytest.raises((CompositeError, EngineError)) as caught:
        result.get(timeout=patience)
    return str(caught.value)


def state_of(job: str) -> str:
    return machine.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


def left_of(job: str) -> list[str]:
    """Return what still runs of a job; this host sees the processes of its nodes, too."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == job and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return found


def test_a_time_limit_a_requeue_a_scancel_and_a_job_that_comes_late(
    cluster: Cluster, victims: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Four jobs of one cluster; each end is told in the words of Slurm."""
    caplog.set_level(logging.WARNING, logger="mpiparallel")
    client = cluster.connect_client_sync()
    limited = start(cluster, "limited", victims[:1], time="1:00")
    again = start(cluster, "again", victims[:2], requeue=True)
    stopped = start(cluster, "stopped", victims[1:2])
    start(cluster, "late", victims[2:3], batch_args=["--begin=now+20"])
    engines = {name: ids_of(client, name) for name in ("limited", "again", "stopped")}
    world = world_of(client, engines["again"][0])
    tasks = {name: occupy(client, engines[name]) for name in ("again", "stopped")}

    # User code knows how much time it has, on every rank.
    lefts = client[engines["limited"]].apply_sync(time_left)
    assert all(0 < left <= 60 for left in lefts), lefts
    assert all(200 < left <= 300 for left in client[ids_of(client, "late")].apply_sync(time_left))
    tasks["limited"] = occupy(client, engines["limited"])

    subprocess.run(["scancel", stopped], check=True)
    subprocess.run(["scontrol", "requeue", again], check=True)
    assert f"job {stopped} was cancelled" in words(tasks["stopped"], 30.0)
    told = words(tasks["again"], 30.0)
    assert f"job {again} was requeued; when the job runs again, they come back as engines" in told

    # A requeued job may run again after cred_expire, 20 s here. Views of its engines are good again.
    assert wait_until(lambda: set(engines["again"]) <= set(client.ids), SOON), state_of(again)
    assert world_of(client, engines["again"][0]) == world
    assert client[engines["again"]].pull("mpi_rank", block=True) == [0, 1]

    # Clients are warned ahead of the limit, and told when it is there.
    told = words(tasks["limited"], 100.0)
    assert f"job {limited} reached its time limit of 00:01:00" in told
    warnings = [one.getMessage() for one in caplog.records if f"job {limited} reaches" in one.getMessage()]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith(f"job {limited} reaches its time limit in ")
    assert warnings[0].endswith(f"engines {engines['limited'][0]}-{engines['limited'][1]} end with it")
    assert sorted(client.ids) == sorted(engines["again"] + ids_of(client, "late"))
    client.close()


def test_nodes_that_are_killed_and_unplugged(
    cluster: Cluster, slurm: Slurm, victims: list[str]
) -> None:
    """Jobs lose a node, the node of their bridge, and that of their controller. Nothing is left of them."""
    client = cluster.connect_client_sync()
    killed = start(cluster, "killed", victims[1:])
    unplugged = start(cluster, "unplugged", victims[:1])
    other, its_client, whole = inside(victims[:2])  # the controller is on the first node
    try:
        engines = {name: ids_of(client, name) for name in ("killed", "unplugged")}
        tasks = {name: occupy(client, engines[name]) for name in engines}
        its_tasks = occupy(its_client, its_client.ids)
        slurm.node("kill", victims[2])
        slurm.node("unplug", victims[0])
        told = words(tasks["killed"], NOTICED)
        assert f"node {victims[2]} " in told and ("failed" in told or "does not answer" in told), told
        told = words(tasks["unplugged"], NOTICED)
        assert f"node {victims[0]} failed" in told, told
        assert f"job {unplugged}" in told
        assert client.ids == []
        told = words(its_tasks, NOTICED)
        assert told.count(f"The controller on {victims[0]} is gone: node {victims[0]} failed") == 2, told
        assert f"with it job {whole} has ended" in told
        assert wait_until(lambda: state_of(killed) not in ("RUNNING", "COMPLETING"), NOTICED)
        assert left_of(unplugged), "nobody can reach them there"
        slurm.node("plug", victims[0])
        for job in (unplugged, whole):
            assert wait_until(lambda: not left_of(job), SOON), left_of(job)  # noqa: B023
    finally:
        its_client.close()
        other.stop_cluster_sync()
        client.close()


def test_a_cluster_in_one_job_is_cancelled(victims: list[str]) -> None:
    cluster, client, job = inside(victims[2:3])
    try:
        result = occupy(client, client.ids)
        subprocess.run(["scancel", job], check=True)
        assert f"job {job} was cancelled" in words(result, 30.0)
        assert wait_until(lambda: client._connection.gone, SOON)
        assert f"job {job} was cancelled" in str(client._connection.gone)
        assert wait_until(lambda: not left_of(job), SOON), left_of(job)
    finally:
        client.close()
        cluster.stop_cluster_sync()


def inside(nodes: list[str]) -> tuple[Cluster, Client, str]:
    """Start a cluster as one job on these nodes; return a client of its two engines, and the job's id."""
    cluster = Cluster(
        engines="slurm", controller="slurm", n=2, cluster_id=f"in{nodes[0]}", nodes=len(nodes), time="5:00",
        batch_args=[f"--nodelist={','.join(nodes)}"],
    )  # fmt: skip
    client = cluster.start_and_connect_sync()
    return cluster, client, client._connection.info.job


def test_a_cluster_that_nobody_uses_gives_its_nodes_back(victims: list[str]) -> None:
    cluster = Cluster(
        engines="slurm", n=2, cluster_id="idle", idle_timeout=3.0, nodes=1, time="5:00",
        batch_args=[f"--nodelist={victims[0]}"],
    )  # fmt: skip
    client = cluster.start_and_connect_sync()
    job = str(cluster.engine_set.process.to_dict()["job"]) if cluster.engine_set else ""
    try:
        time.sleep(5.0)
        assert client.ids == [0, 1], "a client is there"
        client.close()
        assert wait_until(lambda: state_of(job) not in ("RUNNING", "COMPLETING"), SOON)
        assert state_of(job) == "COMPLETED", "the engines were sent home"
        assert cluster.controller is not None
        assert wait_until(lambda: cluster.controller is None or not cluster.controller.running, SOON)
    finally:
        cluster.stop_cluster_sync()
