"""`current_comm`: communicators of just the ranks that run a task."""

from __future__ import annotations

import pytest

import mpiparallel as ipp

pytestmark = pytest.mark.mpi


def by_value(function):
    """Let a function of this file travel by value: engines do not have the file."""
    function.__module__ = "__main__"
    return function


@by_value
def who_and_sum(x):
    import mpiparallel

    comm = mpiparallel.current_comm()
    return comm.rank, comm.size, comm.allreduce(x)


def test_on_a_subset_in_engine_order(rc):
    assert rc[1:3].apply_sync(who_and_sum, 5) == [(0, 2, 10), (1, 2, 10)]
    assert rc[[3, 0]].apply_sync(who_and_sum, 1) == [(1, 2, 2), (0, 2, 2)]
    assert rc[:].apply_sync(who_and_sum, 1) == [(rank, 4, 4) for rank in range(4)]
    assert rc[2].apply_sync(who_and_sum, 3) == (0, 1, 3)


def test_it_is_kept(rc):
    def remember():
        import __main__
        import mpiparallel

        comm = mpiparallel.current_comm()
        same = comm is getattr(__main__, "last", None)
        __main__.last = comm
        return same, comm is mpiparallel.current_comm()

    assert rc[0:2].apply_sync(remember) == [(False, True)] * 2
    assert rc[0:2].apply_sync(remember) == [(True, True)] * 2
    assert rc[1:3].apply_sync(remember) == [(False, True)] * 2
    rc[:].execute("import mpiparallel; whole = mpiparallel.current_comm() is comm", block=True)
    assert rc[:]["whole"] == [True] * 4


def test_it_is_the_same_for_all_parts_of_a_request_that_ask_late(rc):
    def late(seconds):
        import time

        import mpiparallel

        time.sleep(seconds * (1 + mpiparallel.current_comm().rank))
        return mpiparallel.current_comm().allgather(seconds)

    results = [rc[i:4].apply_async(late, 0.02) for i in (0, 1, 2, 0, 1, 2)]
    assert [one.get(timeout=30) for one in results] == [[[0.02] * n] * n for n in (4, 3, 2, 4, 3, 2)]


def test_who_raises_frees_the_others_and_the_next_task_has_it_whole(rc):
    def fail_on_second():
        import mpiparallel

        comm = mpiparallel.current_comm()
        if comm.rank == 1:
            raise ZeroDivisionError("on purpose")
        comm.barrier()

    for _ in range(3):
        with pytest.raises(ipp.CompositeError) as caught:
            rc[1:4].apply_sync(fail_on_second)
        names = {info["engine_id"]: name for name, _, _, info in caught.value.elist}
        assert names == {1: "PeerFailed", 2: "ZeroDivisionError", 3: "PeerFailed"}
        assert "rank 2" in caught.value.elist[0][1] and "on purpose" in caught.value.elist[0][1]
        assert rc[1:4].apply_sync(who_and_sum, 1) == [(rank, 3, 3) for rank in range(3)]


def test_who_raises_before_asking_frees_the_others(rc):
    def fail_early():
        from mpi4py import MPI

        import mpiparallel

        if MPI.COMM_WORLD.rank == 2:
            raise ZeroDivisionError("on purpose")
        mpiparallel.current_comm().barrier()

    with pytest.raises(ipp.CompositeError, match="ZeroDivisionError"):
        rc[[0, 2]].apply_async(fail_early).get(timeout=20)
    assert rc[[0, 2]].apply_sync(who_and_sum, 1) == [(0, 2, 2), (1, 2, 2)]


def test_many_sets_are_not_kept_for_ever(rc):
    from itertools import combinations

    sets = [list(ids) for n in (2, 3) for ids in combinations(range(4), n)]
    for _ in range(3):
        for ids in sets:
            assert rc[ids].apply_sync(who_and_sum, 1) == [(i, len(ids), len(ids)) for i in range(len(ids))]


def test_outside_of_tasks():
    with pytest.raises(RuntimeError, match="this process is none"):
        ipp.current_comm()
