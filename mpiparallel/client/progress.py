"""Progress bars: for results, and for engines that are on their way."""

from __future__ import annotations

import sys
import time
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
            import ipywidgets  # type: ignore[import-not-found]  # noqa: F401
            from tqdm.notebook import tqdm as bar

            return bar(**options)
        except ImportError:
            pass  # without ipywidgets a notebook shows the text bar
    from tqdm import tqdm

    return tqdm(**{"file": sys.stdout, **options})


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
