"""Meeting the controller, losing it, and what lies between."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers import wait_until

from mpiparallel import error
from mpiparallel.client.client import Client
from mpiparallel.client.transport import is_running, reachable
from mpiparallel.wire.messages import Goodbye, Hello, Lacks, Output, Refused, Submit, Supply

HERE = Path(__file__).parent


def other_process() -> subprocess.Popen:
    """A process that stands for a controller's and can be killed."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def with_pid(fake, pid: int) -> dict:
    return msgspec.to_builtins(msgspec.structs.replace(fake.info, pid=pid))


# ---------------------------------------------------------------- meeting


def test_hello_names_the_client(fake, client):
    [hello] = fake.headers(Hello)
    assert (hello.pid, hello.host) == (os.getpid(), socket.gethostname())
    assert list(fake.clients) == [hello.name]


def test_a_silent_controller_is_named(fake):
    fake.silent = True
    began = time.monotonic()
    with pytest.raises(
        TimeoutError, match=rf"controller on .* \(process {os.getpid()}\) did not answer .*ipc://"
    ):
        Client(msgspec.to_builtins(fake.info), timeout=0.3)
    assert time.monotonic() - began < 3


def test_a_refusal_says_why(fake):
    fake.refuse = "protocol 0 is too old"
    with pytest.raises(error.ConnectionRefused, match="protocol 0 is too old"):
        Client(msgspec.to_builtins(fake.info))


def test_garbage_for_a_welcome(fake, monkeypatch):
    monkeypatch.setattr(
        fake, "_handle", lambda identity, *_: fake._socket.send_multipart([identity, b"HTTP/1.1"])
    )
    with pytest.raises(error.ConnectionRefused, match="does not speak our protocol"):
        Client(msgspec.to_builtins(fake.info))


def test_unreachable_addresses_are_all_named(fake):
    info = msgspec.structs.replace(
        fake.info, host="elsewhere", local="ipc:///nowhere", addresses=["tcp://127.0.0.1:9", "tcp://[::1]:9"]
    )
    with pytest.raises(
        TimeoutError, match=r"elsewhere, tried from .*127.0.0.1:9: .*; tcp://\[::1\]:9: .*--ip"
    ):
        reachable(info, 1.0)


def test_the_first_reachable_address_is_taken(fake):
    with socket.create_server(("127.0.0.1", 0)) as server:
        good = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        info = msgspec.structs.replace(fake.info, addresses=["tcp://127.0.0.1:9", good])
        assert reachable(info, 1.0) == good


# ---------------------------------------------------------------- parting


def test_closing_is_polite_and_final(fake, connect):
    rc = connect()
    fake.paused.set()
    pending = rc[:].apply_async(int)
    rc.close()
    rc.close()
    with pytest.raises(error.CompositeError, match=r"Connections have been closed\."):
        pending.get(5)
    with pytest.raises(RuntimeError, match=r"Connections have been closed\."):
        rc[:].apply_async(int)
    with pytest.raises(RuntimeError, match=r"Connections have been closed\."):
        rc.queue_status()
    assert repr(rc) == "<Client: closed>"
    assert wait_until(lambda: fake.headers(Goodbye))


def test_requests_queued_before_closing_are_sent(fake, connect):
    rc = connect()
    results = [rc[0].push({"a": i}, block=False) for i in range(500)]
    rc.close()
    assert wait_until(lambda: len(fake.headers(Submit)) == len(results))


def test_a_controller_that_says_goodbye(fake, client):
    fake.paused.set()
    pending = client[0].apply_async(int)
    fake.call(fake.tell_all, Goodbye("it was shut down"))
    with pytest.raises(error.EngineError, match="controller is gone: it was shut down"):
        pending.get(5)
    with pytest.raises(RuntimeError, match="controller is gone: it was shut down"):
        client[0].apply_async(int)


def test_is_running():
    process = other_process()
    assert is_running(process.pid)
    process.communicate(b"\n")
    assert not is_running(process.pid)


def test_a_refused_request_fails_alone(fake, client):
    fake.paused.set()
    first, second = client[0].apply_async(int), client[0].apply_async(int)
    fake.call(fake.tell_all, Refused("too large", first.msg_ids[0].rpartition("_")[0]))
    with pytest.raises(error.ConnectionRefused, match="too large"):
        first.get(5)
    fake.release(client)
    assert second.get(5) == 0


def test_a_child_process_is_told_to_make_its_own(client):
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        child = os.fork()
    if not child:
        try:
            client[:].apply_async(int)
        except RuntimeError as problem:
            os.write(write, str(problem).encode())
        client.close()  # does not hang, and does not close the parent's
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert "create a new Client in the child" in file.read()
    os.waitpid(child, 0)
    assert client[0].apply_sync(int) == 0


def test_a_forgotten_client_closes_itself(fake, connect):
    rc = Client(msgspec.to_builtins(fake.info))
    thread = rc._connection._io._thread
    rc[0].apply_sync(int)
    del rc
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_result_keeps_its_client(fake):
    fake.paused.set()
    result = Client(msgspec.to_builtins(fake.info))[0].apply_async(int)
    gc.collect()
    fake.paused.clear()
    assert result.get(5) == 0
    result._client.close()


@pytest.mark.parametrize("ending", ["", "rc.close()", "raise SystemExit(0)", "del rc", "1/0"])
def test_the_interpreter_exits(fake, ending):
    script = (
        "import json, sys, mpiparallel as ipp\n"
        "rc = ipp.Client(json.loads(sys.argv[1]))\n"
        "ar = rc[:].apply_async(print)\n"
        f"ar.get(5)\n{ending}\n"
    )
    began = time.monotonic()
    command = [sys.executable, "-c", script, msgspec.json.encode(fake.info).decode()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert run.returncode == ("/" in ending)
    assert "mpiparallel" not in run.stderr
    assert time.monotonic() - began < 15


# ---------------------------------------------------------------- between


def test_small_requests_travel_together(fake, client):
    before = fake.batches
    results = [client[0].apply_async(int) for _ in range(1000)]
    client.wait(results)
    assert [result.get() for result in results] == [0] * 1000
    assert fake.batches - before < 900


def test_two_threads_share_a_client(client):
    found: dict[int, list] = {}

    def work(number: int) -> None:
        view = client[:]
        found[number] = [view.apply_sync(lambda i=i: (number, i)) for i in range(50)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: [[(number, i)] * 4 for i in range(50)] for number in range(4)}
    assert not client.outstanding


def test_large_functions_travel_once(fake, client):
    table = bytes(range(256)) * 64

    def lookup(i):
        return table[i]

    assert client[:2].apply_sync(lookup, 1) == [1, 1]
    assert client[0].apply_sync(lookup, 2) == 2
    assert client[:].apply_sync(lookup, 3) == [3] * 4
    assert client[:].map_sync(lookup, range(10)) == list(range(10))
    assert [submit.function_frames > 0 for submit in fake.headers(Submit)] == [True, False, True, False]
    assert len({submit.function for submit in fake.headers(Submit)}) == 1


def test_an_engine_that_lacks_a_function_is_supplied(fake, client):
    table = bytes(range(256)) * 64

    def lookup(i):
        return table[i]

    client[:].apply_sync(lookup, 1)
    fake.engines[2].functions.clear()
    assert client[:].apply_sync(lookup, 2) == [2] * 4
    assert [supply.engine for supply in fake.headers(Supply)] == [2]


def test_a_function_that_is_gone_for_good(fake, client):
    client[0].apply_sync(int)
    fake.engines[0].waiting[b"gone"] = []
    fake.call(fake.tell_all, Lacks(client._connection.name, 0, b"gone"))
    client[0].apply_sync(int)
    fake.call(lambda: None)
    assert fake.engines[0].functions[b"gone"] == []


def test_output_is_given_back(fake, client):
    client[:].execute("print('x' * 100)", block=True)
    client[:].apply_sync(int)
    fake.call(lambda: None)
    assert set(fake.consumed) == {0, 1, 2, 3}
    assert all(size >= 101 for size in fake.consumed.values())


def test_output_of_an_unknown_request_is_given_back(fake, client):
    fake.call(fake.tell_all, Output("nobody-1", "nobody", 1, "stdout", "hello", 7))
    client[0].apply_sync(int)
    fake.call(lambda: None)
    assert fake.consumed == {1: 7}


def test_data_is_copied_unless_tracked(fake, client):
    fake.paused.set()
    array = np.zeros(500_000)
    copied = client[0].push({"a": array}, block=False)
    array[:] = 1
    fake.release(client)
    copied.get(10)
    assert client[0]["a"].sum() == 0
    assert copied.sent
    copied.wait_for_send(0)


def test_tracked_sending(fake, client):
    array = np.ones(500_000)
    result = client[:].push({"a": array}, block=False, track=True)
    result.wait_for_send(10)
    assert result.sent
    result.get(10)
    assert [part.sum() for part in client[:]["a"]] == [500_000] * 4


@pytest.mark.parametrize("kind", ["push", "scatter", "balanced"])
def test_sent_data_is_let_go_when_it_is_done(client, kind):
    """Whoever holds a result need not hold what was sent for it."""
    array = np.ones(500_000)
    array.shape = 1000, 500
    view, options = client[:2], {"block": False, "track": True}
    if kind == "push":
        result = view.push({"a": array}, **options)
    elif kind == "scatter":
        result = view.scatter("a", array, **options)
    else:
        balanced = client.load_balanced_view()
        balanced.track = True
        result = balanced.apply_async(len, array)
    held = weakref.ref(array)
    del array
    result.get(10)
    gc.collect()
    assert held() is None
    assert result.done()


def test_what_arrives_is_writeable(client):
    array = client[0].apply_sync(np.zeros, 500_000)
    array[0] = 1
    small = client[0].apply_sync(np.zeros, 3)
    small[0] = 1


def test_a_sender_waits_for_room(fake, client, monkeypatch):
    from mpiparallel.client import iothread

    monkeypatch.setattr(iothread, "QUEUE_MESSAGES", 10)
    results = [client[0].apply_async(int) for _ in range(300)]
    assert [result.get(20) for result in results] == [0] * 300


def test_the_connections_end_wakes_those_who_wait(fake, client):
    fake.paused.set()
    pending = client[0].apply_async(int)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(error.EngineError):
        pending.get(10)


def test_a_failing_io_thread_says_so(fake, client, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("mpiparallel.client.receiving._result", fail)
    with pytest.raises(error.EngineError, match="I/O thread failed"):
        client[0].apply_async(int).get(10)


def test_requests_leave_nothing_behind(client):
    view = client[:]
    for _ in range(50):
        view.apply_sync(int)
    gc.collect()
    assert not client._connection.pending
    assert len(client._connection.tasks) == 0
    assert len(client.results) == len(client.metadata) == 0
