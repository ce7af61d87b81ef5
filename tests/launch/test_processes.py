"""Processes, their sessions, logs and lifelines, with small programs in place of controllers and worlds."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers import wait_until

from mpiparallel.error import LaunchError
from mpiparallel.launch.processes import Process

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start(code: str, **kwargs: bool) -> Process:
        log = tmp_path / f"{len(started)}.log"
        process = Process.start([sys.executable, "-c", code], log=log, environ=os.environ, **kwargs)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.close()


def test_a_process_that_ends(start: Start) -> None:
    process = start("import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)")
    assert process.wait(10)
    assert not process.running
    assert process.exit_code == 3
    assert process.describe_end() == "ended with exit code 3"
    assert process.tail() == "out\nerr"
    assert process.tail(1) == "err"


def test_it_has_a_session_of_its_own(start: Start) -> None:
    process = start("input()", lifeline=True)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_the_log_can_be_read_when_its_folder_is_gone(start: Start) -> None:
    process = start("print('last words')")
    process.wait(10)
    process.log.unlink()
    assert process.tail() == "last words"


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="/no/such: No such file"):
        Process.start(["/no/such"], log=tmp_path / "log", environ={})


def test_the_end_is_noticed(start: Start) -> None:
    ended = threading.Event()
    process = start("input()", lifeline=True)
    process.watch(ended.set)
    assert not ended.wait(0.05)
    process.close_lifeline()
    assert ended.wait(10)


def test_stop_is_gentle_first(start: Start) -> None:
    process = start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    assert wait_until(process.tail)
    process.stop(grace=10)
    assert process.exit_code == 5


def test_stop_kills_what_does_not_listen(start: Start) -> None:
    process = start(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    assert wait_until(process.tail)
    process.stop(grace=0.1)
    assert process.exit_code == -signal.SIGKILL
    assert process.describe_end() == "was killed by SIGKILL"


FAMILY = (  # a child in a process group of its own (like mpiexec's ranks) and one that outlives its parent
    "import os, subprocess, sys\n"
    "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
    "one = subprocess.Popen(sleep, preexec_fn=os.setpgrp)\n"
    "two = subprocess.Popen(['/bin/sh', '-c', '\"$@\" & echo $!', 'sh', *sleep], stdout=subprocess.PIPE)\n"
    "print(one.pid, int(two.stdout.readline()), flush=True)\n"
)


@pytest.mark.parametrize("ending", ["one.wait()", "sys.exit(1)"])
def test_nothing_of_the_session_is_left(start: Start, ending: str) -> None:
    process = start(FAMILY + ending)
    assert wait_until(process.tail)
    pids = [int(word) for word in process.tail().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    process.stop(grace=1)
    assert wait_until(lambda: not any(_lives(pid) for pid in pids))


def test_attached_to_by_pid(start: Start) -> None:
    process = start("import time; time.sleep(60)")
    other = Process.from_dict(process.to_dict())
    assert other.running
    assert other.exit_code is None
    other.stop(grace=5)
    assert not other.running
    assert process.exit_code == -signal.SIGTERM
    other.stop(grace=5)  # a second time does nothing


def test_another_process_with_the_same_pid_is_left_alone(start: Start) -> None:
    process = start("import time; time.sleep(60)")
    other = Process.from_dict({**process.to_dict(), "created": process.created - 60})
    assert not other.running
    other.stop(grace=1)
    other.send_signal(signal.SIGKILL)
    assert process.running


def test_a_forked_child_does_not_hold_the_lifeline(start: Start) -> None:
    process = start("import sys; sys.stdin.read()", lifeline=True)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        process.close_lifeline()
        assert process.wait(5)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
