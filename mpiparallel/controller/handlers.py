"""Who sees to which message: of clients, and of worlds. What is not here the hub does itself."""

from __future__ import annotations

from collections.abc import Callable

from mpiparallel.controller import claims, delivery, questions, returning, work, worlds
from mpiparallel.controller.state import Client, State, World
from mpiparallel.wire.messages import (
    Abort,
    Claim,
    Consumed,
    EnginesLost,
    JobEnds,
    Lacks,
    Message,
    Notice,
    Output,
    Received,
    Result,
    Signal,
    Submit,
    Supply,
    Whereabouts,
)

CLIENT_WORK: dict[type, Callable[[State, Client, Message], None]] = {
    Submit: work.submit,
    Abort: work.abort,
    Claim: claims.claim,
    Signal: work.signal,
    Consumed: work.consumed,
    Supply: work.supply,
    Received: delivery.received,
}
WORLD_WORK: dict[type, Callable[[State, World, Message], None]] = {
    Result: work.result,
    Output: work.output,
    Lacks: work.lacks,
    Whereabouts: questions.whereabouts,
    Notice: work.notice,
    EnginesLost: worlds.lost,
    JobEnds: returning.job_ends,
}
