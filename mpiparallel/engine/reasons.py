"""Why ranks are stuck: from what their waits lack to sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from mpiparallel.engine.matching import FORGOTTEN, Counts, parse, sizes_differ
from mpiparallel.engine.picture import ordinal, ranks_text
from mpiparallel.engine.situation import Situation
from mpiparallel.wire.waits import Part

_MANY = 6  # as many sentences, and ranks of a cycle, are shown


@dataclass(eq=False)
class Need:
    """What a part of a wait cannot end without: all of `ranks`, or one of them, going on."""

    part: Part
    every: bool
    ranks: list[int]
    blocked: set[int]  # those of `ranks` that may be released themselves; the others never come
    owners: list[int] = field(default_factory=list)  # whose part it is
    left: int = 0  # how many must be released before it is met; below zero: it never is
    met: bool = False

    def __post_init__(self) -> None:
        possible = len(self.blocked) == len(self.ranks) if self.every else bool(self.blocked)
        self.left = (len(self.blocked) if self.every else 1) if possible else -1


@dataclass(frozen=True)
class Reason:
    """One thing that keeps ranks from going on.

    "mismatch" and "sizes" are of a collective that is not the same, or not of the same size, on all ranks;
    "finished" of ranks that will not do their part; "cycle" of ranks that wait for each other.
    """

    kind: Literal["mismatch", "sizes", "finished", "cycle"]
    ranks: tuple[int, ...]
    text: str


def reasons(
    situation: Situation, needs: Collection[Need], stuck: set[int], counts: Counts
) -> tuple[Reason, ...]:
    """Return why the ranks of `stuck` are so.

    Parameters
    ----------
    situation, counts
        What is known.
    needs
        What the waits of stuck ranks lack.
    """
    waits = situation.waiting()
    at = {
        (rank, part.comm, part.index): part
        for rank, wait in waits.items()
        for part in wait.parts
        if part.kind == "collective"
    }
    names = {comm: name for rank in stuck for comm, name in waits[rank].names.items()}
    calls: dict[tuple[str, int], dict[str, set[int]]] = {}
    sizes: dict[tuple[str, int, str], dict[int, set[int]]] = {}
    absent: dict[tuple[str, str, tuple[int, ...]], set[int]] = {}
    for need in needs:
        part, owners = need.part, stuck.intersection(need.owners)
        never = []
        for rank in need.ranks:
            other = at.get((rank, part.comm, part.index)) if part.kind == "collective" else None
            began = other.signature if other is not None else ""
            if part.kind == "collective" and other is None and rank not in situation.dead:
                began = counts.began(rank, part.comm, part.index)
            if began not in ("", FORGOTTEN, part.signature):
                by_call = calls.setdefault((part.comm, part.index), {})
                by_call.setdefault(part.signature, set()).update(owners)
                by_call.setdefault(began, set()).add(rank)
            elif other is not None and sizes_differ(other, part):
                by_size = sizes.setdefault((part.comm, part.index, part.signature), {})
                by_size.setdefault(part.nbytes, set()).update(owners)
                by_size.setdefault(other.nbytes, set()).add(rank)
            elif rank not in need.blocked:
                never.append(rank)
        if never:
            what = _missed(part, names)
            absent.setdefault((part.kind, what, tuple(never)), set()).update(owners)
    found = [_mismatch(comm, index, by_call, names) for (comm, index), by_call in calls.items()]
    found += [_sizes(comm, index, name, by_size, names) for (comm, index, name), by_size in sizes.items()]
    found += [_finished(kind, what, never, owners) for (kind, what, never), owners in absent.items()]
    if not found:
        found += _cycle(needs, stuck)
    return tuple(found[:_MANY])


def _mismatch(comm: str, index: int, by_call: dict[str, set[int]], names: dict[str, str]) -> Reason:
    ranks = tuple(sorted(set().union(*by_call.values())))
    ordered = sorted(by_call.items(), key=lambda one: min(one[1]))
    each = [f"{call} on {ranks_text(there)}" for call, there in ordered]
    text = f"the {ordinal(index + 1)} collective on {names.get(comm, comm)} is {' and '.join(each)}"
    parsed = [parse(call) for call in by_call]
    if len({name for name, _ in parsed}) == 1 and len({root for _, root in parsed}) > 1:
        text += ": the roots differ"
    return Reason("mismatch", ranks, text)


def _sizes(comm: str, index: int, call: str, by_size: dict[int, set[int]], names: dict[str, str]) -> Reason:
    ranks = tuple(sorted(set().union(*by_size.values())))
    each = [f"of {size} bytes on {ranks_text(there)}" for size, there in sorted(by_size.items())]
    text = f"{call}, the {ordinal(index + 1)} collective on {names.get(comm, comm)}, is {' and '.join(each)}"
    return Reason("sizes", ranks, text)


def _missed(part: Part, names: dict[str, str]) -> str:
    on = names.get(part.comm, part.comm)
    if part.kind == "collective":
        return f"{part.signature}, the {ordinal(part.index + 1)} collective on {on}"
    return f"on {on}"


def _finished(kind: str, what: str, never: Sequence[int], owners: set[int]) -> Reason:
    who = f"{ranks_text(never)} {'has' if len(never) == 1 else 'have'} finished"
    waiting, s = ranks_text(owners), "s" if len(owners) == 1 else ""
    text = {
        "collective": f"{who} without {what}, in which {waiting} wait{s}",
        "receive": f"{who} and will not send {what} what {waiting} wait{s} for",
        "send": f"{who} and will not receive {what} what {waiting} send{s}",
    }[kind]
    return Reason("finished", tuple(sorted(owners)), text)


def _cycle(needs: Collection[Need], stuck: set[int]) -> list[Reason]:
    """Return one cycle of ranks that wait for each other, found by following any way through them."""
    follow: dict[int, int] = {}
    for need in needs:
        others = [other for other in need.ranks if other in need.blocked and other in stuck][:2]
        for rank in stuck.intersection(need.owners) if others else ():
            follow.setdefault(rank, others[-1] if others[0] == rank else others[0])
    path: dict[int, int] = {}
    rank = min(stuck)
    while rank in follow and rank not in path:
        path[rank] = len(path)
        rank = follow[rank]
    if rank not in path:
        return []
    cycle = list(path)[path[rank] :]
    if len(cycle) == 1:
        return [Reason("cycle", (rank,), f"rank {rank} waits for itself")]
    ring = [*cycle, rank]
    steps = [f"rank {one} for rank {two}" for one, two in pairwise(ring)]
    steps[0] = f"rank {ring[0]} waits for rank {ring[1]}"
    if len(steps) > _MANY:
        steps[_MANY - 1 : -1] = ["..."]
    return [Reason("cycle", tuple(cycle), ", ".join(steps))]
