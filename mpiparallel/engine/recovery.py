"""Going on when ranks have died, where MPI has ULFM (User Level Failure Mitigation), and the end of a world.

See W. Bland et al., "Post-failure recovery of MPI communication capability" (IJHPCA 27, 2013). What is said
there of a whole application holds here for user code alone: its communicators are revoked, which frees all
that are blocked in them, and replaced by new ones (`Mail.new_comm`). The couriers' own point-to-point
messages go on without a break, so dealing with a death is a local matter, and takes no agreement: each rank
hears of it from MPI's runtime, forgets the dead, and the lowest that is alive leads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpiparallel.engine.mail import Mail, RanksLost
from mpiparallel.engine.world import World


@dataclass(frozen=True)
class Loss:
    """What `recover` found.

    Attributes
    ----------
    ranks
        Those that died, sorted.
    new_leader
        Whether the leader was among them: `World.leader` is another rank now.
    """

    ranks: list[int]
    new_leader: bool


def recover(world: World, mail: Mail, revoke_users: Callable[[], None]) -> Loss:
    """Go on without the ranks that died. Called when mail raises `RanksLost`; never blocks.

    Messages between the living are not touched. Those to and from the dead are dropped.

    Parameters
    ----------
    world, mail
        Changed: fewer ranks are alive.
    revoke_users
        Revokes the communicators of user code.
    """
    leader = world.leader
    dead = mail.bury()
    revoke_users()
    return Loss(dead, world.leader != leader)


class Parting:
    """The end of a world: the ranks agree that all are done.

    Where the world survives no collective is used, as it could hang: each rank that has ended tells the
    leader, and leaves when the leader says that all have ended, or dies.
    """

    def __init__(self, world: World, mail: Mail) -> None:
        self._world, self._mail = world, mail
        self._barrier: Any = None
        self._said = False

    def done(self) -> bool:
        """Whether all ranks have ended. Called again and again once this one has."""
        world, mail = self._world, self._mail
        if not world.survives:
            if self._barrier is None:
                self._barrier = world.cast.Ibarrier()
            return bool(self._barrier.Test())
        leader = world.leader
        try:
            mail.progress()
        except RanksLost:
            mail.bury()
        if world.leader != leader:
            return True  # the next leader has nothing to say: the world is at its end
        if world.rank == leader:
            return self._all_have_parted()
        if not self._said and mail.all_sent:
            self._said = True
            mail.part(leader)
        return leader in mail.parted

    def _all_have_parted(self) -> bool:
        others = set(self._world.alive) - {self._world.rank}
        if not self._said and self._mail.parted >= others:
            self._said = True
            for rank in others:
                self._mail.part(rank)
        return self._said and self._mail.all_sent

    @property
    def can_finalize(self) -> bool:
        """Whether MPI_Finalize may be called. After a death it would hang: leave by ``os._exit(0)``."""
        return not self._world.survives or not self._world.lost
