"""Give memory that was freed back to the system.

glibc keeps what many small objects have left, above all in a process with several threads: one that has
handled a million requests is some ten megabytes larger than what it holds. ``malloc_trim(3)`` takes
milliseconds.
"""

from __future__ import annotations

import time

EVERY = 30.0  # seconds


class Returner:
    """Gives freed memory back now and then, if something has happened meanwhile. For one thread."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY
        self._done = 0

    def look(self, done: int) -> None:
        """Do it if it is time to, and `done`, a count of what has happened, has changed."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + EVERY
        if done != self._done:
            self._done = done
            trim()


def trim() -> bool:
    """Give freed memory back; return whether there was any. Other threads run meanwhile."""
    import ctypes  # half a MB, for those alone that live so long

    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except AttributeError:
        return False  # another C library, with ways of its own
