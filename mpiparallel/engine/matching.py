"""Which sends, receives and collectives belong together, and what the ranks' ledgers say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mpiparallel.wire.waits import Ledger, Part

ANY = -1  # as a peer or a tag
FORGOTTEN = "?"  # the signature of a collective too long ago to be in a ledger

# Collectives by what the call of one rank cannot end without, in lower case.
FROM_ALL = frozenset((
    "barrier", "allgather", "allgatherv", "allreduce", "alltoall", "alltoallv", "alltoallw",
    "reduce_scatter", "reduce_scatter_block", "dup", "dup_with_info", "split", "split_type", "create",
    "create_cart", "create_graph", "create_dist_graph", "create_dist_graph_adjacent", "create_intercomm",
    "clone", "sub", "disconnect", "spawn", "spawn_multiple", "accept", "connect",
    "win.create", "win.allocate", "win.allocate_shared", "win.create_dynamic", "file.open",
))  # fmt: skip
TO_ROOT = frozenset(("gather", "gatherv", "reduce"))
FROM_ROOT = frozenset(("bcast", "scatter", "scatterv"))
FROM_LOWER = frozenset(("scan", "exscan"))
_NAMES = FROM_ALL | TO_ROOT | FROM_ROOT | FROM_LOWER

_SAME_SIZE = frozenset((
    "bcast", "gather", "scatter", "allgather", "alltoall", "reduce", "allreduce", "reduce_scatter_block",
    "scan", "exscan",
))  # fmt: skip


def matches(source: int, tag: int, sender: int, sent: int) -> bool:
    """Whether a receive from `source` with `tag` takes a message of `sender` with the tag `sent`."""
    return source in (ANY, sender) and tag in (ANY, sent)


def parse(signature: str) -> tuple[str, int | None]:
    """Return the name of a collective in lower case, of its blocking form, and its root."""
    name, _, arguments = signature.partition("(")
    name = name.strip().lower()
    if name.startswith("i") and name[1:] in _NAMES:
        name = name[1:]
    for argument in arguments.rstrip(")").split(","):
        key, _, value = argument.partition("=")
        if key.strip() == "root" and value.strip().isdecimal():
            return name, int(value)
    return name, None


def sizes_differ(one: Part, other: Part) -> bool:
    """Whether two calls of one collective move different amounts of data, where MPI forbids that."""
    if one.nbytes < 0 or other.nbytes < 0 or one.nbytes == other.nbytes:
        return False
    return one.signature[:1].isupper() and parse(one.signature)[0] in _SAME_SIZE


class Counts:
    """What ranks have sent, received and begun.

    Parameters
    ----------
    ledgers
        By rank and communicator. Nothing is known where one is missing or opaque.
    """

    def __init__(self, ledgers: Mapping[int, Mapping[str, Ledger]]) -> None:
        self._ledgers = ledgers
        self._sent: dict[str, dict[int, dict[tuple[int, int], int]]] = {}
        self._unknown: dict[str, set[int]] = {}

    def _ledger(self, rank: int, comm: str) -> Ledger | None:
        ledger = self._ledgers.get(rank, {}).get(comm)
        return None if ledger is None or ledger.opaque else ledger

    def known(self, rank: int, comm: str) -> bool:
        """Whether `rank` has counted what it did on `comm`."""
        return self._ledger(rank, comm) is not None

    def coming(self, rank: int, part: Part, members: Collection[int], dead: Collection[int]) -> bool:
        """Whether a message for the receive `part` of `rank` may be on its way.

        So it is when the counts do not add up. What the dead have sent has arrived or never will.
        """
        ledger = self._ledger(rank, part.comm)
        if ledger is None:
            return True
        if part.peer != ANY:
            if part.peer in dead:
                return False
            if not self.known(part.peer, part.comm):
                return True
        elif any(peer not in dead for peer in self._unknown_on(part.comm, members)):
            return True
        left = dict(self._sent_on(part.comm).get(rank, {}))
        for peer, tag, number in ledger.received:
            left[peer, tag] = left.get((peer, tag), 0) - number
        return any(
            number != 0 and peer not in dead and matches(part.peer, part.tag, peer, tag)
            for (peer, tag), number in left.items()
        )

    def taken(self, rank: int, part: Part, any_of_them: bool) -> bool:
        """Whether the message of the send `part` of `rank` may have been received already.

        The sender of a message learns of that later. Messages of one tag are received in the order in which
        they were sent; without an index it is the last of them, or with `any_of_them` any.
        """
        mine, theirs = self._ledger(rank, part.comm), self._ledger(part.peer, part.comm)
        if mine is None or theirs is None:
            return True
        sent = sum(n for peer, tag, n in mine.sent if (peer, tag) == (part.peer, part.tag))
        received = sum(n for peer, tag, n in theirs.received if (peer, tag) == (rank, part.tag))
        index = part.index if part.index >= 0 else 0 if any_of_them else sent - 1
        return received > index

    def pending(self, rank: int, comm: str) -> Sequence[Sequence[int]] | None:
        """Return source and tag of the receives that `rank` has started on `comm`; None if not known."""
        ledger = self._ledger(rank, comm)
        return None if ledger is None else ledger.pending

    def began(self, rank: int, comm: str, index: int) -> str:
        """Return which collective was number `index` of `rank` on `comm`, empty if it has not begun that."""
        ledger = self._ledger(rank, comm)
        if ledger is None:
            return FORGOTTEN
        if ledger.collectives <= index:
            return ""
        place = index - (ledger.collectives - len(ledger.recent))
        return ledger.recent[place] if place >= 0 else FORGOTTEN

    def _sent_on(self, comm: str) -> dict[int, dict[tuple[int, int], int]]:
        """Return, by receiver, how many messages each sender has sent with each tag."""
        if comm not in self._sent:
            table = self._sent[comm] = {}
            for sender in self._ledgers:
                ledger = self._ledger(sender, comm)
                for peer, tag, number in ledger.sent if ledger is not None else ():
                    of_peer = table.setdefault(peer, {})
                    of_peer[sender, tag] = of_peer.get((sender, tag), 0) + number
        return self._sent[comm]

    def _unknown_on(self, comm: str, members: Collection[int]) -> set[int]:
        if comm not in self._unknown:
            self._unknown[comm] = {rank for rank in members if not self.known(rank, comm)}
        return self._unknown[comm]
