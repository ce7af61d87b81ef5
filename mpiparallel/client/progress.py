"""Progress bars: for results, and for engines that are on their way."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import zmq

from mpiparallel.client.executereply import get_ipython

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult


def make_bar(widget: bool | None = None, **options: Any) -> Any:
    """Return a tqdm bar: a widget in a notebook, else text.

    Parameters
    ----------
    widget
        True or False to have one or not; None: where there is a notebook.
    **options
        For tqdm.
    """
    shell = get_ipython()
    if widget is None:
        widget = shell is not None and getattr(shell, "kernel", None) is not None
    if widget:
        try:
            import ipywidgets  # noqa: F401
            from tqdm.notebook import tqdm as bar

            return bar(**options)
        except ImportError:
            pass  # without ipywidgets a notebook shows the text bar
    from tqdm import tqdm

    return tqdm(**{"file": sys.stdout, **options})


@contextmanager
def paused(unfinished: str = "") -> Iterator[None]:
    """Hide this process's text bars while the caller prints; do nothing where there are none.

    Only one thread at a time is inside. Bars that the user has made with tqdm are hidden as well.

    Parameters
    ----------
    unfinished
        What stands on the last line of the screen afterwards, if that line is not finished: bars are drawn
        below it, and the next who prints goes on behind it, where the terminal can do that.
    """
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if tqdm is None or not tqdm._instances:
        yield
        return
    with tqdm.get_lock():
        bars = [bar for bar in tqdm._instances if _is_on_screen(bar)]
        for bar in bars:
            bar.clear(nolock=True)
        _line.go_back(bars)
        try:
            yield
        finally:
            bars = [bar for bar in tqdm._instances if _is_on_screen(bar)]
            _line.leave(unfinished, bars)
            for bar in bars:
                bar.refresh(nolock=True)


def _is_on_screen(bar: Any) -> bool:
    """Whether a bar of tqdm's is drawn with text where others print, too."""
    if getattr(bar, "disable", True) or bar.gui or not hasattr(bar, "last_print_t"):
        return False  # closed, a widget, or not drawn yet
    return bool(bar.fp == sys.stdout or bar.fp == sys.stderr)


class _Line:
    """The unfinished line above the bars, if there is one."""

    def __init__(self) -> None:
        self._bars: set[int] = set()  # that were drawn below it
        self._column = 0

    def leave(self, text: str, bars: list[Any]) -> None:
        """Go to the next line, for `bars`, if `text` stands on this one."""
        self._bars = set()
        if not text or not bars:
            return
        from tqdm.utils import disp_len

        print(flush=True)
        width = shutil.get_terminal_size().columns
        self._column = disp_len(text.rsplit("\n", 1)[-1].rsplit("\r", 1)[-1]) % max(1, width)
        if self._column and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            self._bars = set(map(id, bars))

    def go_back(self, bars: list[Any]) -> None:
        """Go to the end of the line, if all is still where it was."""
        if self._bars and self._bars == set(map(id, bars)):
            sys.stdout.write(f"\x1b[A\x1b[{self._column}C")
        self._bars = set()


_line = _Line()


def wait_interactive(
    result: AsyncResult, interval: float, timeout: float | None, widget: bool | None, return_when: str
) -> None:
    """Wait for `result` with a bar that moves every `interval` seconds."""
    deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    bar = make_bar(widget, total=len(result), unit="tasks", desc=result._fname)
    try:
        while True:
            rest = interval if deadline is None else min(interval, max(0.0, deadline - time.monotonic()))
            enough = result._wait_until(lambda: result._is_enough(return_when), rest)
            bar.update(result.progress - bar.n)
            if enough or (deadline is not None and time.monotonic() >= deadline):
                return
    finally:
        bar.close()


def wait_for_tracker(tracker: zmq.MessageTracker, timeout: float | None) -> None:
    """Wait until ZeroMQ no longer needs a message's memory."""
    try:
        tracker.wait(-1 if timeout is None else timeout)
    except zmq.NotDone:
        raise TimeoutError("Still waiting to be sent") from None
