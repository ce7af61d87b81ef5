"""Wait until jobs of a batch system begin, and say meanwhile what they wait for.

`cluster` and its parts call this. What runs on this machine has no queue, and is not waited for.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from mpiparallel.error import LaunchError
from mpiparallel.launch.launched import Launched

log = logging.getLogger("mpiparallel.cluster")

EVERY = 0.2  # seconds between looks; the batch system itself is asked less often
SAID_AFTER = 1.0  # seconds; who waits no longer than that need not read about it
SURE_AFTER = 3.0  # seconds for which a job must be hopeless: a system may not have made up its mind


class Words:
    """What people are told who wait: on a terminal one line that changes, elsewhere one per change."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._began = time.monotonic()
        self._told = ""
        self._shown = False  # a line on a terminal

    def say(self, text: str) -> None:
        """Say `text`, if it is new and the wait is one that people notice."""
        now = time.monotonic()
        if now - self._began < SAID_AFTER:
            return
        if self._stream.isatty():
            waited = f"{text} ({_duration(now - self._began)})"
            self._stream.write(f"\r\x1b[K{waited[: shutil.get_terminal_size().columns - 1]}")
            self._stream.flush()
            self._shown = True
        elif text != self._told:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        if text != self._told:
            log.info("%s", text)
        self._told = text

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def await_start(
    parts: Callable[[], Iterable[Launched]],
    timeout: float,
    *,
    pause: Callable[[float], bool],
    words: Words | None = None,
) -> None:
    """Wait until none of `parts` waits in a queue any more.

    Parameters
    ----------
    parts
        Returns what is waited for; it may change meanwhile.
    timeout
        Seconds, by ``queue_timeout``.
    pause
        Waits so many seconds, or less; returns whether waiting has become needless. It may raise.
    words
        What tells people.

    Raises
    ------
    LaunchError
        If one can never start, or `timeout` seconds did not suffice.
    """
    began = time.monotonic()
    hopeless: dict[str, float] = {}
    words = words or Words()
    try:
        while True:
            waiting = {part: what for part in parts() if (what := part.process.what_it_waits_for())}
            if not waiting:
                return
            now = time.monotonic()
            for part in waiting:
                _check_hope(part, hopeless, now)
            what = "; ".join(dict.fromkeys(waiting.values()))
            if now - began > timeout:
                raise LaunchError(
                    f"{what}: it has not started within {timeout:g} s (queue_timeout) and is given up. "
                    "Let it wait for longer, ask for less (n, nodes, time), or choose another partition"
                )
            words.say(what)
            if pause(EVERY):
                return
    finally:
        words.end()


def _check_hope(part: Launched, hopeless: dict[str, float], now: float) -> None:
    name = part.process.name
    why = part.process.why_never()
    if not why:
        hopeless.pop(name, None)
    elif now - hopeless.setdefault(name, now) >= SURE_AFTER:
        raise LaunchError(why)


def names_of(parts: Sequence[Launched]) -> str:
    """Return what parts are known by and where they are, for a message: ``"job 12 on node[1-2]"``."""
    return ", ".join(dict.fromkeys(part.where() for part in parts))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
