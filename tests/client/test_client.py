"""The client itself: options, waiting for engines, control, purging; and where it finds its controller."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time

import msgspec
import pytest

from mpiparallel import connection_file, error
from mpiparallel.client import compat, locate
from mpiparallel.client.client import Client
from mpiparallel.client.hubqueries import AsyncHubResult
from mpiparallel.client.tasks import HISTORY, History
from mpiparallel.config import Config


@pytest.fixture
def state(tmp_path, monkeypatch, fake):
    """A state folder; `publish(cluster)` writes a connection file into it."""
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path))
    for name in ("MPIPARALLEL_PROFILE", "MPIPARALLEL_CLUSTER_ID"):
        monkeypatch.delenv(name, raising=False)

    def publish(cluster: str = "", profile: str = "default", **changes) -> str:
        info = msgspec.structs.replace(fake.info, **{"cluster_id": cluster, **changes})
        path = Config.from_environment().cluster_dir(profile, cluster) / "client.json"
        connection_file.write(path, info)
        return path

    return publish


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# ---------------------------------------------------------------- finding the controller


def test_by_file_and_dict(state, fake):
    path = state()
    for source in (path, str(path), path.parent, msgspec.to_builtins(fake.info)):
        with Client(source) as rc:
            assert rc.ids == [0, 1, 2, 3]
    with Client(url_file=path) as rc:
        assert len(rc) == 4


def test_by_profile_and_id(state):
    state()
    state("other")
    state("mine", profile="big")
    for options in (
        {},
        {"profile": "default"},
        {"cluster_id": "other"},
        {"profile": "big", "cluster_id": "mine"},
    ):
        with Client(timeout=1, **options) as rc:
            assert len(rc) == 4


def test_by_environment(state, monkeypatch):
    state("mine", profile="big")
    monkeypatch.setenv("MPIPARALLEL_PROFILE", "big")
    monkeypatch.setenv("MPIPARALLEL_CLUSTER_ID", "mine")
    with Client(timeout=1) as rc:
        assert rc.profile == "big"


def test_the_newest_running_cluster_is_taken_when_none_is_named(state):
    config = Config.from_environment()
    state(pid=dead_pid())
    old, new = state("old"), state("new")
    state("dead", pid=dead_pid())
    os.utime(old, (1, 1))
    assert locate.cluster_file(config, None, None, None) == new
    assert locate.cluster_file(config, None, None, "old") == old
    main = state()
    assert locate.cluster_file(config, None, None, None) == main
    assert locate.cluster_file(config, None, main.parent.parent, None) == main


def test_a_missing_file(state, capsys):
    began = time.monotonic()
    with pytest.raises(OSError, match=r"client.json not found after 0.2 s.*mpiparallel start -n 4"):
        Client(timeout=0.2)
    assert time.monotonic() - began < 2
    assert capsys.readouterr().out.startswith("Waiting for connection file: ")


def test_a_file_that_appears_is_used(state):
    threading.Timer(0.2, state).start()
    with Client(timeout=10) as rc:
        assert len(rc) == 4


def test_a_stale_file_is_told_at_once(state):
    pid = dead_pid()
    path = state(pid=pid)
    began = time.monotonic()
    with pytest.raises(
        error.ConnectionFileError, match=rf"process {pid}\) that no longer runs.*mpiparallel start"
    ):
        Client(path)
    assert time.monotonic() - began < 1


def test_a_controller_that_is_being_started_again_is_waited_for(state, capsys):
    pid = dead_pid()
    path = state(pid=pid)
    left = path.parent / connection_file.SAVED
    left.touch(0o600)
    threading.Timer(1.5, state).start()
    began = time.monotonic()
    with Client(path) as rc:
        assert len(rc) == 4
    assert time.monotonic() - began > 1.4
    assert f"(process {pid} has died) to be started again" in capsys.readouterr().out
    state(pid=pid)
    with pytest.raises(error.ConnectionFileError, match="no longer runs"):
        Client(path, timeout=0.3)
    threading.Timer(0.3, left.unlink).start()  # it is given up
    began = time.monotonic()
    with pytest.raises(error.ConnectionFileError, match="no longer runs"):
        Client(path)
    assert time.monotonic() - began < 5


def test_a_named_cluster_is_found_while_its_controller_is_started_again(state):
    path = state("mine", pid=dead_pid())
    config = Config.from_environment()
    assert locate.cluster_file(config, None, None, None) != path
    (path.parent / connection_file.SAVED).touch(0o600)
    assert locate.cluster_file(config, None, None, None) == path


def test_wrong_sources(state, tmp_path):
    with pytest.raises(ValueError, match="is an address"):
        Client("tcp://127.0.0.1:5555")
    for source in (3, b"client.json"):
        with pytest.raises(TypeError, match=r"path of a connection file, or its content, not (3|b'client)"):
            Client(source)
    with pytest.raises(OSError, match="is not a connection file"):
        Client({"url": "x"})
    with pytest.raises(OSError, match="is for engines"):
        Client(state("e", role="engine"))
    path = state("open")
    path.chmod(0o644)
    with pytest.raises(OSError, match="chmod 600"):
        Client(path)


def test_an_address_of_another_host_that_cannot_work(state):
    path = state(host="elsewhere", addresses=["tcp://127.0.0.1:9"])
    with (
        pytest.warns(RuntimeWarning, match="elsewhere listens on tcp://127.0.0.1:9 only"),
        pytest.raises(TimeoutError),
    ):
        Client(path, timeout=0.2)


def test_options(connect):
    with pytest.raises(TypeError, match="'colour'"):
        connect(colour="red")
    with pytest.raises(ValueError, match="mpiparallel attach"):
        connect(password="secret")
    assert connect(debug=True, context=None, sshserver=None).debug


# ---------------------------------------------------------------- engines


def test_repr_and_truth(fake, connect):
    rc = connect()
    assert repr(rc).startswith("<Client: 4 engines, 1 world, controller on ")
    for engine in list(fake.engines):
        fake.call(fake.remove_engine, engine)
    empty = connect()
    assert repr(empty).startswith("<Client: 0 engines, controller on ")
    assert empty and len(empty) == 0


def test_waiting_for_engines(fake, client):
    client.wait_for_engines(4)
    client.wait_for_engines(3, timeout=0)
    with pytest.raises(TimeoutError, match=r"5 engines not ready in 0.05 seconds. Currently ready: 4"):
        client.wait_for_engines(5, timeout=0.05)
    future = client.wait_for_engines(6, timeout=5, block=False)
    assert not future.done()
    fake.call(fake.add_engine, 4)
    fake.call(fake.add_engine, 5)
    assert future.result(5) is None
    with pytest.raises(TypeError, match="needs n"):
        client.wait_for_engines()


def test_waiting_shows_a_bar(fake, client, capsys):
    threading.Timer(0.1, fake.add_engine, [4]).start()
    client.wait_for_engines(5, timeout=5, interactive=True, widget=False)
    assert "5/5" in capsys.readouterr().err


def test_waiting_in_vain(fake, client):
    future = client.wait_for_engines(5, timeout=10, block=False)
    time.sleep(0.1)
    fake.call(fake.remove_engine, 3, "it was killed by signal 9")
    with pytest.raises(error.EngineError, match=r"engine 3 left while we waited for 5 engines: .*signal 9"):
        future.result(5)
    future = client.wait_for_engines(9, timeout=10, block=False)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        future.result(5)


# ---------------------------------------------------------------- control


def test_signals(fake, client):
    for name in ("SIGINT", "int", 2, signal.SIGINT):
        assert client.send_signal(name, targets=[1, 2], block=True) is None
    client.send_signal("SIGUSR1", block=False).result(5)
    assert fake.signals == [([1, 2], 2)] * 4 + [([0, 1, 2, 3], int(signal.SIGUSR1))]
    with pytest.raises(ValueError, match="'SIGNOTHING'"):
        client.send_signal("SIGNOTHING")
    with pytest.raises(ValueError, match="99"):
        client.send_signal(99)


def test_abort(fake, client):
    fake.paused.set()
    results = [client[:2].apply_async(int) for _ in range(3)]
    client.abort(results[0], targets=[0], block=True)
    assert [part.done() for part in results[0].split()] == [True, False]
    client.abort([results[0], results[1].msg_ids[1]], block=True)
    client.abort(block=True)
    assert not client.outstanding
    assert all(isinstance(result.exception(), error.TaskAborted) for result in results)
    for jobs in (5, [5], [None]):
        with pytest.raises(TypeError, match="a job is"):
            client.abort(jobs)


def test_queue_status(fake, client):
    fake.paused.set()
    client[:2].apply_async(int)
    idle, busy = ({"queue": n, "completed": 0, "tasks": 0} for n in (0, 1))
    assert client.queue_status() == {0: busy, 1: busy, 2: idle, 3: idle, "unassigned": 0}
    assert client.queue_status(1)["queue"] == 1
    assert set(client.queue_status([2])) == {2, "unassigned"}


def test_result_status(fake, client):
    fake.paused.set()
    result = client[:2].apply_async(abs, -1)
    first, second = result.msg_ids
    client.abort([second], block=True)
    assert client.result_status(result.msg_ids) == {"pending": [first], "completed": [second]}
    fake.release(client)
    result.wait(5)
    status = client.result_status(result, status_only=False)
    assert status["completed"] == [first, second] and status[first] == 1
    with pytest.raises(KeyError, match="no task"):
        client.result_status(["nobody"])


def test_get_result(fake, client):
    result = client[:].apply_async(abs, -1)
    assert client.get_result(result.msg_ids).get(5) == [1] * 4
    assert client.get_result(result).get(5) == [1] * 4
    assert client.get_result(result.msg_ids[0]).get(5) == 1
    assert client.get_result().get(5) == 1
    assert client.get_result(slice(-2, None), block=True).get(0) == [1, 1]
    assert client.get_result([0, 1]).get(5) == [1, 1]
    with pytest.raises(KeyError, match="no task 'nobody'"):
        client.get_result("nobody")
    with pytest.raises(IndexError, match="holds 4 tasks"):
        client.get_result(17)


def test_shutdown(fake, client):
    client.shutdown([1, 2], block=True)
    client.queue_status(0)
    assert client.ids == [0, 3]
    with pytest.raises(RuntimeError, match="needs the Cluster"):
        client.shutdown(restart=True)
    with pytest.raises(RuntimeError, match="needs the Cluster"):
        client.restart_engines()
    client.shutdown(hub=True)
    with pytest.raises(RuntimeError, match=r"shut down|closed"):
        client.queue_status()


def test_purging(fake, client):
    fake.paused.set()
    result = client[:].apply_async(int)
    with pytest.raises(RuntimeError, match="outstanding"):
        client.purge_local_results(result)
    fake.release(client)
    result.wait(5)
    for purge in (client.purge_local_results, client.purge_hub_results, client.purge_results):
        with pytest.raises(ValueError, match="at least one"):
            purge()
    client.purge_local_results(result.msg_ids[0])
    assert set(client.results) == set(result.msg_ids[1:])
    client.purge_results(targets=[1])
    assert set(client.results) == set(result.msg_ids[2:])
    assert result.get() == [0] * 4
    client.purge_everything()
    assert not client.results and not client.history
    client[:].purge_results("all")


def test_results_go_with_their_owners(client):
    result = client[:].apply_async(int)
    result.get(5)
    assert len(client.results) == 4
    msg_ids = result.msg_ids
    del result
    gc.collect()
    assert not client.results
    found = client.get_result(msg_ids)  # the controller has them
    assert isinstance(found, AsyncHubResult)
    assert found.get(5) == [0] * 4


def test_results_that_follow_the_answer_to_a_claim_at_once_are_not_missed(client, monkeypatch):
    msg_ids = client[:].apply_async(int).msg_ids
    client.wait(timeout=5)
    gc.collect()
    ask = client._connection.ask

    def late(*args):
        future = ask(*args)
        future.result()
        client._connection.ask = ask
        client.queue_status()  # whatever followed the answer has been looked at
        return future

    monkeypatch.setattr(client._connection, "ask", late)
    assert client.get_result(msg_ids).get(5) == [0] * 4


def test_history_is_bounded():
    history = History()
    for i in range(HISTORY):
        history.add([f"{i}-a", f"{i}-b"])
    assert len(history) == HISTORY
    assert history[-1] == f"{HISTORY - 1}-b"
    assert history[0] == f"{HISTORY // 2}-a"
    assert history[-2:] == [f"{HISTORY - 1}-a", f"{HISTORY - 1}-b"]
    history.clear()
    assert history == []


# ---------------------------------------------------------------- other names


def test_compatible_names():
    assert compat.uncan(compat.can([1])) == [1]
    assert compat.PrePickled({"a": 1}).obj == {"a": 1}
    assert compat.uncan(compat.PrePickled(5)) == 5
    assert compat.deserialize_object(compat.serialize_object({"a": b"x" * 5000})) == ({"a": b"x" * 5000}, [])
    f, args, kwargs = compat.unpack_apply_message(compat.pack_apply_message(abs, (-1,), {"k": 2}))
    assert (f(*args), kwargs) == (1, {"k": 2})
    compat.use_cloudpickle()
    compat.use_pickle()


def test_activate(client):
    with pytest.warns(UserWarning, match="in IPython only"):
        view = client.activate()
    assert view.block and view.targets == "all"
    with pytest.warns(UserWarning, match="in IPython only"):
        assert client.activate([0, 1], "2").targets == [0, 1]
    with pytest.raises(TypeError, match="suffix"):
        client.activate(suffix=5)
    with pytest.raises(ValueError, match="px-2"):
        client.activate(suffix="-2")
    client.spin()
    client.spin_thread()
    client.stop_spin_thread()
