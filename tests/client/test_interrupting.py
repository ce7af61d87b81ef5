"""Interrupts: sent by name, and by a Ctrl-C in a blocking execute; and notices."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

import pytest
from helpers import wait_until

from mpiparallel import error
from mpiparallel.wire.messages import Abort, Notice, Signal, Where


def ctrl_c_when(condition) -> threading.Thread:
    """Send SIGINT to this process, which means its main thread, when `condition` holds."""

    def wait() -> None:
        assert wait_until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def main_thread_waits() -> bool:
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != "_wait_until":
        frame = frame.f_back
    return frame is not None


def test_interrupt(client, fake):
    assert client.interrupt() is None
    client.interrupt(2)
    client[1:3].interrupt()
    client[:].interrupt(targets=[0])
    assert fake.signals == [([0, 1, 2, 3], 2), ([2], 2), ([1, 2], 2), ([0], 2)]
    with pytest.raises(IndexError):
        client.interrupt(7)


def test_interrupt_ends_what_runs(view, fake):
    fake.holding = {0, 1, 2, 3}
    result = view.execute("forever()")
    assert wait_until(lambda: len(fake.held) == 4)
    view.interrupt()
    with pytest.raises(error.CompositeError, match="KeyboardInterrupt"):
        result.get(10)


def test_ctrl_c_ends_a_blocking_execute_on_its_engines(view, fake):
    fake.holding = {1, 3}
    thread = ctrl_c_when(lambda: len(fake.held) == 2)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as interrupted:
        view.execute("1", block=True)
    thread.join()
    assert time.monotonic() - began < 1.5  # when they have ended, and not when time is up
    assert fake.signals == [([1, 3], 2)]  # the others are done
    result = interrupted.value.result
    assert result.done() and result.stdout[1] == "last words\n"
    with pytest.raises(error.CompositeError) as raised:
        result.get(0)
    assert [(ename, info["engine_id"]) for ename, _, _, info in raised.value.elist] == [
        ("KeyboardInterrupt", 1), ("KeyboardInterrupt", 3)
    ]  # fmt: skip


def test_what_has_not_begun_is_aborted_and_what_is_anothers_is_left_alone(connect, fake):
    mine, other = connect(), connect()
    fake.holding = {0, 1}
    others = other[0].apply_async(int)
    assert wait_until(lambda: set(fake.held) == {0})
    thread = ctrl_c_when(lambda: set(fake.held) == {0, 1} and len(fake.queue) == 1)
    with pytest.raises(KeyboardInterrupt):
        mine[:2].execute("1", block=True)
    thread.join()
    assert fake.signals == [([1], 2)]
    assert [header.engines for header in fake.headers(Abort)] == [[0, 1]]
    assert not others.done()
    fake.call(fake._interrupt, 0)
    with pytest.raises(error.RemoteError):
        others.get(10)


def test_engines_that_cannot_say_what_they_run_are_interrupted(view, fake):
    fake.holding, fake.mute = {0}, True
    thread = ctrl_c_when(lambda: set(fake.held) == {0})
    with pytest.raises(KeyboardInterrupt):
        view.execute("1", block=True)
    thread.join()
    assert fake.signals == [([0], 2)]


def test_a_second_ctrl_c_while_engines_are_asked_reaches_them_too(view, fake):
    fake.holding, fake.mute = {0}, True
    first = ctrl_c_when(lambda: set(fake.held) == {0})
    second = ctrl_c_when(lambda: bool(fake.headers(Where)))
    with pytest.raises(KeyboardInterrupt):
        view.execute("1", block=True)
    first.join()
    second.join()
    assert wait_until(lambda: fake.signals == [([0], 2)])


def test_an_engine_that_does_not_listen(view, fake, caplog):
    fake.holding, fake.deaf = {0, 2}, {2}
    thread = ctrl_c_when(lambda: set(fake.held) == {0, 2})
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        view.execute("1", block=True)
    thread.join()
    assert 1.5 < time.monotonic() - began < 6
    assert "engine 2: interrupted, but not done; client.where() shows" in caplog.text
    fake.call(fake.deaf.clear)
    view.interrupt(2)
    assert view.client.wait(timeout=10)


def test_ctrl_c_in_other_calls_leaves_tasks_running(view, fake):
    fake.holding = {0, 1, 2, 3}
    thread = ctrl_c_when(lambda: len(fake.held) == 4 and main_thread_waits())
    result = view.apply_async(int)
    with pytest.raises(KeyboardInterrupt):
        view.apply_sync(int)
    thread.join()
    assert not fake.headers(Signal)
    assert not result.done()
    thread = ctrl_c_when(main_thread_waits)
    with pytest.raises(KeyboardInterrupt):
        result.get(30)
    thread.join()
    assert not fake.headers(Signal)
    view.interrupt()
    assert result.wait(10)
    view.interrupt()  # now what apply_sync has begun


def test_notices(client, fake, caplog):
    fake.holding = {0, 1}
    result, other = client[:2].execute("forever()"), client[2].apply_async(int)
    assert wait_until(lambda: len(fake.held) == 2)
    request = result.msg_ids[0].rpartition("_")[0]
    name = client._connection.name
    with caplog.at_level(logging.WARNING, logger="mpiparallel"):
        for text in ("waiting for 30 s", "waiting for 30 s", "something else"):
            fake.call(fake.tell_all, Notice(name, request, text))
        fake.call(fake.tell_all, Notice(name, "gone-1", "of a request that is done"))
        assert wait_until(lambda: "that is done" in caplog.text)
    assert result.notices == ["waiting for 30 s", "something else"]
    assert caplog.text.count("waiting for 30 s") == 1
    assert other.notices == []
    client.interrupt()
    result.wait(10)
    assert result.notices == ["waiting for 30 s", "something else"]
