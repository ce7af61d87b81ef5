"""The ledger of a communicator, without MPI."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from mpiparallel.engine.guard.state import (
    SYNCHRONOUS,
    CommState,
    Receive,
    common_bytes,
    message_bytes,
    signature_text,
)
from mpiparallel.error import CommunicatorBroken
from mpiparallel.wire.waits import Ledger, Part


class Status:
    """What MPI says of a message."""

    def __init__(self, source: int, tag: int, cancelled: bool = False) -> None:
        self.source, self.tag, self.cancelled = source, tag, cancelled

    def Get_source(self) -> int:
        return self.source

    def Get_tag(self) -> int:
        return self.tag

    def Is_cancelled(self) -> bool:
        return self.cancelled


class Comm:
    """Something that can stand for a communicator."""


def test_ranks_are_told_by_their_numbers_in_the_world() -> None:
    state = CommState("world/3.4", [4, 7, 9])
    state.collectives, state.sent = 2, {(1, 5): 3}
    state.recent.extend(["Barrier", ("Bcast", 2)])
    state.count_received(2, 0)
    state.count_received(2, 0)
    Receive(state, -2, -1)
    Receive(state, 0, 8)
    assert state.ledger() == Ledger(
        2, ["Barrier", "Bcast(root=2)"], [[7, 5, 3]], [[9, 0, 2]], [[-1, -1], [4, 8]], False
    )
    assert state.send(2, 1, 4, bytes(7)) == Part("send", "world/3.4", "", 4, 7, peer=9, tag=1)
    assert state.receive(-2, -1) == Part("receive", "world/3.4", peer=-1, tag=-1)
    assert state.collective(("Reduce", 1), 5, np.zeros(3)) == Part(
        "collective", "world/3.4", "Reduce(root=1)", 5, 24
    )


def test_a_receive_is_pending_until_it_is_complete() -> None:
    state = CommState("world", [0, 1])
    first, second, third = (Receive(state, -1, -1) for _ in range(3))
    first.complete(Status(1, 6))
    first.complete(Status(1, 6))
    second.complete(Status(0, 0, cancelled=True))
    assert state.received == {(1, 6): 1} and list(state.pending.values()) == [third]


def test_what_was_under_way_before_a_renewal_is_not_counted_after_it() -> None:
    state = CommState("world", [0, 1])
    receive = Receive(state, 1, 1)
    state.generation += 1
    state.forget()
    receive.complete(Status(1, 1))
    assert state.received == {} and state.pending == {}
    assert receive.part() == Part("other")


def test_only_the_last_signatures_are_kept() -> None:
    state = CommState("world", [0])
    state.recent.extend(f"call {i}" for i in range(100))
    assert state.ledger().recent == [f"call {i}" for i in range(36, 100)]


def test_a_task_uses_what_it_sends_on_or_begins_a_collective_on() -> None:
    state = CommState("world", [0])
    assert not state.used_by_task
    state.collectives += 1
    assert state.used_by_task
    state.begin_task()
    assert not state.used_by_task
    state.used = True
    assert state.used_by_task


def test_a_broken_communicator_says_why() -> None:
    state = CommState("world/1.0", [0], lambda: "the grid")
    state.broken = "Barrier was broken off by KeyboardInterrupt"
    with pytest.raises(CommunicatorBroken, match=r"Send on the grid.*Barrier was broken off.*renewed"):
        state.refuse("Send")


def test_objects_are_not_kept_alive() -> None:
    state = CommState("world", [0])
    comm = Comm()
    state.add(comm)
    other = Comm()
    state.add(other)
    assert state.objects() == [comm, other]
    gone = weakref.ref(comm)
    del comm
    gc.collect()
    assert gone() is None and state.objects() == [other]
    other._state = CommState("another", [0])
    assert state.objects() == []


class Type:
    """An MPI datatype."""

    def __init__(self, predefined: bool, size: int, extent: int) -> None:
        self.is_predefined, self._size, self._extent = predefined, size, extent

    def Get_size(self) -> int:
        return self._size

    def Get_extent(self) -> tuple[int, int]:
        return 0, self._extent


@pytest.mark.parametrize(
    ("data", "nbytes"),
    [
        (np.zeros(4), 32),
        (bytearray(5), 5),
        ([np.zeros(4), Type(True, 8, 8)], 32),
        ([np.zeros(4), Type(False, 8, 8)], -1),
        ([np.zeros(4), Type(True, 12, 16)], -1),
        ([np.zeros(4), 2, Type(True, 8, 8)], -1),
        (None, -1),
        (object(), -1),
        ([np.zeros(4), "d"], -1),
    ],
)
def test_lengths_are_told_only_where_they_are_sure(data: object, nbytes: int) -> None:
    assert common_bytes(data) == nbytes


@pytest.mark.parametrize(
    ("data", "nbytes"),
    [
        (np.zeros(4), 32),
        ([np.zeros(4), Type(True, 8, 8)], 32),
        ([np.zeros(4), 3, Type(True, 8, 8)], 24),
        ((np.zeros(4), 3, Type(False, 8, 8)), 0),
        ([np.zeros(4), 3, "d"], 0),
        ([np.zeros(4), (1, 2), Type(True, 8, 8)], 0),
        ([np.zeros(4), "d"], 0),
        ([np.zeros(4), None], 0),
        (None, 0),
    ],
)
def test_a_message_of_unknown_length_may_be_a_short_one(data: object, nbytes: int) -> None:
    assert message_bytes(data) == nbytes


def test_a_send_tells_its_length_and_how_many_went_before() -> None:
    state = CommState("world", [0, 1])
    assert [state.count_sent(1, 3), state.count_sent(1, 3), state.count_sent(0, 3)] == [0, 1, 0]
    assert state.sent == {(1, 3): 2, (0, 3): 1}
    assert state.send(1, 3, 1, 1 << 20).nbytes == 1 << 20
    assert state.send(1, 3, 1, SYNCHRONOUS).nbytes == -1


def test_signatures_have_the_root() -> None:
    assert signature_text("Barrier") == "Barrier"
    assert signature_text(("bcast", 3)) == "bcast(root=3)"
