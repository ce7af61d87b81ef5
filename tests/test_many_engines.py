"""More engines than cores: they come, work and go, again and again."""

from __future__ import annotations

import numpy as np
import pytest

import mpiparallel as ipp

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]
ENGINES, TIMES = 32, 10


@pytest.mark.timeout(600)
def test_32_engines_ten_times_in_a_row():
    array = np.arange(1_000_003.0)
    for _ in range(TIMES):
        with ipp.Cluster(n=ENGINES) as rc:
            view = rc[:]
            assert view.apply_sync(ipp.interactive(lambda: mpi_rank)) == list(range(ENGINES))  # noqa: F821
            view.scatter("part", array, block=True)
            assert np.array_equal(view.gather("part", block=True), array)
            assert view.apply_sync(ipp.interactive(lambda: comm.allreduce(1))) == [ENGINES] * ENGINES  # noqa: F821
