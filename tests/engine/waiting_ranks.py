"""States of ranks, and what is judged of them."""

from __future__ import annotations

from mpiparallel.engine.deadlock import EAGER, RankState, RequestState, Situation, Verdict, analyse, suspects
from mpiparallel.wire.waits import Ledger, Part, Wait

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


def judge(
    *states: RankState,
    ended: dict[int, str] | None = None,
    dead: dict[int, str] | None = None,
    requests: dict[str, RequestState] | None = None,
    **ledgers: Ledger,
) -> list[Verdict]:
    """Return the verdicts on ranks 0, 1, ...; the ledger of rank 2 is given as `rank2`."""
    ranks = {i: state for i, state in enumerate(states) if i not in (dead or {})}
    if requests is None:
        requests = {"q": RequestState(range(len(states)), ended or {})}
    known = {}
    for i, state in enumerate(states):
        parts = state.wait.parts if state.wait else []
        begun = [part.signature for part in parts if part.kind == "collective"]
        sent = [[part.peer, part.tag, 1] for part in parts if part.kind == "send"]
        known[i] = {"w": ledgers.get(f"rank{i}", Ledger(len(begun), begun, sent))}
    situation = Situation(ranks, requests, dead or {})
    verdicts = analyse(situation, known)
    assert {verdict.rank for verdict in verdicts} <= suspects(situation)
    return verdicts


def stuck(*states: RankState, **more: object) -> list[int]:
    return [verdict.rank for verdict in judge(*states, **more)]  # type: ignore[arg-type]
