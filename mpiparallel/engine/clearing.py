"""How communicators that were replaced come to an end, so that they can be freed. No MPI in here.

The leader's part. Every rank tells what it has left of one (`Remains`). If all that is missing is known,
those who did not come to the last collective are told to begin it (`Complete`); when everything has ended
everywhere all may free it (`Release`). Else it stays, as MPI may write into its buffers for as long as the
processes live.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence

from mpiparallel.wire.between import Complete, Completed, Operation, Release, Remains
from mpiparallel.wire.messages import AnyHeader

REMEMBERED = 256  # communicators on their way to their end


class _Case:
    """One communicator."""

    def __init__(self, members: Sequence[int]) -> None:
        self.members = list(members)
        self.remains: dict[int, Remains] = {}
        self.completed: set[int] = set()


class Clearing:
    """Brings communicators to their end.

    Parameters
    ----------
    tell
        Called with (rank, header).
    """

    def __init__(self, tell: Callable[[int, AnyHeader], None]) -> None:
        self._tell = tell
        self._cases: OrderedDict[str, _Case] = OrderedDict()

    def begin(self, comm: str, members: Sequence[int]) -> None:
        """Expect what these ranks have left of a communicator that is being replaced."""
        self._cases[comm] = _Case(members)
        if len(self._cases) > REMEMBERED:
            self._release(next(iter(self._cases)), completed=False)

    def lost(self) -> None:
        """Give up on all: nothing can be completed without those who died."""
        for comm in list(self._cases):
            del self._cases[comm]

    def remains(self, header: Remains) -> None:
        """Take what a rank has left."""
        case = self._cases.get(header.comm)
        if case is None:
            self._tell(header.rank, Release(header.comm, False))
            return
        case.remains[header.rank] = header
        if len(case.remains) < len(case.members):
            return
        missing = to_complete(case.remains)
        if missing is None:
            self._release(header.comm, completed=False)
            return
        for rank in case.members:
            self._tell(rank, Complete(header.comm, missing[rank]))

    def completed(self, header: Completed) -> None:
        """Note that everything of a rank has ended."""
        case = self._cases.get(header.comm)
        if case is None:
            return
        case.completed.add(header.rank)
        if len(case.completed) == len(case.members):
            self._release(header.comm, completed=True)

    def _release(self, comm: str, completed: bool) -> None:
        for rank in self._cases.pop(comm).members:
            self._tell(rank, Release(comm, completed))


def to_complete(remains: Mapping[int, Remains]) -> dict[int, list[Operation]] | None:
    """Return the operations that each rank has to begin for all to end; None if these are not known."""
    ledgers = {rank: one.ledger for rank, one in remains.items() if one.ledger is not None}
    if len(ledgers) < len(remains) or not _all_received(remains):
        return None
    last = max(ledger.collectives for ledger in ledgers.values())
    here = [rank for rank, ledger in ledgers.items() if ledger.collectives == last]
    begun = {rank: operations for rank in here if (operations := remains[rank].operations) is not None}
    behind = [rank for rank in ledgers if rank not in here]
    # What others have completed without these is not known, nor what they have yet to do in the call before.
    if any(ledgers[rank].collectives < last - 1 or remains[rank].operations is not None for rank in behind):
        return None
    if not begun:
        return None if behind else {rank: [] for rank in remains}
    whole = max(begun.values(), key=len)
    if any(whole[: len(operations)] != operations for operations in begun.values()):
        return None  # they were in different calls
    finished = [rank for rank in here if rank not in begun]
    if finished and not all(_is_one_operation(ledgers[rank].recent[-1]) for rank in finished):
        return None
    missing = {rank: whole[len(operations) :] for rank, operations in begun.items()}
    missing.update((rank, []) for rank in finished)
    missing.update((rank, whole) for rank in behind)
    return missing


def _is_one_operation(signature: str) -> bool:
    """Whether a collective is a single operation: those with lower-case names may be several."""
    return signature[:1].isupper()


def _all_received(remains: Mapping[int, Remains]) -> bool:
    """Whether every message that was sent has been received, and nobody waits for one."""
    messages: Counter[tuple[int, int, int]] = Counter()
    for rank, one in remains.items():
        assert one.ledger is not None
        if one.ledger.pending or one.ledger.opaque:
            return False
        for peer, tag, n in one.ledger.sent:
            messages[rank, peer, tag] += n
        for peer, tag, n in one.ledger.received:
            messages[peer, rank, tag] -= n
    return not any(messages.values())
