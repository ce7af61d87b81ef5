"""What an engine leaves in its log before user code ends the process, so that the cause can be named."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from mpiparallel.engine.stacks import line_text, user_frames

_who = ""  # this engine, in words
_log = 2  # descriptor of the engines' log


def tell(what: str) -> None:
    """Write down what user code of this engine does to the process."""
    os.write(_log, f"mpiparallel: {_who} {what} at {line_text(user_frames())}\n".encode())


def install(rank: int, log: int, path: str, survives: bool) -> None:
    """Make ``os._exit``, when user code of this process calls it, say so first.

    Parameters
    ----------
    rank
        Of this engine.
    log
        Descriptor of the engines' log.
    path
        The log's path. What goes there by way of mpiexec may come too late when that ends, too.
    survives
        Whether the other ranks go on. MPI's runtime tells them of processes that were killed, and not of
        those that end by themselves: so this one kills itself.
    """
    global _who, _log
    leave, engine = os._exit, os.getpid()
    _who = f"rank {rank} (pid {engine})"
    _log = _open(path) or log

    def _exit(status: int) -> NoReturn:
        """Exit to the system with specified status, without normal exit processing."""
        caller = sys._getframe(1).f_globals.get("__name__", "")
        # Forked children end in this way all the time, and so do we.
        if os.getpid() == engine and not caller.startswith("mpiparallel."):
            tell(f"calls os._exit({status})")
            if survives:
                os.kill(engine, signal.SIGKILL)
        leave(status)

    os._exit = _exit


def _open(path: str) -> int:
    """Return a descriptor of the log itself, or 0 where this host has none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC) if path else 0
    except OSError:
        return 0
