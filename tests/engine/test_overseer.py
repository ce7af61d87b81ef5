"""The overseer, driven by hand: what it asks for, what it proves, whom it frees."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mpiparallel.engine.overseer import ANSWER_WITHIN, DOOMED_AFTER, RECONSIDER, Overseer
from mpiparallel.wire.between import Blocked, Broken, Cut, Examine, Ledgers, Renew
from mpiparallel.wire.messages import AnyHeader, Failure, Result
from mpiparallel.wire.waits import Ledger, Part, Wait

WORLD = "world"


class Ranks:
    """Ranks that answer truly, and an overseer over them. Time is what the test says."""

    def __init__(self, size: int = 4, notice_after: float = 30.0) -> None:
        self.now = 100.0
        self.members = list(range(size))
        self.waits: dict[int, Wait] = {}
        self.ledgers = {rank: Ledger() for rank in self.members}
        self.tasks = dict.fromkeys(self.members, 0)
        self.busy: set[int] = set()
        self.mute: set[int] = set()  # those that hold the GIL
        self.cuts: dict[int, Cut] = {}
        self.asked: list[tuple[int, Examine]] = []
        self.renewed: list[tuple[list[int], Renew]] = []
        self.notices: list[tuple[str, str, str]] = []
        self._numbers = 0
        self.overseer = Overseer(
            0, self.members, self._tell, self._renew, lambda *n: self.notices.append(n), notice_after
        )

    def _tell(self, rank: int, header: AnyHeader) -> None:
        if isinstance(header, Cut):
            self.cuts[rank] = header
        elif isinstance(header, Examine):
            self.asked.append((rank, header))

    def _renew(self, ranks: Sequence[int], order: Renew) -> None:
        self.renewed.append((list(ranks), order))

    def begin(self, name: str = "r", ranks: Sequence[int] | None = None) -> None:
        ranks = self.members if ranks is None else ranks
        self.overseer.submitted(name, "client", ranks)
        for rank in ranks:
            self.tasks[rank] += 1
            self.busy.add(rank)

    def end(self, rank: int, error: str = "", name: str = "r", status: str = "ok") -> None:
        self.busy.discard(rank)
        self.waits.pop(rank, None)
        failure = Failure(*error.split(": ")) if error else None
        result = Result(name, rank, "error" if error else status, failure=failure)  # type: ignore[arg-type]
        self.overseer.result(rank, result, self.now)

    def block(self, rank: int, part: Part, name: str = "r", seconds: float = 0.1) -> None:
        self._numbers += 1
        call, names = part.signature or part.kind, {WORLD: "COMM_WORLD"}
        wait = Wait(self._numbers, call, seconds, [part], members={WORLD: self.members}, names=names)
        self.waits[rank] = wait
        if part.kind == "collective":
            self.ledgers[rank] = Ledger(part.index + 1, [part.signature] * (part.index + 1))
        self.overseer.blocked(Blocked(rank, name, wait, "cell line 5"), self.now)

    def answer(self) -> bool:
        """Let all couriers answer what they were asked; return whether anybody was asked."""
        asked, self.asked = self.asked, []
        for rank, question in asked:
            if rank in self.mute:
                continue
            ledgers = {comm: self.ledgers[rank] for comm in question.comms if comm == WORLD}
            wait, busy = self.waits.get(rank), rank in self.busy
            answer = Ledgers(rank, question.round, self.tasks[rank], 0, busy, wait, ledgers)
            self.overseer.ledgers(answer, self.now)
        return bool(asked)

    def settle(self) -> None:
        while self.answer():
            pass

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.overseer.tick(self.now)


def barrier(index: int = 0) -> Part:
    return Part("collective", WORLD, "Barrier", index)


def bcast(root: int, index: int = 0) -> Part:
    return Part("collective", WORLD, f"Bcast(root={root})", index, 8)


def receive(peer: int, tag: int = -1) -> Part:
    return Part("receive", WORLD, peer=peer, tag=tag)


@pytest.fixture
def ranks() -> Ranks:
    return Ranks()


def test_ranks_that_wait_for_one_that_works_are_left_alone(ranks: Ranks) -> None:
    ranks.begin()
    for rank in (0, 1, 2):
        ranks.block(rank, barrier())
    ranks.settle()
    ranks.later(RECONSIDER + 1)
    ranks.settle()
    assert not ranks.cuts


def test_waiting_for_a_rank_that_raised(ranks: Ranks) -> None:
    ranks.begin()
    for rank in (0, 1, 2):
        ranks.block(rank, barrier())
    ranks.end(3, "ValueError: bad")
    ranks.settle()
    assert sorted(ranks.cuts) == [0, 1, 2]
    for rank, cut in ranks.cuts.items():
        assert cut.number == ranks.waits[rank].number
        assert cut.rank == 3
        assert cut.failure.ename == "PeerFailed"
        assert cut.failure.evalue == "ValueError: bad"
        assert cut.failure.traceback == "this rank was in Barrier on COMM_WORLD, cell line 5"


def test_the_order_of_wait_and_failure_does_not_matter(ranks: Ranks) -> None:
    ranks.begin()
    ranks.end(3, "ValueError: bad")
    for rank in (0, 1, 2):
        ranks.block(rank, barrier())
        ranks.settle()
    assert sorted(ranks.cuts) == [0, 1, 2]


def test_who_does_not_wait_for_it_is_left_alone(ranks: Ranks) -> None:
    ranks.begin()
    ranks.block(0, receive(1))
    ranks.end(3, "ValueError: bad")
    ranks.settle()
    assert not ranks.cuts
    ranks.end(2)
    ranks.settle()
    assert not ranks.cuts  # rank 1 works still


def test_the_blame_is_passed_on(ranks: Ranks) -> None:
    ranks.begin()
    ranks.block(0, receive(1))
    ranks.block(1, receive(2))
    ranks.end(2, "ValueError: bad")
    ranks.settle()
    assert sorted(ranks.cuts) == [1]
    ranks.end(1, "PeerFailed: rank 2 failed")
    ranks.settle()
    assert ranks.cuts[0].rank == 2
    assert ranks.cuts[0].failure.evalue == "ValueError: bad"


def test_an_aborted_part_counts_as_failed(ranks: Ranks) -> None:
    ranks.begin()
    ranks.block(0, receive(1))
    ranks.end(1, status="aborted")
    ranks.settle()
    assert "aborted" in ranks.cuts[0].failure.evalue


def test_a_receive_whose_sender_has_finished(ranks: Ranks) -> None:
    ranks.begin()
    ranks.block(0, receive(1))
    for rank in (1, 2, 3):
        ranks.end(rank)
    ranks.settle()
    assert ranks.cuts[0].failure.ename == "DeadlockError"
    assert "rank 0" in ranks.cuts[0].failure.evalue
    assert "cell line 5" in ranks.cuts[0].failure.evalue


def test_a_sender_of_another_request_may_still_be_sent_work(ranks: Ranks) -> None:
    ranks.begin(ranks=[0])
    ranks.block(0, receive(1))
    ranks.settle()
    ranks.later(RECONSIDER + 1)
    ranks.settle()
    assert not ranks.cuts


def test_a_message_on_its_way_is_waited_for(ranks: Ranks) -> None:
    ranks.begin()
    ranks.ledgers[1] = Ledger(sent=[[0, 7, 1]])
    ranks.block(0, receive(1, 7))
    for rank in (1, 2, 3):
        ranks.end(rank)
    ranks.settle()
    assert not ranks.cuts
    # ... and if it is consumed by another receive, the next look proves the deadlock.
    ranks.ledgers[0] = Ledger(received=[[1, 7, 1]])
    ranks.later(RECONSIDER + 0.1)
    ranks.settle()
    assert ranks.cuts[0].failure.ename == "DeadlockError"


def test_different_collectives(ranks: Ranks) -> None:
    ranks.begin()
    for rank in (0, 1, 2):
        ranks.block(rank, barrier())
    ranks.block(3, Part("collective", WORLD, "Allgather", 0))
    ranks.settle()
    assert sorted(ranks.cuts) == [0, 1, 2, 3]
    assert all("Allgather" in cut.failure.evalue for cut in ranks.cuts.values())


def test_a_rank_that_moves_on_between_the_two_looks_is_no_suspect(ranks: Ranks) -> None:
    ranks.begin()
    ranks.block(0, receive(1))
    ranks.block(1, receive(0))
    assert ranks.answer()  # the first round
    ranks._numbers += 1
    ranks.waits[1] = Wait(ranks._numbers, "Recv", 0.0, [receive(0)], members={WORLD: ranks.members})
    ranks.settle()
    assert not ranks.cuts


def test_an_answer_from_before_a_task_is_not_taken_for_one_from_after_it(ranks: Ranks) -> None:
    ranks.begin(ranks=[0, 1])
    ranks.block(0, receive(1))
    ranks.end(1)
    assert ranks.answer()  # the first round: rank 1 has finished without a message for rank 0
    late, ranks.asked = ranks.asked, [(rank, question) for rank, question in ranks.asked if rank == 1]
    ranks.answer()
    # Another request makes rank 1 send what is waited for, and it has ended before rank 0 answers.
    ranks.begin("other", [1])
    ranks.ledgers[1] = Ledger(sent=[[0, 7, 1]])
    ranks.end(1, name="other")
    ranks.asked = [(rank, question) for rank, question in late if rank == 0]
    ranks.answer()
    assert not ranks.cuts
    ranks.settle()
    assert not ranks.cuts  # now its answer counts the message


def test_a_silent_courier_ends_the_examination_and_nothing_else(ranks: Ranks) -> None:
    ranks.begin()
    ranks.mute.add(1)
    ranks.block(0, receive(1))
    ranks.block(1, receive(0))
    ranks.settle()
    ranks.later(3 * ANSWER_WITHIN)
    assert not ranks.cuts
    ranks.mute.clear()
    ranks.later(RECONSIDER + 0.1)
    ranks.settle()
    assert sorted(ranks.cuts) == [0, 1]


def test_a_broadcast_that_hangs_for_want_of_a_leaf(ranks: Ranks) -> None:
    ranks.begin()
    ranks.end(2, "ValueError: bad")
    for rank in (0, 3):
        ranks.block(rank, bcast(0))
    ranks.block(1, bcast(0))
    ranks.settle()
    assert not ranks.cuts  # the root has come: it may end by itself
    ranks.later(DOOMED_AFTER + RECONSIDER)
    ranks.settle()
    assert ranks.cuts
    assert {cut.rank for cut in ranks.cuts.values()} == {2}


def test_no_state_is_left_when_everybody_has_ended(ranks: Ranks) -> None:
    for number in range(50):
        name = f"r{number}"
        ranks.begin(name)
        ranks.block(0, receive(1), name)
        for rank in ranks.members:
            ranks.end(rank, name=name)
        ranks.settle()
    overseer = ranks.overseer
    assert not overseer._requests
    assert not overseer._blocked
    assert not any(overseer._open.values())
    assert not ranks.cuts


class TestRenewal:
    def test_the_first_report_counts(self, ranks: Ranks) -> None:
        for rank in (2, 0, 1):
            ranks.overseer.broken(Broken(rank, WORLD, ranks.members))
        assert len(ranks.renewed) == 1
        members, order = ranks.renewed[0]
        assert members == order.members == [0, 1, 2, 3]
        assert order.comm == WORLD
        assert order.fresh != WORLD

    def test_what_was_renewed_can_break_again(self, ranks: Ranks) -> None:
        ranks.overseer.broken(Broken(0, WORLD, ranks.members))
        fresh = ranks.renewed[0][1].fresh
        ranks.overseer.broken(Broken(3, fresh, ranks.members))
        ranks.overseer.broken(Broken(1, WORLD, ranks.members))  # late
        assert [order.comm for _, order in ranks.renewed] == [WORLD, fresh]
        assert ranks.renewed[1][1].fresh not in (WORLD, fresh)

    def test_without_those_who_have_died(self, ranks: Ranks) -> None:
        ranks.overseer.lost([1], ranks.now)
        ranks.overseer.broken(Broken(0, "0.1", [2, 1, 0]))
        assert ranks.renewed[-1][0] == [2, 0]

    def test_a_grid_with_a_hole_is_not_renewed(self, ranks: Ranks) -> None:
        ranks.overseer.lost([1], ranks.now)
        before = len(ranks.renewed)
        ranks.overseer.broken(Broken(0, "0.1", [0, 1, 2, 3], [[2, 2], [0, 0]]))
        assert len(ranks.renewed) == before


class TestDeaths:
    def test_who_waits_for_the_dead_is_freed(self, ranks: Ranks) -> None:
        ranks.begin()
        ranks.block(0, receive(3))
        ranks.overseer.lost([3], ranks.now)
        ranks.settle()
        assert ranks.cuts[0].rank == 3
        assert ranks.cuts[0].failure.evalue == "its process died"

    def test_a_request_for_the_dead_is_known_to_have_failed(self, ranks: Ranks) -> None:
        ranks.overseer.lost([3], ranks.now)
        ranks.begin()
        ranks.block(0, receive(3))
        ranks.settle()
        assert ranks.cuts[0].rank == 3


class TestNotices:
    def test_a_long_wait_is_told_once(self) -> None:
        ranks = Ranks(notice_after=5.0)
        ranks.begin()
        for rank in (0, 1, 2):
            ranks.block(rank, barrier())
        ranks.settle()
        ranks.later(4.0)
        assert not ranks.notices
        ranks.later(2.0)
        ranks.later(20.0)
        ((client, request, text),) = ranks.notices
        assert (client, request) == ("client", "r")
        assert "Barrier" in text
        assert "ranks 0-2" in text

    def test_a_courier_that_does_not_answer_an_interrupt_is_named(self, ranks: Ranks) -> None:
        ranks.begin()
        ranks.mute.add(3)
        ranks.overseer.interrupted(ranks.members, ranks.now)
        ranks.settle()
        ranks.later(ANSWER_WITHIN + 0.1)
        assert ranks.overseer.silent == [3]
