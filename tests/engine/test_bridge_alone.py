"""A bridge of its own: rank 0 runs no user code, users see the other ranks only, and nobody delays them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers import wait_until

import mpiparallel as ipp
from mpiparallel import interactive
from mpiparallel.controller.causes import Death, find

N = 3


@pytest.fixture(scope="module")
def own(state_dir):
    """A client of a world whose bridge is a process of its own, for tests that leave it whole."""
    with ipp.Cluster(n=N, dedicated_bridge=True) as client:
        yield client


@pytest.fixture
def frail():
    """The same, for tests that break it."""
    with ipp.Cluster(n=N, dedicated_bridge=True) as client:
        yield client


def bridge_of(client) -> psutil.Process:
    """Return the process of the bridge: the one beside the engines that is none."""
    engines = client[:].apply_sync(os.getpid)
    siblings = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "--dedicated-bridge" in (process.info["cmdline"] or [])
        and process.pid not in engines
        and "mpiparallel.engine" in process.info["cmdline"][:3]
        and os.environ["MPIPARALLEL_STATE"] in " ".join(process.info["cmdline"])
        and process.ppid() == psutil.Process(engines[0]).ppid()
    ]
    assert len(siblings) == 1
    return siblings[0]


def survives(client) -> bool:
    return client[0].apply_sync(lambda: __import__("mpi4py.MPI").MPI.get_vendor()[0]) == "Open MPI"


def keeping_the_gil(seconds, began=None):
    """Return a function that keeps the GIL, and makes the file `began` before."""

    def keep():
        import ctypes
        import pathlib

        if began:
            pathlib.Path(began).touch()
        ctypes.PyDLL(None).sleep(seconds)

    return keep


@pytest.mark.mpi
class TestWhatUsersSee:
    def test_ranks_begin_at_zero(self, own):
        @interactive
        def see():
            from mpi4py import MPI

            world = MPI.COMM_WORLD
            return mpi_rank, mpi_size, comm is world, world.rank, world.size, world.name  # noqa: F821

        assert own.ids == list(range(N))
        assert own[:].apply_sync(see) == [(i, N, True, i, N, "MPI_COMM_WORLD") for i in range(N)]

    def test_all_of_mpi_is_theirs(self, own):
        def talk():
            from mpi4py import MPI

            world = MPI.COMM_WORLD
            rank, size = world.rank, world.size
            half = world.Split(rank % 2, rank)
            to = world.sendrecv(rank, (rank + 1) % size, source=(rank - 1) % size)
            return world.allreduce(rank), half.allreduce(1), to, MPI.COMM_WORLD.Get_group().size

        got = own[:].apply_sync(talk)
        assert got == [(3, 2, 2, 3), (3, 1, 0, 3), (3, 2, 1, 3)]

    def test_long_arguments_go_to_all_at_once(self, own):
        sums = own[:].apply_sync(len, bytes(3 << 20))
        assert sums == [3 << 20] * N
        assert own[1:].apply_sync(len, bytes(3 << 20)) == [3 << 20] * (N - 1)

    def test_errors_name_the_users_ranks(self, own):
        @interactive
        def fail_on_one():
            if mpi_rank == 1:  # noqa: F821
                raise ValueError("no")
            comm.barrier()  # noqa: F821

        with pytest.raises(ipp.error.RemoteError) as caught:
            own[:].apply_sync(fail_on_one)
        assert "[1:apply] rank 1 on" in str(caught.value)
        assert "engines 0, 2 were waiting for it in Barrier" in str(caught.value)

    def test_deadlocks_name_the_users_ranks(self, own):
        @interactive
        def wait_for_each_other():
            comm.recv(source=(mpi_rank + 1) % 3)  # noqa: F821

        with pytest.raises(ipp.error.RemoteError) as caught:
            own[:].apply_sync(wait_for_each_other)
        assert "DeadlockError" in str(caught.value)
        assert "rank 0 waits for rank 1" in str(caught.value)
        assert "rank 3" not in str(caught.value)

    def test_where(self, own):
        running = own[0].apply_async(keeping_the_gil(8))
        blocked = own[1].apply_async(interactive(lambda: MPI.COMM_WORLD.recv(source=2)))  # noqa: F821
        # A look at the first would interrupt its sleep.
        assert wait_until(lambda: [place.state for place in own.where([1, 2])] == ["blocked", "idle"], 5.0)
        own[2].apply_sync(interactive(lambda: MPI.COMM_WORLD.send(7, 1)))  # noqa: F821
        assert blocked.get(timeout=10) == 7
        running.get(timeout=20)

    def test_interrupts(self, own):
        sleeping = own[0].apply_async(time.sleep, 60)
        wait_until(lambda: own.where(0)[0].state == "running")
        own.interrupt(0)
        with pytest.raises(ipp.error.RemoteError, match="KeyboardInterrupt"):
            sleeping.get(timeout=20)


@pytest.mark.mpi
class TestNobodyIsDelayed:
    def test_tasks_elsewhere_are_done_while_the_gil_is_held(self, own, tmp_path):
        own[1:].apply_sync(time.sleep, 0)
        held = own[0].apply_async(keeping_the_gil(5, str(tmp_path / "began")))
        assert wait_until((tmp_path / "began").exists)
        delays = []
        for i in range(20):
            submitted = time.time()
            task = own[1 + i % 2].apply_async(time.sleep, 0.02)
            task.get(timeout=20)
            delays.append(task.metadata["started"].timestamp() - submitted)
        assert not held.ready()
        assert sorted(delays)[10] < 0.05
        held.get(timeout=20)

    def test_balanced_tasks(self, own, tmp_path):
        view = own.load_balanced_view(targets=[1, 2])
        held = own[0].apply_async(keeping_the_gil(5, str(tmp_path / "began")))
        assert wait_until((tmp_path / "began").exists)
        assert view.map_sync(lambda i: i * i, range(50)) == [i * i for i in range(50)]
        assert not held.ready()
        held.get(timeout=20)

    def test_no_user_code_in_the_bridge(self, own):
        own[:].execute("loaded = bytearray(200 << 20)", block=True)
        bridge, engine = bridge_of(own), psutil.Process(own[0].apply_sync(os.getpid))
        assert bridge.memory_info().rss < engine.memory_info().rss - (150 << 20)
        own[:].execute("del loaded", block=True)
        before = bridge.cpu_times()
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 2.0)
        after = bridge.cpu_times()
        spent = (after.user + after.system) - (before.user + before.system)
        assert spent < 0.1 * (time.monotonic() - began)


@pytest.mark.mpi
class TestDeaths:
    def test_of_the_bridge(self, frail):
        goes_on, bridge = survives(frail), bridge_of(frail)
        running = frail[1].apply_async(lambda: __import__("time").sleep(5) or "done")
        assert wait_until(lambda: frail.where(1)[1].state == "running")
        os.kill(bridge.pid, signal.SIGKILL)
        if not goes_on:
            with pytest.raises(ipp.error.RemoteError, match=rf"the bridge on \S+ \(pid {bridge.pid}\)"):
                running.get(timeout=30)
            return
        assert running.get(timeout=30) == "done"
        assert wait_until(lambda: frail.where(2)[2].state == "idle")  # another bridge passes this on
        assert frail.ids == list(range(N))
        seen = frail[:].apply_sync(interactive(lambda: (mpi_rank, mpi_size, comm.allreduce(1))))  # noqa: F821
        assert seen == [(i, N, N) for i in range(N)]

    def test_of_the_first_engine(self, frail):
        goes_on = survives(frail)
        with pytest.raises(ipp.error.RemoteError, match=r"rank 0 on .* was killed by signal 9"):
            frail[0].apply_sync(lambda: __import__("os").kill(__import__("os").getpid(), 9))
        if goes_on:
            assert frail.ids == [1, 2]
            assert frail[:].apply_sync(interactive(lambda: (mpi_rank, mpi_size, comm.allreduce(1)))) == [  # noqa: F821
                (0, 2, 2),
                (1, 2, 2),
            ]

    def test_of_the_bridge_and_then_of_an_engine(self, frail):
        if not survives(frail):
            pytest.skip("this MPI ends the world with any of its ranks")
        os.kill(bridge_of(frail).pid, signal.SIGKILL)
        assert wait_until(lambda: frail.where(2)[2].state == "idle")
        assert frail[:].apply_sync(interactive(lambda: comm.allreduce(1))) == [N] * N  # noqa: F821
        frail.send_signal("KILL", 0)
        assert wait_until(lambda: frail.ids == [1, 2])
        assert frail[:].apply_sync(interactive(lambda: comm.allreduce(1))) == [2, 2]  # noqa: F821

    def test_engines_are_started_again(self, frail):
        frail.restart_engines()
        frail.wait_for_engines(N, timeout=60)
        assert frail[:].apply_sync(interactive(lambda: (mpi_rank, comm.allreduce(1)))) == [  # noqa: F821
            (i, N) for i in range(N)
        ]


@pytest.mark.mpi
def test_one_rank_is_too_few(tmp_path):
    # A world of one without mpiexec: nobody would be left for user code.
    command = [sys.executable, "-m", "mpiparallel.engine", "--dedicated-bridge", "--timeout", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode != 0
    assert "--dedicated-bridge needs two ranks" in done.stderr


@pytest.mark.mpi
def test_raw_mpi():
    with ipp.Cluster(n=2, dedicated_bridge=True, engine_args=["--raw-mpi"]) as client:
        assert client[:].apply_sync(interactive(lambda: (mpi_rank, comm.allreduce(1)))) == [(0, 2), (1, 2)]  # noqa: F821


PROCESSES = [("h", 11), ("h", 12), ("h", 10)]  # two engines and, last, the bridge: rank 0 of MPI


@pytest.mark.parametrize(("rank", "who"), [(0, "the bridge"), (1, "rank 0"), (2, "rank 1")])
def test_what_mpi_says_of_ranks_is_told_in_the_users_numbers(rank, who):
    log = f"process rank {rank} with PID 1 on node h exited on signal 9 (Killed)."
    cause = find(log, PROCESSES, [], alone=False, apart=True)
    assert cause is not None
    assert cause.text.startswith(f"{who} on h (pid {10 + rank})")


def test_deaths_that_were_seen_are_numbered_by_users_already():
    cause = find("", PROCESSES, [Death(1, 9)], alone=True, apart=True)
    assert cause is not None
    assert cause.text.startswith("rank 1 on h (pid 12)")
