"""What one rank is doing and waiting for: parts of messages, and the terms of the search for deadlocks."""

from __future__ import annotations

from typing import Literal

import msgspec

from mpiparallel.wire.fields import Count, EngineId, Ranks, Text


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One thing that has to happen before a wait ends.

    A collective is number `index` of those on `comm` (from 0), with its `signature` ("Bcast(root=0)"; the
    root is a rank of `comm`); `nbytes` is how much data where MPI wants that alike on all ranks, else -1. A
    receive or a send has a `peer` (a rank of the world; -1: any) and a `tag` (-1: any). Nothing is known of
    "other" ones.
    """

    kind: Literal["collective", "receive", "send", "other"]
    comm: str = ""
    signature: str = ""
    index: int = -1
    nbytes: int = -1
    peer: int = -1
    tag: int = -1


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """A rank is blocked in an MPI call until all of `parts`, or one of them, have happened.

    `number` counts the waits of a rank, so that two reports of the same number are about the same wait.
    `members` has the ranks of each communicator in `parts`, in its order, and `names` what people call it.
    """

    number: Count
    call: str
    seconds: float
    parts: list[Part] = []
    any: bool = False
    members: dict[str, Ranks] = {}
    names: dict[str, str] = {}


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A place in a program: as in a traceback."""

    file: str
    line: Count
    function: str
    text: str = ""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """What one engine is doing.

    `state` is "stuck" when its courier does not answer (it holds the GIL): then another process looked at its
    stack, and `detail` says how. `stack` has the frames of user code, the outermost first; for one that is
    stuck, all. `native` has C functions, the outermost first, where they could be seen.
    """

    engine: EngineId
    state: Literal["idle", "running", "blocked", "stuck", "gone"]
    request: str = ""
    client: str = ""
    seconds: float = 0.0  # since the task began; for an idle engine, since its last task ended
    queued: Count = 0
    stack: list[Frame] = []
    wait: Wait | None = None
    native: list[str] = []
    detail: Text = ""


class Ledger(msgspec.Struct, frozen=True, array_like=True):
    """What one rank has done on one communicator since it was made.

    `collectives` is how many were begun; `recent` has the signatures of the last of them. `sent` and
    `received` are [peer, tag, number of messages]; `pending` are receives that were started and are not known
    to be complete, [peer, tag] (-1: any); ranks are those of the world. An `opaque` communicator was used in
    ways that are not counted.
    """

    collectives: Count = 0
    recent: list[str] = []
    sent: list[list[int]] = []
    received: list[list[int]] = []
    pending: list[list[int]] = []
    opaque: bool = False
