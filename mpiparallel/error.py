"""Every error that mpiparallel raises.

::

    IPythonError
      KernelError
        EngineError               an engine (one MPI rank) died or left
          PeerFailed              raised on an engine that waited, in an MPI call, for one that failed
          DeadlockError           raised on engines whose MPI calls could never have ended
          CommunicatorBroken      raised where a communicator is used after a call on it was broken off
        NoEnginesRegistered       nothing to run on yet
        TaskAborted               taken out of an engine's queue before it began
        TaskTimeout
        UnmetDependency
          ImpossibleDependency
            DependencyTimeout
            InvalidDependency
        TaskRejectError
        RemoteError               user code raised on one engine
          CompositeError          ... on several
          AlreadyDisplayedError   ... and its tracebacks were shown while they streamed
      ConnectionRefused           the controller turned this peer away (key, role, protocol)
      ConnectionFileError         a connection file is missing, unreadable or too readable
      TunnelError                 a host cannot be reached by ssh, or a cluster not from there
      LaunchError                 a controller or a world of engines did not start
    WireError                     bytes that are no message of ours

The names and the tree above `ConnectionRefused` are IPython Parallel's.
"""

from __future__ import annotations

import builtins
from typing import Any

from mpiparallel import tracebacks

TimeoutError = builtins.TimeoutError

__all__ = [
    "AlreadyDisplayedError",
    "CommunicatorBroken",
    "CompositeError",
    "ConnectionFileError",
    "ConnectionRefused",
    "DeadlockError",
    "DependencyTimeout",
    "EngineError",
    "IPythonError",
    "ImpossibleDependency",
    "InvalidDependency",
    "KernelError",
    "LaunchError",
    "NoEnginesRegistered",
    "PeerFailed",
    "RemoteError",
    "TaskAborted",
    "TaskRejectError",
    "TaskTimeout",
    "TimeoutError",
    "UnmetDependency",
    "WireError",
    "collect_exceptions",
]


class IPythonError(Exception):
    """Base of the errors below."""


class KernelError(IPythonError):
    """Something went wrong on, or on the way to, an engine."""


class EngineError(KernelError):
    """An engine died, left or could not be used."""


class PeerFailed(EngineError):
    """The MPI call that this engine was in waits for an engine that has failed.

    Attributes
    ----------
    rank : int
        The rank that failed, by its number in the world.
    error : str
        How it failed: class and text of its exception, or what became of its process.
    """

    def __init__(self, rank: int, error: str, waiting: str = "") -> None:
        super().__init__(rank, error, waiting)
        self.rank, self.error, self.waiting = rank, error, waiting

    def __str__(self) -> str:
        return f"rank {self.rank} failed: {self.error}" + (f"; {self.waiting}" if self.waiting else "")

    @classmethod
    def parse(cls, text: str) -> PeerFailed | None:
        """Return the error whose text this is; None if it is none."""
        parts = tracebacks.parse_peer_failed(text)
        return None if parts is None else cls(*parts)


class DeadlockError(EngineError):
    """The MPI calls in which these engines were could never have ended; the text shows who was where."""


class CommunicatorBroken(EngineError):
    """A call on this communicator was broken off, so that it cannot be used until it has been renewed."""


class NoEnginesRegistered(KernelError):
    """An operation needs engines and there are none."""

    def __str__(self) -> str:
        return (
            "This operation requires engines. Try client.wait_for_engines(n) to wait for engines to register."
        )


class TaskAborted(KernelError):
    """The task did not begin: it was aborted, or a cell before it failed or was interrupted."""


class TaskTimeout(KernelError):
    """The task waited for longer than its timeout."""


class UnmetDependency(KernelError):
    """Raised on an engine where a task's dependency does not hold."""


class ImpossibleDependency(UnmetDependency):
    """A dependency that no engine can ever meet."""


class DependencyTimeout(ImpossibleDependency):
    """A dependency was not met in time."""


class InvalidDependency(ImpossibleDependency):
    """A dependency names a task that does not exist."""


class TaskRejectError(KernelError):
    """The task may not run on this engine."""


class ConnectionRefused(IPythonError):
    """The controller refused this connection; the message says why."""


class ConnectionFileError(IPythonError, OSError):
    """A connection file is missing, malformed, or readable by others."""


class TunnelError(IPythonError, ConnectionError):
    """A host could not be reached by ssh, or the cluster not from there; the message holds the remedy."""


class LaunchError(IPythonError):
    """A controller or a world of engines did not come up; the message holds what it said."""


class WireError(ValueError):
    """Bytes that are not a message of this protocol, or that break one of its limits."""


class RemoteError(KernelError):
    """User code raised on an engine.

    Only strings travel, so that an exception which cannot be pickled or printed is safe.

    Attributes
    ----------
    ename, evalue : str
        Class name and text of the exception.
    traceback : str
        The remote traceback, ready to print (it may hold ANSI colours).
    engine_info : dict or None
        ``engine_id``, ``engine_uuid``, ``method`` (``"apply"`` or ``"execute"``), ``host``, ``rank``.
    """

    def __init__(
        self, ename: str, evalue: str, traceback: str, engine_info: dict[str, Any] | None = None
    ) -> None:
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback
        self.engine_info = engine_info or {}
        self.args = (ename, evalue)

    @property
    def peer_failed(self) -> PeerFailed | None:
        """The error as a `PeerFailed`, if it is one: another rank is the cause."""
        return PeerFailed.parse(self.evalue) if self.ename == "PeerFailed" else None

    def __repr__(self) -> str:
        engine = self.engine_info.get("engine_id", "?")
        return f"<RemoteError[{engine}]:{self.ename}({self.evalue})>"

    def __str__(self) -> str:
        return f"{tracebacks.engine_label(self.engine_info)} {self.ename}: {self.evalue}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.ename, self.evalue, self.traceback, self.engine_info)

    def render_traceback(self) -> list[str]:
        """Return the lines of the remote traceback; first engine, rank and host."""
        entry = (self.ename, self.evalue, self.traceback, self.engine_info)
        return tracebacks.Cause(entry, [self.engine_info.get("engine_id")], [self.engine_info]).full()

    def _render_traceback_(self) -> list[str]:
        """Make IPython show the engine's traceback instead of ours."""
        return self.render_traceback()

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the remote traceback."""
        print("\n".join(self.render_traceback()))


class CompositeError(RemoteError):
    """Errors from several engines.

    It shows first what was the cause: of engines that only waited, in MPI calls, for one that failed there is
    one line, and what went wrong on several in the same way is shown once.

    Attributes
    ----------
    elist : list of (ename, evalue, traceback, engine_info)
        In target order.
    """

    tb_limit = 4  # how many tracebacks are shown in full

    def __init__(self, message: str, elist: list[tuple[str, str, str, dict[str, Any] | None]]) -> None:
        Exception.__init__(self, message, elist)
        self.message = message
        self.elist = list(elist)
        self.ename, self.evalue, self.traceback = "CompositeError", message, ""
        self.engine_info = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.elist)

    def __repr__(self) -> str:
        return f"<CompositeError({len(self.elist)})>"

    def __str__(self) -> str:
        causes, waiting = tracebacks.arrange(self.elist)
        return "\n".join([self.message, *tracebacks.summary(causes, waiting, self.tb_limit)])

    def _error(self, excid: int) -> RemoteError:
        try:
            return RemoteError(*self.elist[excid])
        except IndexError:
            raise IndexError(f"an exception with index {excid} does not exist") from None

    def render_traceback(self, excid: int | None = None) -> list[str]:
        """Return the lines of the first tracebacks, or of the one with index `excid`."""
        if excid is not None:
            return self._error(excid).render_traceback()
        causes, waiting = tracebacks.arrange(self.elist)
        return tracebacks.render(causes, waiting, self.tb_limit)

    def print_traceback(self, excid: int | None = None) -> None:
        """Print all tracebacks, or the one with index `excid`."""
        print("\n".join(self.render_traceback(excid)))

    def raise_exception(self, excid: int = 0) -> None:
        """Raise the error with index `excid` as a `RemoteError`."""
        raise self._error(excid)


class _RemoteUnmet(RemoteError, UnmetDependency):
    """An UnmetDependency that came from elsewhere, and so on: whoever catches either class gets it."""


class _RemoteImpossible(RemoteError, ImpossibleDependency): ...


class _RemoteInvalid(RemoteError, InvalidDependency): ...


class _RemoteTimeout(RemoteError, TaskTimeout): ...


class _RemoteDependencyTimeout(RemoteError, DependencyTimeout): ...


_BOTH: dict[str, type[RemoteError]] = {
    "UnmetDependency": _RemoteUnmet,
    "ImpossibleDependency": _RemoteImpossible,
    "InvalidDependency": _RemoteInvalid,
    "TaskTimeout": _RemoteTimeout,
    "DependencyTimeout": _RemoteDependencyTimeout,
}


def remote(ename: str, evalue: str, traceback: str, engine_info: dict[str, Any] | None = None) -> RemoteError:
    """Return the RemoteError of this name; those about dependencies and timeouts are of that class, too."""
    return _BOTH.get(ename, RemoteError)(ename, evalue, traceback, engine_info)


class AlreadyDisplayedError(RemoteError):
    """Stands for errors whose tracebacks were shown already, so that they are not shown twice."""

    def __init__(self, original_error: RemoteError) -> None:
        self.original_error = original_error
        Exception.__init__(self, original_error)
        self.ename, self.evalue = original_error.ename, original_error.evalue
        self.traceback, self.engine_info = original_error.traceback, original_error.engine_info

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.original_error,)

    def __repr__(self) -> str:
        return repr(self.original_error)

    def __str__(self) -> str:
        count = len(self.original_error.elist) if isinstance(self.original_error, CompositeError) else 1
        return f"{count} error{'s' * (count != 1)}"

    def render_traceback(self) -> list[str]:
        return [str(self)]

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the original error's tracebacks after all."""
        self.original_error.print_traceback(excid)


def collect_exceptions(results_or_exceptions: list[Any], method: str = "unspecified") -> list[Any]:
    """Return the results, or raise one `CompositeError` with every exception among them.

    Nested composite errors are flattened. `TaskAborted` and other errors of ours that are not
    remote join in under their own names.
    """
    errors: list[tuple[str, str, str, dict[str, Any] | None]] = []
    for result in results_or_exceptions:
        if isinstance(result, CompositeError):
            errors.extend(result.elist)
        elif isinstance(result, RemoteError):
            errors.append((result.ename, result.evalue, result.traceback, result.engine_info))
        elif isinstance(result, BaseException):
            errors.append((type(result).__name__, str(result), "", None))
    if not errors:
        return results_or_exceptions
    raise CompositeError(f"one or more exceptions raised in: {method}", errors)
