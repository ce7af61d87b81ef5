"""What the hub tells the store of tasks that have ended.

The hub appends to `State.journal`; the server takes it from there and gives it to the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mpiparallel.wire.messages import Failure, Message


@dataclass(slots=True)
class Record:
    """One task that has ended.

    Attributes
    ----------
    task
        Its msg_id.
    verb, label, submitted
        As the client said.
    ranks
        How many engines ran it together; 0: it was for one engine that the client chose.
    engines
        Who ran it; none when it was never on any.
    status
        ``ok``, ``error`` or ``aborted``; None for one that has not ended, which somebody asks about.
    results
        The Results with their payload, in rank order: one, or one for each rank of a gang.
    inputs
        A `Balance` of this task alone, for those who would have it done once more; None for direct tasks.
    uuid
        Which process ran it, or the first of a gang; the hub fills it in when it hands the record out.
    """

    task: str
    client: str
    verb: str
    label: str
    submitted: float | None
    ranks: int
    engines: list[int]
    status: str | None
    started: float | None
    completed: float | None
    failure: Failure | None = None
    results: list[Message] = field(default_factory=list)
    inputs: Message | None = None
    uuid: str = ""


@dataclass(slots=True)
class Printed:
    """What a task has printed while its client was gone; `kind` is ``stdout`` or ``stderr``."""

    task: str
    kind: str
    text: str


@dataclass(slots=True)
class Departed:
    """A client is gone: the store alone has its results, as soon as it has written them."""

    client: str


Entry = Record | Printed | Departed
