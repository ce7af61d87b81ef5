"""What windows and files share: ranks meet, in a barrier that can be interrupted, before they block."""

from __future__ import annotations

from typing import Any

from mpiparallel.engine.guard.creation import meet
from mpiparallel.engine.guard.faults import kept
from mpiparallel.engine.guard.plain import Intracomm, Request, Status
from mpiparallel.engine.guard.waiting import nothing_known, wait
from mpiparallel.error import CommunicatorBroken


class Meeting:
    """The ranks of a window or of a file, on a duplicate of their own: the user may free the communicator."""

    __slots__ = ("broken", "comm")

    def __init__(self, comm: Any) -> None:
        self.broken = ""
        self.comm, request = Intracomm.Idup(Intracomm(comm))
        self.wait("Idup", request)

    def meet(self, call: str) -> None:
        """Wait for all ranks to come to this call."""
        self.check(call)
        self.wait(call, self.comm.Ibarrier())

    def check(self, call: str) -> None:
        """Raise an error if something was broken off here."""
        if self.broken:
            raise CommunicatorBroken(
                f"{call}: cannot be used any more, because {self.broken}; make a new one"
            )

    def wait(self, call: str, request: Request, status: Status | None = None) -> None:
        """Wait for a collective operation."""
        try:
            if not request.Test(status):
                wait(lambda: request.Test(status), call, nothing_known)
        except BaseException as error:
            if request:
                kept.append(request)
                self.broken = f"{call} was broken off by {type(error).__name__}"
            raise

    def free(self) -> None:
        """Let go of the duplicate."""
        if not self.broken:
            self.comm.Free()


def meet_on(comm: Any, call: str) -> Any:
    """Wait for all ranks of a communicator to come to this call; return it as mpi4py knows it."""
    if hasattr(comm, "_state"):
        meet(comm, call)
        comm._state.opaque = True
    return comm
