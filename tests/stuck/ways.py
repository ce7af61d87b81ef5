"""Ways to get stuck with MPI, each as a cell that four ranks run.

Every cell finds ``comm`` (the communicator of all ranks), ``rank``, ``size``, ``np`` and ``MPI``. Where
nothing happens by itself, `then` says what is done once the ranks sit there.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Literal

RANKS = 4
PRELUDE = """
from mpi4py import MPI
import numpy as np, os, sys, time, ctypes, signal
comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
kept = 100 + rank
"""

Then = Literal["", "interrupt", "interrupt rank 3", "kill rank 3", "kill rank 0", "kill ranks 1 and 2"]


@dataclass(frozen=True)
class Way:
    """One way to get stuck.

    Attributes
    ----------
    name
        For people.
    code
        The cell.
    told
        What the text of the error must hold, each of them.
    then
        What is done to the ranks while they are stuck.
    dies
        Ranks whose processes end.
    unharmed
        Ranks that end their part without an error.
    """

    name: str
    code: str
    told: tuple[str, ...]
    then: Then = ""
    dies: frozenset[int] = frozenset()
    unharmed: frozenset[int] = field(default=frozenset())

    @property
    def cell(self) -> str:
        return textwrap.dedent(self.code).strip("\n")

    @property
    def slug(self) -> str:
        return self.name.replace(" ", "-").replace(",", "")


def _raises(name: str, waiting: str, call: str, **more: object) -> Way:
    code = f"""
if rank == 3:
    raise ValueError("bad input")
{waiting}
"""
    return Way(f"one rank raises, {name}", code, ("ValueError: bad input", call), **more)  # type: ignore[arg-type]


def _some(*ranks: int) -> frozenset[int]:
    return frozenset(ranks)


RAISES = [
    _raises("the others are in Allreduce", "comm.Allreduce(np.ones(4), np.zeros(4))", "Allreduce"),
    _raises("the others are in Barrier", "comm.Barrier()", "Barrier"),
    _raises("the others wait for its bcast", "comm.bcast(rank, root=3)", "bcast"),
    _raises("the root is in gather", "comm.gather(rank, root=0)", "gather"),
    _raises(
        "one other is in recv from it",
        "if rank == 0: comm.recv(source=3)",
        "recv",
        unharmed=_some(1, 2),
    ),
    _raises(
        "one other is in recv from anybody",
        "if rank == 0: comm.recv(source=MPI.ANY_SOURCE)",
        "recv",
        unharmed=_some(1, 2),
    ),
    _raises(
        "one other sends to it, synchronously",
        "if rank == 1: comm.Ssend(np.ones(4), dest=3)",
        "Ssend",
        unharmed=_some(0, 2),
    ),
    _raises(
        "one other waits for an irecv from it",
        "if rank == 1: comm.irecv(source=3).wait()",
        "wait",
        unharmed=_some(0, 2),
    ),
    _raises(
        "one other probes for its message",
        "if rank == 2: comm.probe(source=3)",
        "probe",
        unharmed=_some(0, 1),
    ),
    Way(
        "one rank raises, its half of the ranks is in a collective of their own",
        """
        half = comm.Split(rank // 2)
        if rank == 3:
            raise ValueError("bad input")
        if rank == 2:
            half.allgather(rank)
        """,
        ("ValueError: bad input", "allgather"),
        unharmed=_some(0, 1),
    ),
    Way(
        "one rank has nothing that can be pickled, the others are in allgather",
        """
        comm.allgather((lambda: 0) if rank == 3 else rank)
        """,
        ("allgather",),
    ),
    Way(
        "a Python reduction raises on one rank",
        """
        def add(a, b):
            if rank == 0:
                raise ZeroDivisionError("in the operation")
            return a + b
        comm.reduce([rank], op=add, root=0)
        comm.barrier()
        """,
        ("ZeroDivisionError: in the operation", "barrier"),
    ),
    Way(
        "one rank calls sys.exit, the others are in Allreduce",
        """
        if rank == 3:
            sys.exit("done here")
        comm.allreduce(rank)
        """,
        ("SystemExit", "allreduce"),
    ),
    Way(
        "one rank raises, the others are in Win.Fence",
        """
        window = MPI.Win.Create(np.zeros(4), comm=comm)
        if rank == 3:
            raise ValueError("bad input")
        window.Fence()
        """,
        ("ValueError: bad input", "Fence"),
    ),
]

DEADLOCKS = [
    Way("each receives before it sends", """
        other = rank ^ 1
        comm.recv(source=other)
        comm.send(rank, dest=other)
        """, ("DeadlockError", "recv")),
    Way("each sends a large array before it receives", """
        other = rank ^ 1
        data = np.zeros(1 << 20)
        comm.Send(data, dest=other)
        comm.Recv(data, source=other)
        """, ("DeadlockError", "Send")),
    Way("a ring of synchronous sends", """
        comm.ssend(rank, dest=(rank + 1) % size)
        comm.recv(source=(rank - 1) % size)
        """, ("DeadlockError", "ssend")),
    Way("a wrong tag", """
        if rank == 0:
            comm.send("data", dest=1, tag=7)
        if rank == 1:
            comm.recv(source=0, tag=8)
        """, ("DeadlockError", "recv", "tag 8"), unharmed=_some(0, 2, 3)),
    Way("a receive too many", """
        if rank == 0:
            comm.send("data", dest=1)
        if rank == 1:
            comm.recv(source=0)
            comm.recv(source=0)
        """, ("DeadlockError", "recv"), unharmed=_some(0, 2, 3)),
    Way("a collective that one rank alone calls", """
        if rank == 0:
            comm.Barrier()
        """, ("DeadlockError", "Barrier"), unharmed=_some(1, 2, 3)),
    Way("different collectives", """
        if rank == 3:
            comm.allgather(rank)
        else:
            comm.barrier()
        """, ("allgather", "arrier")),  # some MPIs give an error of theirs on one rank
    Way("one rank receives, the others are in a barrier", """
        if rank == 3:
            comm.recv(source=0)
        comm.barrier()
        """, ("DeadlockError", "recv", "barrier")),
    Way("two communicators in another order", """
        first, second = comm.Dup(), comm.Dup()
        for one in ((first, second) if rank % 2 else (second, first)):
            one.Barrier()
        """, ("DeadlockError", "Barrier")),
    Way("an irecv that nobody serves, in waitall", """
        other = rank ^ 1
        requests = [comm.isend(rank, dest=other, tag=1), comm.irecv(source=other, tag=2)]
        MPI.Request.waitall(requests)
        """, ("DeadlockError", "waitall")),
]

INTERRUPTS = [
    Way("Ctrl-C in a collective that waits for a busy rank", """
        if rank == 3:
            while True:
                pass
        comm.Barrier()
        """, ("KeyboardInterrupt",), then="interrupt"),
    Way("Ctrl-C in an endless loop", """
        while True:
            pass
        """, ("KeyboardInterrupt",), then="interrupt"),
    Way("Ctrl-C in time.sleep", "time.sleep(1000)", ("KeyboardInterrupt",), then="interrupt"),
    Way("Ctrl-C in recv from anybody, one rank sleeps", """
        if rank == 3:
            time.sleep(1000)
        comm.recv(source=MPI.ANY_SOURCE)
        """, ("KeyboardInterrupt",), then="interrupt"),
    Way("Ctrl-C for one rank, the others wait for it", """
        if rank == 3:
            time.sleep(1000)
        comm.allreduce(rank)
        """, ("KeyboardInterrupt", "allreduce"), then="interrupt rank 3"),
    Way("Ctrl-C in a large Alltoall, again and again", """
        part = np.zeros((size, 1 << 14))
        while True:
            comm.Alltoall(part, part.copy())
        """, ("KeyboardInterrupt",), then="interrupt"),
]

DEATHS = [
    Way("kill -9 of a rank in a collective", """
        if rank == 3:
            time.sleep(1000)
        comm.Barrier()
        """, ("3", "SIGKILL"), then="kill rank 3", dies=_some(3)),
    Way("kill -9 of rank 0", """
        if rank == 0:
            time.sleep(1000)
        comm.Barrier()
        """, ("0", "SIGKILL"), then="kill rank 0", dies=_some(0)),
    Way("kill -9 of two ranks at once", """
        if rank in (1, 2):
            time.sleep(1000)
        comm.Barrier()
        """, ("SIGKILL",), then="kill ranks 1 and 2", dies=_some(1, 2)),
    Way("a segmentation fault", """
        if rank == 3:
            ctypes.string_at(0)
        comm.Barrier()
        """, ("Segmentation fault",), dies=_some(3)),
    Way("os._exit", """
        if rank == 3:
            os._exit(7)
        comm.Barrier()
        """, ("os._exit(7)",), dies=_some(3)),
    Way("MPI_Abort", """
        if rank == 3:
            comm.Abort(7)
        comm.Barrier()
        """, ("MPI_Abort", "7"), dies=_some(0, 1, 2, 3)),
]

C_CODE = [
    Way("a rank keeps the GIL in C for ever", """
        if rank == 3:
            sum(range(10**15))
        comm.Barrier()
        """, ("3", "SIGKILL"), then="kill rank 3", dies=_some(3)),
    Way("a rank was stopped (SIGSTOP)", """
        if rank == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        comm.Barrier()
        """, ("KeyboardInterrupt",), then="interrupt"),
]

WAYS = [*RAISES, *DEADLOCKS, *INTERRUPTS, *DEATHS, *C_CODE]
