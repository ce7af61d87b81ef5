"""One-sided communication.

Creating, fencing and freeing have no non-blocking form: the ranks of the window meet before the call. `Lock`,
`Start`, `Complete` and flushing wait for others inside MPI, where nothing but `Revoke` reaches them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.classes import FromHandle, StandIn
from mpiparallel.engine.guard.plain import Request, Win
from mpiparallel.engine.guard.requests import GuardedRequest
from mpiparallel.engine.guard.sync import Meeting, meeting_on
from mpiparallel.engine.guard.waiting import nothing_known, wait

INFO_NULL = MPI.INFO_NULL


def _guarded(win: Any, meeting: Meeting | None) -> Any:
    win._meeting = meeting
    return win


def _requested(name: str) -> Any:
    """Return a form of Rput or one of its kin whose request can be waited for."""
    start: Callable[..., Request] = getattr(Win, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Request:
        return GuardedRequest(start(self, *args, **kwargs))

    return method


class GuardedWin(FromHandle, Win, metaclass=StandIn, stands_for=Win):
    """A window whose ranks can be interrupted while they wait for one another."""

    __slots__ = ("_meeting",)

    def __new__(cls, win: Win | None = None) -> Any:
        """Stand for the same window as `win`."""
        self: Any = super().__new__(cls, win)
        self._meeting = getattr(win, "_meeting", None)
        return self

    @classmethod
    def Create(cls, memory: Any, disp_unit: int = 1, info: MPI.Info = INFO_NULL, comm: Any = None) -> Win:
        """Create a window of memory that there is."""
        comm = MPI.COMM_SELF if comm is None else comm
        meeting = meeting_on(comm, "Win.Create")
        return _guarded(super().Create(memory, disp_unit, info, comm), meeting)

    @classmethod
    def Allocate(cls, size: int, disp_unit: int = 1, info: MPI.Info = INFO_NULL, comm: Any = None) -> Win:
        """Create a window with new memory."""
        comm = MPI.COMM_SELF if comm is None else comm
        meeting = meeting_on(comm, "Win.Allocate")
        return _guarded(super().Allocate(size, disp_unit, info, comm), meeting)

    @classmethod
    def Allocate_shared(
        cls, size: int, disp_unit: int = 1, info: MPI.Info = INFO_NULL, comm: Any = None
    ) -> Win:
        """Create a window with memory that the ranks of a node share."""
        comm = MPI.COMM_SELF if comm is None else comm
        meeting = meeting_on(comm, "Win.Allocate_shared")
        return _guarded(super().Allocate_shared(size, disp_unit, info, comm), meeting)

    @classmethod
    def Create_dynamic(cls, info: MPI.Info = INFO_NULL, comm: Any = None) -> Win:
        """Create a window to attach memory to."""
        comm = MPI.COMM_SELF if comm is None else comm
        meeting = meeting_on(comm, "Win.Create_dynamic")
        return _guarded(super().Create_dynamic(info, comm), meeting)

    def Fence(self: Any, assertion: int = 0) -> None:
        """Wait for the operations of all ranks."""
        if self._meeting is not None:
            self._meeting.meet("Win.Fence")
        Win.Fence(self, assertion)

    def Free(self: Any) -> None:
        """Free the window."""
        if self._meeting is not None:
            self._meeting.meet("Win.Free")
        Win.Free(self)
        if self._meeting is not None:
            self._meeting.free()
            self._meeting = None

    def Wait(self: Any) -> bool:
        """Wait for the operations of the ranks that this one has posted the window to."""
        if not self.Test():
            wait(self.Test, "Win.Wait", nothing_known)
        return True

    Rput, Rget = _requested("Rput"), _requested("Rget")
    Raccumulate, Rget_accumulate = _requested("Raccumulate"), _requested("Rget_accumulate")
