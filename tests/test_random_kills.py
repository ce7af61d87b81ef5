"""Random kills under load: nothing hangs, nothing is left over, and the engines can go on.

Two clients send requests of all kinds, one of them from a process of its own. Processes are killed at random:
a rank, two at once, the leader, mpiexec, the second client. After each blow every request that is under way
ends, with a result or a reason, and a collective on all engines works, on those that have survived or on new
ones in their place.

``MPIPARALLEL_TEST_KILLS`` sets how many processes are killed (8; 200 take about ten minutes) and
``MPIPARALLEL_TEST_SEED`` the seed of the dice. With ``pytest -s`` it prints what came of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import processes_of, wait_until
from kill_load import PATIENCE, Load

import mpiparallel as ipp
from mpiparallel.error import IPythonError

KILLS = int(os.environ.get("MPIPARALLEL_TEST_KILLS", "8"))
SEED = int(os.environ.get("MPIPARALLEL_TEST_SEED", "1"))
RANKS = 5
STARTED = 60.0  # seconds in which engines have started again, on a busy machine
NOTICED = 15.0  # ... in which it is known who is dead
BLOWS = ["rank", "rank", "two", "two", "leader", "leader and rank", "mpiexec", "client", "client and rank"]

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120 + 30 * KILLS)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder by which all processes of the test are known."""
    state = tmp_path / "state"
    monkeypatch.setenv("MPIPARALLEL_STATE", str(state))
    yield state
    for process in processes_of(state):
        process.kill()  # only after a failure: the test looks for them itself


def test_random_kills(state: Path, tmp_path: Path) -> None:
    with ipp.Cluster(n=RANKS, restart="same", restart_limit=10 * KILLS) as rc:
        battle = Battle(rc, state, tmp_path / "client.log", random.Random(SEED))
        try:
            while battle.killed < KILLS:
                battle.strike()
        finally:
            battle.end()
    assert wait_until(lambda: not processes_of(state)), processes_of(state)
    left = [path for path in battle.files if path.exists()]
    assert not left, f"left over: {left}"


class Battle:
    """Blow after blow, and what is expected after each."""

    def __init__(self, rc: ipp.Client, state: Path, log: Path, dice: random.Random) -> None:
        self.rc, self.state, self.log, self.dice = rc, state, log, dice
        self.killed = 0  # processes
        self.history: list[str] = []
        self.told: list[float] = []
        self.usable: list[float] = []
        self.files: set[Path] = set()  # what MPI has made for us
        # Of its own, as a request that fails aborts what the same client has queued behind it.
        self.sender = rc.cluster.connect_client_sync()
        self.load = Load(self.sender, dice.randrange(1000))
        self.load.start()
        self.client = self.start_client()

    def end(self) -> None:
        """End the load, and tell what came of it."""
        self.load.stop()
        self.sender.close()
        self.client.kill()
        self.client.wait()
        middle = lambda times: f"{statistics.median(times):.2f} (at most {max(times):.2f})"  # noqa: E731
        if self.usable:
            print(f"\nseed {SEED}: {self.killed} killed in {len(self.usable)} blows; seconds until all open")
            print(f"requests had ended {middle(self.told)}, until usable {middle(self.usable)}")
        print(f"{self.load.done} requests: {dict(self.load.ended)}")

    def start_client(self) -> subprocess.Popen[bytes]:
        """Start a client in a process of its own."""
        script = Path(__file__).with_name("kill_load.py")
        arguments = [str(self.rc.cluster.connection_file), str(self.dice.randrange(1000))]
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, str(script), *arguments], stdout=log, stderr=log)

    # ------------------------------------------------------------ one blow

    def strike(self) -> None:
        """Kill some processes, and see that the others go on."""
        progress = self.load.done + self.dice.choice([0, 0, 1, 3, 10])
        self.expect(lambda: self.load.done >= progress, PATIENCE, "no request ends")
        self.note_files()
        before = self.pids()
        if len(before) < 2:  # a survivor has died of the last blow after all
            self.recover(before, set(), False)
            return
        kind = self.dice.choice(BLOWS)
        victims = self.victims(kind)
        hit = before & set(victims)
        lost = kind == "mpiexec" or hit == before or (bool(hit) and not self.survives)
        self.history.append(f"{kind}: {sorted(victims)} of {sorted(before)}")
        began = time.monotonic()
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # with MPICH the first takes the second along
                os.kill(pid, signal.SIGKILL)
            if self.dice.random() < 0.5:
                time.sleep(self.dice.uniform(0, 0.02))  # the second may meet those who deal with the first
        self.killed += len(victims)
        self.load.paused = True
        self.expect(lambda: not self.load.open(), PATIENCE, "open requests do not end")
        self.told.append(time.monotonic() - began)
        self.recover(before, hit, lost)
        self.usable.append(time.monotonic() - began)
        self.load.paused = False
        if "client" in kind:
            self.client.wait()
            self.client = self.start_client()

    def victims(self, kind: str) -> list[int]:
        """Return who is to be killed, in this order."""
        engines = self.rc._connection.engines
        leader, *others = (engines[number].pid for number in sorted(engines))
        ranks = [leader, *others]
        launcher = self.rc.cluster.engine_set.pid
        return {
            "rank": lambda: [self.dice.choice(ranks)],
            "two": lambda: self.dice.sample(ranks, 2),
            "leader": lambda: [leader],
            "leader and rank": lambda: [leader, self.dice.choice(others)],
            "mpiexec": lambda: [launcher],
            "client": lambda: [self.client.pid],
            "client and rank": lambda: [self.client.pid, self.dice.choice(ranks)],
        }[kind]()

    def recover(self, before: set[int], dead: set[int], lost: bool) -> None:
        """Wait until a collective on all engines works; fewer than two are started again first.

        It may fail only when somebody has died since: another rank, which the same blow may have taken along.
        """
        limit = time.monotonic() + STARTED
        while True:
            self.expect(lambda: not self.pids() & dead, NOTICED, "nobody says who is dead")
            if lost or not self.pids():
                self.expect(lambda: self.are_new(before), STARTED, "the engines do not come back")
            elif len(self.pids()) < 2:
                self.rc.restart_engines()
            engines = self.pids()
            try:
                view = self.rc[:]
                cell = view.execute("ones = comm.allreduce(1)", block=False)
                self.expect(cell.done, PATIENCE, "the next collective does not end")
                cell.get()
                pull = view.pull("ones", block=False)
                self.expect(pull.done, PATIENCE, "the result of the collective does not come")
                ones = pull.get()
            except IPythonError as error:
                self.expect_change(engines, f"nobody has died, but the next collective fails: {error}")
                assert time.monotonic() < limit, self.report(f"the collective fails again and again: {error}")
            else:
                assert ones == [len(ones)] * len(ones), self.report(f"not all have met: {ones}")
                return

    def are_new(self, before: set[int]) -> bool:
        """Whether all engines are there again, as other processes."""
        return len(self.pids()) == RANKS and self.pids().isdisjoint(before)

    def expect_change(self, engines: set[int], what: str) -> None:
        """Wait until other engines are there than these."""
        self.expect(lambda: self.pids() != engines, NOTICED, what)

    # ------------------------------------------------------------ what is there

    @property
    def survives(self) -> bool:
        """Whether the other ranks go on when one dies: only Open MPI can do that."""
        return any("Open MPI" in info.mpi for info in self.rc._connection.engines.values())

    def pids(self) -> set[int]:
        """Return the processes of the engines that are there, as far as the client knows."""
        return {info.pid for info in self.rc._connection.engines.values()}

    def note_files(self) -> None:
        """Remember the files that belong to this world: shared memory, and mpiexec's folder."""
        self.files.add(Path(f"/tmp/ompi.{self.rc.cluster.engine_set.pid}"))
        for pid in self.pids():
            try:
                maps = Path(f"/proc/{pid}/maps").read_text()
            except OSError:
                continue  # it has just died
            self.files.update(map(Path, re.findall(r"/dev/shm/\S+", maps)))

    def expect(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait for `condition` while all is as it should be; tell all that helps when it does not come."""

        def over() -> bool:
            return bool(condition()) or bool(self.load.wrong) or self.client_failed()

        came = wait_until(over, timeout)
        wrong = "\n".join(self.load.wrong)
        assert not wrong, self.report(f"requests ended without a proper reason: {wrong}")
        assert not self.client_failed(), self.report(f"the second client failed: {self.log.read_text()}")
        assert came, self.report(f"{what}, {timeout:.0f} s after the last kill")

    def client_failed(self) -> bool:
        return self.client.poll() not in (None, -signal.SIGKILL)

    def report(self, what: str) -> str:
        """Return what happened before, where everybody is, and what they said."""
        last = "\n".join(self.history[-5:])
        running = [(one.pid, one.status(), " ".join(one.cmdline())[:80]) for one in processes_of(self.state)]
        late = self.load.overdue(0.0, 0.0)
        return (
            f"{what}\nseed {SEED}, {self.killed} killed; the last blows:\n{last}\nopen: {late}\n"
            f"{self.rc!r}\n{self.rc.where()}\n{running}\n{self.rc.cluster.engine_set.get_output(60)}"
        )
