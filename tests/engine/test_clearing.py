"""What is left of broken communicators is completed, and then freed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

import mpiparallel as ipp
from mpiparallel.engine.clearing import Clearing, to_complete
from mpiparallel.wire.between import Complete, Completed, Operation, Release, Remains
from mpiparallel.wire.waits import Ledger
from tests.helpers import wait_until

BARRIER = Operation("Ibarrier")


def broken(rank: int, n: int, operations: list[Operation] | None = None, **ledger: Any) -> Remains:
    names = [f"Barrier{', broken off' if operations is not None and i == n - 1 else ''}" for i in range(n)]
    return Remains(rank, "world", Ledger(n, names, **ledger), operations)


# ---------------------------------------------------------------- what is to be completed


def test_who_did_not_come_begins_what_the_others_are_in() -> None:
    remains = {0: broken(0, 3, [BARRIER]), 1: broken(1, 2), 2: broken(2, 3, [BARRIER])}
    assert to_complete(remains) == {0: [], 1: [BARRIER], 2: []}


def test_nothing_is_missing_where_all_have_done_the_same() -> None:
    assert to_complete({0: broken(0, 2), 1: broken(1, 2)}) == {0: [], 1: []}


@pytest.mark.parametrize(
    "remains",
    [
        [broken(0, 3, [BARRIER]), broken(1, 1)],  # the call between the two is not known
        [broken(0, 3), broken(1, 2)],  # nor what was completed without this rank
        [broken(0, 3, [BARRIER]), broken(1, 2, [BARRIER])],
        [broken(0, 3, [BARRIER]), broken(1, 3, [Operation("Ibcast", "d", 2, root=0)])],  # different calls
        [broken(0, 1, [BARRIER]), Remains(1, "world")],  # used in ways that are not known
        [broken(0, 0, sent=[[1, 5, 2]]), broken(1, 0, received=[[0, 5, 1]])],  # a message is on its way
        [broken(0, 0, pending=[[1, 5]]), broken(1, 0)],
        [broken(0, 0, opaque=True), broken(1, 0)],
    ],
)
def test_what_is_not_known_is_not_completed(remains: list[Remains]) -> None:
    assert to_complete(dict(enumerate(remains))) is None


def test_messages_that_arrived_are_in_nobodys_way() -> None:
    remains = {0: broken(0, 0, sent=[[1, 5, 2]]), 1: broken(1, 0, received=[[0, 5, 2]])}
    assert to_complete(remains) == {0: [], 1: []}


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[tuple[str, list[Operation]]], dict[int, tuple[int, int]]]:
    """A program of collectives, and how many of them and of the next one's operations each rank has begun."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    program = []
    for n in lengths:
        name = "Bcast" if n == 1 and draw(st.booleans()) else "bcast"
        program.append((name, [Operation("Ibcast", "b", k) for k in range(n)]))
    reached = {}
    for rank in range(draw(st.integers(1, 4))):
        done = draw(st.integers(0, len(program)))
        begun = draw(st.integers(0, len(program[done][1]))) if done < len(program) else 0
        reached[rank] = (done, begun)
    return program, reached


@given(programs())
def test_all_ranks_have_called_the_same_in_the_end(drawn: Any) -> None:
    program, reached = drawn
    remains = {}
    for rank, (done, begun) in reached.items():
        entered = begun > 0
        recent = [name for name, _ in program[:done]]
        if entered:
            recent.append(f"{program[done][0]}, broken off")
        operations = program[done][1][:begun] if entered else None
        remains[rank] = Remains(rank, "world", Ledger(len(recent), recent), operations)
    missing = to_complete(remains)
    if missing is None:
        return
    called = set()
    for rank, (done, begun) in reached.items():
        operations = [(i, one) for i, (_, several) in enumerate(program[:done]) for one in several]
        rest = (program[done][1][:begun] if done < len(program) else []) + missing[rank]
        called.add(tuple(operations + [(done, one) for one in rest]))
    assert len(called) == 1


def test_a_call_that_one_has_finished_and_others_left_is_completed() -> None:
    bcast = Operation("Ibcast", "d", 3, root=0)
    root = Remains(0, "world", Ledger(1, ["Bcast(root=0)"]))
    waiting = Remains(1, "world", Ledger(1, ["Bcast(root=0), broken off"]), [bcast])
    absent = Remains(2, "world", Ledger(0, []))
    assert to_complete({0: root, 1: waiting, 2: absent}) == {0: [], 1: [], 2: [bcast]}


# ---------------------------------------------------------------- the leader's part


def test_all_free_it_when_all_have_completed() -> None:
    told: list[tuple[int, Any]] = []
    clearing = Clearing(lambda rank, header: told.append((rank, header)))
    clearing.begin("world", [0, 1])
    clearing.remains(broken(0, 1, [BARRIER]))
    assert not told
    clearing.remains(broken(1, 0))
    assert told == [(0, Complete("world", [])), (1, Complete("world", [BARRIER]))]
    told.clear()
    clearing.completed(Completed(0, "world"))
    assert not told
    clearing.completed(Completed(1, "world"))
    assert told == [(0, Release("world", True)), (1, Release("world", True))]


def test_it_stays_where_something_is_not_known_or_a_rank_has_died() -> None:
    told: list[tuple[int, Any]] = []
    clearing = Clearing(lambda rank, header: told.append((rank, header)))
    clearing.begin("world", [0, 1])
    clearing.remains(Remains(0, "world"))
    clearing.remains(broken(1, 0))
    assert told == [(0, Release("world", False)), (1, Release("world", False))]
    told.clear()
    clearing.begin("world", [0, 1])
    clearing.remains(broken(0, 1, [BARRIER]))
    clearing.lost()
    clearing.remains(broken(1, 0))
    clearing.completed(Completed(1, "world"))
    assert told == [(1, Release("world", False))]


def test_what_is_expected_is_bounded() -> None:
    told: list[tuple[int, Any]] = []
    clearing = Clearing(lambda rank, header: told.append((rank, header)))
    for number in range(300):
        clearing.begin(f"comm{number}", [0])
    assert told == [(0, Release(f"comm{number}", False)) for number in range(300 - 256)]


# ---------------------------------------------------------------- with MPI


@pytest.fixture(scope="module")
def trio() -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


def kept(client: ipp.Client) -> list[int]:
    """How many things every engine keeps for MPI."""
    client[:].execute("from mpiparallel.engine.guard import remains", block=True)
    found: list[int] = client[:].pull("len(remains.kept)", block=True)
    return found


FAILURE = "if mpi_rank == 1: raise ValueError('on purpose')\n"
COLLECTIVES = [
    "comm.Barrier()",
    "comm.Bcast(numpy.arange(5.0), 1)",
    "comm.bcast('text', 1)",
    "comm.bcast('text' * 1000, 1)",
    "comm.Reduce(numpy.ones(4, 'i'), numpy.ones(4, 'i'), MPI.MAX, 2)",
    "comm.Allreduce(MPI.IN_PLACE, numpy.ones(3))",
    "comm.Scan(numpy.ones(3), numpy.ones(3), MPI.PROD)",
    "comm.Gather(numpy.ones(2), numpy.ones(6) if mpi_rank == 0 else None)",
    "comm.Scatter(None, numpy.ones(2), 1)",
    "comm.Allgather(numpy.ones(2), numpy.ones(6))",
    "comm.Alltoall(numpy.ones(6), numpy.ones(6))",
    "comm.Reduce_scatter_block(numpy.ones(6), numpy.ones(2))",
    "comm.gather(mpi_rank, 1)",
    "comm.scatter(None, 1)",
    "comm.alltoall(['x'] * 3)",
    "comm.allreduce(1)",
    # What follows stays.
    "comm.Allgatherv(numpy.ones(2), (numpy.ones(6), [2, 2, 2]))",
    "comm.allgather('x' * 500)",
    "comm.Dup().Barrier()",
    "comm.Sendrecv(numpy.ones(1), 1 - mpi_rank, 0, numpy.ones(1), 1 - mpi_rank, 0)",
]


@pytest.mark.mpi
@pytest.mark.parametrize("call", COLLECTIVES)
def test_a_collective_that_was_broken_off_leaves_the_ranks_in_step(trio: ipp.Client, call: str) -> None:
    view = trio[:]
    view.execute("import numpy", block=True)
    for _ in range(3):
        with pytest.raises(ipp.CompositeError, match="on purpose"):
            view.execute(f"comm.allreduce(1)\n{FAILURE}{call}", block=True)
        view.execute("total = comm.allreduce(mpi_rank); comm.Barrier()", block=True)
        assert view["total"] == [3, 3, 3]


@pytest.mark.mpi
@pytest.mark.parametrize("call", COLLECTIVES[:-4])
def test_nothing_is_kept_of_what_can_be_completed(trio: ipp.Client, call: str) -> None:
    view = trio[:]
    view.execute("import numpy", block=True)
    with pytest.raises(ipp.CompositeError):  # the first is MPI's own, and is never freed
        view.execute(f"{FAILURE}comm.Barrier()", block=True)
    before = sum(kept(trio))  # some of which may be on its way out
    for _ in range(8):
        with pytest.raises(ipp.CompositeError, match="on purpose"):
            view.execute(f"comm.allreduce(1)\n{FAILURE}{call}", block=True)
    assert wait_until(lambda: sum(kept(trio)) <= before)


@pytest.mark.mpi
def test_gangs_that_fail_leave_nothing(trio: ipp.Client) -> None:
    def fail(number: int) -> None:
        comm = ipp.current_comm()
        comm.allreduce(number)
        if comm.rank == 1:
            raise ValueError("on purpose")
        comm.Barrier()

    before = sum(kept(trio))
    gangs = trio.load_balanced_view(ranks=2)
    results = [gangs.apply_async(fail, number) for number in range(20)]
    for result in results:
        with pytest.raises(ipp.CompositeError, match="on purpose"):
            result.get(60)
    assert wait_until(lambda: sum(kept(trio)) <= before)


@pytest.mark.mpi
def test_the_data_of_others_are_told_by_their_type_and_number(trio: ipp.Client) -> None:
    def check() -> None:
        from array import array

        from mpi4py import MPI

        from mpiparallel.engine.guard.remains import operation
        from mpiparallel.wire.between import Operation

        doubles = array("d", [0, 0, 0, 0])
        assert operation("Ibarrier", (), -1, 2) == Operation("Ibarrier")
        assert operation("Ibcast", (doubles,), 1, 2) == Operation("Ibcast", "d", 4, root=1)
        assert operation("Ibcast", ((bytearray(3), MPI.BYTE), 0), -1, 2) == Operation(
            "Ibcast", "B", 3, root=0
        )
        assert operation("Ialltoall", (doubles, doubles), -1, 2) == Operation("Ialltoall", "d", 2)
        own = MPI.Op.Create(lambda a, b, t: None)
        assert operation("Iallreduce", (doubles, doubles, own), -1, 2) is None
        own.Free()
        least = Operation("Iallreduce", "d", 4, "MIN")
        assert operation("Iallreduce", (doubles, doubles, MPI.MIN), -1, 2) == least
        assert operation("Iallgatherv", (doubles, doubles), -1, 2) is None
        assert operation("Igather", (MPI.IN_PLACE, doubles), 0, 2) is None
        assert operation("Ibcast", ([doubles, MPI.INT],), 0, 2) is None

    trio[0].apply_sync(check)
