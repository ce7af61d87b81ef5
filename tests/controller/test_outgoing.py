"""Queues to peers: order, lanes, batches, and what is held for those who do not read."""

from __future__ import annotations

from typing import Any

import pytest

from mpiparallel.controller import outgoing as module
from mpiparallel.controller.outgoing import OVERHEAD, Outgoing, Sent
from mpiparallel.wire import frames
from mpiparallel.wire.frames import unpack
from mpiparallel.wire.messages import Abort, Answer, Message, Output, Submit


class Wire:
    """Takes batches for peers that are not `full` or `gone`."""

    def __init__(self) -> None:
        self.full: set[Any] = set()
        self.gone: set[Any] = set()
        self.batches: list[tuple[Any, list[Message]]] = []

    def __call__(self, peer: Any, batch: list[Any]) -> Sent:
        if peer in self.full:
            return Sent.FULL
        if peer in self.gone:
            return Sent.GONE
        self.batches.append((peer, unpack(batch)))
        return Sent.DONE

    def texts(self, peer: Any = "p") -> list[str]:
        return [name(message) for to, batch in self.batches if to == peer for message in batch]


def name(message: Message) -> str:
    header = message.header
    if isinstance(header, Output):
        return header.text
    return f"{type(header).__name__}"


def text(word: str, *payload: bytes) -> Message:
    return Message(Output("r", "c", 0, "stdout", word), payload)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def queues(wire: Wire) -> Outgoing:
    return Outgoing(wire)


def test_what_is_ready_for_a_peer_travels_as_one_in_order(wire: Wire, queues: Outgoing) -> None:
    for word in "ab":
        queues.put("p", text(word))
    queues.put("q", text("c"))
    queues.put("p", Message(Answer(1)))
    assert queues.flush(0.0) == []
    assert [len(batch) for _, batch in wire.batches] == [3, 1]
    assert wire.texts() == ["a", "b", "Answer"]
    assert queues.nbytes == 0
    assert not queues.stalled


def test_control_overtakes_what_a_peer_does_not_read(wire: Wire, queues: Outgoing) -> None:
    wire.full.add("p")
    queues.put("p", text("packed"))
    queues.flush(0.0)
    for message in (text("1"), Message(Answer(1)), text("2")):
        queues.put("p", message)
    queues.flush(0.1)
    assert queues.stalled
    assert queues.nbytes == 4 * OVERHEAD + len("packed12")
    wire.full.clear()
    queues.flush(0.2)
    assert wire.texts() == ["packed", "Answer", "1", "2"]
    assert queues.nbytes == 0
    assert not queues.stalled


def test_an_abort_comes_before_and_after_the_request_that_it_may_mean(wire: Wire, queues: Outgoing) -> None:
    wire.full.add("p")
    queues.put("p", text("packed"))
    queues.flush(0.0)
    queues.put("p", Message(Submit("c-1", "c", "execute", [0])))
    queues.put("p", Message(Abort("c-1", [0])))
    wire.full.clear()
    queues.flush(0.1)
    assert wire.texts() == ["packed", "Abort", "Submit", "Abort"]


def test_one_that_does_not_read_holds_up_nobody(wire: Wire, queues: Outgoing) -> None:
    wire.full.add("slow")
    for word in "abc":
        queues.put("slow", text(word))
        queues.put("p", text(word))
        queues.flush(0.0)
    assert wire.texts() == ["a", "b", "c"]


def test_those_who_are_gone_are_reported_and_forgotten(wire: Wire, queues: Outgoing) -> None:
    wire.gone.add("p")
    queues.put("p", text("a"))
    assert queues.flush(0.0) == ["p"]
    assert queues.flush(0.0) == []
    assert queues.nbytes == 0
    queues.forget("p")


def test_batches_are_bounded(wire: Wire, queues: Outgoing) -> None:
    half = bytes(module.BATCH_BYTES // 2 + 1)
    for word in ("a", "b"):
        queues.put("p", text(word, half))
    for _ in range(module.BATCH_MESSAGES + 1):
        queues.put("p", text("small"))
    queues.put("p", text("large", half, half))
    queues.flush(0.0)
    assert [len(batch) for _, batch in wire.batches][:2] == [1, module.BATCH_MESSAGES]
    assert wire.texts() == ["a", "b", *["small"] * (module.BATCH_MESSAGES + 1), "large"]


def test_a_batch_that_is_too_large_is_halved(wire, queues, caplog, monkeypatch) -> None:
    monkeypatch.setattr(frames, "MAX_HEADER", 32_000)
    long = "x" * 9_000
    for word in ("1", "2", long, long, long, long, "3"):
        queues.put("p", text(word))
    queues.put("p", text(long * 4))
    queues.put("p", text("4"))
    queues.flush(0.0)
    assert [word[:2] for word in wire.texts()] == ["1", "2", "xx", "xx", "xx", "xx", "3", "4"]
    assert queues.nbytes == 0
    assert "cannot be sent" in caplog.text


def test_payloads_are_passed_on_uncopied(queues: Outgoing) -> None:
    seen: list[Any] = []
    queues._send = lambda _peer, frames: seen.extend(frames) or Sent.DONE  # type: ignore[func-returns-value]
    payload = bytearray(100_000)
    queues.put("p", text("a", payload))  # type: ignore[arg-type]
    queues.flush(0.0)
    assert seen[1] is payload


def test_who_holds_up_much_for_long_is_stuck(wire: Wire, queues: Outgoing) -> None:
    wire.full |= {"large", "small"}
    queues.put("large", text("a", bytes(4000)))
    queues.put("small", text("a", bytes(10)))
    queues.flush(0.0)
    assert queues.stuck(29.0, limit=8000) == []
    assert queues.stuck(31.0, limit=8000) == ["large"]
    assert queues.stuck(31.0, limit=4000) == ["large", "small"]
    assert queues.stuck(31.0, limit=100_000) == []
    queues.forget("large")
    assert queues.nbytes == OVERHEAD + 11


def test_one_that_reads_slowly_is_not_stuck(wire: Wire, queues: Outgoing) -> None:
    for _ in range(3):
        queues.put("p", text("a", bytes(module.BATCH_BYTES)))
    takes = iter([Sent.FULL, Sent.DONE, Sent.FULL, Sent.FULL])
    queues._send = lambda _peer, _frames: next(takes)
    queues.flush(0.0)
    queues.flush(25.0)
    assert queues.stuck(40.0, limit=1) == []
    assert queues.stuck(56.0, limit=1) == ["p"]


def test_retries_slow_down(wire: Wire, queues: Outgoing) -> None:
    wire.full.add("p")
    queues.put("p", text("a"))
    queues.flush(0.0)
    waits = [queues.retry_after(now) for now in (0.0, 0.1, 10.0)]
    assert waits == sorted(waits)
    assert waits[0] == 0.001
    assert waits[-1] <= 0.02
