"""Communicators that an error has broken are made anew in place, and so are those derived from them."""

from __future__ import annotations

import pytest

import mpiparallel as ipp

pytestmark = pytest.mark.mpi


def test_derived_communicators_of_renewed_ones(rc: ipp.Client) -> None:
    view = rc[:]
    for _ in range(3):
        view.execute("half = comm.Split(mpi_rank // 2)", block=True)
        with pytest.raises(ipp.CompositeError, match="were waiting for it in Barrier"):
            view.execute("if mpi_rank == 3: raise ValueError\nhalf.allreduce(1); comm.Barrier()", block=True)
        view.execute("sums = half.allreduce(1), comm.allreduce(1), half.size, comm.size", block=True)
        assert view["sums"] == [(2, 4, 2, 4)] * 4
