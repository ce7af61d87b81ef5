"""A controller that is killed and started again, again and again, while requests of all kinds are under way.

Nobody but this client notices more than a delay: each task is answered once, with its own value.
``MPIPARALLEL_TEST_CONTROLLER_KILLS`` sets how often (3; 50 take two minutes).
"""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
from engine.test_reconnect import Parts
from helpers import wait_until

import mpiparallel as ipp

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]

KILLS = int(os.environ.get("MPIPARALLEL_TEST_CONTROLLER_KILLS", "3"))
PATIENCE = 60.0


@ipp.interactive
def echo(token, seconds=0.0):
    import time

    time.sleep(seconds)
    return token


@ipp.interactive
def together(token):
    import mpiparallel

    comm = mpiparallel.current_comm()
    return token, comm.allreduce(1), comm.rank


class Load:
    """Threads that send, and check what comes back."""

    def __init__(self, client) -> None:
        self.view = client[:]
        self.balanced = client.load_balanced_view()
        self.gangs = client.load_balanced_view(ranks=2)
        self.rounds = dict.fromkeys(("direct_ones", "balanced_ones", "long_maps", "gangs_of_two"), 0)
        self.problems: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in self.rounds]
        for thread in self.threads:
            thread.start()

    def _run(self, kind: str) -> None:
        while not self.stop.is_set():
            try:
                getattr(self, kind)(self.rounds[kind])
            except Exception as problem:
                self.problems.append(f"{kind}, round {self.rounds[kind]}: {problem!r}")
                self.stop.set()
            self.rounds[kind] += 1

    def direct_ones(self, number: int) -> None:
        results = [self.view.apply_async(echo, (number, i)) for i in range(10)]
        assert [result.get(PATIENCE) for result in results] == [[(number, i)] * 4 for i in range(10)]

    def balanced_ones(self, number: int) -> None:
        results = [self.balanced.apply_async(echo, (number, i), 0.002 * (i % 3)) for i in range(40)]
        assert [result.get(PATIENCE) for result in results] == [(number, i) for i in range(40)]

    def long_maps(self, number: int) -> None:
        found = self.balanced.map_async(echo, range(2000), chunksize=10).get(PATIENCE)
        assert found == list(range(2000))

    def gangs_of_two(self, number: int) -> None:
        results = [self.gangs.apply_async(together, (number, i)) for i in range(4)]
        for i, result in enumerate(results):
            assert result.get(PATIENCE) == [((number, i), 2, 0), ((number, i), 2, 1)]

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.mark.timeout(120 + 20 * KILLS)
def test_every_task_is_answered_once(tmp_path, state_dir):
    chance = random.Random(KILLS)
    parts = Parts(tmp_path / "cluster", n=4)
    try:
        with ipp.Client(tmp_path / "cluster" / "client.json", timeout=30) as client:
            client.wait_for_engines(4, timeout=30)
            load = Load(client)
            try:
                for _ in range(KILLS):
                    time.sleep(chance.uniform(0.2, 1.0))  # that it strikes at any moment
                    before = dict(load.rounds)
                    parts.restart_controller(chance.choice([0.0, 0.0, 0.5]))
                    assert wait_until(
                        lambda before=before: (
                            load.stop.is_set() or all(load.rounds[kind] > before[kind] + 1 for kind in before)
                        ),
                        PATIENCE,
                    )
            finally:
                load.end()
            assert not load.problems
            assert not client.outstanding
            assert client.ids == [0, 1, 2, 3]
    finally:
        parts.end()
