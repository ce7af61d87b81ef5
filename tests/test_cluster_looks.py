"""How clusters show themselves, and how many engines stay when fewer are wanted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from helpers import processes_of, wait_until
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from mpiparallel import Cluster, ClusterManager
from mpiparallel.client import html, looks
from mpiparallel.cluster_looks import ClusterState, SetState, cluster_card, manager_card
from mpiparallel.cluster_resize import plan
from mpiparallel.config import Config
from mpiparallel.error import LaunchError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A state folder for one test; at the end nothing that was started for it may be left."""
    state = tmp_path / "state"
    monkeypatch.setenv("MPIPARALLEL_STATE", str(state))
    yield Config.from_environment()
    assert wait_until(lambda: not processes_of(state)), processes_of(state)


# ---------------------------------------------------------------- cards


def running(*sets: SetState, **about: object) -> ClusterState:
    return ClusterState(
        "cluster", 4, "default", "a", Path("/state/a"), "running", "process 17", sets=sets, **about
    )  # type: ignore[arg-type]


def hosts(n: int, per_host: int, without: tuple[int, ...] = ()) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number in range(n):
        if number not in without:
            found.setdefault(f"node{number // per_host}", []).append(number)
    return found


def test_a_cluster_that_runs() -> None:
    card = cluster_card(running(SetState("one", 32, "running", 0, hosts(32, 8), "MPICH 4.3.0")))
    assert looks.text(card).splitlines() == [
        "Cluster: runs, 32 engines",
        "  cluster     a, profile default",
        "  folder      /state/a",
        "  controller  running, process 17",
        "  MPI         MPICH 4.3.0",
        "  engine set  size  engines  hosts                                                    state",
        "  one         32    0-31     node0 (0-7), node1 (8-15), node2 (16-23), node3 (24-31)  running",
        "  next: rc = cluster.connect_client_sync()  a client",
        "        cluster.resize_sync(64)             so many engines",
        "        cluster.stop_cluster_sync()         end it",
    ]
    assert html.draw(card).count("title=") == 32


def test_engines_that_are_missing() -> None:
    card = cluster_card(running(SetState("one", 4, "running", 0, hosts(4, 2, without=(1,)))))
    assert card.state == "runs, 4 engines, 3 of them connected" and card.mood == "busy"
    assert 'title="engine 1 is not there"' in html.draw(card)


def test_engines_that_have_failed() -> None:
    card = cluster_card(
        running(
            SetState("one", 4, "running", 0, hosts(4, 4)), SetState("two", 2, "failed", end="mpiexec fell")
        )
    )
    assert (card.state, card.mood) == ("runs, 4 engines", "bad")
    assert card.notes == ["engine set two: mpiexec fell"]
    assert ("cluster.restart_engines_sync('two')", "start them again") in card.commands


def test_engines_that_wait_in_a_queue() -> None:
    waits = "job 12 is PENDING: Resources"
    card = cluster_card(running(SetState("one", 4, "running", waits=waits)))
    assert (card.state, card.mood, card.notes) == ("runs, 4 engines", "busy", [waits])
    assert card.rows[0][-2] == "waiting"
    # A job that is both.
    card = cluster_card(running(SetState("one", 4, "running", waits=waits), waits=waits))
    assert (card.state, card.mood, card.notes) == ("waits in the queue", "busy", [waits])


def test_a_controller_that_has_failed() -> None:
    card = cluster_card(ClusterState(controller="failed", end="the controller was killed by SIGKILL"))
    assert (card.state, card.mood) == ("its controller has failed", "bad")
    assert card.notes == ["the controller was killed by SIGKILL"]
    assert card.commands[0][0] == "cluster.stop_cluster_sync()"


def test_a_cluster_of_another_host() -> None:
    card = cluster_card(ClusterState(controller="stopped", elsewhere="login2"))
    assert card.state == "of host login2"  # its processes cannot be judged from here
    assert card.commands[0][0] == "rc = cluster.connect_client_sync()"


def test_everything_is_escaped() -> None:
    evil = "<script>"
    state = running(SetState(evil, 1, "failed", 0, {evil: [0]}, evil, evil), elsewhere="")
    for card in (
        cluster_card(state),
        cluster_card(ClusterState(evil, 1, evil, evil, Path(evil), "running", elsewhere=evil)),
        manager_card(evil, {evil: state}),
    ):
        assert evil not in html.draw(card) and "&lt;script&gt;" in html.draw(card)


def test_cards_of_real_clusters(config: Config) -> None:
    cluster = Cluster(n=0, cluster_id="a")
    manager = ClusterManager()
    assert pretty(manager).startswith("ClusterManager: no clusters\n")
    assert pretty(cluster).startswith("Cluster: not started\n")
    assert "rc = await cluster.start_and_connect()" in pretty(cluster)
    with cluster as rc:
        assert pretty(cluster).startswith("Cluster: runs, no engines\n")
        assert "cluster.start_engines_sync(4)" in pretty(cluster)
        assert "rc.cluster.start_engines_sync(4)" in pretty(rc)
        manager.load_clusters()
        assert "default:a  runs, no engines" in pretty(manager) and "default:a" in manager._repr_html_()
        assert cluster.controller is not None
        cluster.controller.process.asked_to_stop = True  # or it would be started again
        cluster.controller.process.kill()
        assert pretty(cluster).startswith("Cluster: its controller has ended\n")
    assert pretty(cluster).startswith("Cluster: not started\n")
    assert "rc = rc.cluster.start_and_connect_sync()" in pretty(rc)
    assert cluster._repr_mimebundle_() == {}  # there is no notebook


# ---------------------------------------------------------------- more and fewer engines


@pytest.mark.parametrize(
    ("sizes", "n", "leaving", "more"),
    [
        ([4], 4, [], 0),
        ([4], 6, [], 2),
        ([], 3, [], 3),
        ([4], 0, [0], 0),
        ([4, 2], 4, [1], 0),
        ([4, 2], 2, [0], 0),
        ([2, 2, 2], 4, [2], 0),  # the youngest
        ([4, 0], 4, [1], 0),  # which has ended by itself
        ([3, 0], 4, [1], 1),
        ([1, 1, 2], 2, [2], 0),
    ],
)
def test_who_leaves_and_who_joins(sizes: list[int], n: int, leaving: list[int], more: int) -> None:
    assert plan({str(number): size for number, size in enumerate(sizes)}, n) == ([*map(str, leaving)], more)


def test_what_is_not_possible_is_said() -> None:
    with pytest.raises(
        ValueError,
        match=r"one of engines 0-3, one of engines 4-5: only whole worlds can leave, and 0, 2, 4, 6 engines "
        r"stay, not 3\. With restart=True all engines are started again, as one world of 3",
    ):
        plan({"a": 4, "b": 2}, 3, {"a": "engines 0-3", "b": "engines 4-5"})


@given(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 40))
def test_plans_come_out_even(sizes: list[int], n: int) -> None:
    worlds = {str(number): size for number, size in enumerate(sizes)}
    there = sum(sizes)
    possible = {there - sum(some) for k in range(len(sizes) + 1) for some in combinations(sizes, k)}
    if n < there and n not in possible:
        with pytest.raises(ValueError, match="whole worlds"):
            plan(worlds, n)
        return
    leaving, more = plan(worlds, n)
    assert len({*leaving}) == len(leaving)
    assert there - sum(worlds[name] for name in leaving) + more == n
    assert {name for name, size in worlds.items() if not size} <= {*leaving}
    assert not more or not any(worlds[name] for name in leaving)  # nobody is replaced


def test_only_what_runs_can_be_resized(config: Config) -> None:
    cluster = Cluster(n=1)
    with pytest.raises(RuntimeError, match=r"does not run: start_and_connect_sync\(2\) starts it"):
        cluster.resize_sync(2)
    with pytest.raises(ValueError, match="n=-1"):
        cluster.resize_sync(-1)
    with pytest.raises(ValueError, match="whole number"):
        cluster.resize_sync(2.5)  # type: ignore[arg-type]


def test_engines_that_do_not_join(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no room; exit 3\n')
    mpiexec.chmod(0o755)
    monkeypatch.setenv("MPIPARALLEL_MPIEXEC", str(mpiexec))
    with Cluster(n=0) as rc:
        with pytest.raises(LaunchError, match=r"(?s)exit code 3.*no room"):
            rc.cluster.resize_sync(2)
        assert (rc.cluster.n, rc.cluster.engines) == (0, {})  # as it was


@pytest.mark.mpi
@pytest.mark.anympi
def test_engines_join_and_leave_as_worlds(config: Config) -> None:
    cluster = Cluster(n=2)
    with cluster as rc:
        rc[:]["kept"] = "here"
        cluster.resize_sync(3)
        assert (rc.ids, cluster.n) == ([0, 1, 2], 3)
        assert rc[:2]["kept"] == ["here", "here"]  # those that were there go on
        assert rc[:]["comm.Get_size()"] == [2, 2, 1]
        assert "runs, 3 engines in 2 worlds" in pretty(cluster)
        rc.wait_for_engines(timeout=0)  # as many as the cluster has now
        asyncio.run(cluster.resize(2))
        assert (rc.ids, rc[:]["kept"]) == ([0, 1], ["here", "here"])
        with pytest.raises(ValueError, match="one of engines 0-1: only whole worlds can leave, and 0, 2 eng"):
            cluster.resize_sync(1)
        assert rc.ids == [0, 1]
        cluster.resize_sync(3, restart=True)
        assert rc.ids == [0, 1, 2]
        assert rc[:]["comm.allreduce(1)"] == [3, 3, 3]
        assert rc[:]["'kept' in globals()"] == [False] * 3
        cluster.resize_sync(0)
        assert rc.ids == [] and pretty(rc).startswith("Client: no engines\n")
        again = Cluster.from_file(cluster.cluster_file)
        assert again.n == 0 and not again.engines


@pytest.mark.mpi
@pytest.mark.anympi
def test_a_world_that_was_lost_is_made_up_for(config: Config) -> None:
    cluster = Cluster(n=2, environment={"MPIPARALLEL_FT": "0"})
    with cluster as rc:
        assert cluster.engine_set is not None
        os.kill(cluster.engine_set.pid, signal.SIGKILL)
        assert wait_until(lambda: not rc.ids)
        assert wait_until(lambda: cluster.engine_set.state == "failed")
        assert "cluster.restart_engines_sync(" in pretty(cluster)
        cluster.resize_sync(1)
        assert len(rc.ids) == 1 and len(cluster.engines) == 1
