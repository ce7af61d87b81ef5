"""Guarded communicators: every blocking MPI call of user code can be interrupted, explained and ended.

A blocking call starts its non-blocking form and tests it in a loop, so that signals reach Python, the
courier's thread runs, and what is waited for is known. A non-blocking collective never matches a blocking
one: a communicator is guarded on all its ranks or on none.
"""

from __future__ import annotations

from mpiparallel.engine.guard.comm import GuardedComm
from mpiparallel.engine.guard.guard import Guard, install

__all__ = ["Guard", "GuardedComm", "install"]
