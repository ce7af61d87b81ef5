"""Messages that see to it that nothing is lost when a connection, or the controller, is.

A bridge keeps each Result until it is `Settled`, the hub keeps it until the client has `Received` it or it is
in the store, and a client keeps each request until it has the Results. After a new connection each says again
what the other side may not have got; what is known already is passed over.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mpiparallel.wire.fields import Count, EngineId, Engines, Header, Identifier


class Received(Header, frozen=True):
    """The client has taken the next `count` Results of this connection."""

    count: Count


class Settled(Header, frozen=True):
    """Results that the bridge need not keep any longer: of ``requests[i]`` by ``engines[i]``."""

    requests: Annotated[list[Identifier], Meta(max_length=1 << 20)]
    engines: Engines


class Resend(Header, frozen=True):
    """The request was lost on its way to these engines: the client is to submit it again, for them alone."""

    request: Identifier
    engines: Annotated[list[EngineId], Meta(max_length=1 << 20)]


class Claim(Header, frozen=True):
    """The client would like to have the Results of these tasks, by whomever they were submitted.

    The Answer's value is ``{"unknown": [msg_id, ...], "tasks": {msg_id: metadata, ...}}``; the Results
    follow, those of tasks that are not done when they are.
    """

    query: Count
    tasks: Annotated[list[Identifier], Meta(max_length=1 << 20)]
