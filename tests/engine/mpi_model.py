"""A small model of MPI: ranks with lists of operations, and messages that take as long as they like.

Every step is one of `Model.moves`: a rank does its next operation or leaves its wait, a message arrives, a
request becomes complete. A scheduler picks; so all that can happen to a program can be tried. `situation`
and `ledgers` are what guarded communicators would report at that moment.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable

from mpiparallel.engine.deadlock import EAGER, RankState, RequestState, Situation
from mpiparallel.wire.waits import Ledger, Wait

from .mpi_ops import Op, Rank, Request, alike, same_way, takes

FOR_ALL = ("barrier", "all", "reduce_scatter", "Barrier", "All", "Dup")
Move = tuple[str, int]


class Model:
    """A program and how far it has come.

    Parameters
    ----------
    programs
        By rank: its tasks.
    comms
        The members of each communicator.
    strict
        Whether all collectives synchronise; else they end as early as their data allows.
    told
        Whether parts say which of several sends they are.
    attentive
        Whether a wait for several requests notices each of them as it ends, or only all.
    remembered
        How many of the last collectives a ledger has.
    """

    def __init__(
        self,
        programs: dict[int, list[tuple[str, list[Op]]]],
        comms: dict[str, list[int]],
        strict: bool = False,
        told: bool = True,
        attentive: bool = True,
        remembered: int = 3,
    ) -> None:
        self.programs, self.comms = programs, comms
        self.strict, self.told, self.attentive, self.remembered = strict, told, attentive, remembered
        self.ranks = [Rank(programs[rank]) for rank in sorted(programs)]
        self.requests: list[Request] = []
        self.open: list[int] = []  # requests that are not done, and messages not yet matched
        self.begun: dict[tuple[str, int], list[str]] = {}  # (comm, rank) -> signatures
        self.came: dict[tuple[str, int], dict[int, tuple[str, int]]] = {}  # (comm, index) -> who, with what
        self.ended: dict[str, dict[int, str]] = {}
        self.left: set[int] = set()  # ranks that left a wait by themselves, since somebody cleared this

    def clone(self) -> Model:
        """Return a copy that goes its own way."""
        new = copy.copy(self)
        new.ranks = [copy.copy(rank) for rank in self.ranks]
        for rank in new.ranks:
            rank.slots = dict(rank.slots)
        new.requests = [copy.copy(request) for request in self.requests]
        new.open = list(self.open)
        new.begun = {key: list(value) for key, value in self.begun.items()}
        new.came = {key: dict(value) for key, value in self.came.items()}
        new.ended = {key: dict(value) for key, value in self.ended.items()}
        new.left = set(self.left)
        return new

    def key(self) -> tuple[object, ...]:
        """Return what tells this state from others of the same program."""
        return (
            tuple((r.cell, r.pc, r.begun, r.waits is None) for r in self.ranks),
            tuple((r.kind, r.rank, r.state, r.match, r.done, r.seen) for r in self.requests),
        )

    # ------------------------------------------------------------ what can happen

    def moves(self) -> list[Move]:
        found: list[Move] = []
        for number, rank in enumerate(self.ranks):
            if (rank.waits is None and not rank.over) or (rank.waits is not None and self._ready(rank)):
                found.append(("rank", number))
        first: set[tuple[str, int, int]] = set()
        for i in self.open:
            request = self.requests[i]
            if request.kind == "send" and request.state == 0:
                way = (request.comm, request.rank, request.peer)
                if way not in first:
                    first.add(way)
                    found.append(("arrive", i))
            if not request.done and self._able(request):
                found.append(("finish", i))
        return found

    def do(self, move: Move) -> None:
        what, number = move
        if what == "rank":
            rank = self.ranks[number]
            if rank.waits is None:
                self._operate(number, rank)
            else:
                self.left.add(number)
                self._leave(number, rank)
        elif what == "arrive":
            self._arrive(number)
        else:
            self.requests[number].done = True
            self._tidy()

    def cut(self, number: int, error: str) -> None:
        """End the wait of a rank by an error, which ends its task; receives are cancelled."""
        rank = self.ranks[number]
        for i in rank.waits or []:
            request = self.requests[i]
            request.seen = request.done
            if request.kind == "recv" and not request.done:
                request.kind, request.done = "cancelled", True
        self._tidy()
        rank.waits = None
        self._end(number, error)

    def _ready(self, rank: Rank) -> bool:
        assert rank.waits is not None
        done = [self.requests[i].done for i in rank.waits]
        return any(done) if rank.any and done else all(done)

    def _able(self, request: Request) -> bool:
        """Whether MPI can complete a send or a collective now; receives are when they are matched."""
        if request.kind == "send":
            return request.state == 2 or 0 <= request.size < EAGER
        if request.kind != "coll":
            return False
        members = self.comms[request.comm]
        there = self.came[request.comm, request.index]
        came = {s for s, (call, size) in there.items() if call == request.call and alike(size, request.size)}
        name, _, root_text = request.call.rstrip(")").partition("(root=")
        root = members[int(root_text)] if root_text else -1
        others = set(members) - {request.rank}
        if not self.strict and request.size == 0 and name != "Barrier":
            return True
        if self.strict or name.startswith(FOR_ALL):
            return others <= came
        if not others:
            return True
        if name.lower() in ("bcast", "scatter", "scatterv"):
            return root in came if request.rank != root else request.size < EAGER or bool(others & came)
        if name.lower() in ("gather", "gatherv", "reduce"):
            return others <= came if request.rank == root else request.size < EAGER or root in came
        if name.lower() in ("scan", "exscan"):
            return set(members[: members.index(request.rank)]) <= came
        return bool(others & came)

    # ------------------------------------------------------------ messages

    def _start(self, request: Request) -> int:
        i = len(self.requests)
        self.requests.append(request)
        self.open.append(i)
        if request.kind == "coll":
            begun = self.begun.setdefault((request.comm, request.rank), [])
            request.index = len(begun)
            begun.append(request.call)
            self.came.setdefault((request.comm, request.index), {})[request.rank] = (
                request.call,
                request.size,
            )
        elif request.kind == "send" and self.told:
            request.nth = sum(1 for other in self.requests[:i] if same_way(request, other))
        elif request.kind in ("recv", "probe"):
            for j in self._arrived(request):
                self._match(i, j)
                break
        return i

    def _arrived(self, receive: Request) -> Iterable[int]:
        for j in self.order:
            send = self.requests[j]
            if send.state == 1 and takes(receive, send):
                yield j

    @property
    def order(self) -> list[int]:
        """The messages that have arrived, in that order; it is kept in `index`, which sends do not use."""
        arrived = [i for i in self.open if self.requests[i].kind == "send" and self.requests[i].state == 1]
        return sorted(arrived, key=lambda i: self.requests[i].index)

    def _arrive(self, i: int) -> None:
        send = self.requests[i]
        send.state, send.index = 1, sum(1 for r in self.requests if r.kind == "send" and r.state > 0)
        for j in list(self.open):
            receive = self.requests[j]
            if receive.kind in ("recv", "probe") and receive.match < 0 and takes(receive, send):
                self._match(j, i)
                if receive.kind == "recv":
                    break
        self._tidy()

    def _match(self, receive: int, send: int) -> None:
        self.requests[receive].match = send
        self.requests[receive].done = True
        if self.requests[receive].kind == "recv":
            self.requests[send].state = 2

    def _tidy(self) -> None:
        self.open = [
            i
            for i in self.open
            if not self.requests[i].done or (self.requests[i].kind == "send" and self.requests[i].state < 2)
        ]

    # ------------------------------------------------------------ ranks

    def _operate(self, number: int, rank: Rank) -> None:
        rank.begun = True
        ops = rank.cells[rank.cell][1]
        if rank.pc >= len(ops):
            self._end(number, "ok")
            return
        op = ops[rank.pc]
        if op.kind == "raise":
            self._end(number, "ValueError: no")
            return
        if op.kind == "compute":
            rank.pc += 1
            return
        if op.kind in ("wait", "waitany"):
            waits = [rank.slots[slot] for slot in op.slots if slot in rank.slots]
            if not waits:
                rank.pc += 1
                return
            rank.waits, rank.any = waits, op.kind == "waitany"
        else:
            comm, peer, tag = op.comm, op.peer, op.tag
            if op.kind == "precv":
                if rank.probed < 0:
                    rank.pc += 1
                    return
                probed = self.requests[rank.probed]
                comm, peer, tag = probed.comm, probed.rank, probed.tag
            kind = {"precv": "recv", "sendrecv": "send"}.get(op.kind, op.kind)
            started = [self._start(Request(kind, number, comm, peer, tag, op.size, op.call))]
            if op.kind == "sendrecv":
                started.append(self._start(Request("recv", number, op.comm, op.source, op.rtag)))
            self._tidy()
            if op.slot:
                rank.slots[op.slot] = started[0]
                rank.pc += 1
                return
            rank.waits, rank.any = started, False
        rank.number += 1

    def _leave(self, number: int, rank: Rank) -> None:
        assert rank.waits is not None
        seen = [i for i in rank.waits if self.requests[i].done]
        for i in seen[:1] if rank.any else seen:
            self.requests[i].seen = True
            if self.requests[i].kind == "probe":
                rank.probed = self.requests[i].match
            rank.slots = {slot: j for slot, j in rank.slots.items() if j != i}
        rank.waits = None
        rank.pc += 1

    def _end(self, number: int, outcome: str) -> None:
        rank = self.ranks[number]
        self.ended.setdefault(rank.cells[rank.cell][0], {})[number] = outcome
        rank.cell, rank.pc, rank.begun = rank.cell + 1, 0, False

    # ------------------------------------------------------------ what is reported

    def state(self, number: int) -> RankState:
        rank = self.ranks[number]
        if rank.over:
            return RankState("idle")
        queued = len(rank.cells) - rank.cell - 1
        if not rank.begun:
            return RankState("idle", queued + 1)
        name = rank.cells[rank.cell][0]
        if rank.waits is None:
            return RankState("running", queued, name)
        noticed = self._noticed(rank)
        parts = [self.requests[i].part() for i in rank.waits if i not in noticed]
        members = {part.comm: self.comms[part.comm] for part in parts}
        call = rank.cells[rank.cell][1][rank.pc].kind
        return RankState(
            "blocked", queued, name, Wait(rank.number, call, 1.0, parts, rank.any, members), "line 1"
        )

    def _noticed(self, rank: Rank) -> list[int]:
        """Return what has ended in the wait of a rank, and is known to it."""
        if rank.waits is None or rank.any or not self.attentive:
            return []
        return [i for i in rank.waits if self.requests[i].done]

    def requests_state(self) -> dict[str, RequestState]:
        names: dict[str, list[int]] = {}
        for number, rank in enumerate(self.ranks):
            for name, _ in rank.cells:
                names.setdefault(name, []).append(number)
        return {name: RequestState(ranks, dict(self.ended.get(name, {}))) for name, ranks in names.items()}

    def situation(self) -> Situation:
        return Situation(
            {number: self.state(number) for number in range(len(self.ranks))}, self.requests_state()
        )

    def ledgers(self, number: int) -> dict[str, Ledger]:
        noticed = self._noticed(self.ranks[number])
        found = {}
        for comm, members in self.comms.items():
            if number not in members:
                continue
            sent: dict[tuple[int, int], int] = {}
            received: dict[tuple[int, int], int] = {}
            pending = []
            for i, request in enumerate(self.requests):
                if request.rank != number or request.comm != comm:
                    continue
                if request.kind == "send":
                    key = (request.peer, request.tag)
                    sent[key] = sent.get(key, 0) + 1
                elif request.kind == "recv" and (request.seen or i in noticed):
                    key = (self.requests[request.match].rank, self.requests[request.match].tag)
                    received[key] = received.get(key, 0) + 1
                elif request.kind == "recv":
                    pending.append([request.peer, request.tag])
            begun = self.begun.get((comm, number), [])
            found[comm] = Ledger(
                len(begun),
                begun[-self.remembered :],
                [[peer, tag, n] for (peer, tag), n in sent.items()],
                [[peer, tag, n] for (peer, tag), n in received.items()],
                pending,
            )
        return found

    def all_ledgers(self) -> dict[int, dict[str, Ledger]]:
        return {number: self.ledgers(number) for number in range(len(self.ranks))}

    def blocked(self) -> set[int]:
        return {number for number, rank in enumerate(self.ranks) if rank.waits is not None}


def goes_on(model: Model, stuck: Iterable[int], states: int = 500) -> int | None:
    """Return a rank of `stuck` that can leave its wait by itself in some continuation; None if none can.

    Looks at all continuations of up to `states` states, the rest at random.
    """
    stuck = set(stuck)
    start = model.clone()
    start.left = set()
    todo, seen = [start], {start.key()}
    rng = random.Random(0)
    while todo and len(seen) < states:
        current = todo.pop(rng.randrange(len(todo)))
        for move in current.moves():
            new = current.clone()
            new.do(move)
            if new.left & stuck:
                return min(new.left & stuck)
            if new.key() not in seen:
                seen.add(new.key())
                todo.append(new)
    for current in todo[:20]:
        while moves := current.moves():
            current.do(rng.choice(moves))
            if current.left & stuck:
                return min(current.left & stuck)
    return None
