"""Who can never go on: each rule, both ways."""

from __future__ import annotations

import time

import pytest

from mpiparallel.engine.deadlock import RankState, RequestState, Situation, Verdict, analyse, doomed, suspects
from mpiparallel.wire.waits import Ledger, Part, Wait

from .waiting_ranks import IDLE, LARGE, RUNNING, blocked, collective, receive, send


def judge(
    *states: RankState,
    ended: dict[int, str] | None = None,
    dead: dict[int, str] | None = None,
    requests: dict[str, RequestState] | None = None,
    **ledgers: Ledger,
) -> list[Verdict]:
    """Return the verdicts on ranks 0, 1, ...; the ledger of rank 2 is given as `rank2`."""
    ranks = {i: state for i, state in enumerate(states) if i not in (dead or {})}
    if requests is None:
        requests = {"q": RequestState(range(len(states)), ended or {})}
    known = {}
    for i, state in enumerate(states):
        parts = state.wait.parts if state.wait else []
        begun = [part.signature for part in parts if part.kind == "collective"]
        sent = [[part.peer, part.tag, 1] for part in parts if part.kind == "send"]
        known[i] = {"w": ledgers.get(f"rank{i}", Ledger(len(begun), begun, sent))}
    situation = Situation(ranks, requests, dead or {})
    verdicts = analyse(situation, known)
    assert {verdict.rank for verdict in verdicts} <= suspects(situation)
    return verdicts


def stuck(*states: RankState, **more: object) -> list[int]:
    return [verdict.rank for verdict in judge(*states, **more)]  # type: ignore[arg-type]


# ---------------------------------------------------------------- receives


def test_two_ranks_that_receive_from_each_other() -> None:
    verdicts = judge(blocked(receive(1)), blocked(receive(0)))
    assert [(verdict.rank, verdict.cause) for verdict in verdicts] == [(0, None), (1, None)]
    assert verdicts[0].reasons[0].kind == "cycle"
    assert "rank 0 waits for rank 1, rank 1 for rank 0" in verdicts[0].text
    assert "rank 0: receive from rank 1 on COMM_WORLD, cell line 5" in verdicts[0].text


@pytest.mark.parametrize(
    "other", [RUNNING, RankState("idle", 1), IDLE], ids=["running", "queued", "not begun"]
)
def test_a_sender_that_may_come(other: RankState) -> None:
    assert stuck(blocked(receive(1)), other) == []


def test_a_sender_that_has_finished() -> None:
    (verdict,) = judge(blocked(receive(1, 7)), IDLE, ended={1: "ok"})
    assert verdict.cause is None
    assert verdict.reasons[0].kind == "finished"
    assert "rank 1 has finished and will not send" in verdict.text


def test_a_sender_that_has_failed_is_the_cause() -> None:
    (verdict,) = judge(blocked(receive(1, 7)), IDLE, ended={1: "ValueError: no"})
    assert (verdict.rank, verdict.cause, verdict.error) == (0, 1, "ValueError: no")
    assert "rank 0: receive from rank 1, tag 7" in verdict.text


def test_a_sender_that_has_failed_but_has_more_to_do() -> None:
    assert stuck(blocked(receive(1)), RankState("idle", 1), ended={1: "ValueError: no"}) == []


def test_a_dead_sender_is_the_cause_whatever_the_request() -> None:
    (verdict,) = judge(blocked(receive(1)), IDLE, dead={1: "killed by signal 9"}, requests={})
    assert (verdict.cause, verdict.error) == (1, "killed by signal 9")


@pytest.mark.parametrize(
    ("tag", "found"), [(7, []), (-1, []), (8, [0])], ids=["the tag", "any tag", "another tag"]
)
def test_a_message_on_its_way(tag: int, found: list[int]) -> None:
    sent = Ledger(sent=[[0, 7, 2]])
    received = Ledger(received=[[1, 7, 1]])
    assert stuck(blocked(receive(1, tag)), IDLE, ended={1: "ok"}, rank0=received, rank1=sent) == found


def test_messages_that_have_all_been_received() -> None:
    sent, received = Ledger(sent=[[0, 7, 2]]), Ledger(received=[[1, 7, 2]])
    assert stuck(blocked(receive(1, 7)), IDLE, ended={1: "ok"}, rank0=received, rank1=sent) == [0]


def test_counts_that_do_not_add_up_prove_nothing() -> None:
    received = Ledger(received=[[1, 7, 2]])
    assert stuck(blocked(receive(1, 7)), IDLE, ended={1: "ok"}, rank0=received) == []


@pytest.mark.parametrize("rank", ["rank0", "rank1"])
def test_an_opaque_communicator_proves_nothing(rank: str) -> None:
    assert stuck(blocked(receive(1)), IDLE, ended={1: "ok"}, **{rank: Ledger(opaque=True)}) == []


def test_a_missing_ledger_proves_nothing() -> None:
    situation = Situation({0: blocked(receive(1)), 1: IDLE}, {"q": RequestState([0, 1], {1: "ok"})})
    assert analyse(situation, {0: {"w": Ledger()}}) == []
    assert analyse(situation, {1: {"w": Ledger()}}) == []
    assert len(analyse(situation, {0: {"w": Ledger()}, 1: {"w": Ledger()}})) == 1


def test_any_source_needs_one_of_all() -> None:
    assert stuck(blocked(receive(-1)), IDLE, RUNNING, ended={1: "ok"}) == []
    assert stuck(blocked(receive(-1)), IDLE, IDLE, ended={1: "ok", 2: "ok"}) == [0]
    (verdict,) = judge(blocked(receive(-1)), IDLE, IDLE, ended={1: "ok", 2: "KeyError: 'x'"})
    assert verdict.cause == 2


def test_any_source_takes_from_itself_too() -> None:
    assert (
        stuck(blocked(receive(-1)), IDLE, IDLE, ended={1: "ok", 2: "ok"}, rank0=Ledger(sent=[[0, 1, 1]]))
        == []
    )


def test_a_rank_that_waits_for_itself() -> None:
    (verdict,) = judge(blocked(receive(0)), RUNNING)
    assert "rank 0 waits for itself" in verdict.text


# ---------------------------------------------------------------- sends


def test_large_sends_to_each_other() -> None:
    assert stuck(blocked(send(1, nbytes=LARGE)), blocked(send(0, nbytes=LARGE))) == [0, 1]
    assert stuck(blocked(send(1)), blocked(send(0))) == [0, 1]
    assert stuck(blocked(send(1)), blocked(send(0)), rank0=Ledger()) == []  # this does not add up


def test_a_small_send_may_end_by_itself() -> None:
    assert stuck(blocked(send(1, nbytes=8)), blocked(send(0))) == []
    assert stuck(blocked(send(1, nbytes=8)), IDLE, ended={1: "ok"}) == []


def test_a_send_to_one_who_has_finished_or_failed() -> None:
    (verdict,) = judge(blocked(send(1)), IDLE, ended={1: "ok"}, rank0=Ledger(sent=[[1, 0, 1]]))
    assert "rank 1 has finished and will not receive" in verdict.text
    (verdict,) = judge(blocked(send(1)), IDLE, ended={1: "ValueError"}, rank0=Ledger(sent=[[1, 0, 1]]))
    assert verdict.cause == 1


@pytest.mark.parametrize(
    ("pending", "found"),
    [([0, 5], []), ([-1, 5], []), ([0, -1], []), ([0, 6], [0]), ([2, 5], [0])],
)
def test_a_receive_that_was_started(pending: list[int], found: list[int]) -> None:
    sent = Ledger(sent=[[1, 5, 1]])
    states = (blocked(send(1, 5)), IDLE, RUNNING)
    assert stuck(*states, ended={1: "ok"}, rank0=sent, rank1=Ledger(pending=[pending])) == found


def test_a_receiver_that_is_blocked_in_the_receive() -> None:
    assert stuck(blocked(send(1, 5)), blocked(receive(0, 5)), rank0=Ledger(sent=[[1, 5, 1]])) == []
    assert stuck(blocked(send(1, 5)), blocked(receive(0, 6)), rank0=Ledger(sent=[[1, 5, 1]])) == [0, 1]


@pytest.mark.parametrize(
    ("call", "index", "received", "found"),
    [
        ("Ssend", -1, 1, [0]),  # the last of two, which has not been taken
        ("Ssend", -1, 2, []),
        ("Waitall", -1, 1, []),  # perhaps the first
        ("Waitall", -1, 0, [0]),
        ("Waitall", 1, 1, [0]),
        ("Waitall", 0, 1, []),
    ],
)
def test_a_message_that_was_taken_before_its_sender_knows(
    call: str, index: int, received: int, found: list[int]
) -> None:
    state = blocked(send(1, 5, index=index), call=call)
    ledgers = {"rank0": Ledger(sent=[[1, 5, 2]]), "rank1": Ledger(received=[[0, 5, received]])}
    assert stuck(state, IDLE, ended={1: "ok"}, **ledgers) == found


# ---------------------------------------------------------------- several parts


def test_all_of_several_and_one_of_several() -> None:
    parts = (receive(1), receive(2))
    assert stuck(blocked(*parts), IDLE, RUNNING, ended={1: "ok"}) == [0]
    assert stuck(blocked(*parts, any=True), IDLE, RUNNING, ended={1: "ok"}) == []
    assert stuck(blocked(*parts, any=True), IDLE, IDLE, ended={1: "ok", 2: "ok"}) == [0]


def test_what_is_not_known_counts_as_help() -> None:
    other = Part("other")
    assert stuck(blocked(other), IDLE, ended={1: "ok"}) == []
    assert stuck(blocked(receive(1), other), IDLE, ended={1: "ok"}) == [0]
    assert stuck(blocked(receive(1), other, any=True), IDLE, ended={1: "ok"}) == []
    nothing = RankState("blocked", 0, "q", Wait(1, "Waitany", 1.0, [], True))
    assert stuck(nothing, blocked(receive(0))) == []
    assert stuck(RankState("blocked", 0, "q"), blocked(receive(0))) == []


# ---------------------------------------------------------------- collectives


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


# ---------------------------------------------------------------- several requests


def test_who_was_never_asked_may_still_be() -> None:
    requests = {"q": RequestState([0], {})}
    assert stuck(blocked(receive(1)), IDLE, requests=requests) == []


def test_requests_that_wait_for_each_other() -> None:
    requests = {"a": RequestState([0]), "b": RequestState([1])}
    states = (blocked(receive(1), request="a"), blocked(receive(0), request="b"))
    assert stuck(*states, requests=requests) == [0, 1]


def test_who_waits_for_a_deadlock_of_another_request_is_left_alone() -> None:
    requests = {"a": RequestState([0]), "b": RequestState([1, 2])}
    states = (
        blocked(receive(1), request="a"),
        blocked(receive(2), request="b"),
        blocked(receive(1), request="b"),
    )
    assert stuck(*states, requests=requests) == [1, 2]


def test_a_knot_of_requests_is_undone_without_those_who_wait_for_it() -> None:
    requests = {name: RequestState([i]) for i, name in enumerate("abc")}
    states = [blocked(receive(peer), request=name) for peer, name in ((1, "a"), (2, "b"), (1, "c"))]
    assert stuck(*states, requests=requests) == [1, 2]


def test_one_who_failed_in_this_request_and_is_stuck_in_the_next() -> None:
    """Rank 1 waits in b for rank 0, which has b queued behind a: it may be served when a has ended there."""
    requests = {"a": RequestState([0, 1], {1: "ValueError: no"}), "b": RequestState([0, 1])}
    states = (blocked(receive(1), request="a", queued=1), blocked(receive(0), request="b"))
    (verdict,) = judge(*states, requests=requests)
    assert (verdict.rank, verdict.cause) == (0, 1)


# ---------------------------------------------------------------- doomed


def test_a_broadcast_that_lacks_a_failed_leaf_is_doomed_but_not_certain_to_hang() -> None:
    state = blocked(collective("Bcast(root=0)", nbytes=LARGE))
    situation = Situation({0: state, 1: state, 2: IDLE}, {"q": RequestState(range(3), {2: "ValueError: no"})})
    ledgers = {i: {"w": Ledger(1, ["Bcast(root=0)"])} for i in (0, 1)} | {2: {"w": Ledger()}}
    assert analyse(situation, ledgers) == []
    assert [(verdict.rank, verdict.cause) for verdict in doomed(situation, ledgers)] == [(0, 2), (1, 2)]
    ledgers[2] = {"w": Ledger(1, ["Bcast(root=0)"])}
    assert doomed(situation, ledgers) == []


def test_a_thousand_ranks_are_judged_fast() -> None:
    n = 1000
    states = {i: blocked(collective("Allreduce", 3, 8), n=n) for i in range(n)}
    states[7] = IDLE
    ledgers = {i: {"w": Ledger(4, ["Allreduce"])} for i in range(n)} | {7: {"w": Ledger(3, ["Barrier"])}}
    situation = Situation(states, {"q": RequestState(range(n), {7: "ok"})})
    began = time.process_time()
    assert len(suspects(situation)) == n
    assert len(analyse(situation, ledgers)) == n - 1
    assert time.process_time() - began < 0.5  # 25 ms on a quiet machine
