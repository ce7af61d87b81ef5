"""What windows and files share: ranks meet, in a barrier that can be interrupted, before they block."""

from __future__ import annotations

from typing import Any

from mpiparallel.engine.guard import registry
from mpiparallel.engine.guard.creation import meet
from mpiparallel.engine.guard.faults import broke_off
from mpiparallel.engine.guard.plain import Comm, Request, Status
from mpiparallel.engine.guard.waiting import nothing_known, wait


class Meeting:
    """The ranks of a window or of a file, on a duplicate of their own: the user may free the communicator.

    Parameters
    ----------
    comm
        A guarded one.
    label
        What all its ranks call the duplicate.
    """

    __slots__ = ("comm",)

    def __init__(self, comm: Any, label: str) -> None:
        self.comm = registry.adopt(Comm.Dup(comm), f"{label}/meeting")
        name = comm._state.name
        self.comm._state.call_it(lambda: name)

    def meet(self, call: str) -> None:
        """Wait for all ranks to come to this call."""
        meet(self.comm, call)

    def wait(self, call: str, request: Request, status: Status | None = None) -> None:
        """Wait for a collective operation to which all ranks have come."""
        try:
            if not request.Test(status):
                wait(lambda: request.Test(status), call, nothing_known)
        except BaseException as error:
            broke_off(error, self.comm._state, call, request, None)
            raise

    def free(self) -> None:
        """Let go of the duplicate."""
        self.comm.Free()


def meeting_on(comm: Any, call: str) -> Meeting | None:
    """Wait for all ranks of a communicator to come to this call; return how they meet from now on.

    None if it is not guarded.
    """
    return Meeting(comm, meet(comm, call)) if hasattr(comm, "_state") else None
