"""What messages are made of: their base, and the types of their fields with their limits."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

LONGEST_ID = 200
LONGEST_TEXT = MOST_TASKS = 1 << 20
MOST = (1 << 31) - 1  # of a Count

Identifier = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
EngineId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Count = Annotated[int, Meta(ge=0, lt=1 << 31)]
NBytes = Annotated[int, Meta(ge=0, lt=1 << 62)]
Engines = Annotated[list[EngineId], Meta(max_length=1 << 20)]
Digest = Annotated[bytes, Meta(max_length=64)]
Ranks = Annotated[list[Count], Meta(max_length=1 << 20)]
Option = str | int | float | bool | None


class Header(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all message headers.

    Nothing that they hold leads back to them, so the garbage collector need not look at them (``gc``).
    """


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An exception as strings."""

    ename: str
    evalue: str
    traceback: str = ""
