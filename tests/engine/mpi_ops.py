"""What the programs of `mpi_model` are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from mpiparallel.engine.deadlock import EAGER
from mpiparallel.wire.waits import Part

SMALL, LARGE = 8, 2 * EAGER
SYNC = -1  # as a size: a synchronous send


@dataclass(frozen=True)
class Op:
    """One call of a program.

    send, recv, probe, precv (of what was probed), sendrecv (`source` and `rtag` are of the receiving side),
    coll, compute, raise; with a `slot` a send, recv or coll is non-blocking. wait and waitany are for
    `slots`.
    """

    kind: str
    comm: str = "w"
    peer: int = -1
    tag: int = -1
    size: int = SMALL
    source: int = -1
    rtag: int = -1
    call: str = ""
    slot: str = ""
    slots: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = [
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default
        ]
        return f"Op({', '.join(said)})"


@dataclass
class Request:
    """A send (`state`: 0 on its way, 1 arrived, 2 matched), a receive, a probe or a collective."""

    kind: str
    rank: int
    comm: str
    peer: int = -1
    tag: int = -1
    size: int = SMALL
    call: str = ""
    index: int = -1
    state: int = 0
    nth: int = -1  # of a send: how many of its tag there were before, if that is told
    match: int = -1  # of a receive or a probe: the send
    done: bool = False  # MPI could say so
    seen: bool = False  # the rank knows

    def part(self) -> Part:
        if self.kind == "coll":
            return Part("collective", self.comm, self.call, self.index, self.size)
        if self.kind == "send":
            return Part("send", self.comm, "", self.nth, self.size, self.peer, self.tag)
        return Part("receive", self.comm, peer=self.peer, tag=self.tag)


@dataclass
class Rank:
    cells: list[tuple[str, list[Op]]]  # tasks: the request's name, and what is done
    cell: int = 0
    pc: int = 0
    begun: bool = False  # whether the task of `cell` runs
    waits: list[int] | None = None
    any: bool = False
    number: int = 0
    slots: dict[str, int] = field(default_factory=dict)
    probed: int = -1

    @property
    def over(self) -> bool:
        return self.cell >= len(self.cells)


def alike(one: int, other: int) -> bool:
    return one < 0 or other < 0 or one == other


def same_way(one: Request, other: Request) -> bool:
    return other.kind == "send" and all(
        getattr(one, name) == getattr(other, name) for name in ("rank", "comm", "peer", "tag")
    )


def takes(receive: Request, send: Request) -> bool:
    return (
        receive.comm == send.comm
        and receive.rank == send.peer
        and receive.peer in (-1, send.rank)
        and receive.tag in (-1, send.tag)
    )
