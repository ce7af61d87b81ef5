"""Processes killed for want of memory: by made-up files, and for real where control groups can be made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiparallel.controller.liveness import Liveness
from mpiparallel.controller.oom import Group, Kills

from .peers import wait_until


class TestFiles:
    """Version 1 and 2 of control groups, in a folder of our own."""

    @pytest.fixture
    def own_groups(self) -> dict[str, str]:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        return {kind: path for _, kind, path in (line.split(":", 2) for line in lines)}

    def test_version_1(self, tmp_path: Path, own_groups: dict[str, str]) -> None:
        if "memory" not in own_groups:
            pytest.skip("no memory group of version 1 here")
        counter = tmp_path / "memory" / own_groups["memory"].lstrip("/") / "memory.oom_control"
        counter.parent.mkdir(parents=True)
        counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
        assert Kills(tmp_path, tmp_path / "no log").group(os.getpid()) == Group(counter, 4)

    def test_version_2(self, tmp_path: Path, own_groups: dict[str, str]) -> None:
        if "" not in own_groups:
            pytest.skip("no group of version 2 here")
        counter = tmp_path / own_groups[""].lstrip("/") / "memory.events"
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
        assert Kills(tmp_path, tmp_path / "no log").group(os.getpid()) == Group(counter, 2)

    def test_no_groups_and_no_process(self, tmp_path: Path) -> None:
        kills = Kills(tmp_path, tmp_path / "no log")
        assert kills.group(os.getpid()) is None
        assert kills.group(1 << 22) is None
        assert not kills.killed(7, None)

    def test_each_count_explains_one_death(self, tmp_path: Path) -> None:
        counter = tmp_path / "memory.events"
        kills, group = Kills(tmp_path, tmp_path / "no log"), Group(counter, 2)
        counter.write_text("oom_kill 2\n")
        assert not kills.killed(1, group)
        counter.write_text("oom_kill 4\n")
        assert [kills.killed(pid, group) for pid in (1, 2, 3)] == [True, True, False]
        late = Group(counter, 4)
        assert not kills.killed(4, late)
        counter.write_text("oom_kill 5\n")
        assert kills.killed(4, late)
        counter.unlink()  # with its last process
        assert not kills.killed(5, late)

    def test_the_kernels_log_names_processes(self, tmp_path: Path) -> None:
        log = tmp_path / "kmsg"
        log.write_bytes(b"6,1,1,-;Out of memory: Killed process 11 (old) total-vm:1kB\n")
        kills = Kills(tmp_path, log)
        with open(log, "ab") as file:
            file.write(b"3,2,2,-;Memory cgroup out of memory: Killed process 42 (python) total-vm:1kB\n")
        assert [kills.killed(pid, None) for pid in (42, 11, 4)] == [True, False, False]
        kills.close()
        kills.close()


EAT = """
import sys
print("ready", flush=True)
sys.stdin.readline()
hoard = []
while True:
    hoard.append(b"x" * (1 << 20))
"""


@pytest.fixture
def limited() -> Iterator[Path]:
    """A memory group with a limit of 64 MB."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = root / f"mpiparallel-test-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / limit).exists():
                (folder / limit).write_text(str(64 << 20))
                yield folder
                return
        except OSError:
            continue
        finally:
            wait_until(lambda folder=folder: _removed(folder), "the group to be removed")
    pytest.skip("this user may make no memory groups here")


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # busy, while its last process goes
        folder.rmdir()
    return not folder.exists()


def test_a_process_that_eats_all_memory_is_named(limited: Path) -> None:
    eater = subprocess.Popen([sys.executable, "-c", EAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", EAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    liveness = Liveness()
    try:
        for process in (eater, other):
            (limited / "cgroup.procs").write_text(str(process.pid))
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert liveness.watch("w", process.pid)
        eater.stdin.write(b"\n")  # type: ignore[union-attr]
        eater.stdin.flush()  # type: ignore[union-attr]
        begin = time.monotonic()
        (end,) = wait_until(lambda: liveness.ended() + liveness.look(), "the kernel to kill it")
        assert (end.pid, end.oom) == (eater.pid, True), time.monotonic() - begin
        # One that is killed by somebody else is not mistaken for another.
        other.kill()
        (end,) = wait_until(lambda: liveness.ended() + liveness.look(), "the other to end")
        assert (end.pid, end.oom) == (other.pid, False)
    finally:
        for process in (eater, other):
            process.kill()
            process.communicate()
        liveness.close()
