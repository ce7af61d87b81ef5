"""Who waits where, as text for people: a few lines for any number of ranks."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mpiparallel.engine.matching import ANY
from mpiparallel.engine.situation import RankState, Situation
from mpiparallel.wire.waits import Part, Wait

LINES = 12  # at most, of one picture
_PARTS = 3  # of one wait that are described


def ranks_text(ranks: Iterable[int]) -> str:
    """Return "rank 3" or "ranks 0-2, 5"."""
    numbers = sorted(set(ranks))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    if len(shown) > LINES:
        shown[LINES - 1 :] = ["..."]
        return f"{len(numbers)} ranks ({', '.join(shown)})"
    return ("rank " if len(numbers) == 1 else "ranks ") + ", ".join(shown)


def ordinal(number: int) -> str:
    """Return "1st", "2nd", "3rd", "4th" ..."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def picture(situation: Situation, only: Collection[int] | None = None) -> str:
    """Return what the ranks do, one line for those that do the same.

    Parameters
    ----------
    situation
        What the ranks do.
    only
        The ranks to show; all when not given.
    """
    states = {rank: state for rank, state in situation.ranks.items() if only is None or rank in only}
    for coarse in (False, True):
        groups: dict[str, list[int]] = {}
        for rank, state in states.items():
            if rank not in situation.dead:
                groups.setdefault(_doing(situation, rank, state, coarse), []).append(rank)
        for rank, reason in situation.dead.items():
            if only is None or rank in only:
                groups.setdefault(f"dead ({_short(reason)})", []).append(rank)
        if len(groups) <= LINES:
            break
    ordered = sorted(groups.items(), key=lambda item: min(item[1]))
    rest = ordered[LINES - 1 :] if len(ordered) > LINES else []
    lines = [f"{ranks_text(ranks)}: {text}" for text, ranks in ordered[: len(ordered) - len(rest)]]
    if rest:
        others = [rank for _, ranks in rest for rank in ranks]
        lines.append(f"{ranks_text(others)}: in {len(rest)} other places")
    return "\n".join(lines)


def _doing(situation: Situation, rank: int, state: RankState, coarse: bool) -> str:
    if state.doing == "blocked" and state.wait is not None:
        return _call(state.wait, coarse) + (f", {state.line}" if state.line else "")
    if state.doing == "idle":
        outcomes = {request.ended[rank] for request in situation.requests.values() if rank in request.ended}
        failed = sorted(outcomes - {"ok"})
        if failed:
            return f"failed ({_short(failed[0])})" if not coarse else "failed"
        return "finished" if outcomes else "idle"
    return "running"


def _call(wait: Wait, coarse: bool) -> str:
    """Return a wait as text; a coarse one leaves out the peers, in which ranks of one program differ."""
    first = wait.parts[0] if wait.parts else None
    if first is not None and first.kind == "collective" and first.signature.startswith(wait.call):
        return _part(first, wait, coarse)[len("for ") :]  # which begins with the name of the call
    parts = list(dict.fromkeys(_part(part, wait, coarse) for part in wait.parts if part.kind != "other"))
    if len(parts) > _PARTS:
        parts[_PARTS:] = [f"{len(parts) - _PARTS} more"]
    return " ".join([wait.call, (" or " if wait.any else " and ").join(parts)]).strip()


def _part(part: Part, wait: Wait, coarse: bool) -> str:
    on = f" on {wait.names.get(part.comm, part.comm)}" if part.comm else ""
    if part.kind == "collective":
        return f"for {part.signature}{on} (its {ordinal(part.index + 1)} collective)"
    direction = "from" if part.kind == "receive" else "to"
    if coarse:
        return f"{direction} some rank{on}"
    peer = "any rank" if part.peer == ANY else f"rank {part.peer}"
    tag = f", tag {part.tag}" if part.tag != ANY else ""
    return f"{direction} {peer}{tag}{on}"


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 120 else f"{line[:117]}..."
