"""Who can never go on: what collectives wait for."""

from __future__ import annotations

import pytest

from mpiparallel.engine.deadlock import RequestState, Situation, analyse, doomed
from mpiparallel.wire.waits import Ledger

from .waiting_ranks import IDLE, LARGE, RUNNING, blocked, collective, judge, receive, stuck


def test_different_collectives() -> None:
    one, two = blocked(collective("Allreduce", 3)), blocked(collective("Barrier", 3))
    verdicts = judge(
        one,
        one,
        two,
        rank0=Ledger(4, ["Allreduce"]),
        rank1=Ledger(4, ["Allreduce"]),
        rank2=Ledger(4, ["Barrier"]),
    )
    assert [verdict.rank for verdict in verdicts] == [0, 1, 2]
    assert verdicts[0].reasons[0].kind == "mismatch"
    assert (
        "the 4th collective on COMM_WORLD is Allreduce on ranks 0-1 and Barrier on rank 2" in verdicts[0].text
    )
    assert "ranks 0-1: Allreduce on COMM_WORLD (its 4th collective), cell line 5" in verdicts[0].text


def test_one_who_was_in_another_collective_and_went_on() -> None:
    passed = Ledger(2, ["Bcast(root=1)", "Barrier"])
    barrier = blocked(collective("Barrier"), n=2)
    assert stuck(barrier, IDLE, ended={1: "ok"}, rank1=passed) == [0]
    assert stuck(barrier, RUNNING, rank1=passed) == []
    assert stuck(barrier, blocked(collective("Barrier", 1), n=2), rank1=passed) == [0, 1]


def test_who_has_come_and_gone_is_not_missed() -> None:
    barrier = blocked(collective("Barrier"), n=2)
    assert stuck(barrier, IDLE, ended={1: "ok"}, rank1=Ledger(1, ["Barrier"])) == []
    assert stuck(barrier, IDLE, ended={1: "ok"}, rank1=Ledger(9, ["Allreduce"] * 3)) == []
    assert stuck(barrier, IDLE, ended={1: "ok"}, rank1=Ledger()) == [0]


def test_one_missing_is_enough_though_others_run() -> None:
    (verdict,) = judge(blocked(collective("Barrier")), RUNNING, IDLE, ended={2: "ok"})
    assert "rank 2 has finished without Barrier, the 1st collective on COMM_WORLD" in verdict.text
    assert stuck(blocked(collective("Barrier")), RUNNING, IDLE) == []


def test_one_failed_frees_the_others() -> None:
    state = blocked(collective("Allreduce"))
    verdicts = judge(state, state, IDLE, ended={2: "ValueError: no"})
    assert [(verdict.rank, verdict.cause, verdict.error) for verdict in verdicts] == [
        (0, 2, "ValueError: no"),
        (1, 2, "ValueError: no"),
    ]
    assert verdicts[0].text == "ranks 0-1: Allreduce on COMM_WORLD (its 1st collective), cell line 5"


def test_only_those_who_wait_for_the_failed_one_directly() -> None:
    states = (blocked(receive(2)), blocked(receive(0)), IDLE)
    assert stuck(*states, ended={2: "ValueError: no"}) == [0]
    assert stuck(IDLE, blocked(receive(0)), IDLE, ended={0: "PeerFailed", 2: "ValueError: no"}) == [1]


def test_a_failed_rank_that_nobody_needs() -> None:
    assert stuck(blocked(receive(1)), RUNNING, IDLE, ended={2: "ValueError: no"}) == []


@pytest.mark.parametrize(
    ("signature", "nbytes", "finished", "found"),
    [
        ("Bcast(root=1)", 8, 1, True),
        ("Bcast(root=1)", 8, 2, False),  # another leaf
        ("bcast(root=1)", -1, 1, True),
        ("Scatterv(root=1)", 8, 1, True),
        ("Bcast(root=0)", LARGE, 2, False),  # rank 1 may still come
        ("Reduce(root=0)", 8, 2, True),
        ("gather(root=0)", -1, 2, True),
        ("Gather(root=2)", 8, 2, False),  # it may be sent already
        ("Gather(root=2)", LARGE, 2, True),
        ("Gather(root=2)", LARGE, 1, False),
        ("Scan", 8, 2, False),  # rank 0 needs nobody
        ("Alltoallv", -1, 2, True),
        ("Ireduce_scatter_block", 8, 2, True),
        ("Allreduce", 0, 2, False),  # nothing to wait for
        ("Barrier", 0, 2, True),
        ("Neighbor_alltoall", -1, 2, False),
        ("Something_new", -1, 2, False),
        ("Bcast(root=7)", 8, 2, False),  # no such root
    ],
)
def test_who_is_needed(signature: str, nbytes: int, finished: int, found: bool) -> None:
    states = [blocked(collective(signature, nbytes=nbytes)), RUNNING, RUNNING]
    states[finished] = IDLE
    assert stuck(*states, ended={finished: "ok"}) == ([0] if found else [])


@pytest.mark.parametrize("signature", ["Bcast(root=0)", "Neighbor_alltoall", "Something_new"])
def test_it_takes_two(signature: str) -> None:
    state = blocked(collective(signature, nbytes=LARGE))
    assert stuck(state, IDLE, IDLE, ended={1: "ok", 2: "ok"}) == [0]
    assert stuck(state, IDLE, IDLE, ended={1: "ok", 2: "ok"}, rank2=Ledger(1, [signature])) == []
    assert stuck(state, state, blocked(collective("Barrier"))) == []


def test_a_scan_needs_the_lower_ranks() -> None:
    state = blocked(collective("Scan"))
    assert stuck(IDLE, state, state, ended={0: "ok"}) == [1, 2]
    assert stuck(RUNNING, state, state) == []


def test_a_small_broadcast_does_not_need_its_leaves() -> None:
    assert stuck(blocked(collective("Bcast(root=0)", nbytes=8)), IDLE, IDLE, ended={1: "ok", 2: "ok"}) == []


def test_different_roots() -> None:
    states = [blocked(collective(f"Gather(root={root})"), n=2) for root in (0, 1)]
    verdicts = judge(*states)
    assert [verdict.rank for verdict in verdicts] == [0, 1]
    assert "Gather(root=0) on rank 0 and Gather(root=1) on rank 1: the roots differ" in verdicts[0].text


def test_different_sizes() -> None:
    states = [blocked(collective("Allreduce", nbytes=nbytes), n=2) for nbytes in (8, 16)]
    verdicts = judge(*states)
    assert [verdict.rank for verdict in verdicts] == [0, 1]
    assert verdicts[0].reasons[0].kind == "sizes"
    assert "is of 8 bytes on rank 0 and of 16 bytes on rank 1" in verdicts[0].text


@pytest.mark.parametrize("signature", ["Allgatherv", "allreduce"])
def test_sizes_that_may_differ(signature: str) -> None:
    assert stuck(*[blocked(collective(signature, nbytes=nbytes), n=2) for nbytes in (8, 16)]) == []


def test_a_cycle_through_a_collective_and_a_receive() -> None:
    assert stuck(blocked(collective("Barrier"), n=2), blocked(receive(0), n=2)) == [0, 1]


def test_a_subset_that_is_stuck_while_others_run() -> None:
    assert stuck(blocked(receive(1)), blocked(receive(0)), RUNNING) == [0, 1]


# ---------------------------------------------------------------- doomed


def test_a_broadcast_that_lacks_a_failed_leaf_is_doomed_but_not_certain_to_hang() -> None:
    state = blocked(collective("Bcast(root=0)", nbytes=LARGE))
    situation = Situation({0: state, 1: state, 2: IDLE}, {"q": RequestState(range(3), {2: "ValueError: no"})})
    ledgers = {i: {"w": Ledger(1, ["Bcast(root=0)"])} for i in (0, 1)} | {2: {"w": Ledger()}}
    assert analyse(situation, ledgers) == []
    assert [(verdict.rank, verdict.cause) for verdict in doomed(situation, ledgers)] == [(0, 2), (1, 2)]
    ledgers[2] = {"w": Ledger(1, ["Bcast(root=0)"])}
    assert doomed(situation, ledgers) == []
