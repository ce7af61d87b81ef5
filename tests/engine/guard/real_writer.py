"""Random correct programs for real ranks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tests.engine.mpi_ops import SYNC, Op
from tests.engine.mpi_programs import Writer

ROOTED = ("Bcast", "bcast", "Reduce", "Gather", "gather", "Scatter", "scatter", "Scatterv")
OTHERS = ("Barrier", "Allreduce", "allreduce", "allgather", "Alltoall", "Scan", "Exscan")
MESSAGES = (1, 1000, 70_000, 1 << 18, 4 << 20, SYNC)  # bytes
BUFFERS = (0, 8, 1 << 17, 1 << 20)


class RealWriter(Writer):
    """Writes programs that every MPI has to run: a collective is blocking on all ranks or on none."""

    def size(self) -> int:
        return self.rng.choice(MESSAGES)

    def collective(self, comm: str, members: list[int]) -> None:
        call = self.rng.choice(OTHERS)
        if self.rng.random() < 0.5:
            call = f"{self.rng.choice(ROOTED)}(root={self.rng.randrange(len(members))})"
        upper = call[0].isupper()
        size = self.rng.choice(BUFFERS)
        chance = 2.0 if upper and self.nonblocking and self.rng.random() < 0.3 else -1.0
        for rank in members:
            self._add(rank, Op("coll", comm, call=call, size=size), chance)


def tasks_of(programs: dict[int, list[tuple[str, list[Op]]]]) -> list[list[list[dict[str, Any]]]]:
    """Return by task and rank what to do."""
    tasks = zip(*(programs[rank] for rank in sorted(programs)), strict=True)
    return [[[asdict(op) for op in ops] for _, ops in task] for task in tasks]
