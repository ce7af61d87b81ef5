"""Worlds whose first rank runs no user code and has the bridge alone (``--dedicated-bridge``)."""

from __future__ import annotations

import os
import signal
import time

import pytest
from helpers import processes_of, wait_until

import mpiparallel as ipp
from mpiparallel.launch import argv, mpi

pytestmark = pytest.mark.mpi


def has_ulfm():
    return bool(argv.ft_arguments(mpi.detect(mpi.find_mpiexec(os.environ))))


@pytest.fixture(scope="module")
def dedicated(state_dir):
    with ipp.Cluster(n=3, dedicated_bridge=True) as rc:
        yield rc


def numbers():
    from mpi4py import MPI

    import mpiparallel

    world = MPI.COMM_WORLD
    return world.rank, world.size, world.allreduce(1), mpiparallel.current_comm() is world


numbers.__module__ = "__main__"  # travels by value: engines do not have this file


def test_users_see_a_world_of_engines_only(dedicated):
    assert dedicated.ids == [0, 1, 2]
    assert dedicated[:].apply_sync(numbers) == [(rank, 3, 3, True) for rank in range(3)]
    known = dedicated[:].pull(["mpi_rank", "mpi_size", "engine_id"], block=True)
    assert known == [[rank, 3, rank] for rank in range(3)]
    view = dedicated[1:]
    view.scatter("x", range(4), block=True)
    assert view.gather("x", block=True) == list(range(4))
    view.push({"big": bytes(1 << 20)}, block=True)
    assert [len(one) for one in view.pull("big", block=True)] == [1 << 20] * 2


def test_errors_and_places_name_the_users_ranks(dedicated):
    def fail_on_one():
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            raise ZeroDivisionError("on purpose")
        MPI.COMM_WORLD.barrier()

    with pytest.raises(ipp.CompositeError) as caught:
        dedicated[:].apply_sync(fail_on_one)
    texts = {info["engine_id"]: (name, text) for name, text, _, info in caught.value.elist}
    assert texts[1][0] == "ZeroDivisionError"
    assert [texts[i][0] for i in (0, 2)] == ["PeerFailed"] * 2 and "rank 1" in texts[0][1]
    assert dedicated[:].apply_sync(numbers)[2] == (2, 3, 3, True)
    sleeping = dedicated[2].apply_async(time.sleep, 1.0)
    assert wait_until(lambda: [one.state for one in dedicated.where()] == ["idle", "idle", "running"], 5.0)
    sleeping.get()


@pytest.mark.parametrize("how", ["loop", "hold the GIL"])
def test_who_keeps_the_gil_delays_nobody_else(dedicated, how):
    def keep(how, seconds):
        import ctypes
        import time

        if how == "hold the GIL":
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        until = time.monotonic() + seconds
        while how == "loop" and time.monotonic() < until:
            pass

    others = dedicated[1:]
    others.apply_sync(int)
    holding = dedicated[0].apply_async(keep, how, 4.0)
    time.sleep(0.2)
    medians = []
    while not medians or (min(medians) >= 0.05 and not holding.ready()):  # a busy machine spoils some rounds
        took = []
        for _ in range(10):
            began = time.monotonic()
            others.apply_sync(int)
            took.append(time.monotonic() - began)
        medians.append(sorted(took)[len(took) // 2])
    assert not holding.ready()
    assert min(medians) < 0.05
    holding.get()


def ranks_of(state_dir):
    """Return the processes of the ranks of worlds with a bridge of their own, the bridge first."""
    found = [p for p in processes_of(state_dir) if "--dedicated-bridge" in p.cmdline() and is_rank(p)]
    return sorted(found, key=rank_of)


def is_rank(process):
    return process.cmdline()[1:3] == ["-m", "mpiparallel.engine"]


def rank_of(process):
    environ = process.environ()
    return int(environ.get("OMPI_COMM_WORLD_RANK") or environ.get("PMI_RANK") or environ["PMIX_RANK"])


@pytest.mark.skipif("not has_ulfm()")
@pytest.mark.parametrize("place", [-1, 0, 1])
def test_the_others_go_on_when_a_rank_dies(state_dir, place):
    with ipp.Cluster(n=3, dedicated_bridge=True) as rc:
        rc[:].execute("kept = mpi_rank", block=True)
        bridge = ranks_of(state_dir)[0].pid if place < 0 else None
        pid = bridge or rc[place].apply_sync(os.getpid)
        os.kill(pid, signal.SIGKILL)
        left = [i for i in range(3) if i != place]
        assert wait_until(lambda: rc.ids == left, 20.0)

        def size():
            from mpi4py import MPI

            return MPI.COMM_WORLD.size, MPI.COMM_WORLD.allreduce(1)

        def works():
            try:
                return rc[left].apply_async(size).get(timeout=20) == [(len(left),) * 2] * len(left)
            except ipp.CompositeError:
                return False  # it was under way when the rank died

        assert wait_until(works, 30.0)
        assert rc[left].pull("kept", block=True) == left
