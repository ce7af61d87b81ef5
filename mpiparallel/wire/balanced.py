"""Messages about balanced tasks: those for which the hub chooses the engines.

Task number i of a request is named ``msg_id(request, i)``. On its way to an engine it is an ordinary
`Submit`, whose `request` is that name; so its `Result` has that name, too, and the engine that ran it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mpiparallel.wire.fields import (
    MOST_TASKS,
    Count,
    Digest,
    EngineId,
    Engines,
    Header,
    Identifier,
    Option,
    Text,
)

Tasks = Annotated[list[Identifier], Meta(max_length=MOST_TASKS)]


class Needs(msgspec.Struct, frozen=True, array_like=True):
    """Tasks that must have ended before another may begin: all of them, or any; well, or with an error."""

    tasks: Tasks
    all: bool = True
    success: bool = True
    failure: bool = False


class Balance(Header, frozen=True):
    """Do `verb` once for each of `parts`, on engines that the hub chooses.

    Part i, with ``parts[i]`` frames, is task number ``first + i`` of the request. A long request comes as
    several of these, with the same fields but for `first` and `parts`.

    Payload: `common` frames which every task gets, of which the first `function_frames` are the function's
    (zero means that the hub should have it); then the parts. `ranks` engines of one world run a task
    together: a gang, which gives as many results. `targets` names the engines that may be chosen; none: all.
    `timeout` is how long a task may wait for its engine, in seconds. `again` marks what a client sends once
    more because it has lost its connection: what is known of these tasks already counts.
    """

    request: Identifier
    client: Identifier
    verb: Literal["apply", "map"]
    parts: Annotated[list[Count], Meta(min_length=1, max_length=1 << 20)]
    first: Count = 0
    common: Count = 0
    function: Digest = b""
    function_frames: Count = 0
    options: dict[str, Option] = {}
    ranks: Annotated[int, Meta(ge=1, lt=1 << 31)] = 1
    targets: Engines = []
    retries: Count = 0
    timeout: Annotated[float, Meta(ge=0)] | None = None
    after: Needs | None = None
    follow: Needs | None = None
    label: Text = ""
    submitted: float | None = None
    again: bool = False


class Recall(Header, frozen=True):
    """Give these tasks back, where they have not begun: another engine is free. Answered by Returned."""

    engine: EngineId
    tasks: Tasks


class Returned(Header, frozen=True):
    """These tasks were taken out of the queue of `engine`; they have not begun and have no result."""

    engine: EngineId
    tasks: Tasks
