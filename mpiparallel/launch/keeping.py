"""When to start a controller again that has died, and when to give it up.

Used by `Cluster`, and by the keeper of a cluster in the background: ``python -m mpiparallel.launch.keeping``.
"""

from __future__ import annotations

from pathlib import Path

from mpiparallel.connection_file import NAMES

QUICK = 1.0  # seconds: one that dies so soon is not likely to live the next time
MOST = 5  # quick deaths in a row


class Deaths:
    """How often a controller has died, and how soon after its start."""

    def __init__(self) -> None:
        self.count = 0
        self._quick = 0
        self._started = 0.0

    def started(self, now: float) -> None:
        self._started = now

    def once_more(self, now: float) -> bool:
        """Count a death; return whether to start it again."""
        self.count += 1
        self._quick = self._quick + 1 if now - self._started < QUICK else 0
        return self._quick < MOST

    def __str__(self) -> str:
        return f"it has died {self._quick} times in a row within {QUICK:g} s of its start"


def give_up(folder: Path) -> None:
    """Remove the connection files: who waits for the controller sees that it will not come back."""
    for name in NAMES.values():
        (folder / name).unlink(missing_ok=True)
