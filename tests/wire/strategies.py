"""Random messages, made from the message types themselves: a new type is covered at once."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import msgspec.inspect as types
from hypothesis import strategies as st

from mpiparallel.wire.messages import AnyHeader, Balance, Message, Submit

HEADER_TYPES = get_args(AnyHeader)

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def of_type(kind: types.Type) -> st.SearchStrategy[Any]:
    """Return a strategy for the values that msgspec takes for `kind`."""
    match kind:
        case types.IntType(ge=low, gt=above, le=high, lt=below):
            low = above + 1 if above is not None else -(1 << 63) if low is None else low
            high = below - 1 if below is not None else (1 << 63) - 1 if high is None else high
            return st.integers(low, high)
        case types.FloatType(ge=low):
            return st.floats(min_value=low, allow_nan=False)
        case types.StrType(min_length=low):
            return st.text(min_size=low or 0, max_size=12)
        case types.BytesType(max_length=high):
            return st.binary(max_size=min(high or 12, 12))
        case types.ListType(item_type=item, min_length=low):
            return st.lists(of_type(item), min_size=low or 0, max_size=(low or 0) + 3)
        case types.DictType(key_type=key, value_type=value):
            return st.dictionaries(of_type(key), of_type(value), max_size=3)
        case types.UnionType(types=choices):
            return st.one_of([of_type(choice) for choice in choices])
        case types.LiteralType(values=values):
            return st.sampled_from(values)
        case types.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: of_type(field.type) for field in fields})
        case types.BoolType():
            return st.booleans()
        case types.NoneType():
            return st.none()
        case types.AnyType():
            return _json
    raise NotImplementedError(f"no strategy for {kind!r}: add one here")


def headers(cls: type) -> st.SearchStrategy[Any]:
    return of_type(types.type_info(cls))


payloads = st.lists(
    st.binary(max_size=40) | st.integers(4090, 6000).map(lambda size: bytes([size % 251]) * size), max_size=4
)


@st.composite
def submits(draw: st.DrawFn) -> Message:
    """Return requests whose counts add up."""
    engines = draw(st.lists(st.integers(0, 99), unique=True, max_size=4))
    common = draw(payloads)
    parts = draw(st.lists(payloads, min_size=len(engines), max_size=len(engines)) | st.just([]))
    header = Submit(
        request=draw(st.text(min_size=1, max_size=8)),
        client="c",
        verb=draw(st.sampled_from(["apply", "map", "push"])),
        engines=engines,
        common=len(common),
        parts=[len(part) for part in parts],
        function=draw(st.binary(max_size=16)),
        function_frames=draw(st.integers(0, len(common))),
        options=draw(st.dictionaries(st.text(max_size=4), st.booleans() | st.integers(0, 9), max_size=2)),
    )
    return Message(header, [*common, *(frame for part in parts for frame in part)])


@st.composite
def balances(draw: st.DrawFn) -> Message:
    """Return balanced requests whose counts add up."""
    common = draw(payloads)
    parts = draw(st.lists(payloads, min_size=1, max_size=4))
    header = msgspec.structs.replace(
        draw(headers(Balance)), common=len(common), parts=[len(part) for part in parts],
        function_frames=draw(st.integers(0, len(common))),
    )  # fmt: skip
    return Message(header, [*common, *(frame for part in parts for frame in part)])


messages = (
    submits()
    | balances()
    | st.one_of(
        [st.builds(Message, headers(cls), payloads) for cls in HEADER_TYPES if cls not in (Submit, Balance)]
    )
)
