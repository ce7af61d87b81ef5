"""Data as frames: it arrives bit for bit, and writeable."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pathlib
import re
import socket
import sys
import threading
import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mpiparallel.wire.objects import OUT_OF_BAND, copied, digest, dumps, loads


def travelled(value):
    """Return `value` as it arrives: every frame is bytes, as if it came out of a socket."""
    return loads([bytes(frame) for frame in dumps(value)])


def assert_same_array(got, sent):
    assert type(got) is type(sent)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.dtype.names == sent.dtype.names
    if sent.dtype.names and sum(sent.dtype[name].itemsize for name in sent.dtype.names) < sent.dtype.itemsize:
        for name in sent.dtype.names:  # numpy's own copies leave the padding out
            assert_same_array(got[name], sent[name])
    elif not sent.dtype.hasobject:
        assert got.tobytes("K") == sent.copy(order="K").tobytes("K")
    else:
        assert got.tolist() == sent.tolist()
    assert got.flags.writeable


BIG = OUT_OF_BAND  # items: enough for any dtype to travel out of band

DTYPES = [
    "?",
    "i1",
    "u1",
    "<i2",
    ">i4",
    "u8",
    "f2",
    "<f4",
    ">f8",
    "longdouble",
    "c8",
    "c16",
    "clongdouble",
    "S5",
    "U3",
    ">U3",
    "V7",
    "M8[ns]",
    "M8[D]",
    "m8[s]",
    "m8",
    [("a", "i4"), ("b", "f8", (2,)), ("c", "S3")],
    [("outer", [("x", "u1"), ("y", ">f4")]), ("when", "M8[us]")],
    np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8], "itemsize": 24}),
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype(("f4", (3,))),
]


def filled(dtype, shape):
    """Return an array of random bytes that are valid for `dtype`."""
    dtype = np.dtype(dtype)
    if dtype.kind in "?SUb":
        rng = np.random.default_rng(1)
        return rng.integers(0, 2 if dtype.kind == "b" else 120, shape).astype(dtype)
    array = np.zeros(shape, dtype)
    raw = array.reshape(-1).view("u1") if not dtype.names else None
    if raw is not None and dtype.kind != "M":
        raw[:] = np.random.default_rng(2).integers(0, 120, raw.size)
    elif dtype.kind == "M":
        array[...] = np.arange(array.size).reshape(array.shape).astype(dtype)
    else:
        array.reshape(-1).view(f"V{dtype.itemsize}")[:] = np.random.default_rng(3).bytes(dtype.itemsize)
    return array


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0, 3), (BIG,), (32, 64)], ids=str)
def test_arrays_of_every_dtype(dtype, shape):
    sent = filled(dtype, shape)
    for array in (sent, np.asfortranarray(sent)):
        got = travelled(array)
        assert_same_array(got, array)
        assert (got.flags.c_contiguous, got.flags.f_contiguous) == (
            array.flags.c_contiguous,
            array.flags.f_contiguous,
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [3, 2 * BIG])
def test_views_and_read_only_arrays(dtype, size):
    whole = filled(dtype, (2, size))
    frozen = whole.copy()
    frozen.flags.writeable = False
    for array in (whole[:, ::2], whole[::-1], whole.T, frozen, frozen[:, ::3], frozen.T, frozen[:0]):
        assert_same_array(travelled(array), array)
    assert not frozen.flags.writeable


@settings(max_examples=150, deadline=None)
@given(
    npst.arrays(
        npst.scalar_dtypes() | npst.array_dtypes(),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    ),
    st.permutations(range(4)),
    st.booleans(),
)
def test_arrays_in_general(array, axes, read_only):
    array = array.transpose([axis for axis in axes if axis < array.ndim])
    array.flags.writeable = not read_only
    assert_same_array(travelled(array), array)


def test_a_broadcast_array_arrives_as_an_ordinary_one():
    sent = np.broadcast_to(np.arange(5.0), (400, 5))
    got = travelled(sent)
    assert_same_array(got, sent)
    got[0, 0] = 7
    assert got[1, 0] == 0


def test_arrays_of_objects_strings_and_subclasses():
    objects = np.array([None, "a", [1], {2: 3}], dtype=object)
    assert_same_array(travelled(objects), objects)
    assert_same_array(
        travelled(np.array([[objects[2]], [3]], dtype=object)), np.array([[[1]], [3]], dtype=object)
    )
    words = np.array(["", "wide " * 50, "ä"], dtype=np.dtypes.StringDType())
    assert travelled(words).dtype == words.dtype and travelled(words).tolist() == words.tolist()
    masked = np.ma.masked_array(np.arange(2000.0), mask=np.arange(2000) % 3 == 0)
    got = travelled(masked)
    assert type(got) is type(masked) and got.sum() == masked.sum() and (got.mask == masked.mask).all()
    records = np.rec.array([(1, 2.0)] * 500, dtype=[("a", "i4"), ("b", "f8")])
    assert type(travelled(records)) is np.recarray and (travelled(records).b == 2.0).all()
    matrix = np.matrix(np.ones((40, 40)))
    matrix.flags.writeable = False
    assert type(travelled(matrix)) is np.matrix and travelled(matrix).flags.writeable


def test_a_memory_map_arrives_as_memory(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3000))
    for mode in ("r", "r+"):
        got = travelled(np.load(tmp_path / "a.npy", mmap_mode=mode))
        assert (got == np.arange(3000)).all() and got.flags.writeable


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.int8(-1),
        np.datetime64("2020-01-01"),
        np.str_("ü"),
        np.complex64(1j),
        np.bool_(True),
    ],
)
def test_scalars_of_numpy(scalar):
    assert type(travelled(scalar)) is type(scalar) and travelled(scalar) == scalar


def test_one_array_twice_arrives_as_one():
    array = np.arange(5000)
    first, second = travelled([array, array])
    assert first is second
    array.flags.writeable = False
    first, second = travelled([array, array])
    assert first is second and first.flags.writeable


# ---------------------------------------------------------------- frames


def test_large_buffers_are_the_senders_own_memory():
    array = np.arange(10_000)
    stream, buffer = dumps({"x": array, "small": np.arange(3)})
    assert np.shares_memory(np.frombuffer(buffer, array.dtype), array)
    assert len(stream) < 1000
    assert len(dumps(np.arange(3))) == 1


def test_a_writeable_frame_becomes_the_memory_of_the_result():
    stream, buffer = dumps(np.zeros(1000))
    memory = bytearray(buffer)
    got = loads([stream, memory])
    memory[:8] = np.float64(3.0).tobytes()
    assert got[0] == 3.0


def test_copied_frames_are_independent_of_the_sender():
    array = np.zeros(1000)
    frames = copied(dumps(array))
    array[0] = 5
    assert loads(frames)[0] == 0


def test_the_stream_may_be_any_buffer():
    frames = dumps([1, "two", np.arange(1000)])
    for kind in (bytes, bytearray, memoryview):
        assert loads([kind(frames[0]), frames[1]])[1] == "two"


def test_digests_depend_on_every_byte():
    assert digest([b"ab", b"c"]) == digest([bytearray(b"ab"), memoryview(b"c")])
    assert len(digest([b""])) == 16
    assert len({digest([b"ab"]), digest([b"ac"]), digest([b""])}) == 3


# ---------------------------------------------------------------- pandas and the rest


@pytest.mark.parametrize("read_only", [False, True])
def test_pandas(read_only):
    frame = pd.DataFrame(
        {
            "i": np.arange(2000),
            "f": np.linspace(0, 1, 2000),
            "s": ["a", None] * 1000,
            "t": pd.date_range("2020", periods=2000, tz="Europe/Berlin"),
            "c": pd.Categorical(["x", "y"] * 1000),
            "n": pd.array([1, None] * 1000, dtype="Int64"),
        },
        index=pd.MultiIndex.from_product([range(40), range(50)], names=["p", "q"]),
    )
    if read_only:
        values = np.arange(4000.0).reshape(2000, 2)
        values.flags.writeable = False
        frame = pd.DataFrame(values, copy=False)
    got = travelled(frame)
    pd.testing.assert_frame_equal(got, frame)
    got.iloc[0, 0] = 77
    assert got.iloc[0, 0] == 77 and frame.iloc[0, 0] == 0
    pd.testing.assert_series_equal(travelled(frame.iloc[:, 1]), frame.iloc[:, 1])
    pd.testing.assert_index_equal(travelled(frame.index), frame.index)


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        ...,
        NotImplemented,
        0,
        -1,
        1 << 100,
        1.5,
        float("inf"),
        1j,
        "",
        "ä\udc80",
        b"",
        b"x" * 5000,
        bytearray(5000),
        [],
        (),
        {},
        set(),
        frozenset([1]),
        range(2, 9, 3),
        slice(1, None, 2),
        [1, (2, {"a": {3}})],
        Point(1, 2),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.deque([1], maxlen=3),
        collections.defaultdict(list, a=[1]),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        datetime.timedelta(1),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        pathlib.PurePosixPath("/a"),
        uuid.UUID(int=5),
        re.compile("a+"),
        int,
        np.float64,
        collections.OrderedDict,
    ],
    ids=repr,
)
def test_values(value):
    got = travelled(value)
    assert type(got) is type(value) and got == value


def test_bytearrays_arrive_writeable_and_memoryviews_as_bytes():
    got = travelled(bytearray(b"a" * 5000))
    got[0] = 0
    assert travelled(memoryview(b"a" * 5000)) == b"a" * 5000


def test_cycles_and_shared_parts():
    loop = [1]
    loop.append(loop)
    got = travelled(loop)
    assert got[1] is got
    shared = {"a": 1}
    one, two = travelled((shared, shared))
    assert one is two


class Node:
    def __init__(self, value):
        self.value, self.array = value, np.full(2000, value)

    def __eq__(self, other):
        return self.value == other.value and (self.array == other.array).all()


def test_objects_with_arrays_inside_keep_them_out_of_band(monkeypatch):
    frames = dumps([Node(1), Node(2)])
    assert len(frames) == 3
    assert loads(frames) == [Node(1), Node(2)]


def test_exceptions_travel():
    got = travelled(ValueError("bad", 3))
    assert type(got) is ValueError and got.args == ("bad", 3)


@pytest.mark.parametrize(
    "make",
    [lambda: (i for i in range(3)), socket.socket, sys._getframe, threading.Lock],
    ids=["generator", "socket", "frame", "lock"],
)
def test_what_cannot_travel_says_so(make):
    thing = make()
    try:
        name = type(thing).__name__.strip("_")[:6]
        with pytest.raises((TypeError, ValueError), match=rf"(?i)(pickle|serialize).*{name}"):
            dumps({"here": [thing]})
    finally:
        getattr(thing, "close", lambda: None)()
