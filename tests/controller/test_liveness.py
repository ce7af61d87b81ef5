"""Processes that are watched: with and without the kernel's descriptors for them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpiparallel.controller import liveness as module
from mpiparallel.controller.liveness import End, Liveness

from .peers import wait_until

Child = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def child() -> Iterator[Child]:
    """Start processes that run some code once they are told to."""
    processes = []

    def start(code: str = "") -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", f"import os, signal\ninput()\n{code}"]
        processes.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(params=["told", "looked at"])
def liveness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Liveness]:
    if request.param == "looked at":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("no descriptors for processes here")
    watch = Liveness()
    yield watch
    watch.close()


def ends(liveness: Liveness) -> list[End]:
    return liveness.ended() + liveness.look()


def the_end(liveness: Liveness) -> End:
    found = wait_until(lambda: ends(liveness), "the end to be seen")
    assert len(found) == 1
    return found[0]


def test_a_killed_process_is_dead_as_a_zombie_already(liveness: Liveness, child: Child) -> None:
    process = child()
    assert liveness.watch("p", process.pid, engine=3, rank=1)
    assert liveness.watches("p", 1)
    assert ends(liveness) == []
    process.kill()  # not waited for: a zombie
    end = the_end(liveness)
    assert end[:5] == ("p", process.pid, 3, 1, signal.SIGKILL)
    assert not liveness.watches("p", 1)
    assert ends(liveness) == []
    assert liveness.owners() == []


@pytest.mark.parametrize(
    ("code", "status"), [("os._exit(3)", 3 << 8), ("os.kill(os.getpid(), 15)", 15), ("", 0)]
)
def test_how_a_process_ended(liveness: Liveness, child: Child, code: str, status: int) -> None:
    process = child(code)
    liveness.watch("p", process.pid)
    process.communicate(b"\n")  # waits for it, too
    end = the_end(liveness)
    if liveness.descriptor is None:
        assert end.status is None  # nobody tells any more
    else:
        assert end.status in (status, None)  # None: before Linux 6.15


def test_a_process_that_is_not_there_cannot_be_watched(liveness: Liveness, child: Child) -> None:
    process = child()
    process.kill()
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "Z", "a zombie")
    assert not liveness.watch("p", process.pid)
    process.wait()
    for pid in (process.pid, 1 << 40, 0):
        assert not liveness.watch("p", pid)
    assert liveness.owners() == []


def test_who_is_forgotten_may_end(liveness: Liveness, child: Child) -> None:
    first, second = child(), child()
    liveness.watch("p", first.pid)
    liveness.watch("q", second.pid)
    liveness.forget("p")
    liveness.forget("p")
    first.kill()
    second.kill()
    assert the_end(liveness).owner == "q"


def test_one_owner_may_be_watched_again(liveness: Liveness, child: Child) -> None:
    process = child()
    assert liveness.watch("p", process.pid, engine=1)
    assert liveness.watch("p", process.pid, engine=2)
    process.kill()
    assert the_end(liveness).engine == 2


def test_signals(liveness: Liveness, child: Child) -> None:
    process = child()
    liveness.watch("p", process.pid, engine=5, rank=1)
    assert liveness.pid("p", 1) == process.pid
    assert not liveness.signal("p", 0, signal.SIGKILL)
    assert not liveness.signal("q", 1, signal.SIGKILL)
    assert process.poll() is None
    assert liveness.signal("p", 1, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert not liveness.signal("p", 1, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no descriptors for processes here")
class TestDescriptors:
    def test_ends_are_told_in_order_and_wake_the_poll(self, child: Child) -> None:
        liveness = Liveness()
        processes = [child() for _ in range(6)]
        for rank, process in enumerate(processes):
            liveness.watch("p", process.pid, rank, rank)
        order = [4, 0, 5, 2, 1, 3]
        assert liveness.descriptor is not None
        for rank in order:
            processes[rank].kill()
            processes[rank].wait()
        assert select.select([liveness.descriptor], [], [], 10)[0]
        assert [end.rank for end in liveness.ended()] == order
        liveness.close()

    def test_beyond_the_limit_processes_are_looked_at(
        self, child: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_DESCRIPTORS", 1)
        liveness = Liveness()
        first, second = child(), child()
        assert liveness.watch("p", first.pid, rank=0)
        assert liveness.watch("p", second.pid, rank=1)
        second.kill()
        assert wait_until(liveness.look, "the look to see it")[0].rank == 1
        assert liveness.ended() == []
        first.kill()
        assert wait_until(liveness.ended, "the kernel to tell")[0].rank == 0
        liveness.close()

    def test_no_descriptor_is_left_open(self, child: Child) -> None:
        before = len(os.listdir("/proc/self/fd"))
        liveness = Liveness()
        processes = [child() for _ in range(3)]
        with_pipes = len(os.listdir("/proc/self/fd"))
        for process in processes:
            liveness.watch("p", process.pid)
        assert len(os.listdir("/proc/self/fd")) == with_pipes + 3
        processes[0].kill()
        the_end(liveness)
        liveness.close()
        assert len(os.listdir("/proc/self/fd")) <= before + len(processes)
