"""What an engine leaves in its log before user code ends the process, so that the cause can be named."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from mpiparallel.engine.stacks import line_text, user_frames


def install(rank: int, log: int) -> None:
    """Make ``os._exit``, when user code of this process calls it, say so first.

    Parameters
    ----------
    rank
        Of this engine.
    log
        Descriptor of the engines' log.
    """
    leave, engine = os._exit, os.getpid()

    def _exit(status: int) -> NoReturn:
        """Exit to the system with specified status, without normal exit processing."""
        caller = sys._getframe(1).f_globals.get("__name__", "")
        # Forked children end in this way all the time, and so do we.
        if os.getpid() == engine and not caller.startswith("mpiparallel."):
            text = f"mpiparallel: rank {rank} (pid {engine}) calls os._exit({status})"
            os.write(log, f"{text} at {line_text(user_frames())}\n".encode())
        leave(status)

    os._exit = _exit
