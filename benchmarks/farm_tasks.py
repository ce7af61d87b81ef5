"""What the task farms are given to do. Workers of every system import it."""

from __future__ import annotations

import random
import time
from typing import Any


def noop(item: Any) -> None:
    """Do nothing."""


def nap(seconds: float) -> None:
    """Work for so long, without using a core: there may be fewer of them than workers."""
    time.sleep(seconds)


def gang() -> int:
    """Meet the other ranks of a gang and return how many they are."""
    import mpiparallel

    return int(mpiparallel.current_comm().allreduce(1))


def world() -> int:
    """Do the same on all of `COMM_WORLD`."""
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(1))


def rising(total: float, number: int) -> list[float]:
    """Return durations that grow from next to nothing: worst for whoever hands out tasks in advance."""
    unit = 2 * total / (number * (number + 1))
    return [unit * (i + 1) for i in range(number)]


def heavy_tailed(total: float, number: int) -> list[float]:
    """Return Pareto-distributed durations: most are short, and a few make up a large part of the total.

    None is longer than a twelfth of it: with four workers, one that comes late would set the end by itself.
    """
    dice = random.Random(11)
    raw = [dice.paretovariate(1.1) for _ in range(number)]
    for _ in range(20):  # cutting changes the sum, and scaling what is too long
        scale = total / sum(raw)
        raw = [min(scale * one, total / 12) for one in raw]
    return raw
