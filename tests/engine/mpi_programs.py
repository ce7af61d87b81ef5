"""Random programs for `mpi_model`: correct ones, and what becomes of them when something is changed."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from .mpi_ops import LARGE, SMALL, SYNC, Op

Programs = dict[int, list[tuple[str, list[Op]]]]
ROOTED = ("Bcast", "bcast", "Reduce", "Gather", "gather", "Scatter", "Scatterv")
OTHERS = ("Barrier", "Allreduce", "allgather", "Alltoall", "Scan", "Exscan", "Neighbor_alltoall")


class Writer:
    """Writes a program from communications in one global order, in which it could run: so it is correct."""

    def __init__(self, rng: random.Random, size: int, nonblocking: bool = True) -> None:
        self.rng, self.nonblocking = rng, nonblocking
        self.sizes = (SMALL, LARGE, 0) if nonblocking else (rng.choice((SMALL, LARGE)),)
        self.ranks = range(size)
        self.comms = {"w": list(self.ranks)}
        for name in ("a", "b")[: rng.randrange(3)]:
            self.comms[name] = rng.sample(self.ranks, rng.randint(1, size))
        self.ops: dict[int, list[Op]] = {rank: [] for rank in self.ranks}
        self.open: dict[int, list[str]] = {rank: [] for rank in self.ranks}
        self.names = 0
        self.tags = 100

    def write(self, events: int) -> None:
        for _ in range(events):
            comm = self.rng.choice(list(self.comms))
            members = self.comms[comm]
            kinds = [self.collective, self.collective, self.compute, self.to_oneself]
            if len(members) > 1:
                kinds += [self.message, self.message, self.message, self.fan_in, self.exchange, self.ring]
            self.rng.choice(kinds)(comm, members)
            self.wait_for_some()
        for rank, slots in self.open.items():
            if slots:
                self.ops[rank].append(Op("wait", slots=tuple(slots)))

    def cut_into_tasks(self, how: str) -> Programs:
        """Return the program as tasks: "one" request, "several", or "own", where each rank has its own."""
        if how == "own":
            return {rank: [(f"own{rank}", ops)] for rank, ops in self.ops.items()}
        programs: Programs = {}
        for rank, ops in self.ops.items():
            cuts = sorted(self.rng.randint(0, len(ops)) for _ in range(0 if how == "one" else 2))
            edges = [0, *cuts, len(ops)]
            pieces = pairwise(edges)
            programs[rank] = [(f"q{i}", ops[begin:end]) for i, (begin, end) in enumerate(pieces)]
        return programs

    # ------------------------------------------------------------ communications

    def _add(self, rank: int, op: Op, chance: float = 0.3) -> None:
        """Add a call, perhaps as the non-blocking one, which is waited for later."""
        if self.nonblocking and self.rng.random() < chance:
            self.names += 1
            op = replace(op, slot=f"s{self.names}")
            self.open[rank].append(op.slot)
        self.ops[rank].append(op)

    def wait_for_some(self) -> None:
        for rank, slots in self.open.items():
            if slots and self.rng.random() < 0.3:
                some = self.rng.sample(slots, self.rng.randint(1, len(slots)))
                if self.rng.random() < 0.5:
                    self.ops[rank].append(Op("wait", slots=tuple(some)))
                    self.open[rank] = [slot for slot in slots if slot not in some]
                else:
                    self.ops[rank].append(Op("waitany", slots=tuple(some)))

    def size(self) -> int:
        return self.rng.choice((SMALL, LARGE, SYNC))

    def compute(self, comm: str, members: list[int]) -> None:
        self.ops[self.rng.choice(members)].append(Op("compute"))

    def to_oneself(self, comm: str, members: list[int]) -> None:
        rank = self.rng.choice(members)
        self._add(rank, Op("send", comm, rank, 1, self.size()), 2.0 if self.nonblocking else -1)
        if self.nonblocking:
            self._add(rank, Op("recv", comm, rank, 1))
        else:
            self.ops[rank][-1:] = [Op("sendrecv", comm, rank, 1, self.size(), rank, 1)]

    def message(self, comm: str, members: list[int]) -> None:
        source, to = self.rng.sample(members, 2)
        tag = self.rng.randrange(3)
        self._add(source, Op("send", comm, to, tag, self.size()))
        wanted = self.rng.choice((tag, tag, -1))
        if self.rng.random() < 0.2:
            self.ops[to].append(Op("probe", comm, source, wanted))
            self._add(to, Op("precv", comm))
        else:
            self._add(to, Op("recv", comm, source, wanted))

    def fan_in(self, comm: str, members: list[int]) -> None:
        to = self.rng.choice(members)
        self.tags += 1
        for source in self.rng.sample(members, self.rng.randint(1, len(members))):
            if source != to:
                self._add(source, Op("send", comm, to, self.tags, self.size()))
                self._add(to, Op("recv", comm, -1, self.tags))

    def exchange(self, comm: str, members: list[int]) -> None:
        one, two = self.rng.sample(members, 2)
        for me, peer in ((one, two), (two, one)):
            self.ops[me].append(Op("sendrecv", comm, peer, 4, self.size(), peer, 4))

    def ring(self, comm: str, members: list[int]) -> None:
        for i, rank in enumerate(members):
            to, source = members[(i + 1) % len(members)], members[i - 1]
            self.ops[rank].append(Op("sendrecv", comm, to, 5, self.size(), source, 5))

    def collective(self, comm: str, members: list[int]) -> None:
        call = self.rng.choice(OTHERS)
        if self.rng.random() < 0.5:
            call = f"{self.rng.choice(ROOTED)}(root={self.rng.randrange(len(members))})"
        sized = call[0].isupper() and not call.startswith("Neighbor")
        size = self.rng.choice(self.sizes) if sized else -1
        for rank in members:
            self._add(rank, Op("coll", comm, call=call, size=size))


def change(rng: random.Random, programs: Programs, comms: dict[str, list[int]], sizes: bool = True) -> None:
    """Make one mistake somewhere in a program."""
    tasks = [ops for cells in programs.values() for _, ops in cells if ops]
    if not tasks:
        return
    ops = rng.choice(tasks)
    i = rng.randrange(len(ops))
    op = ops[i]
    what = rng.choice(("drop", "raise", "swap", "again", "peer", "tag", "call", "size"))
    if what == "drop":
        del ops[i]
    elif what == "raise":
        ops.insert(i, Op("raise"))
    elif what == "swap":
        j = rng.randrange(len(ops))
        ops[i], ops[j] = ops[j], ops[i]
    elif what == "again":
        ops.insert(rng.randrange(len(ops) + 1), op)
    elif what == "peer" and op.kind in ("send", "recv", "probe", "sendrecv"):
        ops[i] = replace(op, peer=rng.choice(comms[op.comm]))
    elif what == "tag":
        ops[i] = replace(op, tag=rng.randrange(3))
        if op.kind in ("recv", "probe") and rng.random() < 0.3:
            ops[i] = replace(op, tag=-1, peer=-1)
    elif what == "call" and op.kind == "coll":
        members = comms[op.comm]
        call = rng.choice((rng.choice(OTHERS), f"{rng.choice(ROOTED)}(root={rng.randrange(len(members))})"))
        ops[i] = replace(op, call=call)
    elif what == "size" and sizes:
        ops[i] = replace(op, size=rng.choice((SMALL, LARGE, SYNC)))
