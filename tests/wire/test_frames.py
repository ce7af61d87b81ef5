"""Messages to frames and back, and what becomes of frames that are no messages."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpiparallel.error import WireError
from mpiparallel.wire import PROTOCOL, frames
from mpiparallel.wire.frames import INLINE, MARK, nbytes, pack, unpack
from mpiparallel.wire.messages import (
    Answer,
    Balance,
    Goodbye,
    Heartbeat,
    Message,
    Output,
    Submit,
    msg_id,
    split_msg_id,
)

from .strategies import HEADER_TYPES, headers, messages


def plain(received: list[Message]) -> list[tuple[object, list[bytes]]]:
    return [(header, [bytes(frame) for frame in payload]) for header, payload in received]


def submit(**changes: object) -> Submit:
    return msgspec.structs.replace(Submit(request="r", client="c", verb="apply", engines=[0, 1]), **changes)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    "cls", [cls for cls in HEADER_TYPES if cls not in (Submit, Balance)], ids=lambda cls: cls.__name__
)
def test_every_header_survives(cls):
    @settings(max_examples=30, deadline=None)
    @given(headers(cls))
    def survives(header):
        assert unpack(pack([Message(header)])) == [Message(header, [])]

    survives()


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=5))
def test_batches_survive(batch):
    assert plain(unpack(pack(batch))) == plain(batch)


def test_short_payloads_stand_in_the_first_frame_and_long_ones_are_not_copied():
    long = bytearray(INLINE + 1)
    packed = pack(
        [Message(Heartbeat(), [b"a", memoryview(b"bc"), long]), Message(Goodbye(), [b"", bytes(INLINE)])]
    )
    assert len(packed) == 2
    assert packed[1] is long
    first, second = unpack(packed)
    assert first.payload[2] is long
    assert plain([first, second])[1][1] == [b"", bytes(INLINE)]


def test_payload_may_be_any_buffer():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6, dtype="f8").reshape(2, 3)
    (message,) = unpack(pack([Message(Heartbeat(), [memoryview(array), array])]))
    assert [bytes(frame) for frame in message.payload] == [array.tobytes()] * 2
    assert nbytes(array) == 48 and nbytes(memoryview(array)) == 48 and nbytes(b"abc") == 3


def test_many_short_payloads_never_make_a_frame_that_the_other_side_refuses():
    batch = [Message(submit(engines=[0], common=1), [bytes(INLINE)]) for _ in range(3000)]
    packed = pack(batch)
    assert len(packed[0]) <= frames.MAX_HEADER
    assert len(unpack(packed)) == 3000


def test_text_that_is_no_utf8_travels_escaped():
    sent = Output(request="r", client="c", engine=0, kind="stdout", text="caf\udce9\n", size=5)
    ((received, _),) = unpack(pack([Message(sent, [b"x"])]))
    assert received == msgspec.structs.replace(sent, text="caf\\udce9\n")
    value = {"k\udc80": ["\udc80", 1, None]}
    ((answer, _),) = unpack(pack([Message(Answer(1, value))]))
    assert answer.value == {"k\\udc80": ["\\udc80", 1, None]}


# ---------------------------------------------------------------- limits


def test_pack_refuses_what_unpack_would_refuse(monkeypatch):
    with pytest.raises(WireError, match="too large"):
        pack(
            [Message(Output(request="r", client="c", engine=0, kind="stdout", text="x" * frames.MAX_HEADER))]
        )
    monkeypatch.setattr(frames, "MAX_MESSAGES", 3)
    with pytest.raises(WireError, match="4 messages"):
        pack([Message(Heartbeat())] * 4)
    monkeypatch.setattr(frames, "MAX_LONG_FRAMES", 2)
    with pytest.raises(WireError, match="3 frames"):
        pack([Message(Heartbeat(), [bytes(INLINE + 1)] * 2)])


def test_unpack_refuses_what_is_too_large(monkeypatch):
    with pytest.raises(WireError, match="too large"):
        unpack([MARK + bytes(frames.MAX_HEADER)])
    monkeypatch.setattr(frames, "MAX_LONG_FRAMES", 2)
    with pytest.raises(WireError, match="3 frames"):
        unpack([b"", b"", b""])


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x91\xa9" * 5_000_000,  # five million messages
        b"\xdd" + b"\xff" * 4,  # four billion of them, says one who sends none
        b"\x91\x92\x91\xa9Heartbeat\xdd" + (5_000_000).to_bytes(4, "big") + b"\xc0" * 5_000_000,
        b"\x91" * 5_000_000,
        b"\x91\x92\x93\xa6Answer\x01" + b"\x91" * 5_000_000,  # nested deeper than the interpreter's stack
    ],
    ids=["many", "claims-many", "many-payloads", "deep", "deep-any"],
)
def test_bombs_cost_next_to_nothing(body):
    tracemalloc.start()
    try:
        began = time.perf_counter()
        with pytest.raises(WireError):
            unpack([MARK + body])
        assert time.perf_counter() - began < 2
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header, payload, reason",
    [
        (submit(common=1), [], "add up"),
        (submit(common=1), [b"", b""], "add up"),
        (submit(parts=[1, 1]), [b""], "add up"),
        (submit(parts=[1]), [b""], "1 parts for 2 engines"),
        (submit(common=1, function_frames=2), [b""], "add up"),
        (submit(engines=[3, 3]), [], "twice"),
    ],
)
def test_requests_whose_counts_do_not_add_up(header, payload, reason):
    with pytest.raises(WireError, match=reason):
        unpack(pack([Message(header, payload)]))


@pytest.mark.parametrize(
    "change",
    [
        {"request": ""},
        {"request": "x" * 201},
        {"verb": "format_disk"},
        {"engines": [-1]},
        {"engines": [1 << 31]},
        {"function": bytes(65)},
        {"common": -1},
        {"options": {"a": [1]}},
        {"engines": "all"},
        {"client": 5},
    ],
    ids=str,
)
def test_fields_out_of_range_are_refused(change):
    with pytest.raises(WireError, match="malformed header"):
        unpack(pack([Message(submit(**change))]))


# ---------------------------------------------------------------- not messages


def test_the_other_version_is_named():
    other = bytes([PROTOCOL + 1])
    with pytest.raises(WireError, match=rf"protocol {PROTOCOL + 1} and this one {PROTOCOL}: install"):
        unpack([b"mpip" + other + b"whatever it says"])


@pytest.mark.parametrize(
    "received",
    [[], [b""], [b"mpi"], [b"mpip"], [b"GET / HTTP/1.1\r\n"], [MARK], [MARK + b"\x90", b"more"]],
    ids=str,
)
def test_not_a_message(received):
    with pytest.raises(WireError):
        unpack(received)


def test_a_missing_payload_frame_is_noticed():
    packed = pack([Message(Heartbeat(), [bytes(INLINE + 1), bytes(INLINE + 2)])])
    with pytest.raises(WireError, match="fewer payload frames"):
        unpack(packed[:-1])
    with pytest.raises(WireError, match="more payload frames"):
        unpack([*packed, b""])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4), st.booleans())
def test_random_bytes(received, marked):
    if marked and received:
        received[0] = MARK + received[0]
    try:
        unpack(received)
    except WireError:
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_truncated_frames(batch, data):
    packed = pack(batch)
    cut = data.draw(st.integers(0, len(packed[0]) - 1))
    with pytest.raises(WireError):
        unpack([packed[0][:cut], *packed[1:]])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages, min_size=1, max_size=3), st.integers(0, 1 << 32))
def test_mutated_frames(batch, seed):
    packed, dice = pack(batch), random.Random(seed)
    for _ in range(30):
        first = bytearray(packed[0])
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(first))
            match dice.randrange(3):
                case 0:
                    first[place] = dice.randrange(256)
                case 1:
                    del first[place : place + dice.randint(1, 4)]
                case 2:
                    first[place:place] = dice.randbytes(dice.randint(1, 4))
            if not first:
                break
        try:
            received = unpack([bytes(first), *packed[1:]])
        except WireError:
            continue
        unpack(pack(received))  # what is let in is a message in every respect


# ---------------------------------------------------------------- names of tasks


@given(st.text(min_size=1), st.integers(0, 1 << 31))
def test_task_names(request_name, engine):
    assert split_msg_id(msg_id(request_name, engine)) == (request_name, engine)


@pytest.mark.parametrize("name", ["", "_3", "a", "a_", "a_x", "a_-1", "a_²"])
def test_what_is_no_task_name(name):
    with pytest.raises(ValueError, match="not the id of a task"):
        split_msg_id(name)


def test_tags_are_unique():
    assert max(Counter(cls.__struct_config__.tag for cls in HEADER_TYPES).values()) == 1
