"""The controller is killed again and again under load; it comes back by itself, and nothing is lost.

Two clients keep direct and balanced tasks under way. Each task writes its name into a file, so that it is
seen how often it has run. ``MPIPARALLEL_TEST_CONTROLLER_KILLS`` sets how often the controller is killed (4).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import processes_of, wait_until

import mpiparallel as ipp

KILLS = int(os.environ.get("MPIPARALLEL_TEST_CONTROLLER_KILLS", "4"))
RANKS = 4
UNDER_WAY = 60  # tasks of each client
PATIENCE = 60.0  # seconds for all that is under way to end

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120 + 10 * KILLS)]


def make_note() -> Callable[[str, str, float], str]:
    """Return a function for engines, which cannot import this module."""

    def note(path: str, name: str, seconds: float) -> str:
        import os
        import time

        time.sleep(seconds)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)
        return name

    return note


class Load(threading.Thread):
    """A client with direct and balanced tasks under way until it is told to stop."""

    def __init__(self, cluster: ipp.Cluster, name: str, path: Path) -> None:
        super().__init__(name=name)
        self.client = cluster.connect_client_sync()
        self.path = path
        self.dice = random.Random(name)
        self.stopping = threading.Event()
        self.expected: Counter[str] = Counter()
        self.problem: BaseException | None = None
        self.done = 0

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.problem = error

    def work(self) -> None:
        view, balanced = self.client[:], self.client.load_balanced_view()
        note = make_note()
        under_way = []
        number = 0
        while not self.stopping.is_set() or under_way:
            while len(under_way) < UNDER_WAY and not self.stopping.is_set():
                number += 1
                name = f"{self.name}-{number}"
                seconds = self.dice.choice([0.0, 0.0, 0.001, 0.01])
                if number % 3:
                    under_way.append((name, balanced.apply_async(note, str(self.path), name, seconds)))
                    self.expected[name] += 1
                else:
                    under_way.append((name, view.apply_async(note, str(self.path), name, seconds)))
                    self.expected[name] += RANKS
            name, result = under_way.pop(0)
            value = result.get(timeout=PATIENCE)
            assert value == (name if isinstance(value, str) else [name] * RANKS), value
            self.done += 1


def test_kills_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("MPIPARALLEL_STATE", str(state))
    dice = random.Random(1)
    with ipp.Cluster(n=RANKS) as rc:
        cluster = rc.cluster
        pids = rc[:].apply_sync(os.getpid)
        loads = [Load(cluster, name, tmp_path / "ran") for name in ("a", "b")]
        for load in loads:
            load.start()
        for _ in range(KILLS):
            before = [load.done for load in loads]
            # It has to be at work again before it is killed once more.
            assert wait_until(
                lambda before=before: all(
                    load.done > done + UNDER_WAY or load.problem
                    for load, done in zip(loads, before, strict=True)
                ),
                PATIENCE,
            ), "nothing ends any more"
            time.sleep(1.0 + dice.random() / 2)
            killed = cluster.controller
            os.kill(killed.pid, signal.SIGKILL)
            assert wait_until(lambda killed=killed: cluster.controller is not killed)
        for load in loads:
            load.stopping.set()
        for load in loads:
            load.join(2 * PATIENCE)
            assert not load.is_alive()
            if load.problem is not None:
                raise load.problem
        assert rc[:].apply_sync(os.getpid) == pids
        ran = Counter((tmp_path / "ran").read_text().split())
        assert ran == sum((load.expected for load in loads), Counter())
        print(f"{KILLS} kills, {sum(load.done for load in loads)} requests")
        for load in loads:
            load.client.close()
    assert wait_until(lambda: not processes_of(state))
