"""Tracebacks of user code, without the frames that are ours: what called it, and what it called."""

from __future__ import annotations

from types import TracebackType


def without_callers(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the first frames as far as they are ours, or those of IPython, which runs cells for us."""
    while trace is not None and _is_ours(trace, "IPython."):
        trace = trace.tb_next
    return trace


def without_called(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the last frames as far as they are ours; all of them stay if there are no others.

    So an interrupted ``comm.Barrier()`` looks the same on all ranks, wherever each was in our loop.
    """
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    user = [index for index, one in enumerate(frames) if not _is_ours(one)]
    kept = None
    for one in reversed(frames[: user[-1] + 1] if user else frames):
        line = one.tb_lineno or one.tb_frame.f_code.co_firstlineno  # an interrupt may come between lines
        kept = TracebackType(kept, one.tb_frame, one.tb_lasti, line)
    return kept


def _is_ours(trace: TracebackType, *also: str) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__", "")).startswith(("mpiparallel.", *also))
