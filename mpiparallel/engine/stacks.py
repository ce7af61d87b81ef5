"""Where user code is: the frames of the main thread, as the courier's thread sees them."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from mpiparallel.wire.waits import Frame

MAX_FRAMES = 50  # the outermost and the innermost of a deeper stack are told
CELL = "cell"  # what stands for the file of a cell

_NOT_THE_USERS = ("mpiparallel.", "IPython.", "runpy", "threading")


def user_frames() -> list[Frame]:
    """Return the frames of user code on the main thread, the outermost first."""
    innermost = sys._current_frames().get(threading.main_thread().ident or 0)
    frames: list[FrameType] = []
    while innermost is not None:
        if not innermost.f_globals.get("__name__", "").startswith(_NOT_THE_USERS):
            frames.append(innermost)
        innermost = innermost.f_back
    frames.reverse()
    if len(frames) > MAX_FRAMES:
        frames = frames[: MAX_FRAMES // 2] + frames[-MAX_FRAMES // 2 :]
    # The engine's own first lines run in __main__, below everything else.
    return [_frame(frame) for frame in frames if not _is_start(frame)]


def _is_start(frame: FrameType) -> bool:
    return frame.f_code.co_filename.endswith(os.path.join("mpiparallel", "engine", "__main__.py"))


def _frame(frame: FrameType) -> Frame:
    code = frame.f_code
    # A frame that runs may have no line for a moment.
    line = frame.f_lineno or code.co_firstlineno
    text = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    return Frame(_file(code.co_filename), line, code.co_name, text[:200])


def _file(name: str) -> str:
    """Return the file's name as people say it: cells have made-up ones."""
    if name.startswith("<ipython-input") or "ipykernel_" in name:
        return CELL
    return name


def line_text(frames: Sequence[Frame]) -> str:
    """Return where that is, in a few words: ``cell line 5``, or ``cell line 5 > solver.py:88 in iterate``."""
    if not frames:
        return ""
    cells = [frame for frame in frames if frame.file == CELL]
    last = frames[-1]
    if not cells:
        return f"{os.path.basename(last.file)}:{last.line} in {last.function}"
    text = f"cell line {cells[-1].line}"
    if last is not cells[-1]:
        text += f" > {os.path.basename(last.file)}:{last.line} in {last.function}"
    return text
