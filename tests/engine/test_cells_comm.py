"""``comm`` in cells and functions: the communicator of the engines that run the request."""

from __future__ import annotations

import fcntl

import pytest

import mpiparallel as ipp

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

WHO = "who = (comm.rank, comm.size, comm.allreduce(1))"


def by_value(function):
    """Let a function of this file travel by value: engines do not have the file."""
    function.__module__ = "__main__"
    return function


@by_value
def total(x):
    return comm.rank, comm.allreduce(x)  # noqa: F821


def test_in_cells(rc):
    for targets, size in ((slice(0, 2), 2), (slice(1, 4), 3), ([3, 0], 2), (slice(None), 4), ([2], 1)):
        view = rc[targets]
        view.execute(WHO, block=True).get()
        assert sorted(view["who"]) == [(rank, size, size) for rank in range(size)]
    rc[1].execute(WHO, block=True).get()
    assert rc[1]["who"] == (0, 1, 1)
    rc[:].execute("same = comm is MPI.COMM_WORLD, comm.size == mpi_size", block=True).get()
    assert rc[:]["same"] == [(True, True)] * 4


def test_in_functions_of_the_namespace(rc):
    rc[:].execute("def size():\n    return comm.size, comm.allreduce(1)", block=True).get()
    for targets, n in ((slice(0, 2), 2), (slice(None), 4), ([1, 2, 3], 3)):
        rc[targets].execute("sizes = size()", block=True).get()
        assert rc[targets]["sizes"] == [(n, n)] * n
    assert rc[1:3].apply_sync(ipp.Reference("size")) == [(2, 2)] * 2
    kind = "from mpi4py import MPI as M\nok = isinstance(comm, M.Intracomm)"
    rc[1:3].execute(kind, block=True).get()
    assert rc[1:3]["ok"] == [True] * 2


def test_in_applied_functions(rc):
    assert rc[1:4].apply_sync(total, 2) == [(0, 6), (1, 6), (2, 6)]
    assert rc[:].apply_sync(total, 2) == [(rank, 8) for rank in range(4)]
    assert rc[3].apply_sync(total, 2) == (0, 2)
    assert rc[0:2].map_sync(by_value(lambda x: comm.size * x), range(4)) == [0, 2, 4, 6]  # noqa: F821
    assert rc.load_balanced_view().apply_sync(total, 5) == (0, 5)
    assert rc[0:2].pull("comm.size", block=True) == [2, 2]


def test_in_code_that_does_not_show_that_it_uses_it(rc, tmp_path):
    """The communicator is made when it is asked for something."""
    path = tmp_path / "step.py"
    path.write_text("import sys\nresult = sys.modules['builtins'].__dict__['co' + 'mm'].allreduce(1)\n")
    rc[0:3].execute(f"import runpy\nsum = runpy.run_path({str(path)!r})['result']", block=True).get()
    assert rc[0:3]["sum"] == [3] * 3


def test_what_does_not_use_it_does_not_wait_for_it(rc, tmp_path):
    """A rank that does not answer holds up only those who want a communicator."""

    @by_value
    def keep_the_gil(path):
        import ctypes

        with open(path) as file:
            return ctypes.PyDLL(None).flock(file.fileno(), 2)  # until the other has closed it

    pair = rc[[1, 3]]
    lock = tmp_path / "lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        busy = rc[2].apply_async(keep_the_gil, str(lock))
        pair.execute("x = 1", block=True).get(timeout=30)
        assert not busy.done()
    pair.execute(WHO, block=True).get(timeout=30)
    assert pair["who"] == [(0, 2, 2), (1, 2, 2)]
    assert busy.get(timeout=30) == 0


def test_a_comm_of_the_users_own_stays(rc):
    rc[:].execute("comm = 'mine'", block=True).get()
    assert rc[0:2]["comm"] == ["mine"] * 2
    rc[0:2].execute("seen = comm", block=True).get()
    assert rc[0:2]["seen"] == ["mine"] * 2
    rc[:].execute("del comm\nsize = comm.size", block=True).get()
    assert rc[:]["size"] == [4] * 4
    rc[:].execute("from __main__ import comm as again\nsame = again is MPI.COMM_WORLD", block=True).get()
    assert rc[:]["same"] == [True] * 4


def test_the_clients_comm_stays_there(rc):
    """A script that runs under MPI itself has a ``comm`` of its own; the engines' is meant."""
    import __main__

    __main__.comm = "the client's"
    try:
        size = eval("lambda: comm.size", __main__.__dict__)
        assert rc[0:2].apply_sync(size) == [2, 2]
        assert rc[:].apply_sync(size) == [4] * 4
    finally:
        del __main__.comm


def test_after_an_error_the_next_cell_has_it_whole(rc):
    for _ in range(2):
        with pytest.raises(ipp.CompositeError, match="ZeroDivisionError"):
            rc[1:4].execute("if comm.rank == 1: 1 / 0\ncomm.barrier()", block=True).get(timeout=30)
        rc[1:4].execute(WHO, block=True).get(timeout=30)
        assert rc[1:4]["who"] == [(rank, 3, 3) for rank in range(3)]


@pytest.mark.parametrize("before", ["%%bash\ntrue", "!true", "import asyncio\nawait asyncio.sleep(0)"])
def test_who_raises_frees_the_others_whatever_ran_before(rc, before):
    """IPython leaves a thread behind, which could call MPI for all that is known of others."""
    rc[:].execute(before, block=True).get(timeout=60)
    with pytest.raises(ipp.CompositeError, match="ZeroDivisionError"):
        rc[:].execute("if mpi_rank == 1: 1 / 0\ncomm.barrier()").get(timeout=60)


def test_in_a_gang(rc):
    lview = rc.load_balanced_view()
    rc[:].execute("comm = MPI.COMM_WORLD", block=True).get()
    with lview.temp_flags(ranks=2):
        assert lview.apply_sync(total, 3) == [(0, 6), (1, 6)]
    assert rc[:].pull("comm.size", block=True) == [4] * 4
