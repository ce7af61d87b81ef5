"""Gangs of ranks, as users see them, on real engines."""

from __future__ import annotations

import pytest

import mpiparallel as ipp

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]


@pytest.fixture
def lview(rc):
    return rc.load_balanced_view()


def test_gangs(rc, lview):
    def ranks():
        import mpiparallel

        comm = mpiparallel.current_comm()
        return comm.Get_rank(), comm.Get_size(), comm.allreduce(comm.Get_rank())

    with lview.temp_flags(ranks=2):
        results = [lview.apply_async(ranks) for _ in range(5)]
    with lview.temp_flags(ranks=3):
        results.append(lview.apply_async(ranks))
    for result, size in zip(results, [2] * 5 + [3], strict=True):
        assert result.get(30) == [(rank, size, size * (size - 1) // 2) for rank in range(size)]
        assert result.engine_id == sorted(result.engine_id) and len(result.engine_id) == size

    def total(x):
        import mpiparallel

        return mpiparallel.current_comm().allreduce(x)

    with lview.temp_flags(ranks=2):
        assert lview.map_sync(total, range(6), chunksize=2) == [[2 * x] * 2 for x in range(6)]
        assert list(lview.imap(total, range(6))) == [[2 * x] * 2 for x in range(6)]
    with lview.temp_flags(ranks=5), pytest.raises(ipp.RemoteError):
        lview.apply_async(total, 1).get(20)


def test_an_error_stands_for_a_whole_chunk_of_a_gang(lview):
    def total(x):
        import mpiparallel

        comm = mpiparallel.current_comm()
        if x == 1 and comm.Get_rank() == 1:
            raise ValueError("bad input")
        return comm.allreduce(x)

    with lview.temp_flags(ranks=2):
        one_by_one = lview.map_sync(total, range(4), return_exceptions=True)
        by_two = lview.map_sync(total, range(4), return_exceptions=True, chunksize=2)
    for values, failed in ((one_by_one, [1]), (by_two, [0, 1])):
        for index, value in enumerate(values):
            if index in failed:
                assert isinstance(value, ipp.RemoteError) and "ValueError: bad input" in str(value)
            else:
                assert value == [2 * index] * 2


def test_a_gang_fails_with_the_cause(lview):
    def fail():
        import mpiparallel

        comm = mpiparallel.current_comm()
        if comm.Get_rank() == 1:
            raise ValueError("bad input")
        return comm.allreduce(1)

    with lview.temp_flags(ranks=3), pytest.raises(ipp.RemoteError, match="ValueError: bad input"):
        lview.apply_sync(fail)
