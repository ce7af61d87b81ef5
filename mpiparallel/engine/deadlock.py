"""Who can never go on: a search for deadlocks among ranks that are blocked in MPI calls.

A wait is a formula over other ranks: a collective needs all of some ranks, a receive from any source one
of many, ``Waitall`` all of its parts, ``Waitany`` one. These are the AND-OR wait-for graphs of T. Hilbrich,
B. R. de Supinski, M. Schulz and M. S. Mueller, "A graph based approach for MPI deadlock detection" (ICS
2009); "Distributed wait state tracking for runtime MPI deadlock detection" by Hilbrich, Protze, Schulz, de
Supinski and Mueller (SC 2013) collects them while the program runs, as is done here. Ranks that are
certainly not stuck are released first, then whom these could release, until nobody is added; who is left is
stuck. Each edge is looked at once.

There must be no false alarm. Hence whatever is not known counts as help: a message that may be on its way,
a communicator that is not counted, a rank that may still be sent work. The ledgers have to keep their side:

- a message counts as sent when its sender is next in a wait, and as received only when its receive is no
  part of a wait any more: the wait has to be read after the ledger;
- what a matched probe has taken counts as received, or as a pending receive;
- a collective counts as begun when its call, or its non-blocking start, is entered;
- a ledger and the wait of the same rank belong to the same moment; those of different ranks need not, as
  long as each rank of the stuck set was in its wait when its ledger was read: such a rank sends nothing;
- a part of kind "send" has the message's size in `nbytes`, or -1 if it is synchronous; small ones may end
  without their receiver. Its `index` says how many messages with this tag the rank had sent to this peer
  before; -1 stands for the last one where the call itself sends, and for any where it only waits.

Found with certainty are deadlocks of receives, probes, large and synchronous sends, and of collectives
whose data cannot be there. Not found are those in which something stays pending that looks like help: an
``Irecv`` that matches but was started for another message, the root of a small broadcast, members of
a broadcast whose root has come (the algorithm may wait for others; see `doomed` when these have failed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpiparallel.engine.matching import (
    ANY,
    FORGOTTEN,
    FROM_ALL,
    FROM_LOWER,
    FROM_ROOT,
    TO_ROOT,
    Counts,
    matches,
    parse,
    sizes_differ,
)
from mpiparallel.engine.picture import picture, ranks_text
from mpiparallel.engine.reasons import Need, Reason, reasons
from mpiparallel.engine.situation import RankState, RequestState, Situation
from mpiparallel.wire.waits import Ledger, Part

__all__ = [
    "RankState",
    "Reason",
    "RequestState",
    "Situation",
    "Verdict",
    "analyse",
    "doomed",
    "picture",
    "ranks_text",
    "suspects",
]

EAGER = 1 << 16  # bytes; what is smaller, MPI libraries may send without waiting for the receiver


@dataclass(frozen=True)
class Verdict:
    """`rank` can never leave its wait.

    `cause` is the failed rank that it waits for, and `error` how that failed; no cause means a deadlock.
    `text` is for people: why the wait of a deadlock cannot end and who is where, or who waits for the failed
    rank.
    """

    rank: int
    cause: int | None = None
    error: str = ""
    text: str = ""
    reasons: tuple[Reason, ...] = ()


def analyse(situation: Situation, ledgers: Mapping[int, Mapping[str, Ledger]]) -> list[Verdict]:
    """Return whose waits should be ended, because they never will by themselves.

    Parameters
    ----------
    situation
        What the ranks do.
    ledgers
        By rank and communicator. A blocked rank without them is not stuck, and nobody is because of it.

    Returns
    -------
    list of Verdict
        Where somebody waits directly for a rank that has failed, only these: what becomes of the others shows
        when these have ended. Otherwise every rank of a deadlock.
    """
    counts = Counts(ledgers)
    search, stuck = _certain(situation, counts)
    verdicts = _failures(situation, search, stuck)
    if verdicts or not stuck:
        return verdicts
    unmet = [need for need in search.needs if not need.met and stuck.intersection(need.owners)]
    why = reasons(situation, unmet, stuck, counts)
    text = "\n".join([*(reason.text for reason in why), picture(situation)])
    return [Verdict(rank, text=text, reasons=why) for rank in sorted(stuck)]


def suspects(situation: Situation) -> set[int]:
    """Return the ranks whose ledgers are needed to say who is stuck; empty if nobody can be.

    As if nothing were on its way: everybody who is stuck is among them.
    """
    search = _Search(situation, None)
    stuck = search.stuck
    asked = set(stuck)
    for need in search.needs:
        if not need.met and not stuck.isdisjoint(need.owners):
            asked.update(need.ranks)
    return asked - set(situation.dead)


def doomed(situation: Situation, ledgers: Mapping[int, Mapping[str, Ledger]]) -> list[Verdict]:
    """Return whose collectives lack a rank that has failed, although their own calls might still end.

    The root of a broadcast may go on without its leaves, and a leaf whose place in the algorithm is not
    behind the failed one. It is wise to give them a moment.
    """
    search = _Search(situation, Counts(ledgers))
    stuck = set()
    for rank, wait in search.waits.items():
        for part in wait.parts if not wait.any else []:
            members = wait.members.get(part.comm)
            if part.kind != "collective" or members is None or not search.known(rank, part):
                continue
            request = situation.ranks[rank].request
            missing = [s for s in search.missing(part, members) if situation.over(s, request)]
            if any(_failed(situation, s, request) for s in missing):
                stuck.add(rank)
                search.needs.append(Need(part, True, missing, set(), [rank]))
    return _failures(situation, search, stuck)


class _Search:
    """The ranks that might go on, by the smallest fixpoint; `stuck` has the others.

    Parameters
    ----------
    situation, counts
        What is known; without counts nothing is on its way.
    within
        When given, look at these ranks alone, and take a blocked rank of another request for what it will be
        once its own wait has been ended: if its part in the waiting rank's request has ended it can do
        nothing more, else it may still help.
    """

    def __init__(self, situation: Situation, counts: Counts | None, within: set[int] | None = None) -> None:
        self.situation, self.counts, self.within = situation, counts, within
        self.waits = situation.waiting()
        self.needs: list[Need] = []
        self._shared: dict[tuple[object, ...], Need | None] = {}
        self._missing: dict[tuple[object, ...], list[int]] = {}
        self._at: dict[tuple[int, str, int], Part] = {}
        self._receiving: dict[int, list[Part]] = {}
        for rank, wait in self.waits.items():
            for part in wait.parts:
                if part.kind == "collective":
                    self._at[rank, part.comm, part.index] = part
                elif part.kind == "receive":
                    self._receiving.setdefault(rank, []).append(part)
        self.stuck = self._solve()

    def _solve(self) -> set[int]:
        candidates = set(self.waits) if self.within is None else set(self.within)
        missing: dict[int, int] = {}  # by rank: how many needs must be met before it may go on
        released = []
        for rank in sorted(candidates):
            wait = self.waits[rank]
            needs = [self._need(rank, part) for part in wait.parts]
            unmet = [need for need in needs if need is not None]
            if not unmet or (wait.any and len(unmet) < len(needs)):
                released.append(rank)
                continue
            missing[rank] = 1 if wait.any else len(unmet)
            for need in unmet:
                need.owners.append(rank)
        self.needs = [need for need in self._shared.values() if need is not None and need.owners]
        watching: dict[int, list[Need]] = {}
        for need in self.needs:
            for rank in need.blocked if need.left > 0 else []:
                watching.setdefault(rank, []).append(need)
        while released:
            for need in watching.pop(released.pop(), []):
                need.left -= 1
                if need.left != 0:
                    continue
                need.met = True
                for rank in need.owners:
                    missing[rank] -= 1
                    if missing[rank] == 0:
                        released.append(rank)
        return {rank for rank, count in missing.items() if count > 0}

    # ------------------------------------------------------------ one part of a wait

    def known(self, rank: int, part: Part) -> bool:
        """Whether enough is known of what `rank` did on the communicator of `part`."""
        return self.counts is None or self.counts.known(rank, part.comm)

    def _need(self, rank: int, part: Part) -> Need | None:
        """Return what `part` of the wait of `rank` still lacks; None when it might end as it is."""
        members = self.waits[rank].members.get(part.comm)
        if members is None or rank not in members or part.kind == "other" or not self.known(rank, part):
            return None
        request = self.situation.ranks[rank].request
        if part.kind == "collective":
            return self._collective(rank, part, members, request)
        if part.kind == "send":
            if part.peer not in members or 0 <= part.nbytes < EAGER or self._taken(rank, part):
                return None
            return self._make(("send", part.comm, part.peer, request), part, False, [part.peer], request)
        if part.peer != ANY and part.peer not in members:
            return None
        if self.counts is not None and self.counts.coming(rank, part, members, self.situation.dead):
            return None
        if part.peer != ANY:
            return self._make(("receive", part.comm, part.peer, request), part, False, [part.peer], request)
        # It may stand in this for itself, too: nobody is released by his own release.
        return self._make(("receive", part.comm, ANY, request), part, False, members, request)

    def _make(
        self, key: tuple[object, ...], part: Part, every: bool, ranks: list[int], request: str
    ) -> Need | None:
        """Return that `part` needs `ranks`, once for all who need them; None if they are free to come."""
        if key in self._shared:
            return self._shared[key]
        blocked, never = set(), []
        for rank in ranks:
            standing = self._standing(rank, request)
            if standing == "blocked":
                blocked.add(rank)
            elif standing == "over":
                never.append(rank)
        free = len(ranks) - len(blocked) - len(never)
        met = not blocked and not never if every else free > 0
        need = None if met else Need(part, every, sorted([*blocked, *never]), blocked)
        self._shared[key] = need
        return need

    def _standing(self, rank: int, request: str) -> str:
        """Return "free", "blocked" or "over", as a rank that is blocked in `request` sees `rank`."""
        if rank not in self.waits:
            return "over" if self.situation.over(rank, request) else "free"
        if self.within is None:
            return "blocked"
        if rank not in self.within:
            return "free"
        if self.situation.ranks[rank].request == request:
            return "blocked"
        return "over" if self.situation.outcome(rank, request) else "free"

    def _taken(self, rank: int, part: Part) -> bool:
        """Whether the receiver of a send has taken it, or has a receive under way that might."""
        if any(
            other.comm == part.comm and matches(other.peer, other.tag, rank, part.tag)
            for other in self._receiving.get(part.peer, ())
        ):
            return True
        if self.counts is None or part.peer in self.situation.dead:
            return False
        only_waits = "wait" in self.waits[rank].call.lower()
        if self.counts.taken(rank, part, only_waits):
            return True
        pending = self.counts.pending(part.peer, part.comm)
        return pending is None or any(matches(peer, tag, rank, part.tag) for peer, tag in pending)

    def _collective(self, rank: int, part: Part, members: list[int], request: str) -> Need | None:
        name, root = parse(part.signature)
        # Nothing to wait for where there is nothing to move.
        if len(members) < 2 or (part.nbytes == 0 and name != "barrier"):
            return None
        at = (part.comm, part.index, part.signature, part.nbytes, request)
        missing = self.missing(part, members)
        if name in FROM_ALL:
            return self._make(at, part, True, missing, request)
        if root is not None and not 0 <= root < len(members):
            return None
        is_root = root is not None and members[root] == rank
        if name in FROM_ROOT and root is not None and not is_root:
            return self._make((*at, "root"), part, True, [s for s in missing if s == members[root]], request)
        if name in TO_ROOT and root is not None:
            if is_root:
                return self._make(at, part, True, missing, request)
            if part.nbytes < EAGER:
                return None
            return self._make((*at, "root"), part, True, [s for s in missing if s == members[root]], request)
        if name in FROM_LOWER:
            lower = set(members[: members.index(rank)])
            return self._make((*at, rank), part, True, [s for s in missing if s in lower], request)
        if is_root and part.nbytes < EAGER:
            return None
        # Of the rest only this much is certain: it takes two.
        if len(missing) < len(members) - 1:
            return None
        return self._make((*at, "two"), part, False, missing, request)

    def missing(self, part: Part, members: list[int]) -> list[int]:
        """Return the members that have not come to the collective `part`."""
        key = (part.comm, part.index, part.signature, part.nbytes)
        if key not in self._missing:
            self._missing[key] = [s for s in members if not self._arrived(s, part)]
        return self._missing[key]

    def _arrived(self, rank: int, part: Part) -> bool:
        if self.counts is not None and rank not in self.situation.dead and not self.known(rank, part):
            return True
        there = self._at.get((rank, part.comm, part.index))
        if there is not None:
            return there.signature == part.signature and not sizes_differ(there, part)
        if self.counts is None or rank in self.situation.dead:
            return False
        return self.counts.began(rank, part.comm, part.index) in (part.signature, FORGOTTEN)


# ---------------------------------------------------------------- from waits in vain to verdicts


def _certain(situation: Situation, counts: Counts) -> tuple[_Search, set[int]]:
    """Return who is stuck and should be freed now, and the search that says so.

    A rank that waits for a stuck one of another request may be served once that has ended, by the tasks
    queued behind it. So first only those whom that cannot help; when there are none, the requests wait for
    each other, and one such knot is undone.
    """
    search = _Search(situation, counts)
    stuck = search.stuck
    if len({situation.ranks[rank].request for rank in stuck}) > 1:
        inner = _Search(situation, counts, stuck)
        if inner.stuck:
            return inner, inner.stuck
        stuck = _knot(search)
    return search, stuck


def _knot(search: _Search) -> set[int]:
    """Return stuck ranks that wait only for each other.

    The last of the roots in a traversal of a graph's reverse reaches nothing but its own component.
    """
    forth: dict[int, set[int]] = {rank: set() for rank in search.stuck}
    back: dict[int, set[int]] = {rank: set() for rank in search.stuck}
    for need in search.needs:
        for rank in search.stuck.intersection(need.owners) if not need.met else ():
            for other in search.stuck.intersection(need.blocked):
                forth[rank].add(other)
                back[other].add(rank)
    seen: set[int] = set()
    last = -1
    for rank in sorted(search.stuck):
        if rank not in seen:
            last = rank
            seen |= _reached(rank, back)
    return _reached(last, forth)


def _reached(start: int, edges: Mapping[int, set[int]]) -> set[int]:
    seen, todo = {start}, [start]
    while todo:
        new = edges[todo.pop()] - seen
        seen |= new
        todo.extend(new)
    return seen


def _failures(situation: Situation, search: _Search, stuck: set[int]) -> list[Verdict]:
    """Return a verdict for each rank of `stuck` that waits directly for one that has failed."""
    causes: dict[int, int] = {}
    for need in search.needs:
        for rank in need.owners if not need.met else ():
            failed = [s for s in need.ranks if _failed(situation, s, situation.ranks[rank].request)]
            if rank in stuck and failed:
                causes[rank] = min(failed[0], causes.get(rank, failed[0]))
    verdicts = []
    for cause in sorted(set(causes.values())):
        waiting = sorted(rank for rank, other in causes.items() if other == cause)
        text = picture(situation, waiting)
        verdicts += [
            Verdict(rank, cause, situation.outcome(cause, situation.ranks[rank].request), text)
            for rank in waiting
        ]
    return verdicts


def _failed(situation: Situation, rank: int, request: str) -> bool:
    return situation.outcome(rank, request) not in ("", "ok")
