"""Engines as workers of dask."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("distributed")
pytestmark = [pytest.mark.mpi, pytest.mark.anympi, pytest.mark.timeout(200)]


where = os.getpid


@pytest.fixture
def dask(rc):
    yield rc.become_dask()
    rc.stop_dask()


def test_dask_runs_on_the_engines(rc, dask):
    pids = rc[:].apply_sync(where)
    assert set(dask.run(where).values()) == set(pids) and len(dask.scheduler_info()["workers"]) == 4
    assert dask.gather(dask.map(lambda x: x * x, range(20))) == [x * x for x in range(20)]
    assert {dask.submit(where, pure=False).result() for _ in range(8)} <= set(pids)
    assert os.getpid() not in pids
    assert rc[:].apply_sync(where) == pids  # the engines go on to serve this client
    with pytest.raises(ZeroDivisionError):
        dask.submit(divmod, 1, 0).result()


def test_some_engines_stop_being_workers(rc, dask):
    rc.stop_dask([0, 1])
    left = rc[2:].apply_sync(where)
    assert set(dask.run(where).values()) == set(left)
    assert rc.become_dask([0]) is dask
    assert len(dask.scheduler_info()["workers"]) == 3


def test_stopping_ends_everything(rc):
    def threads():
        import threading

        return [one.name for one in threading.enumerate() if "dask" in one.name.lower()]

    client = rc.become_dask(targets=[1, 2], nthreads=2)
    assert list(client.nthreads().values()) == [2, 2]
    assert rc[:].apply_sync(threads)[1] != []
    rc.stop_distributed()
    assert client.status == "closed" and rc._dask is None
    assert all("mpiparallel-dask" not in names for names in rc[:].apply_sync(threads))
    rc.stop_dask()  # nothing to do


def test_no_nanny(rc):
    with pytest.raises(ValueError, match="nanny"):
        rc.become_distributed(nanny=True)
