"""Files: collective reads and writes start their non-blocking forms; other collective calls meet first."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.classes import FromHandle, StandIn
from mpiparallel.engine.guard.plain import File, Request, Status
from mpiparallel.engine.guard.requests import GuardedRequest
from mpiparallel.engine.guard.sync import meeting_on

INFO_NULL = MPI.INFO_NULL


def _meeting_first(name: str) -> Any:
    """Return a form of a collective call before which the ranks meet."""
    plain = getattr(File, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._meeting is not None:
            self._meeting.meet(f"File.{name}")
        return plain(self, *args, **kwargs)

    return method


def _moving(name: str) -> Any:
    """Return a form of Read_all or Write_all."""
    plain, start = getattr(File, name), getattr(File, "I" + name.lower())

    def method(self: Any, buf: Any, status: Status | None = None) -> None:
        if self._meeting is None:
            plain(self, buf, status)
            return
        self._meeting.meet(f"File.{name}")
        self._meeting.wait(f"File.{name}", start(self, buf), status)

    return method


def _moving_at(name: str) -> Any:
    """Return a form of Read_at_all or Write_at_all."""
    plain, start = getattr(File, name), getattr(File, "I" + name.lower())

    def method(self: Any, offset: int, buf: Any, status: Status | None = None) -> None:
        if self._meeting is None:
            plain(self, offset, buf, status)
            return
        self._meeting.meet(f"File.{name}")
        self._meeting.wait(f"File.{name}", start(self, offset, buf), status)

    return method


def _requested(name: str) -> Any:
    """Return a form of Iread or one of its kin whose request can be waited for."""
    start = getattr(File, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Request:
        return GuardedRequest(start(self, *args, **kwargs))

    return method


class GuardedFile(FromHandle, File, metaclass=StandIn, stands_for=File):
    """A file whose ranks can be interrupted while they wait for one another."""

    __slots__ = ("_meeting",)

    def __new__(cls, file: File | None = None) -> Any:
        """Stand for the same file as `file`."""
        self: Any = super().__new__(cls, file)
        self._meeting = getattr(file, "_meeting", None)
        return self

    @classmethod
    def Open(cls, comm: Any, filename: Any, amode: int = MPI.MODE_RDONLY, info: MPI.Info = INFO_NULL) -> File:
        """Open a file."""
        meeting = meeting_on(comm, "File.Open")
        try:
            file = super().Open(comm, filename, amode, info)
        except MPI.Exception:
            if meeting is not None:
                meeting.free()
            raise
        file._meeting = meeting
        return file

    def Close(self: Any) -> None:
        """Close the file."""
        if self._meeting is not None:
            self._meeting.meet("File.Close")
        File.Close(self)
        if self._meeting is not None:
            self._meeting.free()
            self._meeting = None


for _name in ("Read_all", "Write_all"):
    setattr(GuardedFile, _name, _moving(_name))
for _name in ("Read_at_all", "Write_at_all"):
    setattr(GuardedFile, _name, _moving_at(_name))
_MEETINGS = """
    Set_size Preallocate Set_view Set_info Seek_shared Set_atomicity Sync Read_ordered Write_ordered
    Read_at_all_begin Write_at_all_begin Read_all_begin Write_all_begin Read_ordered_begin Write_ordered_begin
"""
for _name in _MEETINGS.split():
    setattr(GuardedFile, _name, _meeting_first(_name))
for _name in dir(File):
    if _name.startswith(("Iread", "Iwrite")):
        setattr(GuardedFile, _name, _requested(_name))
