"""Cutting sequences and joining the parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpiparallel.client.partition import block_sizes, join, join_items, listed, partition

DISTS = st.sampled_from("br")
LENGTHS = st.integers(0, 40)
PARTS = st.integers(1, 12)

MAKERS = {
    "list": lambda n: list(range(n)),
    "tuple": lambda n: tuple(range(n)),
    "range": range,
    "str": lambda n: "".join(chr(97 + i % 26) for i in range(n)),
    "bytes": lambda n: bytes(range(n)),
    "bytearray": lambda n: bytearray(range(n)),
    "array": np.arange,
    "matrix": lambda n: np.arange(3 * n).reshape(n, 3),
    "structured": lambda n: np.array([(i, str(i)) for i in range(n)], dtype=[("a", int), ("b", "U4")]),
    "objects": lambda n: np.array([{"i": i} for i in range(n)], dtype=object),
    "masked": lambda n: np.ma.masked_array(np.arange(n), mask=[i % 2 == 0 for i in range(n)]),
    "frame": lambda n: pd.DataFrame(
        {"x": range(n), "y": [str(i) for i in range(n)]}, index=range(100, 100 + n)
    ),
    "series": lambda n: pd.Series([i * 1.5 for i in range(n)], index=range(50, 50 + n), dtype=float),
}


def same(left, right) -> bool:
    if isinstance(right, (pd.DataFrame, pd.Series)):
        return left.equals(right)
    if isinstance(right, np.ma.MaskedArray):
        return np.ma.allequal(left, right) and np.array_equal(*map(np.ma.getmaskarray, (left, right)))
    if isinstance(right, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and bool(np.all(left == right))
    if isinstance(right, (tuple, range)):
        right = list(right)
    return type(left) is type(right) and left == right


@pytest.mark.parametrize("kind", MAKERS)
@given(length=LENGTHS, parts=PARTS, dist=DISTS)
def test_what_was_cut_is_joined_again(kind, length, parts, dist):
    whole = MAKERS[kind](length)
    cut = partition(whole, parts, dist)
    assert len(cut) == parts
    assert sum(map(len, cut)) == length
    assert same(join(cut, dist), whole)


@given(length=LENGTHS, parts=PARTS)
def test_blocks_are_even(length, parts):
    sizes = block_sizes(length, parts)
    assert sum(sizes) == length
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert [len(part) for part in np.array_split(range(length), parts)] == sizes


def test_round_robin_deals_like_cards():
    assert partition(list(range(5)), 3, "r") == [[0, 3], [1, 4], [2]]


def test_parts_keep_their_type():
    assert partition(range(10), 2) == [range(0, 5), range(5, 10)]
    assert partition((1, 2, 3), 2) == [(1, 2), (3,)]


def test_other_iterables_are_listed():
    assert partition({3, 1, 2}, 2) == [[1, 2], [3]]
    assert partition(iter("abc"), 2) == [["a", "b"], ["c"]]
    assert partition({"a": 1, "b": 2}, 2) == [["a"], ["b"]]
    assert listed(i for i in range(3)) == [0, 1, 2]


def test_joining_mixed_parts():
    assert join([[1], (2,), range(3, 5)]) == [1, 2, 3, 4]
    assert join([1, 2, 3]) == [1, 2, 3]
    assert join([]) == []
    assert join_items(["ab", [1]]) == ["ab", 1]
    assert join([np.float64(1), np.float64(2)]) == [1.0, 2.0]


def test_an_unknown_distribution_is_named():
    with pytest.raises(ValueError, match="dist='x'"):
        partition([1], 1, "x")
    with pytest.raises(ValueError, match="dist='x'"):
        join([[1]], "x")


def test_a_scalar_array_cannot_be_cut():
    with pytest.raises(TypeError, match="zero-dimensional"):
        partition(np.array(1), 2)
