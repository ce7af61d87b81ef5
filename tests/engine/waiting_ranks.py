"""States of ranks for tests of what is said about waits."""

from __future__ import annotations

from mpiparallel.engine.deadlock import EAGER, RankState
from mpiparallel.wire.waits import Part, Wait

RUNNING, IDLE = RankState("running"), RankState("idle")
LARGE = 2 * EAGER


def blocked(
    *parts: Part, call: str = "", any: bool = False, request: str = "q", queued: int = 0, n: int = 3
) -> RankState:
    """Return a rank of a world of `n` that is blocked in these parts."""
    call = call or parts[0].signature.partition("(")[0] or parts[0].kind
    wait = Wait(1, call, 1.0, list(parts), any, {"w": list(range(n))}, {"w": "COMM_WORLD"})
    return RankState("blocked", queued, request, wait, "cell line 5")


def receive(peer: int, tag: int = -1) -> Part:
    return Part("receive", "w", peer=peer, tag=tag)


def send(peer: int, tag: int = 0, nbytes: int = -1, index: int = -1) -> Part:
    return Part("send", "w", "", index, nbytes, peer, tag)


def collective(signature: str, index: int = 0, nbytes: int = -1) -> Part:
    return Part("collective", "w", signature, index, nbytes)
