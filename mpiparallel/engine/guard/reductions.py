"""Reductions of objects with Python functions, in the order in which mpi4py applies them.

That is a binomial tree for reductions, and recursive doubling for scans (mpi4py's ``reduce_p2p``,
``scan_p2p`` and ``exscan_p2p``); each operand is first copied by way of its pickle. With mpi4py's option
``fast_reduce`` off, one rank applies the function from left to right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpi4py
from mpi4py import MPI

from mpiparallel.engine.guard.steps import Steps

IN_A_TREE = bool(mpi4py.rc.fast_reduce)
Operation = Callable[[Any, Any], Any]
dumps, loads = MPI.pickle.dumps, MPI.pickle.loads


def reduce(steps: Steps, obj: Any, op: Operation, root: int) -> Any:
    """Return the result on `root`, elsewhere None."""
    rank, size = steps.state.rank, len(steps.state.members)
    if not 0 <= root < size:
        raise MPI.Exception(MPI.ERR_ROOT)
    result = loads(dumps(obj))
    steps.begin_with_messages()
    mask = 1
    while mask < size:
        if rank & mask:
            steps.send(result, rank & ~mask)
            break
        if rank | mask < size:
            result = op(result, steps.receive(rank | mask))
        mask <<= 1
    if root != 0:
        if rank == 0:
            steps.send(result, root)
        elif rank == root:
            result = steps.receive(0)
    return result if rank == root else None


def scan(steps: Steps, obj: Any, op: Operation) -> Any:
    """Return the result of the ranks up to this one."""
    rank, size = steps.state.rank, len(steps.state.members)
    partial = result = loads(dumps(obj))
    steps.begin_with_messages()
    mask = 1
    while mask < size:
        other = rank ^ mask
        if other < size:
            theirs = steps.exchange(partial, other)
            if rank > other:
                partial = op(theirs, partial)
                result = op(theirs, result)
            else:
                partial = op(partial, theirs)
        mask <<= 1
    return result


def exscan(steps: Steps, obj: Any, op: Operation) -> Any:
    """Return the result of the ranks before this one; None on the first."""
    rank, size = steps.state.rank, len(steps.state.members)
    partial = result = loads(dumps(obj))
    steps.begin_with_messages()
    first = True
    mask = 1
    while mask < size:
        other = rank ^ mask
        if other < size:
            theirs = steps.exchange(partial, other)
            if rank > other:
                partial = op(theirs, partial)
                result = theirs if first else op(theirs, result)
                first = False
            else:
                partial = op(partial, theirs)
        mask <<= 1
    return None if rank == 0 else result


# ---------------------------------------------------------------- one rank, from left to right


def reduced(objs: list[Any] | None, op: Operation) -> Any:
    """Return the result."""
    if objs is None:
        return None
    result = objs[0]
    for obj in objs[1:]:
        result = op(result, obj)
    return result


def scanned(objs: list[Any], op: Operation) -> list[Any]:
    """Return the result up to each rank."""
    results = objs[:1]
    for obj in objs[1:]:
        results.append(op(results[-1], obj))
    return results


def exscanned(objs: list[Any], op: Operation) -> list[Any]:
    """Return the result before each rank."""
    return [None, *scanned(objs, op)[:-1]]
