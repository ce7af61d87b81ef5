"""Messages between the ranks of a world: what they wait for, and how that is ended. No others see them.

Ranks are named by their place in the world as it began: a rank keeps its number when others die.
"""

from __future__ import annotations

import msgspec

from mpiparallel.wire.fields import Count, Failure, Header, Ranks
from mpiparallel.wire.waits import Ledger, Wait


class Blocked(Header, frozen=True):
    """`rank` has been in this wait for a while; None: not any more."""

    rank: Count
    request: str
    wait: Wait | None
    line: str = ""  # where in user code


class Broken(Header, frozen=True):
    """A communicator cannot be used any more: a call on it was broken off on `rank`. Sent before the Result.

    `topology` is empty or what Create_cart was given.
    """

    rank: Count
    comm: str
    members: Ranks
    topology: list[list[int]] = []


class Renew(Header, frozen=True):
    """Take a new communicator, to be called `fresh`, in the place of `comm`: number `made` of those made by
    the mail. Not of the control lane: tasks queued before it have the old one.
    """

    comm: str
    fresh: str
    made: Count
    members: Ranks
    topology: list[list[int]] = []


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """A non-blocking collective, as all ranks have to call it.

    `name` is mpi4py's ("Iallreduce"), `typecode` and `count` are of one rank's part (as in `array`; "" for
    none), `op` is the name of a predefined reduction, `root` a rank of the communicator or -1.
    """

    name: str
    typecode: str = ""
    count: Count = 0
    op: str = ""
    root: int = -1


class Remains(Header, frozen=True):
    """What `rank` has left of `comm`, which was broken and has been replaced.

    `operations` are those that it began in its last collective, if it left that before its end; None: it did
    not. Where not all is known there is no `ledger`.
    """

    rank: Count
    comm: str
    ledger: Ledger | None = None
    operations: list[Operation] | None = None


class Complete(Header, frozen=True):
    """Begin these operations on what is left of `comm`, too, and say when all have ended."""

    comm: str
    operations: list[Operation] = []


class Completed(Header, frozen=True):
    """Everything that `rank` has begun on what is left of `comm` has ended."""

    rank: Count
    comm: str


class Release(Header, frozen=True):
    """Free what is left of `comm`, if all have `completed`; else leave it as it is."""

    comm: str
    completed: bool


class Want(Header, frozen=True):
    """These ranks run tasks together and need a communicator; `failed` is the number of one not made."""

    members: Ranks
    failed: Count = 0


class Made(Header, frozen=True):
    """Number `made` of the communicators made by the mail is for tasks of these ranks.

    It was begun when `lost` ranks had died. Not of the control lane.
    """

    members: Ranks
    made: Count
    lost: Count = 0


class Drop(Header, frozen=True):
    """The communicator of these ranks is not needed any more. Not of the control lane."""

    members: Ranks


class Examine(Header, frozen=True):
    """Say what was sent, received and begun on these communicators."""

    round: Count
    comms: list[str]


class Ledgers(Header, frozen=True):
    """The answer to Examine. `tasks` counts the tasks that `rank` has begun, `queued` those that wait."""

    rank: Count
    round: Count
    tasks: Count
    queued: Count
    busy: bool
    wait: Wait | None
    ledgers: dict[str, Ledger]


class Held(Header, frozen=True):
    """What `rank` has to do with requests, told to the leader when ranks have died, `lost` in all: those it
    has not answered and their clients, and how its part has ended in those it answered last.
    """

    rank: Count
    lost: Count
    open: dict[str, str]
    ended: dict[str, str]


class Cut(Header, frozen=True):
    """End wait `number` by an error, if it is still the one."""

    number: Count
    failure: Failure
    rank: int = -1  # whose failure is the cause
