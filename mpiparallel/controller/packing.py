"""Results and inputs of tasks as bytes, for the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mpiparallel.wire.messages import Balance, Failure, Message, Result

MAX_BLOB = 900 << 20  # SQLite's limit is 1e9 bytes

encode = msgspec.msgpack.Encoder().encode


class _Answered(msgspec.Struct, array_like=True):
    header: Result
    payload: list[bytes]


class Inputs(msgspec.Struct, array_like=True):
    """What is kept of a balanced task with itself."""

    header: Balance
    common: list[bytes] | None  # None: among the shared
    part: list[bytes]


_decode_results = msgspec.msgpack.Decoder(list[_Answered]).decode
decode_inputs = msgspec.msgpack.Decoder(Inputs).decode
decode_frames = msgspec.msgpack.Decoder(list[bytes]).decode


def as_bytes(frame: Any) -> bytes:
    """Return a payload frame as bytes."""
    return frame if type(frame) is bytes else bytes(frame)


def clean(text: str) -> str:
    """Return `text` with what UTF-8 cannot say written as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def pack_results(results: Sequence[Message]) -> bytes | None:
    """Return Results as bytes; None if they are too many for the database."""
    try:
        packed = encode([(header, [as_bytes(frame) for frame in payload]) for header, payload in results])
    except UnicodeEncodeError:
        cleaned = [(_clean_header(header), payload) for header, payload in results]
        packed = encode([(header, [as_bytes(frame) for frame in payload]) for header, payload in cleaned])
    return packed if len(packed) <= MAX_BLOB else None


def _clean_header(header: Any) -> Any:
    failure = header.failure
    return msgspec.structs.replace(
        header, failure=Failure(clean(failure.ename), clean(failure.evalue), clean(failure.traceback))
    )


def unpack_results(packed: bytes) -> list[Message]:
    """Undo `pack_results`."""
    return [Message(one.header, one.payload) for one in _decode_results(packed)]
