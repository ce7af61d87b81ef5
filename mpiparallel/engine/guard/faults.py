"""What is left of a communicator when something is raised out of a call on it."""

from __future__ import annotations

import os
import time
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.plain import Comm, Group, Request, Status
from mpiparallel.engine.guard.remains import Left, kept, operation
from mpiparallel.engine.guard.state import CommState, Receive, signature_text
from mpiparallel.engine.stacks import line_text, user_frames
from mpiparallel.error import PeerFailed

# Seconds for a cancelled receive to end: the data of one that was matched may be on their way.
CANCEL_WITHIN = 1.0

NOTICE_WITHIN = 1.0  # seconds in which a rank hears from MPI's runtime who has died

# Ranks of the world that have died, as the courier knows.
dead: list[int] = []
# Communicators that cannot be used any more, until `Guard.take_broken` has told of them.
newly_broken: list[CommState] = []

_PROCESS_FAILED = {
    getattr(MPI, name)
    for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
    if getattr(MPI, name, MPI.UNDEFINED) != MPI.UNDEFINED
}


def mark_broken(state: CommState, reason: str, spoilt: bool = True) -> None:
    """Refuse all further calls on a communicator; it is not `spoilt` if all that was left is in `left`."""
    state.spoilt = state.spoilt or spoilt
    if state.broken is None:
        state.broken = reason
        newly_broken.append(state)


def broke_off(
    error: BaseException,
    state: CommState,
    call: str,
    request: Request | None,
    held: Any,
    receive: Receive | None = None,
) -> None:
    """Decide what an error that leaves a call means for its communicator. Called where it is caught.

    Parameters
    ----------
    request
        What was waited for; None if the call that starts it did not return.
    held
        The buffers of the operation.
    receive
        If it was nothing but a receive, which can be cancelled.
    """
    if isinstance(error, MPI.Exception):
        if error.Get_error_class() in _PROCESS_FAILED:
            _process_failed(error, state, call, request, held)
        # A message that was taken is not counted then, and looks as if it were still to come: that is safe.
        return
    if request is None:
        if raised_by_mpi4py(error):
            return  # nothing was begun
    elif not request:
        return  # it was complete
    why = f"{call} was broken off by {type(error).__name__}"
    before, spoilt = state.broken, state.spoilt
    if request is not None and _is_last_collective(state, call):
        leave(state, call, held, request)
    else:
        kept.append((request, held))
        state.spoilt = True
    mark_broken(state, why, spoilt=False)
    if _is_last_collective(state, call):
        state.collective_broke_off()
    if receive is not None and request is not None and _cancel(request, receive) and before is None:
        # Nothing of the message was taken: the communicator is as before the call.
        kept.pop()
        newly_broken.remove(state)
        state.broken, state.spoilt = None, spoilt


def leave(state: CommState, call: str, held: Any, request: Request) -> None:
    """Note a collective of one operation that was left before its end."""
    signature = state.recent[-1]
    root = -1 if isinstance(signature, str) else signature[1]
    args = held if isinstance(held, tuple) else (held,)
    begun = operation(f"I{call.lower()}", args, root, len(state.members))
    left = Left([request], held, [begun])
    kept.append(left)
    state.left.append(left)


def _is_last_collective(state: CommState, call: str) -> bool:
    return bool(state.recent) and signature_text(state.recent[-1]).partition("(")[0] == call


def broke_off_exchange(
    error: BaseException, state: CommState, call: str, requests: list[Any], held: Any, source: int, tag: int
) -> None:
    """Decide what an error means that leaves a call which began to receive, and then perhaps to send."""
    if not requests:
        broke_off(error, state, call, None, held)
        return
    receive, sends = requests[0], requests[1:]
    if receive:
        broke_off(error, state, call, receive, held, Receive(state, source, tag))
    for send in sends or [None]:
        broke_off(error, state, call, send, held)


def raised_by_mpi4py(error: BaseException) -> bool:
    """Tell an error of the call that starts an operation from one that a signal handler raised behind it.

    mpi4py's own errors have frames of its sources, or none, in their traceback.
    """
    inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
    if inner is None:
        return isinstance(error, Exception)
    return inner.tb_frame.f_code.co_filename.endswith((".pyx", ".pxi"))


def _cancel(request: Request, receive: Receive) -> bool:
    """Cancel a receive; return False if its message was taken, or is being taken."""
    status = Status()
    request.Cancel()
    deadline = time.monotonic() + CANCEL_WITHIN
    while not request.Test(status):
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    receive.complete(status)
    return bool(status.Is_cancelled())


def _process_failed(
    error: MPI.Exception, state: CommState, call: str, request: Request | None, held: Any
) -> None:
    """Raise `PeerFailed` with the rank that died, if it is known."""
    kept.append((request, held))
    mark_broken(state, f"{call} ended because a process died")
    where = f"this rank was in {call} on {state.name}, {line_text(user_frames())}"
    raise PeerFailed(_failed_rank(state), "its process died", where) from error


def _failed_rank(state: CommState) -> int:
    """Return who died. Another rank may have told us by a revocation, before MPI's runtime does."""
    deadline = time.monotonic() + NOTICE_WITHIN
    while time.monotonic() < deadline:
        # Those that died before it was renewed are not members any more.
        if members := [rank for rank in dead if rank in state.members]:
            return members[-1]
        if (rank := _failed_member(state)) >= 0:
            return rank
        time.sleep(0.001)
    return -1


def _failed_member(state: CommState) -> int:
    for comm in state.objects():
        group = Comm.Get_failed(comm)
        try:
            ranks = Group.Translate_ranks(group, list(range(group.Get_size())), Comm.Get_group(comm))
        finally:
            group.Free()
        if ranks:
            return state.world_rank(min(ranks))
    return -1
