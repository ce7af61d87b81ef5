"""A controller that is lost and found again, and what a client does in between."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import msgspec
import numpy as np
import pytest
from helpers import wait_until

from client.test_balance import balance, values
from client.test_connection import other_process
from mpiparallel import connection_file, error
from mpiparallel.client.client import Client
from mpiparallel.client.hubqueries import _expect
from mpiparallel.wire.messages import (
    Abort,
    Ask,
    Balance,
    Claim,
    Hello,
    Resend,
    Result,
    Signal,
    Submit,
    Where,
)


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setenv("MPIPARALLEL_RECONNECT_FOR", "0.8")


@pytest.fixture
def path(fake, socket_dir):
    file = socket_dir / "client.json"
    connection_file.write(file, fake.info)
    return file


@pytest.fixture
def rc(path):
    with Client(path) as client:
        yield client


def lost(client):
    return wait_until(lambda: client._connection.lost is not None)


def found(client):
    return wait_until(lambda: client._connection.lost is None)


def again(fake, kind):
    return [header for header in fake.headers(kind) if header.again]


# ---------------------------------------------------------------- found again


def test_everything_pending_is_sent_again_in_order(fake, rc, caplog):
    fake.paused.set()
    first = rc[0].execute("a = 1", block=False)
    second = rc[0].execute("a = a + 1", block=False)
    many = rc[:].apply_async(pow, 2, 3)
    tasks = balance(rc, pow, [(i, 2) for i in range(5)])
    rc.queue_status()
    fake.kill()
    assert lost(rc)
    assert wait_until(lambda: "What is pending waits" in caplog.text)
    fake.paused.clear()
    fake.start()
    assert values(tasks) == [0, 1, 4, 9, 16]
    first.get(10), second.get(10)
    assert rc[0]["a"] == 2
    assert many.get(10) == [8] * 4
    assert len({hello.name for hello in fake.headers(Hello)}) == 1
    assert len(fake.headers(Hello)) == 2
    assert [len(header.engines) for header in again(fake, Submit)] == [1, 1, 4]
    assert [header.parts for header in again(fake, Balance)] == [[1] * 5]
    assert all(header.function_frames for header in again(fake, Balance))
    assert wait_until(lambda: "is back; 4 pending requests were sent again" in caplog.text)
    assert caplog.text.count("What is pending waits") == 1


def test_only_what_is_open_is_sent_again(fake, rc):
    tasks = balance(rc, pow, [(i, 2) for i in range(3)])
    values(tasks)
    fake.paused.set()
    tasks = balance(rc, pow, [(i, 2) for i in range(6)])
    rc.queue_status()
    for number in (0, 3):
        fake.call(fake.tell_all, Result(tasks[number].msg_id, 1, "ok"))
    part = rc[:].apply_async(int)
    fake.call(fake.tell_all, Result(part.msg_ids[2].rpartition("_")[0], 2, "ok"))
    rc.queue_status()
    fake.kill()
    fake.start()
    fake.paused.clear()
    assert wait_until(lambda: all(task.done for task in tasks))
    part.get(10)
    assert [(header.first, len(header.parts)) for header in again(fake, Balance)] == [(1, 2), (4, 2)]
    assert [header.engines for header in again(fake, Submit)] == [[0, 1, 3]]


def test_a_controller_elsewhere_with_a_new_file(fake, rc, path, socket_dir):
    fake.paused.set()
    pending = rc[1].apply_async(pow, 2, 5)
    rc.queue_status()
    fake.kill()
    assert lost(rc)
    fake.paused.clear()
    fake.start(f"ipc://{socket_dir}/other.sock")
    connection_file.write(path, fake.info)
    assert pending.get(10) == 32
    assert rc._connection.address.endswith("other.sock")


def test_a_controller_whose_process_has_died(fake, socket_dir, caplog):
    """Its file stays; the one that is started again writes its own pid there."""
    process = other_process()
    path = socket_dir / "client.json"
    connection_file.write(path, msgspec.structs.replace(fake.info, pid=process.pid))
    with Client(path) as rc:
        fake.paused.set()
        pending = rc[1].apply_async(pow, 2, 5)
        process.kill()  # and not waited for: a zombie counts as dead
        assert lost(rc)
        assert wait_until(lambda: f"(process {process.pid} on {fake.info.host}) is gone" in caplog.text)
        fake.paused.clear()
        connection_file.write(path, fake.info)
        assert pending.get(10) == 32
    process.communicate()


def test_a_client_that_has_no_file_looks_where_it_was(fake, client):
    fake.paused.set()
    tasks = balance(client, pow, [(2, 3)])
    fake.kill()
    assert lost(client)
    fake.paused.clear()
    fake.start()
    assert values(tasks) == [8]


def test_the_same_controller_after_a_broken_connection(fake, rc):
    """It knows everything; results that were on the way come again, and none counts twice."""
    fake.paused.set()
    tasks = balance(rc, pow, [(2, 3), (2, 4)])
    direct = rc[:2].apply_async(int)
    rc.queue_status()
    seen = []
    tasks[0].listen(seen.append)
    fake.call(fake.tell_all, Result(tasks[0].msg_id, 0, "ok"))
    rc.queue_status()
    fake.kill(forget=False)
    fake.start()
    assert wait_until(lambda: again(fake, Submit))
    fake.paused.clear()
    assert direct.get(10) == [0, 0]
    assert values(tasks) == [None, 16]
    assert seen == [tasks[0]]
    assert wait_until(lambda: sum(fake.taken.values()) == 3)


def test_results_that_nobody_waits_for_are_counted(fake, rc):
    values(balance(rc, int, [()]))
    fake.kill()
    fake.start()
    assert wait_until(lambda: len(fake.headers(Hello)) == 2)
    fake.call(fake.tell_all, Result("long-ago_3", 0, "ok"))
    rc.queue_status()
    assert wait_until(lambda: list(fake.taken.values()) == [1])


def test_a_controller_that_has_forgotten_the_client(fake, rc, caplog):
    fake.paused.set()
    tasks = balance(rc, pow, [(2, 3)])
    rc.queue_status()
    fake.call(setattr, fake, "strict", True)
    fake.call(fake.clients.clear)
    more = rc[0].apply_async(int)
    assert wait_until(lambda: len(fake.headers(Hello)) == 2)
    fake.paused.clear()
    assert values(tasks) == [8]
    assert more.get(10) == 0
    assert "What is pending" not in caplog.text


def test_a_refusal_of_the_hello_is_final(fake, rc):
    fake.paused.set()
    pending = rc[0].apply_async(int)
    fake.kill()
    fake.refuse = "another version"
    fake.start()
    with pytest.raises(error.EngineError, match="refused this client: another version"):
        pending.get(10)


def test_what_is_sent_meanwhile_waits(fake, rc):
    fake.kill()
    assert lost(rc)
    results = [rc[i % 4].apply_async(pow, i, 2) for i in range(100)]
    tasks = balance(rc, pow, [(i, 2) for i in range(10)])
    assert len(rc.outstanding) == 110
    fake.start()
    assert [result.get(10) for result in results] == [i * i for i in range(100)]
    assert values(tasks) == [i * i for i in range(10)]
    assert not [name for name, count in count_tasks(fake).items() if count > 1]


def count_tasks(fake):
    counts: dict = {}
    for header in fake.headers(Submit):
        for engine in header.engines:
            counts[header.request, engine] = counts.get((header.request, engine), 0) + 1
    for header in fake.headers(Balance):
        for number in range(header.first, header.first + len(header.parts)):
            counts[header.request, -1 - number] = counts.get((header.request, -1 - number), 0) + 1
    return counts


def test_senders_are_held_back_meanwhile(fake, rc, monkeypatch):
    from mpiparallel.client import iothread

    fake.kill()
    assert lost(rc)
    monkeypatch.setattr(iothread, "QUEUE_MESSAGES", 20)
    results = []
    sender = threading.Thread(target=lambda: results.extend(rc[0].apply_async(int) for _ in range(60)))
    sender.start()
    assert wait_until(lambda: len(rc._connection._io._queue) == 21)
    sender.join(0.3)
    assert sender.is_alive()
    fake.start()
    sender.join(10)
    assert [result.get(10) for result in results] == [0] * 60


def test_threads_that_send_all_the_time(fake, rc):
    """Whenever it breaks, each task is answered once."""
    found: list = []
    stop = threading.Event()

    def work(number):
        while not stop.is_set():
            tasks = balance(rc, pow, [(number, 2)] * 3)
            direct = rc[number].apply_async(pow, number, 3)
            found.append((number, values(tasks, 30), direct.get(30)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for round in range(4):
        done = len(found)
        assert wait_until(lambda done=done: len(found) > done + 20)
        fake.kill(forget=bool(round % 2))
        fake.start()
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert {(number, tuple(squares), cube) for number, squares, cube in found} == {
        (number, (number**2,) * 3, number**3) for number in range(4)
    }
    assert not rc.outstanding


def test_engines_that_came_and_went_meanwhile(fake, rc):
    fake.kill()
    assert lost(rc)
    assert rc.ids == [0, 1, 2, 3]
    del fake.engines[2]
    fake.start()
    assert found(rc)
    assert rc.ids == [0, 1, 3]
    with pytest.raises(IndexError, match=r"No such engine: 2 .*found the controller again"):
        rc[2].apply_async(int)


def test_who_waits_for_engines_is_woken(fake, rc):
    from client.fake import FakeEngine

    fake.kill()
    waiting = rc.wait_for_engines(5, block=False)
    fake.engines[4] = FakeEngine(4)
    fake.start()
    waiting.result(10)
    assert rc.ids == [0, 1, 2, 3, 4]


def test_half_a_gang_is_forgotten(fake, rc):
    fake.paused.set()
    [task] = balance(rc, int, [()], ranks=2)
    fake.call(fake.tell_all, Result(task.msg_id, 3, "ok"))
    rc.queue_status()
    fake.kill()
    fake.start()
    fake.paused.clear()
    assert values([task]) == [[0, 0]]
    assert task.engines == [1, 2]


def test_aborts_are_said_again(fake, rc):
    fake.paused.set()
    tasks = balance(rc, pow, [(2, 3), (2, 4)])
    direct = rc[:2].apply_async(int)
    rc.queue_status()
    fake.kill()
    assert lost(rc)
    rc._connection.abort([tasks[1], direct._tasks[0]])
    fake.start()
    assert wait_until(lambda: tasks[1].done and direct._tasks[0].done)
    fake.paused.clear()
    assert values(tasks[:1]) == [8]
    assert (tasks[1].status, direct._tasks[0].status) == ("aborted", "aborted")
    assert wait_until(direct.done)
    assert {abort.request for abort in fake.headers(Abort)} == {
        tasks[0].request.id,
        direct._tasks[0].request.id,
    }


# ---------------------------------------------------------------- questions


def test_questions_are_asked_again_and_signals_are_not(fake, rc):
    fake.silent = True
    connection = rc._connection
    status = connection.ask(lambda query: Ask(query, "queue_status", [0]))
    where = connection.ask(lambda query: Where([0], query))
    ordered = connection.ask(lambda query: Signal([0], int(signal.SIGINT), query))
    fake.kill()
    with pytest.raises(RuntimeError, match="not known whether this was done"):
        ordered.result(10)
    with pytest.raises(RuntimeError, match="when it is back"):
        rc.interrupt()
    fake.silent = False
    fake.start()
    assert status.result(10)["0"]["queue"] == 0
    assert where.result(10)[0]
    assert not fake.signals
    rc.interrupt()
    assert fake.signals


def test_a_blocked_caller_may_be_interrupted(fake, rc):
    fake.paused.set()
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    fake.kill()
    assert lost(rc)
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as raised:
        rc[0].execute("1 + 1", block=True)
    assert time.monotonic() - began < 5
    fake.paused.clear()
    fake.start()
    raised.value.result.get(10)


# ---------------------------------------------------------------- what was lost on the way


def test_a_request_is_sent_again_for_engines_that_it_has_not_reached(fake, rc):
    fake.paused.set()
    results = rc[:].scatter("x", range(8), block=False)
    rc.queue_status()
    fake.queue[:] = [item for item in fake.queue if item[3] not in (1, 3)]
    fake.call(fake.tell_all, Resend(results.msg_ids[0].rpartition("_")[0], [1, 3]))
    rc.queue_status()
    fake.paused.clear()
    results.get(10)
    [header] = again(fake, Submit)
    assert header.engines == [1, 3]
    assert rc[:]["x"] == [range(2 * i, 2 * i + 2) for i in range(4)]
    fake.call(fake.tell_all, Resend("nobody-1", [0]))  # it is done, or another's


def test_data_that_may_have_changed_is_not_sent_again(fake, rc):
    fake.paused.set()
    array = np.ones(100_000)
    lost_one = rc[:2].push({"a": array}, block=False, track=True)
    lost_one.wait_for_send(10)
    fake.call(fake.tell_all, Resend(lost_one.msg_ids[0].rpartition("_")[0], [1]))
    fine, failed = lost_one._tasks
    assert wait_until(lambda: failed.done)
    assert "track=True" in str(failed.error())
    fake.release(rc)
    assert wait_until(lambda: fine.done)
    assert fine.status == "ok"
    assert not again(fake, Submit)


def test_results_of_such_data_are_claimed(fake, rc):
    fake.paused.set()
    array = np.ones(100_000)
    kept = rc[0].push({"a": array}, block=False, track=True)
    kept.wait_for_send(10)
    rc.queue_status()
    fake.kill(forget=False)
    fake.start()
    assert wait_until(lambda: fake.headers(Claim))
    fake.release(rc)
    kept.get(10)
    fake.paused.set()
    unknown = rc[0].push({"a": array}, block=False, track=True)
    unknown.wait_for_send(10)
    fake.kill()
    fake.start()
    with pytest.raises(error.EngineError, match="cannot be sent again"):
        unknown.get(10)
    fake.paused.clear()


def test_claimed_tasks_of_others_that_are_lost(fake, rc):
    about = {"verb": "apply", "submitted": None, "label": "", "ranks": 1}
    task = _expect(rc._connection, "other-1_0", about)
    mine = _expect(rc._connection, f"{rc._connection.name}-99_0", about)
    assert rc.outstanding == {mine.msg_id}
    fake.kill()
    fake.start()
    assert wait_until(lambda: task.done and mine.done)
    for one in (task, mine):
        assert "has only asked for its result" in str(one.error())
        assert "track" not in str(one.error())


def test_tracked_data_that_was_not_sent_yet(fake, rc):
    fake.kill()
    assert lost(rc)
    result = rc[0].push({"a": np.arange(5000)}, block=False, track=True)
    with pytest.raises(TimeoutError):
        result.wait_for_send(0.05)
    fake.start()
    result.wait_for_send(10)
    result.get(10)
    assert rc[0]["a"].sum() == 12497500


# ---------------------------------------------------------------- not found


def test_waiting_has_an_end(fake, patience, path, caplog):
    with Client(path) as rc:
        fake.paused.set()
        pending = rc[0].apply_async(int)
        tasks = balance(rc, int, [()])
        fake.kill()
        with pytest.raises(error.EngineError, match=r"None has answered for 0\.8 s.*create a new Client"):
            pending.get(10)
        with pytest.raises(error.EngineError, match="None has answered"):
            values(tasks)
        with pytest.raises(RuntimeError, match="None has answered"):
            rc[0].apply_async(int)


def test_a_controller_whose_file_is_removed_is_not_waited_for(fake, rc, path):
    fake.paused.set()
    pending = rc[0].apply_async(int)
    path.unlink()
    began = time.monotonic()
    fake.kill()
    with pytest.raises(error.EngineError, match=r"connection file .*client\.json was removed"):
        pending.get(10)
    assert time.monotonic() - began < 3


def test_closing_while_searching_is_prompt(fake, path):
    rc = Client(path)
    fake.paused.set()
    pending = rc[0].apply_async(int)
    fake.kill()
    assert lost(rc)
    began = time.monotonic()
    rc.close()
    assert time.monotonic() - began < 1
    with pytest.raises(error.EngineError, match="Connections have been closed"):
        pending.get(1)


def test_a_client_that_is_forgotten_while_searching(fake, path):
    rc = Client(path)
    thread = rc._connection._io._thread
    fake.kill()
    assert lost(rc)
    del rc
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_child_forked_while_searching(fake, rc):
    fake.kill()
    assert lost(rc)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            rc[:].apply_async(int)
        except RuntimeError as problem:
            os.write(write, str(problem).encode())
        rc.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert "create a new Client in the child" in file.read()
    os.waitpid(child, 0)
    fake.start()
    assert rc[0].apply_sync(int) == 0


def test_the_interpreter_exits_while_searching(fake, path):
    script = (
        "import sys, mpiparallel as ipp\n"
        "rc = ipp.Client(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "ar = rc[0].apply_async(print)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "ready\n"
    fake.kill()
    began = time.monotonic()
    run.communicate("\n", timeout=30)
    assert run.returncode == 0
    assert time.monotonic() - began < 10
