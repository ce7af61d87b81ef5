"""Messages to frames and back.

Many messages ready for the same peer travel as one. The first frame holds a mark, the protocol's
version and all headers; short payloads stand in it too, long ones follow as frames of their own, in order::

    b"mpip" version | msgpack [[header, [bytes | nil, ...]], ...]      nil: the next long frame
    long frame, long frame, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mpiparallel.error import WireError
from mpiparallel.wire import PROTOCOL
from mpiparallel.wire.messages import AnyHeader, Balance, Message, Submit

MARK = b"mpip" + bytes([PROTOCOL])
INLINE = 4096  # payloads up to this many bytes are cheaper to copy than to send as a frame
MAX_INLINE = 8 << 20  # of short payloads in one first frame; beyond it they travel as long ones
MAX_HEADER = 64 << 20  # bytes of a first frame
MAX_MESSAGES = 100_000  # in one first frame
MAX_LONG_FRAMES = 1_000_000


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    header: AnyHeader
    payload: Annotated[list[bytes | None], Meta(max_length=MAX_LONG_FRAMES)] = []


_encoder = msgspec.msgpack.Encoder()
# The lengths are checked before the items are decoded, so that a small frame cannot ask for much memory.
_decoder = msgspec.msgpack.Decoder(Annotated[list[_Entry], Meta(max_length=MAX_MESSAGES)])


def nbytes(buffer: Any) -> int:
    """Return the size of any buffer."""
    return len(buffer) if type(buffer) is bytes else memoryview(buffer).nbytes


def pack(messages: Iterable[Message]) -> list[Any]:
    """Return the frames of these messages; long payloads are passed on as they are, uncopied.

    Raises
    ------
    WireError
        If they break a limit: the other side would refuse them.
    """
    entries, long_frames = [], []
    room = MAX_INLINE
    for header, payload in messages:
        short: list[bytes | None] = []
        for frame in payload:
            size = nbytes(frame)
            if size <= INLINE and size <= room:
                short.append(frame if type(frame) is bytes else bytes(frame))
                room -= size
            else:
                short.append(None)
                long_frames.append(frame)
        entries.append(_Entry(header, short))
    first = MARK + _encode(entries)
    _check_limits(len(first), len(entries), 1 + len(long_frames))
    return [first, *long_frames]


def check(header: AnyHeader) -> None:
    """Raise ValueError if the other side would refuse `header`."""
    try:
        unpack(pack([Message(header)]))
    except (WireError, TypeError, OverflowError) as problem:
        raise ValueError(f"this cannot be sent: {problem}") from None


def _encode(entries: list[_Entry]) -> bytes:
    try:
        return _encoder.encode(entries)
    except UnicodeEncodeError:
        # Half a surrogate pair, as in names of files that are not UTF-8: it travels as "\\udc80".
        return _encoder.encode(_escaped(msgspec.to_builtins(entries, builtin_types=(bytes,))))


def _escaped(value: Any) -> Any:
    """Return `value` with what UTF-8 cannot say written as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    return value


def _check_limits(header_bytes: int, messages: int, frames: int) -> None:
    if header_bytes > MAX_HEADER or messages > MAX_MESSAGES or frames > MAX_LONG_FRAMES:
        raise WireError(
            f"a message too large: {header_bytes} header bytes (at most {MAX_HEADER}), {messages} messages "
            f"(at most {MAX_MESSAGES}), {frames} frames (at most {MAX_LONG_FRAMES})"
        )


def unpack(frames: Sequence[Any]) -> list[Message]:
    """Return the messages in these frames.

    Raises
    ------
    WireError
        If they are not frames of this protocol and version, or break a limit.
    """
    if not frames:
        raise WireError("an empty message")
    first = memoryview(frames[0])
    _check_limits(first.nbytes, 0, len(frames))
    if bytes(first[:4]) != MARK[:4] or first.nbytes < len(MARK):
        raise WireError("not a message of mpiparallel")
    if first[4] != PROTOCOL:
        raise WireError(
            f"the other side speaks protocol {first[4]} and this one {PROTOCOL}: "
            "install the same version of mpiparallel on both"
        )
    try:
        entries = _decoder.decode(first[len(MARK) :])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"malformed header: {error}") from None
    rest = iter(frames[1:])
    try:
        messages = [
            Message(entry.header, [next(rest) if short is None else short for short in entry.payload])
            for entry in entries
        ]
    except StopIteration:
        raise WireError("fewer payload frames than the header says") from None
    if next(rest, None) is not None:
        raise WireError("more payload frames than the header says")
    for header, payload in messages:
        _check_counts(header, payload)
    return messages


def _check_counts(header: Any, payload: Sequence[Any]) -> None:
    """Raise WireError where the counts of a request do not add up to its payload."""
    kind = type(header)
    if kind is Balance:
        if header.common + sum(header.parts) != len(payload) or header.function_frames > header.common:
            raise WireError("a request's frame counts do not add up to its payload")
        return
    if kind is not Submit:
        return
    if header.parts and len(header.parts) != len(header.engines):
        raise WireError(f"{len(header.parts)} parts for {len(header.engines)} engines")
    if header.common + sum(header.parts) != len(payload) or header.function_frames > header.common:
        raise WireError("a request's frame counts do not add up to its payload")
    if len(set(header.engines)) != len(header.engines):
        raise WireError("an engine is named twice in one request")
