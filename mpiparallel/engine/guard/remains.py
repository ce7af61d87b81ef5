"""What is left of a broken communicator, brought to its end so that it can be freed.

A collective that was broken off goes on in MPI for as long as ranks are missing in it, and uses its buffers.
So ranks that never came to it begin it after all, with data that nobody will look at, when the communicator
has been replaced; the leader says which (`clearing`). When all operations of all ranks have ended, no
message is left that another communicator could take for its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.plain import Intracomm
from mpiparallel.wire.between import Operation
from mpiparallel.wire.waits import Ledger

# MPI goes on to read and write these for as long as the process lives, unless they are completed later.
kept: list[Any] = []
_OPS = {
    name: getattr(MPI, name)
    for name in ("SUM", "PROD", "MAX", "MIN", "LAND", "LOR", "LXOR", "BAND", "BOR", "BXOR")
}
_REDUCTIONS = ("Iallreduce", "Iscan", "Iexscan", "Ireduce_scatter_block")
_EXCHANGES = ("Iallgather", "Ialltoall")
_TYPECODES = "bBhHiIlLqQfd"

Args = tuple[Any, ...]


class Left:
    """A collective that was left before its end.

    Parameters
    ----------
    requests
        Of what may go on in MPI.
    held
        What MPI uses meanwhile.
    operations
        What was begun on the communicator itself, in order; None for one that cannot be told.
    """

    __slots__ = ("held", "operations", "requests")

    def __init__(self, requests: list[Any], held: Any, operations: Sequence[Operation | None]) -> None:
        self.requests, self.held, self.operations = requests, held, operations


class Remainder:
    """What is left of one communicator on this rank.

    Parameters
    ----------
    comm
        The old one, plain; None if it has to stay as it is.
    left
    ledger
        What was done on it.
    """

    def __init__(self, comm: Any = None, left: Sequence[Left] = (), ledger: Ledger | None = None) -> None:
        self.comm, self.left, self.ledger = comm, list(left), ledger
        self._requests = [request for one in self.left for request in one.requests]
        self._buffers: list[Any] = []
        if len(self.left) > 1 or any(None in one.operations for one in self.left):
            self.comm = self.ledger = None

    @property
    def operations(self) -> list[Operation] | None:
        """What was begun in the last collective, if that was left before its end."""
        if not self.left:
            return None
        return [one for one in self.left[0].operations if one is not None]

    def begin(self, operations: Sequence[Operation]) -> None:
        """Begin operations that other ranks wait in."""
        for one in operations:
            args = _arguments(one, self.comm.rank, self.comm.size)
            self._buffers.append(args)
            self._requests.append(getattr(Intracomm, one.name)(self.comm, *args))

    def free(self) -> None:
        """Free the communicator, and what it needed until its end."""
        for one in self.left:
            kept.remove(one)
        self.comm.Free()

    def has_ended(self) -> bool:
        """Whether everything that was begun has ended."""
        self._requests = [request for request in self._requests if request and not request.Test()]
        return not self._requests


def operation(name: str, args: Args, root: int, n_ranks: int) -> Operation | None:
    """Return what others have to call; None where that is not known from these arguments alone.

    Parameters
    ----------
    name
        Of mpi4py's method.
    args
        As it was called, with or without a root.
    root
        -1 if there is none, or if it is among `args`.
    n_ranks
        Of the communicator.
    """
    if args and root < 0 and isinstance(args[-1], int):
        *args, root = args  # type: ignore[assignment]
    if name == "Ibarrier":
        return Operation(name)
    if name == "Ibcast":
        return _with_data(Operation(name, root=root), args[0])
    if name in ("Igather", "Iallgather"):
        return _with_data(Operation(name, root=root), args[0])
    if name == "Iscatter":
        return _with_data(Operation(name, root=root), args[1])
    if name == "Ialltoall":
        return _with_data(Operation(name), args[0], n_ranks)
    if name in ("Ireduce", *_REDUCTIONS):
        op = next((key for key, known in _OPS.items() if args[2] == known), "")
        at_hand = 1 if args[0] is MPI.IN_PLACE or name == "Ireduce_scatter_block" else 0
        return _with_data(Operation(name, op=op, root=root), args[at_hand]) if op else None
    return None


def _with_data(one: Operation, data: Any, parts: int = 1) -> Operation | None:
    """Add what the data of one rank are to an operation."""
    if isinstance(data, list | tuple):
        if len(data) != 2 or not data[1] or not getattr(data[1], "is_predefined", False):
            return None
        data, size = data[0], data[1].Get_size()
    else:
        size = 0
    if data is MPI.IN_PLACE or data is MPI.BOTTOM:
        return None
    try:
        view = memoryview(data)
    except TypeError:
        return None  # a buffer of another kind
    code = view.format
    if code not in _TYPECODES or size not in (0, view.itemsize) or not view.contiguous:
        return None
    count, rest = divmod(view.nbytes // view.itemsize, parts)
    return None if rest else Operation(one.name, code, count, one.op, one.root)


def _arguments(one: Operation, rank: int, n_ranks: int) -> Args:
    """Return arguments for an operation, with data of the right size."""

    def data(parts: int = 1) -> Any:
        return array(one.typecode, bytes(array(one.typecode).itemsize * one.count * parts))

    at_root = rank == one.root
    if one.name == "Ibarrier":
        return ()
    if one.name == "Ibcast":
        return data(), one.root
    if one.name == "Igather":
        return data(), data(n_ranks) if at_root else None, one.root
    if one.name == "Iscatter":
        return data(n_ranks) if at_root else None, data(), one.root
    if one.name == "Iallgather":
        return data(), data(n_ranks)
    if one.name == "Ialltoall":
        return data(n_ranks), data(n_ranks)
    if one.name == "Ireduce":
        return data(), data() if at_root else None, _OPS[one.op], one.root
    if one.name == "Ireduce_scatter_block":
        return data(n_ranks), data(), _OPS[one.op]
    if one.name in _REDUCTIONS:
        return data(), data(), _OPS[one.op]
    raise ValueError(f"no arguments for {one.name}")
