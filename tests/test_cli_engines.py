"""``mpiparallel restart``, ``interrupt`` and ``clean``: what is done to a cluster that somebody else uses."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from commands import Run, Start, kill_all, listed, read_until
from controller.test_store import record
from helpers import processes_of, wait_until

from mpiparallel import Client, Cluster
from mpiparallel import cluster_file as files
from mpiparallel.config import Config
from mpiparallel.controller.store import Store

pytest_plugins = ["commands"]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    "words",
    [
        ["restart", "--whole", "2"],
        ["restart", "x"],
        ["interrupt", "--signal", "NONSENSE"],
        ["interrupt", "--signal", "99"],
        ["clean", "2"],
    ],
)
def test_wrong_usage(run: Run, words: list[str]) -> None:
    assert run(*words).returncode == 2


@pytest.mark.parametrize("command", ["restart", "interrupt"])
def test_no_such_cluster(run: Run, command: str) -> None:
    done = run(command, "--profile", "p")
    assert done.returncode == 12
    assert "start one by: mpiparallel start --profile p" in done.stderr


# ---------------------------------------------------------------- clean


@pytest.fixture
def config(state: Path) -> Config:
    return Config.from_environment()


def leave(folder: Path, results: bool = False, host: str = "") -> Path:
    """Make the folder of a cluster that is gone."""
    folder.mkdir(parents=True)
    (folder / "controller.log").touch()
    files.write(
        folder / files.NAME,
        {
            "cluster": {
                "cluster_id": files.names(folder)[1],
                "profile": folder.parent.name,
                "folder": str(folder),
                "host": host or socket.gethostname(),
                "n": 2,
            },
            "controller": None,
            "engines": {"sets": {}},
        },
    )
    if results:
        store = Store(folder)
        store.put([record(1)])
        store.close()
    return folder


def test_nothing_to_clean(run: Run) -> None:
    assert run("clean").stdout == "There is nothing to clean.\n"
    assert run("clean", "--json").stdout == "[]\n"


def test_clean(run: Run, config: Config) -> None:
    plain = leave(config.cluster_dir("p", "one"))
    kept = leave(config.cluster_dir("q", "two"), results=True)
    run("start", "-n", 0, "--daemonize")
    dry = run("clean", "--dry-run")
    assert "Nothing was removed (--dry-run)." in dry.stdout
    assert plain.exists() and (kept / "controller.log").exists()
    rows = json.loads(run("clean", "--json").stdout)
    assert [(row["profile"], row["state"], row["removed"]) for row in rows] == [
        ("p", "stale", "2 files"), ("q", "stale", "2 files"),
    ]  # fmt: skip
    assert not plain.parent.exists()
    assert files.has_results(kept) and not (kept / "controller.log").exists()
    assert run("clean").stdout == "There is nothing to clean.\n"
    assert run("clean", "--results").returncode == 0
    assert not kept.parent.exists()
    assert len(listed(run)) == 1  # which runs
    assert run("stop").returncode == 0


def test_clean_one_profile(run: Run, config: Config) -> None:
    one, two = leave(config.cluster_dir("p", "")), leave(config.cluster_dir("q", ""))
    assert run("clean", "--profile", "p").returncode == 0
    assert (one.exists(), two.exists()) == (False, True)
    run("clean")


def test_clusters_of_hosts_that_are_gone(run: Run, config: Config) -> None:
    folder = leave(config.cluster_dir("p", ""), host="elsewhere.site.edu")
    done = run("clean")
    assert f"{folder} is of host elsewhere.site.edu, and cannot be judged from here" in done.stdout
    assert folder.exists()
    assert json.loads(run("clean", "--elsewhere", "--json").stdout)[0]["state"] == "elsewhere"
    assert not folder.exists()


# ---------------------------------------------------------------- with engines


def is_engines(process: psutil.Process) -> bool:
    """Whether it is an engine, or what has started engines."""
    return any(word in process.cmdline() for word in ("mpiparallel.engine", "/bin/sh"))


@pytest.mark.mpi
@pytest.mark.anympi
def test_engines_whose_controller_was_killed(run: Run, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_ORPHAN_AFTER", "600")
    assert run("start", "-n", 2, "--daemonize").returncode == 0
    controllers = [one for one in processes_of(state) if not is_engines(one)]
    for process in sorted(controllers, key=lambda one: "mpiparallel.controller" in one.cmdline()):
        process.kill()
    assert wait_until(lambda: files.judge(state / "default/cluster") == "lost")
    (row,) = json.loads(run("clean", "--json").stdout)
    assert row["state"] == "lost"
    assert row["removed"].startswith("2 engines without controller, ")
    assert not processes_of(state)


@pytest.mark.mpi
@pytest.mark.anympi
def test_restart(run: Run, state: Path) -> None:
    assert run("start", "-n", 2, "--daemonize").returncode == 0
    with Client() as client:
        pids = client[:].apply_sync(os.getpid)
        done = run("restart")
        assert (done.returncode, done.stdout) == (0, "engines 0-1 started again\n"), done.stderr
        again = client[:].apply_sync(os.getpid)
        assert not set(pids) & set(again)
        assert run("restart", "--fresh", "1").stdout == "engines 2-3 started again\n"
        assert wait_until(lambda: client.ids == [2, 3])
        wrong = run("restart", "7")
        assert wrong.returncode == 1 and "engine 7 was not started by" in wrong.stderr
    assert run("stop").returncode == 0
    assert run("clean", "--results").returncode == 0


@pytest.mark.mpi
@pytest.mark.anympi
def test_restart_of_engines_whose_cluster_stays_in_the_foreground(run: Run, start: Start) -> None:
    process = start("start", "-n", 1, "--restart", "same")
    read_until(process, "Press Ctrl-C")
    assert run("restart").stdout == "engine 0 started again\n"
    (row,) = listed(run)
    assert row["engines"] == 1
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=15)[0] == "stopping\n"
    assert process.returncode == 0


@pytest.mark.mpi
@pytest.mark.anympi
def test_restart_of_the_whole_cluster(run: Run) -> None:
    assert (
        run("start", "-n", 1, "--daemonize", "--cluster-id", "c", "--engine-args=--raw-mpi").returncode == 0
    )
    (before,) = listed(run)
    done = run("restart", "--whole", "--cluster-id", "c")
    assert (done.returncode, done.stdout) == (
        0, "1 engine ready. Connect by: ipp.Client(cluster_id='c')\n"
    ), done.stderr  # fmt: skip
    (after,) = listed(run)
    assert after["pid"] != before["pid"] and after["engines"] == 1
    assert Cluster.from_file(cluster_id="c").options.engine_args == ["--raw-mpi"]
    assert run("stop", "--cluster-id", "c").returncode == 0


@pytest.mark.mpi
@pytest.mark.anympi
def test_interrupt(run: Run) -> None:
    assert run("start", "-n", 2, "--daemonize").returncode == 0
    assert run("interrupt").stdout == "No engine was running anything.\n"

    def deaf_sleep(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(seconds)
            except KeyboardInterrupt:
                continue

    with Client() as client:
        waiting = client[:].apply_async(time.sleep, 60)
        assert wait_until(lambda: all(place.state == "running" for place in client.where()))
        assert run("interrupt", 1).stdout == "engine 1: interrupted\n"
        assert run("interrupt", "--json").stdout == '{\n  "ended": [\n    0\n  ],\n  "running": []\n}\n'
        assert waiting.exception(10) is not None
        deaf = client[0].apply_async(deaf_sleep, 60)
        assert wait_until(lambda: client.where()[0].state == "running")
        done = run("interrupt")
        assert done.returncode == 1
        assert done.stdout == "engine 0: still running; see mpiparallel where, or try --signal KILL\n"
        assert run("interrupt", 9).returncode == 1
        assert not deaf.ready()
    assert run("stop").returncode == 0
    assert run("clean", "--results").returncode == 0


def test_a_killed_cluster_is_cleaned(run: Run, state: Path) -> None:
    run("start", "-n", 0, "--daemonize")
    kill_all(state)
    assert wait_until(lambda: not processes_of(state))
    assert json.loads(run("clean", "--json").stdout)[0]["state"] == "stale"
