"""Who may say what: the messages that the hub takes, by the key of who sends them."""

from __future__ import annotations

from mpiparallel.connection_file import Role
from mpiparallel.wire.messages import (
    Abort,
    Ask,
    Balance,
    Claim,
    Consumed,
    EnginesLost,
    Goodbye,
    Heartbeat,
    Hello,
    HelloWorld,
    Lacks,
    Notice,
    Output,
    Received,
    Result,
    Returned,
    Signal,
    Stop,
    Submit,
    Supply,
    Where,
    Whereabouts,
)

PERMITTED: dict[type, frozenset[Role]] = {
    Hello: frozenset({"client"}),
    HelloWorld: frozenset({"engine"}),
    Submit: frozenset({"client"}),
    Balance: frozenset({"client"}),
    Claim: frozenset({"client"}),
    Received: frozenset({"client"}),
    Returned: frozenset({"engine"}),
    Abort: frozenset({"client"}),
    Signal: frozenset({"client"}),
    Stop: frozenset({"client"}),
    Ask: frozenset({"client"}),
    Where: frozenset({"client"}),
    Supply: frozenset({"client"}),
    Consumed: frozenset({"client"}),
    Result: frozenset({"engine"}),
    Output: frozenset({"engine"}),
    Lacks: frozenset({"engine"}),
    Whereabouts: frozenset({"engine"}),
    Notice: frozenset({"engine"}),
    EnginesLost: frozenset({"engine"}),
    Heartbeat: frozenset({"client", "engine"}),
    Goodbye: frozenset({"client", "engine"}),
}
