"""Who can never go on: each rule, both ways."""

from __future__ import annotations

import time

import pytest

from mpiparallel.engine.deadlock import RankState, RequestState, Situation, analyse, suspects
from mpiparallel.wire.waits import Ledger, Part, Wait

from .waiting_ranks import IDLE, LARGE, RUNNING, blocked, collective, judge, receive, send, stuck

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


def test_one_of_several_is_enough_to_be_released() -> None:
    """Rank 1 may be served by rank 3, which runs, and then serve rank 0; rank 2 waits for itself."""
    states = (
        blocked(receive(1), receive(2), any=True, n=4),
        blocked(receive(3), n=4),
        blocked(receive(2), n=4),
    )
    assert stuck(*states, RUNNING) == [2]


def test_what_is_not_known_counts_as_help() -> None:
    other = Part("other")
    assert stuck(blocked(other), IDLE, ended={1: "ok"}) == []
    assert stuck(blocked(receive(1), other), IDLE, ended={1: "ok"}) == [0]
    assert stuck(blocked(receive(1), other, any=True), IDLE, ended={1: "ok"}) == []
    nothing = RankState("blocked", 0, "q", Wait(1, "Waitany", 1.0, [], True))
    assert stuck(nothing, blocked(receive(0))) == []
    assert stuck(RankState("blocked", 0, "q"), blocked(receive(0))) == []


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
