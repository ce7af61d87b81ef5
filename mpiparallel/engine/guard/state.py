"""What this rank has done on one communicator: the ledger behind every guarded call. No MPI in here."""

from __future__ import annotations

import itertools
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mpiparallel.error import CommunicatorBroken, PeerFailed
from mpiparallel.wire.waits import Ledger, Part

RECENT = 64  # signatures that are remembered
FIRST_HIDDEN_TAG, HIDDEN_TAGS = 10, 32000  # every MPI has tags up to 32767
SYNCHRONOUS = -1  # in place of a message's length: its send ends only when it is received
WILDCARD = -1  # any source, any tag: MPI libraries have numbers of their own for these


class CommState:
    """One communicator, as this rank sees it.

    Several Python objects may stand for it (`objects`). Where a rank is kept it is one of the
    communicator; `members` has the world's numbers of its ranks.

    Attributes
    ----------
    recent
        (name, root) or name of the last collectives, in the order they were begun.
    sent, received
        How many messages, by (rank, tag).
    pending
        Receives that were started and are not known to be complete.
    opaque
        Whether it was used in ways that are not counted here.
    broken
        What was broken off, or None.
    failed
        The member whose death has broken it; -1 if it was something else.
    generation
        How often it has been renewed.
    used
        Whether the task that runs has sent or received anything; `counted_before` is how many collectives
        had been begun when it began.
    rebuild
        Gives a plain communicator its topology, where this is not a Cartesian one.
    rank
        This rank's number in it.
    left
        What was left before its end, of which all is known; see `remains`.
    spoilt
        Whether something else was, or may have been.
    hidden_tag
        Of messages about it on our own duplicate of the world, where no receive of the user's can take them.
    groups
        How often Create_group has been called for these members.
    """

    __slots__ = (
        "__weakref__",
        "_name",
        "broken",
        "collectives",
        "counted_before",
        "failed",
        "generation",
        "groups",
        "hidden_tag",
        "id",
        "left",
        "members",
        "opaque",
        "pending",
        "rank",
        "rebuild",
        "received",
        "recent",
        "references",
        "sent",
        "spoilt",
        "topology",
        "used",
    )

    def __init__(self, id: str, members: Sequence[int], name: Callable[[], str] | None = None) -> None:
        self.id, self.members, self.rank = id, tuple(members), -1
        self._name = name
        self.topology: list[list[int]] = []
        self.rebuild: Callable[[Any], Any] | None = None
        self.generation = 0
        self.references: list[weakref.ref[Any]] = []  # communicators have no hash
        self.broken: str | None = None
        self.failed = WILDCARD  # the member whose death has broken it
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.hidden_tag = FIRST_HIDDEN_TAG + zlib.crc32(self.id.encode()) % HIDDEN_TAGS
        self.collectives = 0
        self.recent: deque[Any] = deque(maxlen=RECENT)
        self.sent: dict[tuple[int, int], int] = {}
        self.received: dict[tuple[int, int], int] = {}
        self.pending: dict[int, Receive] = {}
        self.groups: dict[tuple[int, ...], int] = {}
        self.opaque = False
        self.left: list[Any] = []
        self.spoilt = False
        self.begin_task()

    def begin_task(self) -> None:
        """Forget what a task before has used."""
        self.used = False
        self.counted_before = self.collectives

    @property
    def used_by_task(self) -> bool:
        """Whether the task that runs has sent, received or begun anything here."""
        return self.used or self.collectives != self.counted_before

    def objects(self) -> list[Any]:
        """Return the Python objects that stand for it."""
        found = [reference() for reference in self.references]
        return [comm for comm in found if comm is not None and comm._state is self]

    def add(self, comm: Any) -> None:
        """Let an object stand for it."""
        comm._state = self
        self.references = [reference for reference in self.references if reference() is not None]
        self.references.append(weakref.ref(comm))

    @property
    def name(self) -> str:
        """What people call it."""
        return self._name() if self._name is not None else self.id

    def collective_broke_off(self) -> None:
        """Note that the last collective was left before its end: the others cannot count on this rank."""
        if self.recent:
            self.recent[-1] = f"{signature_text(self.recent[-1])}, broken off"

    def call_it(self, name: Callable[[], str]) -> None:
        """Let people be told this name."""
        self._name = name

    def refuse(self, call: str) -> None:
        """Raise the error of a call on a broken communicator."""
        if self.failed >= 0:
            raise PeerFailed(self.failed, "its process died", f"this rank came to {call} on {self.name}")
        raise CommunicatorBroken(
            f"{call} on {self.name}: this communicator cannot be used, because {self.broken}. "
            "It is renewed in place before the next request, when all its engines are free."
        )

    def world_rank(self, rank: int) -> int:
        """Return the world's number of a rank; a wildcard stays one."""
        return self.members[rank] if 0 <= rank < len(self.members) else WILDCARD

    # ------------------------------------------------------------ parts of waits

    def collective(self, signature: Any, index: int, data: Any = None) -> Part:
        """Return the part of a collective that was begun as number `index`."""
        return Part("collective", self.id, signature_text(signature), index, common_bytes(data))

    def send(self, rank: int, tag: int, index: int, data: Any) -> Part:
        """Return the part of a message that was sent after `index` others with its tag to that rank.

        `data` is its buffer, or its length, or SYNCHRONOUS.
        """
        nbytes = data if isinstance(data, int) else message_bytes(data)
        return Part("send", self.id, "", index, nbytes, self.world_rank(rank), tag)

    def receive(self, rank: int, tag: int) -> Part:
        """Return the part of a message that is to come."""
        return Part("receive", self.id, peer=self.world_rank(rank), tag=tag if tag >= 0 else WILDCARD)

    # ------------------------------------------------------------ the ledger

    def count_sent(self, rank: int, tag: int) -> int:
        """Note a message that was sent; return how many with its tag went to that rank before."""
        key = (rank, tag)
        before = self.sent.get(key, 0)
        self.sent[key] = before + 1
        return before

    def count_received(self, rank: int, tag: int) -> None:
        """Note a message that has arrived."""
        key = (rank, tag)
        self.received[key] = self.received.get(key, 0) + 1

    def ledger(self) -> Ledger:
        """Return the counts, in the world's numbers. Any thread may ask."""
        return Ledger(
            self.collectives,
            [signature_text(signature) for signature in self.recent.copy()],
            self._counts(self.sent),
            self._counts(self.received),
            [
                [self.world_rank(r.source), r.tag if r.tag >= 0 else WILDCARD]
                for r in [*self.pending.values()]
            ],
            self.opaque,
        )

    def _counts(self, counts: dict[tuple[int, int], int]) -> list[list[int]]:
        return [[self.world_rank(rank), tag, n] for (rank, tag), n in counts.copy().items()]


_numbers = itertools.count()


class Receive:
    """A receive that was started and is not known to be complete."""

    __slots__ = ("generation", "number", "source", "state", "tag")

    def __init__(self, state: CommState, source: int, tag: int) -> None:
        self.state, self.source, self.tag = state, source, tag
        self.generation = state.generation
        self.number = next(_numbers)
        state.pending[self.number] = self

    def part(self) -> Part:
        """Return it as the part of a wait."""
        state = self.state
        if self.generation != state.generation:
            return Part("other")  # the counts are of the renewed communicator
        return state.receive(self.source, self.tag)

    def complete(self, status: Any) -> None:
        """Note that it is over; `status` says whose message it was."""
        state = self.state
        if self.generation != state.generation:
            return  # the communicator was renewed meanwhile
        if state.pending.pop(self.number, None) is not None and not status.Is_cancelled():
            state.count_received(status.Get_source(), status.Get_tag())


def signature_text(signature: Any) -> str:
    """Return how a collective is called: with its root, which must be the same on all ranks."""
    return signature if isinstance(signature, str) else f"{signature[0]}(root={signature[1]})"


def common_bytes(data: Any) -> int:
    """Return how many bytes a buffer has that must be as long on all ranks; -1 if this is not sure.

    That is the case for plain buffers and for [buffer, datatype] with a datatype MPI has by itself.
    """
    if isinstance(data, list | tuple):
        if len(data) != 2 or not data[1] or not getattr(data[1], "is_predefined", False):
            return -1  # a null one was freed meanwhile
        if data[1].Get_size() != data[1].Get_extent()[1]:
            return -1
        data = data[0]
    try:
        return memoryview(data).nbytes
    except (TypeError, ValueError, BufferError):
        return -1  # another kind of buffer, or none


def message_bytes(data: Any) -> int:
    """Return how long the message in a buffer is; 0 if this is not sure, as short ones need no receiver."""
    if isinstance(data, list | tuple) and len(data) == 3 and isinstance(data[1], int):
        _, count, datatype = data
        if datatype and getattr(datatype, "is_predefined", False) and count >= 0:
            return count * int(datatype.Get_size())
        return 0
    return max(0, common_bytes(data))
