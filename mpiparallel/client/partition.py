"""Cut a sequence into parts, one for each engine, and put parts together again. Pure.

``dist`` is ``"b"`` (contiguous blocks, the first ones longer by one where it does not divide) or ``"r"``
(round-robin: item i goes to part i mod n).
"""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_END = object()


def check_dist(dist: str) -> None:
    """Raise ValueError if `dist` is no known distribution."""
    if dist not in ("b", "r"):
        raise ValueError(f"dist={dist!r}: expected 'b' (contiguous blocks) or 'r' (round-robin)")


def block_sizes(total: int, parts: int) -> list[int]:
    """Return how many of `total` items each of `parts` blocks holds.

    >>> block_sizes(10, 4)
    [3, 3, 2, 2]
    """
    size, longer = divmod(total, parts)
    return [size + (index < longer) for index in range(parts)]


def partition(sequence: Any, parts: int, dist: str = "b") -> list[Any]:
    """Return `sequence` in `parts` parts of its own type; some are empty where there are fewer items.

    >>> partition("abcde", 2, "r")
    ['ace', 'bd']
    """
    check_dist(dist)
    sequence = _sliceable(sequence)
    total = len(sequence)
    if dist == "r":
        return [sequence[index:total:parts] for index in range(parts)]
    ends = list(itertools.accumulate(block_sizes(total, parts)))
    return [sequence[start:end] for start, end in zip([0, *ends], ends)]  # noqa: B905 (one longer on purpose)


def _sliceable(sequence: Any) -> Any:
    """Return something whose slices are what the parts shall be."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(sequence, (pandas.DataFrame, pandas.Series)):
        return _Rows(sequence)
    if (
        isinstance(sequence, (str, bytes, bytearray, memoryview, Sequence))
        and type(sequence).__name__ != "deque"
    ):
        return sequence
    if hasattr(sequence, "__array__") or (hasattr(sequence, "shape") and hasattr(sequence, "__getitem__")):
        if getattr(sequence, "ndim", 1) == 0:
            raise TypeError("a zero-dimensional array cannot be cut into parts")
        return sequence
    return list(sequence)


class _Rows:
    """Slices of a pandas object by position."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: slice) -> Any:
        return self.table.iloc[rows]


def join(parts: Sequence[Any], dist: str = "b") -> Any:
    """Return the sequence of which `parts` are the parts: an array of arrays, a list of lists or tuples.

    Parts that are not sequences (``flatten=True`` makes such) are listed as they are.

    >>> join([[0, 3], [1, 4], [2]], "r")
    [0, 1, 2, 3, 4]
    """
    check_dist(dist)
    if not parts:
        return []
    first = parts[0]
    if all(_is_array(part) for part in parts):
        return _join_arrays(parts, dist)
    pandas = sys.modules.get("pandas")
    if pandas is not None and all(isinstance(part, (pandas.DataFrame, pandas.Series)) for part in parts):
        joined = pandas.concat(list(parts))
        return joined if dist == "b" else joined.iloc[_order([len(part) for part in parts])]
    if all(isinstance(part, str) for part in parts):
        return "".join(_items(parts, dist))
    if all(isinstance(part, (bytes, bytearray)) for part in parts):
        joined = b"".join(bytes(part) for part in parts)
        ordered = (
            joined if dist == "b" else bytes(joined[index] for index in _order([len(part) for part in parts]))
        )
        return type(first)(ordered)
    if any(isinstance(part, (list, tuple, range)) for part in parts):
        return join_items(parts, dist)
    return list(parts)


def join_items(parts: Sequence[Any], dist: str = "b") -> list[Any]:
    """Return the items of `parts` as one list. A part that is no sequence is an item itself.

    >>> join_items([(1, 2), (3,)])
    [1, 2, 3]
    """
    listed = [
        part
        if (isinstance(part, Sequence) and not isinstance(part, (str, bytes))) or _is_array(part)
        else [part]
        for part in parts
    ]
    return list(_items(listed, dist))


def _items(parts: Sequence[Iterable[Any]], dist: str) -> Iterable[Any]:
    if dist == "b":
        return itertools.chain.from_iterable(parts)
    rounds = itertools.zip_longest(*parts, fillvalue=_END)
    return (item for items in rounds for item in items if item is not _END)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.ndim > 0


def _join_arrays(parts: Sequence[Any], dist: str) -> Any:
    numpy: Any = sys.modules["numpy"]
    masked = any(isinstance(part, numpy.ma.MaskedArray) for part in parts)
    joined = (numpy.ma if masked else numpy).concatenate(list(parts))
    return joined if dist == "b" else joined[_order([len(part) for part in parts])]


def _order(lengths: Sequence[int]) -> list[int]:
    """Return for each place of the whole where its item stands in the round-robin parts laid end to end."""
    starts = itertools.accumulate([0, *lengths[:-1]])
    return list(
        _items([range(start, start + length) for start, length in zip(starts, lengths, strict=True)], "r")
    )


def listed(sequence: Any) -> Any:
    """Return something with a length that `partition` can cut: a generator's items as a list.

    >>> listed(iter("ab"))
    ['a', 'b']
    """
    if isinstance(sequence, dict):
        return list(sequence)
    return sequence if hasattr(sequence, "__len__") and hasattr(sequence, "__getitem__") else list(sequence)


def head(sequence: Any, count: int) -> Any:
    """Return the first `count` items."""
    return sequence if len(sequence) == count else _sliceable(sequence)[:count]


def shortest(sequences: Sequence[Any]) -> int | None:
    """Return the least length of those that have one, be it a hint; None: nobody knows."""
    hints = [operator.length_hint(sequence, -1) for sequence in sequences]
    return min((hint for hint in hints if hint >= 0), default=None)


def first_item(part: Any) -> Any:
    """Return the first item of a part, or row of a pandas part."""
    return part.iloc[0] if hasattr(part, "iloc") else part[0]
