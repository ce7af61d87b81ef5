"""What the guard costs: MPI calls on a guarded communicator and on mpi4py's own, by the same ranks in turn.

Run by ``python -m benchmarks guard``; on ranks of its own, by ``mpiexec -n 2 python -m benchmarks.guard``.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from mpiparallel.launch import argv, local, mpi

SMALL, LARGE = 2000, 30  # repetitions in a round
ROUNDS = 9
SIZES = (65536, 1 << 20, 16 << 20)


class NonBlocking:
    """The non-blocking forms of calls, each with a wait behind it: what MPI itself does in guarded calls."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank = comm, comm.rank

    def Barrier(self) -> None:
        self.comm.Ibarrier().Wait()

    def Allreduce(self, a: Any, b: Any) -> None:
        self.comm.Iallreduce(a, b).Wait()

    def Bcast(self, a: Any) -> None:
        self.comm.Ibcast(a).Wait()

    def Send(self, a: Any, peer: int) -> None:
        self.comm.Isend(a, peer).Wait()

    def Recv(self, a: Any, peer: int) -> None:
        self.comm.Irecv(a, peer).Wait()

    def Sendrecv(self, a: Any, to: int, tag: int, b: Any, source: int) -> None:
        receive = self.comm.Irecv(b, source)
        self.comm.Isend(a, to, tag).Wait()
        receive.Wait()


def calls(comm: Any) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return by name the calls to measure, and how often each is repeated in a round."""
    import numpy as np

    rank, peer = comm.rank, comm.rank ^ 1
    one, two = np.zeros(1), np.zeros(1)

    def ping_pong() -> None:
        if rank == 0:
            comm.Send(one, 1)
            comm.Recv(two, 1)
        elif rank == 1:
            comm.Recv(two, 0)
            comm.Send(one, 0)

    def object_ping_pong() -> None:
        if rank == 0:
            comm.send(1, 1)
            comm.recv(source=1)
        elif rank == 1:
            comm.recv(source=0)
            comm.send(1, 0)

    found: dict[str, tuple[int, Callable[[], Any]]] = {
        "Barrier": (SMALL, comm.Barrier),
        "Allreduce 8 B": (SMALL, lambda: comm.Allreduce(one, two)),
        "Bcast 8 B": (SMALL, lambda: comm.Bcast(one)),
        "bcast of an int": (SMALL, lambda: comm.bcast(1)),
        "allreduce of an int": (SMALL, lambda: comm.allreduce(1)),
        "gather of an int": (SMALL, lambda: comm.gather(1)),
        "allgather of an int": (SMALL, lambda: comm.allgather(1)),
        "Send/Recv 8 B, there and back": (SMALL, ping_pong),
        "send/recv of an int, there and back": (SMALL, object_ping_pong),
    }
    for nbytes in SIZES:
        a, b = np.ones(nbytes // 8), np.ones(nbytes // 8)
        label = f"{nbytes >> 10} kB" if nbytes < 1 << 20 else f"{nbytes >> 20} MB"
        n = max(4, LARGE * SIZES[0] // nbytes)
        found[f"Bcast {label}"] = (n, lambda a=a: comm.Bcast(a))
        found[f"Allreduce {label}"] = (n, lambda a=a, b=b: comm.Allreduce(a, b))
        found[f"Sendrecv {label}"] = (n, lambda a=a, b=b: comm.Sendrecv(a, peer, 0, b, peer))
    return found


def measure() -> dict[str, list[float]] | None:
    """Return medians and shortest times of guarded, plain and non-blocking calls, in seconds, on rank 0.

    There are no non-blocking calls for objects.
    """
    from mpi4py import MPI

    from mpiparallel.engine import guard

    plain = MPI.COMM_WORLD.Dup()
    guard.install(MPI.COMM_WORLD)
    sides = [calls(MPI.COMM_WORLD), calls(plain), calls(NonBlocking(plain))]
    medians = {}
    for name, (repeat, _) in sides[0].items():
        here = sides[:2] if "int" in name else sides
        took: list[list[float]] = [[] for _ in here]
        for _ in range(ROUNDS):
            for side, times in zip(here, took, strict=True):
                call = side[name][1]
                call()
                plain.Barrier()
                start = time.perf_counter()
                for _ in range(repeat):
                    call()
                times.append((time.perf_counter() - start) / repeat)
        medians[name] = [*map(statistics.median, took), *map(min, took)]
    return medians if plain.rank == 0 else None


def table(n: int) -> str:
    """Measure on n ranks and return the table."""
    flavour = mpi.detect(mpi.find_mpiexec(os.environ))
    command = [sys.executable, "-m", "benchmarks.guard"]
    env = argv.world_environment(os.environ, flavour, n=n, cores=local.cores(), root=os.geteuid() == 0)
    run = subprocess.run(
        [flavour.mpiexec, *argv.mpiexec_arguments(n, command)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    title = (
        f"{n} ranks on {local.cores()} cores; medians in us, and the cost by the shortest times, "
        "of which MPI's is what its non-blocking calls cost more"
    )
    shown = Table(title=title, title_justify="left", show_edge=False)
    shown.add_column("call")
    for heading in ("guarded", "plain", "cost", "of the shortest", "that is MPI's", "ratio"):
        shown.add_column(heading, justify="right")
    for name, times in json.loads(lines[-1]).items():
        half = len(times) // 2
        (guarded, plain), (best, best_plain, *best_without) = times[:2], times[half:]
        mpis = best_without[0] - best_plain if best_without else None
        numbers = (guarded, plain, guarded - plain, best - best_plain, mpis)
        texts = ["" if number is None else f"{1e6 * number:.2f}" for number in numbers]
        shown.add_row(name, *texts, f"{guarded / plain:.2f}")
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=sys.stdout.isatty()).print(shown)
    return out.getvalue()


if __name__ == "__main__":
    result = measure()
    if result is not None:
        print(json.dumps(result))
    sys.exit()
