"""Clusters: how they start, fail, are found again, and end.

Where no engine is needed there is none, or a small program in place of mpiexec.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import processes_of, wait_until

from mpiparallel import Client, Cluster, ClusterManager, cluster_file, connection_file
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import keeping


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A state folder for one test; at the end nothing that was started for it may be left."""
    state = tmp_path / "state"
    monkeypatch.setenv("MPIPARALLEL_STATE", str(state))
    yield Config.from_environment()
    assert wait_until(lambda: not processes_of(state)), processes_of(state)
    assert files_in(state) == []


def files_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]


@pytest.fixture
def mpiexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of mpiexec, for a test to write."""
    path = tmp_path / "mpiexec"
    monkeypatch.setenv("MPIPARALLEL_MPIEXEC", str(path))
    monkeypatch.setattr("mpiparallel.cluster.WORLD_LEAVES", 0.1)  # nobody sends it home
    return path


def program(path: Path, text: str) -> None:
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{text}\n')
    path.chmod(0o755)


# ---------------------------------------------------------------- the life of a cluster


def test_a_cluster_without_engines(config: Config) -> None:
    cluster = Cluster(n=0, cluster_id="a")
    with cluster as client:
        assert client.ids == []
        assert cluster.controller is not None and cluster.controller.state == "running"
        assert "controller=<running>" in repr(cluster)
        left = sorted(
            name for name in files_in(config.state_dir / "default/cluster-a") if "results.db" not in name
        )
        assert left == ["client.json", "cluster.json", "controller.json", "controller.log", "engine.json"]
    assert cluster.controller is None
    assert files_in(config.state_dir) == []


def test_it_can_be_started_again(config: Config) -> None:
    cluster = Cluster(n=0, cluster_id="a")
    for _ in range(3):
        with cluster as client:
            assert client.ids == []


def test_stop_is_quick_and_may_be_repeated(config: Config) -> None:
    cluster = Cluster(n=0).start_cluster_sync()
    began = time.monotonic()
    cluster.stop_cluster_sync()
    cluster.stop_cluster_sync()
    assert time.monotonic() - began < 2


def test_a_second_controller(config: Config) -> None:
    cluster = Cluster(n=0)
    cluster.start_controller_sync()
    with pytest.raises(RuntimeError, match="runs already"):
        cluster.start_controller_sync()
    cluster.stop_cluster_sync()


def test_engines_without_a_controller(config: Config) -> None:
    with pytest.raises(RuntimeError, match="has no controller"):
        Cluster(n=1).start_engines_sync()


def test_two_clusters_of_one_name(config: Config) -> None:
    with Cluster(n=0, cluster_id="a") as client:
        with pytest.raises(LaunchError, match="runs already"):
            Cluster(n=0, cluster_id="a").start_cluster_sync()
        client._connection.check()  # the first one was left alone


def test_two_clusters_at_once(config: Config) -> None:
    with Cluster(n=0) as one, Cluster(n=0) as two:
        assert one.ids == two.ids == []
        assert len(list(config.state_dir.glob("default/cluster-*"))) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"engines": "mpi", "engine_launcher_class": "MPI"}, TypeError, "not both"),
        ({"engines": "rsh"}, ValueError, "engines='rsh': mpiparallel can start by mpi, srun"),
        ({"cluster_id": "a/b"}, ValueError, "may not hold a slash"),
        ({"nn": 4}, TypeError, "no setting is called 'nn'"),
        ({"partitoin": "debug"}, TypeError, "did you mean 'partition'"),
        ({"nodes": "many"}, ValueError, "Cluster: nodes='many': expected a whole number"),
    ],
)
def test_wrong_arguments(config: Config, arguments: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Cluster(**arguments)


def test_a_negative_number(config: Config) -> None:
    with pytest.raises(ValueError, match="n=-1"):
        Cluster(n=-1).start_cluster_sync()


def test_the_profiles_folder_by_path(config: Config, tmp_path: Path) -> None:
    cluster = Cluster(n=0, profile_dir=tmp_path / "mine", cluster_id="")
    with cluster:
        assert cluster.profile == "mine"
        assert (tmp_path / "mine/cluster/client.json").exists()
    assert files_in(tmp_path / "mine") == []


# ---------------------------------------------------------------- starts that fail


def test_a_controller_that_does_not_start(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LaunchError, match=r"(?s)the controller ended with exit code 2.*--nonsense"):
        Cluster(n=0, controller_args=["--nonsense"]).start_cluster_sync()
    assert files_in(config.state_dir) == []
    assert not caplog.text, "once is enough"


def test_an_mpiexec_that_ends_at_once(
    config: Config, mpiexec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program(mpiexec, "echo 'not enough slots' >&2; exit 3")
    with pytest.raises(LaunchError, match=r"(?s)mpiexec ended with exit code 3.*not enough slots"):
        Cluster(n=2).start_and_connect_sync()
    assert files_in(config.state_dir) == []
    assert not caplog.text, "once is enough"


def test_engines_that_do_not_come(config: Config, mpiexec: Path) -> None:
    program(mpiexec, "echo 'thinking'; sleep 60 & wait")
    with pytest.raises(LaunchError, match=r"(?s)0 of 2 engines connected within 0.5 s.*thinking"):
        Cluster(n=2, engine_timeout=0.5).start_and_connect_sync()


def test_no_mpiexec(config: Config, mpiexec: Path) -> None:
    with pytest.raises(LaunchError, match=r"(?s)MPIPARALLEL_MPIEXEC=.*pip install"):
        Cluster(n=2).start_and_connect_sync()


def test_a_sites_launcher(
    config: Config, mpiexec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(mpiexec, "exit 1")
    site = tmp_path / "site/launchers/mpiexec.sh"
    site.parent.mkdir(parents=True)
    site.write_text('echo "the site starts $MPIPARALLEL_N: $*"; exit 5\n')
    monkeypatch.setenv("MPIPARALLEL_SITE", str(tmp_path / "site"))
    says = r"(?s)exit code 5.*the site starts 2: --mine -n 2 \S+ -m mpiparallel.engine --connection-file"
    with pytest.raises(LaunchError, match=says):
        Cluster(n=2, mpi_args=["--mine"]).start_and_connect_sync()


def test_engines_that_end_later_are_noticed(
    config: Config, mpiexec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program(mpiexec, "sleep 0.3; echo 'out of memory'; exit 9")
    cluster = Cluster(n=2).start_cluster_sync()
    (name,) = cluster.engines
    assert cluster.engines[name] is cluster.engine_set
    assert cluster.engines[name].state == "running"
    assert wait_until(lambda: "out of memory" in caplog.text)
    assert cluster.engines[name].state == "failed"
    assert cluster.engines[name].exit_code == 9
    assert "exit code 9" in cluster.engines_failed()
    program(mpiexec, "exec sleep 60")
    cluster.start_engines_sync(1)
    assert cluster.engines_failed(1) == ""  # this one may come in their place
    assert "exit code 9" in cluster.engines_failed(2)
    cluster.stop_cluster_sync()


# ---------------------------------------------------------------- engines that are started again


def started(folder: Path) -> list[list[str]]:
    """Return the words of each mpiexec that `restarting` has started."""
    path = folder / "started"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def restarting(mpiexec: Path, tmp_path: Path) -> None:
    """Make mpiexec a program that fails when a file of the number of its start is there."""
    program(
        mpiexec,
        f"""cd {tmp_path}; printf "%s\\n" "$*" >> started; n=$(wc -l < started)
        while [ ! -e fail$((n)) ]; do sleep 0.02; done; echo "start $((n)) was killed"; exit 9""",
    )


@pytest.mark.parametrize(("restart", "option"), [(True, "7"), ("same", "7"), ("fresh", None)])
def test_engines_that_ended_unasked_are_started_again(
    config: Config,
    mpiexec: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    restart: object,
    option: str | None,
) -> None:
    restarting(mpiexec, tmp_path)
    with Cluster(n=0, restart=restart) as client:
        cluster = client.cluster
        name = cluster.start_engines_sync(2)
        first = cluster.engines[name]
        first.first = 7  # they had come, as engines 7 and 8
        assert wait_until(lambda: len(started(tmp_path)) == 1)
        (tmp_path / "fail1").touch()
        assert wait_until(lambda: len(started(tmp_path)) == 2)
        words = started(tmp_path)[1]
        assert (words[words.index("--first-id") + 1] if "--first-id" in words else None) == option
        assert wait_until(lambda: cluster.engines[name] is not first)
        assert (cluster.engines[name].n, cluster.engines[name].running) == (2, True)
        assert cluster.engines_failed() == ""
        assert "start 1 was killed" in caplog.text
        ids = "its old ids" if option else "new ids"
        says = f"engine set {name} is started again, with {ids}: mpiexec ended with exit code 9"
        assert says in caplog.text


def test_but_not_for_ever(
    config: Config, mpiexec: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restarting(mpiexec, tmp_path)
    for number in range(1, 5):
        (tmp_path / f"fail{number}").touch()
    with Cluster(n=0, restart="same", restart_limit=2) as client:
        client.cluster.start_engines_sync(2, "a", first=0)
        assert wait_until(lambda: "engine set a is not started again: it was, 2 times" in caplog.text)
        assert len(started(tmp_path)) == 3
        assert "exit code 9" in client.cluster.engines_failed()


def test_engines_that_never_came_are_not_started_again(
    config: Config, mpiexec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program(mpiexec, "echo 'not enough slots' >&2; exit 3")
    with pytest.raises(LaunchError, match=r"(?s)mpiexec ended with exit code 3.*not enough slots"):
        Cluster(n=2, restart=True).start_and_connect_sync()


def test_a_world_that_ended_well_but_was_lost(
    config: Config,
    mpiexec: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = {"first": 4, "reason": "rank 0 was killed by SIGKILL"}
    monkeypatch.setattr(Client, "_ask", lambda self, what, **_: {"worlds": [], "lost": {"a": lost}})
    again = "[ $(wc -l < started) -gt 1 ] && exec sleep 60"
    program(mpiexec, f"cd {tmp_path}; printf '%s\\n' \"$*\" >> started; {again}; exit 0")
    with Cluster(n=0, restart="same") as client:
        client.cluster.start_engines_sync(2, "a")
        assert wait_until(lambda: len(started(tmp_path)) == 2)
        assert "mpiexec ended with exit code 0: rank 0 was killed by SIGKILL. It said" in caplog.text
        assert started(tmp_path)[1][-2:] == ["--first-id", "4"]
        assert wait_until(lambda: client.cluster.engines["a"].running)
        monkeypatch.undo()


@pytest.mark.parametrize("how", ["stop_engines_sync", "stop_cluster_sync"])
def test_what_is_stopped_stays_stopped(config: Config, mpiexec: Path, tmp_path: Path, how: str) -> None:
    program(mpiexec, f"cd {tmp_path}; printf '%s\\n' \"$*\" >> started; trap 'exit 9' TERM; sleep 60 & wait")
    cluster = Cluster(n=2, restart="same").start_cluster_sync()
    (one,) = cluster.engines.values()
    one.first = 0
    assert wait_until(lambda: started(tmp_path))
    getattr(cluster, how)()
    assert one.ended.wait(10)
    cluster.stop_cluster_sync()
    assert (one.exit_code, one.state, len(started(tmp_path))) == (9, "stopped", 1)


def test_restart_by_wrong_words(config: Config) -> None:
    with pytest.raises(ValueError, match="restart='old': expected False, 'same' or 'fresh'"):
        Cluster(restart="old")


def test_sets_by_their_engines(config: Config, mpiexec: Path) -> None:
    program(mpiexec, "exec sleep 60")
    with Cluster(n=0) as client:
        cluster = client.cluster
        for name, first in (("a", 0), ("b", 2)):
            cluster.start_engines_sync(2, name, first)
        assert cluster.sets_of(client, [3, 2]) == ["b"]
        assert cluster.sets_of(client, [3, 1]) == ["b", "a"]
        assert cluster.sets_of(client, None) == ["a", "b"]
        with pytest.raises(ValueError, match="engine 4 was not started by"):
            cluster.sets_of(client, [0, 4])
        assert Cluster.from_dict(cluster.to_dict()).engines["b"].first == 2
        before = cluster.engines["b"]
        client.restart_engines(2, block=False)
        assert cluster.engines["b"] is not before and cluster.engines["b"].first == 2
        client.restart_engines([3], same_ids=False, block=False)
        assert cluster.engines["b"].first == -1
        cluster.engine_timeout = 0.3
        with pytest.raises(LaunchError, match=r"(?s)0 of 2 engines connected within 0.3 s"):
            client.restart_engines(0)


def test_a_controller_that_was_killed(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster(n=0).start_cluster_sync()
    key = connection_file.read(cluster.connection_file).server_key
    for round in range(2):
        killed = cluster.controller
        assert killed is not None
        time.sleep(keeping.QUICK)
        os.kill(killed.pid, signal.SIGKILL)
        assert wait_until(lambda killed=killed: cluster.controller is not killed)
        assert killed.state == "failed"
        said = [one for one in caplog.records if "it is started again" in one.getMessage()]
        assert [one.levelname for one in said] == ["WARNING", "INFO"][: round + 1]
        with cluster.connect_client_sync() as client:
            assert client.ids == []
    assert cluster_file.read(cluster.cluster_file)["controller"]["pid"] == cluster.controller.pid
    assert connection_file.read(cluster.connection_file).server_key == key
    assert "going on where an earlier controller was killed" in cluster.controller.get_output()
    cluster.stop_cluster_sync()
    assert not cluster.folder.exists()


def test_a_controller_that_dies_at_once_is_given_up(
    config: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "QUICK", 60.0)
    cluster = Cluster(n=0).start_cluster_sync()
    client = cluster.connect_client_sync()
    for _ in range(keeping.MOST):
        killed = cluster.controller
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        assert wait_until(lambda killed=killed: killed.ended.is_set())
    assert cluster.controller is killed
    assert "the controller is given up: it has died 5 times in a row" in caplog.text
    assert wait_until(lambda: client._connection.gone is not None)
    client.close()
    cluster.stop_cluster_sync()


# ---------------------------------------------------------------- asyncio


def test_from_coroutines(config: Config) -> None:
    async def use() -> None:
        async with Cluster(n=0) as client:
            assert client.ids == []
        cluster = await Cluster(n=0).start_cluster()
        client = await cluster.connect_client()
        client.close()
        await cluster.stop_cluster()

    asyncio.run(use())


def test_sync_methods_inside_a_running_loop(config: Config) -> None:
    async def use() -> None:
        with Cluster(n=0) as client:
            assert client.ids == []

    asyncio.run(use())


def test_a_cancelled_start_leaves_nothing(config: Config, mpiexec: Path) -> None:
    program(mpiexec, "sleep 60 & wait")

    async def use() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(Cluster(n=2).start_and_connect(), 1.0)
        assert files_in(config.state_dir) == []

    asyncio.run(use())


# ---------------------------------------------------------------- cluster files


def test_found_again_from_its_file(config: Config) -> None:
    first = Cluster(n=0, cluster_id="a").start_cluster_sync()
    second = Cluster.from_file(cluster_id="a")
    assert (second.profile, second.cluster_id, second.n) == ("default", "a", 0)
    second.connect_client_sync().close()
    with pytest.raises(RuntimeError, match="runs already"):
        second.start_controller_sync()
    assert Cluster.from_dict(json.loads(json.dumps(first.to_dict()))).to_dict() == first.to_dict()
    second.stop_cluster_sync()
    assert first.controller is not None and not first.controller.running
    first.stop_cluster_sync()


def test_a_file_elsewhere(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    with Cluster(n=0, cluster_file=file):
        Cluster.from_file(file).connect_client_sync().close()
    assert not file.exists()


def test_no_such_file(config: Config) -> None:
    with pytest.raises(FileNotFoundError):
        Cluster.from_file(cluster_id="none")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cluster": {}}'])
def test_not_a_cluster_file(config: Config, tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(LaunchError, match="is not a cluster file"):
        Cluster.from_file(tmp_path / "cluster.json")


def test_what_a_killed_cluster_left_is_replaced(config: Config) -> None:
    first = Cluster(n=0, cluster_id="a").start_cluster_sync()
    assert first.controller is not None
    first.controller.process.kill()
    assert cluster_file.judge(first.folder) == "stale"
    with Cluster(n=0, cluster_id="a") as client:
        assert client.ids == []
    first.stop_cluster_sync()


def test_the_first_to_make_the_folder_has_it(config: Config) -> None:
    folder = config.cluster_dir("default", "a")
    cluster_file.claim(folder)
    with pytest.raises(cluster_file.AlreadyRunning):
        cluster_file.claim(folder)
    os.utime(folder, (0, 0))  # nobody has used it since
    cluster_file.claim(folder)
    cluster_file.remove(folder)


def test_a_cluster_of_another_host_is_left_alone(config: Config) -> None:
    cluster = Cluster(n=0, cluster_id="a")
    cluster.host = "elsewhere"
    cluster.folder.mkdir(parents=True)
    cluster.write_cluster_file()
    with pytest.raises(cluster_file.AlreadyRunning, match="on host elsewhere"):
        Cluster(n=0, cluster_id="a").start_cluster_sync()
    cluster.remove_cluster_file()


def test_a_manager(config: Config) -> None:
    manager = ClusterManager()
    key, cluster = manager.new_cluster(n=0, cluster_id="a")
    assert (key, manager.get_cluster(key)) == ("default:a", cluster)
    with pytest.raises(KeyError):
        manager.new_cluster(cluster_id="a")
    cluster.start_cluster_sync()
    other = ClusterManager()
    assert list(other.load_clusters()) == [key]
    assert list(other.load_clusters(profile="default")) == [key]
    assert ClusterManager().load_clusters(profile="none") == {}
    cluster.stop_cluster_sync()
    assert other.load_clusters() == {}
    manager.remove_cluster(key)
    with pytest.raises(KeyError):
        manager.get_cluster(key)
    with pytest.raises(KeyError):
        manager.remove_cluster(key)


# ---------------------------------------------------------------- programs that end


def script(text: str, **kwargs: object) -> subprocess.Popen[str]:
    code = "import os, signal, sys, time\nfrom mpiparallel import Cluster\n" + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **kwargs)


def test_the_end_of_the_program_is_the_clusters_end(config: Config) -> None:
    process = script("rc = Cluster(n=0).start_and_connect_sync(); print(rc.ids)")
    assert process.communicate(timeout=30) == ("[]\n", None)
    assert process.returncode == 0
    assert not processes_of(config.state_dir)


def test_unless_it_shall_live_on(config: Config) -> None:
    process = script("Cluster(n=0, cluster_id='a', shutdown_atexit=False).start_cluster_sync()")
    process.communicate(timeout=30)
    Cluster.from_file(cluster_id="a").stop_cluster_sync()


def test_a_forked_child_stops_nothing(config: Config) -> None:
    process = script(
        """
        cluster = Cluster(n=0).start_cluster_sync()
        child = os.fork()
        if child == 0:
            sys.exit()
        os.waitpid(child, 0)
        print(cluster.controller.state)
        """
    )
    assert process.communicate(timeout=30)[0] == "running\n"


@pytest.mark.parametrize("forked", [False, True])
def test_kill_9_of_the_program(config: Config, forked: bool) -> None:
    process = script(
        f"""
        cluster = Cluster(n=0).start_cluster_sync()
        child = os.fork() if {forked} else -1
        if child == 0:
            os.close(1)
            time.sleep(30)
        print(child, flush=True)
        time.sleep(60)
        """
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=10)
    assert wait_until(lambda: not files_in(config.state_dir))
    if forked:
        os.kill(child, signal.SIGKILL)


# ---------------------------------------------------------------- with engines


@pytest.mark.mpi
def test_engines_come_and_go(config: Config) -> None:
    cluster = Cluster(n=2)
    with cluster as client:
        assert client.ids == [0, 1]
        first = cluster.engine_set
        assert first is not None and first.n == 2
        assert client[:].apply_sync(os.getppid)  # they do work
        name = cluster.start_engines_sync(1)
        assert list(cluster.engines) == [first.name, name]
        cluster.wait_for_engines_sync(client, 3)
        assert client.ids == [0, 1, 2]
        cluster.stop_engines_sync(first.name)
        assert wait_until(lambda: client.ids == [2])
        cluster.restart_engines_sync(same_ids=False)
        assert wait_until(lambda: client.ids == [3], 30)
        with pytest.raises(KeyError, match="no engine set"):
            cluster.stop_engines_sync("none")
        began = time.monotonic()
    assert time.monotonic() - began < 3


@pytest.mark.mpi
def test_signals_reach_every_engine(config: Config, tmp_path: Path) -> None:
    def nap() -> None:
        (tmp_path / f"engine {os.getpid()}").touch()
        time.sleep(30)

    cluster = Cluster(n=2)
    with cluster as client:
        result = client[:].apply_async(nap)
        assert wait_until(lambda: len(list(tmp_path.glob("engine *"))) == 2)
        cluster.signal_engines_sync(signal.SIGINT)
        assert result.wait(10)
        assert not result.successful()
        assert client.ids == [0, 1]
        assert cluster.engine_set is not None and cluster.engine_set.state == "running"


@pytest.mark.mpi
def test_engines_start_again_with_their_ids(config: Config) -> None:
    with Cluster(n=2) as client:
        view = client[:]
        before = view.apply_sync(os.getpid)
        client.restart_engines(1)
        after = view.apply_sync(os.getpid)
        assert client.ids == [0, 1] and not {*before} & {*after}
        client.restart_engines(same_ids=False)
        assert client.ids == [2, 3]
        with pytest.raises(IndexError, match=r"engines 0-1: .*Take a new one: client\[:\]"):
            view.apply_sync(os.getpid)
        client.shutdown(restart=True, block=True)
        assert client.ids == [2, 3]


@pytest.mark.mpi
@pytest.mark.parametrize("victim", ["engines", "mpiexec"])
def test_killed_engines_are_started_again(
    config: Config, caplog: pytest.LogCaptureFixture, victim: str
) -> None:
    with Cluster(n=2, restart="same") as client:
        view = client[:]
        before = view.apply_sync(os.getpid)
        assert client.cluster.engine_set is not None
        for pid in before if victim == "engines" else [client.cluster.engine_set.pid]:
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: "is started again, with its old ids: mpiexec" in caplog.text, 30)
        client.cluster.wait_for_sets_sync(client, list(client.cluster.engines))
        assert client.ids == [0, 1] and not {*before} & {*view.apply_sync(os.getpid)}
        if victim == "engines":
            assert "was killed by signal 9" in caplog.text


@pytest.mark.mpi
def test_an_mpiexec_of_another_mpi(config: Config, mpiexec: Path) -> None:
    program(mpiexec, 'shift 2; "$@" & "$@" & wait')
    with pytest.raises(
        LaunchError, match=r"started 2 worlds instead of one world of 2 engines: .* another MPI"
    ):
        Cluster(n=2).start_and_connect_sync()


@pytest.mark.mpi
def test_two_real_clusters_at_once(config: Config) -> None:
    with Cluster(n=1) as one, Cluster(n=1) as two:
        pids = [client[0].apply_sync(os.getpid) for client in (one, two)]
    assert pids[0] != pids[1]


@pytest.mark.mpi
@pytest.mark.parametrize("after", [0.0, 0.4])
def test_kill_9_while_engines_start(config: Config, after: float) -> None:
    process = script("Cluster(n=2).start_cluster_sync(); print('begun', flush=True); time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)  # it must not matter how far they are
    process.kill()
    process.communicate(timeout=10)

    def engines() -> list[psutil.Process]:
        return [one for one in processes_of(config.state_dir) if is_python(one)]

    def is_python(process: psutil.Process) -> bool:
        try:
            return "python" in process.name()
        except psutil.NoSuchProcess:
            return False  # it has ended since the list was made

    assert wait_until(lambda: not engines() and not files_in(config.state_dir))
    # Now and then Open MPI's mpiexec thinks for twenty seconds about ranks that have left before they met.
    assert wait_until(lambda: not processes_of(config.state_dir), 40)


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(150)
def test_kill_9_of_program_and_controller_together(config: Config) -> None:
    """Nobody starts the controller again: the engines have the patience for that, and no more."""
    process = script(
        """
        cluster = Cluster(n=2)
        rc = cluster.start_and_connect_sync()
        print(cluster.controller.pid, *rc[:].apply_sync(os.getpid), flush=True)
        time.sleep(100)
        """
    )
    assert process.stdout is not None
    controller, *engines = (int(word) for word in process.stdout.readline().split())
    process.send_signal(signal.SIGSTOP)  # it is not to see the controller's end
    os.kill(controller, signal.SIGKILL)
    process.kill()
    began = time.monotonic()
    process.communicate(timeout=10)
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in engines), 45)
    assert time.monotonic() - began > 20
    assert wait_until(lambda: not processes_of(config.state_dir))
    for folder in cluster_file.find(config):
        assert cluster_file.judge(folder) == "stale"
        cluster_file.clean(folder)


@pytest.mark.mpi
@pytest.mark.parametrize("victim", ["program", "mpiexec", "controller"])
def test_kill_9(config: Config, victim: str) -> None:
    process = script(
        f"""
        cluster = Cluster(n=2)
        rc = cluster.start_and_connect_sync()
        print(*rc[:].apply_sync(os.getpid), flush=True)
        part = cluster.engine_set if {victim!r} == "mpiexec" else cluster.controller
        os.kill(os.getpid() if {victim!r} == "program" else part.pid, signal.SIGKILL)
        while part.state != "failed":
            time.sleep(0.02)
        """
    )
    assert process.stdout is not None
    engines = [int(word) for word in process.stdout.readline().split()]
    assert len(engines) == 2
    process.communicate(timeout=30)
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in engines))
    assert wait_until(lambda: not processes_of(config.state_dir))
    assert wait_until(lambda: not files_in(config.state_dir))


def test_a_start_that_succeeds_although_it_was_cancelled_is_taken_back(monkeypatch):
    cluster = Cluster(n=1)
    stopped = []
    monkeypatch.setattr(cluster, "start_cluster_sync", lambda n: cluster.given_up.wait(10))
    monkeypatch.setattr(cluster, "stop_cluster_sync", lambda: stopped.append(True))

    async def start():
        await asyncio.wait_for(cluster.start_cluster(), 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(start())
    assert stopped == [True]
