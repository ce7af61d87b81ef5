"""Lines that overwrite themselves: where they are drawn in a notebook, and how on a terminal.

Used by `screen`.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence

from mpiparallel.client.executereply import publish
from mpiparallel.client.folding import Block, Row
from mpiparallel.ranges import ranges
from mpiparallel.tracebacks import without_colour

MAX_ROWS = 16  # lines


class Area:
    """A display of a notebook that shows lines which overwrite themselves; they stay when they have ended."""

    def __init__(self) -> None:
        self._name = ""
        self._ended: dict[tuple[str, str], list[int]] = {}  # streams and lines, and whose they were
        self._shown: list[str] = []
        self._engines: set[tuple[str, int]] = set()  # who has a line in it
        self.done = False  # whether lines that begin later have a display of their own

    def keep(self, block: Block) -> bool:
        """Take the end of a line; return whether it has its place here."""
        if not self._name or not self._engines.intersection((block.kind, engine) for engine in block.engines):
            return False
        self._ended.setdefault((block.kind, block.text.removesuffix("\n")), []).extend(block.engines)
        return True

    def update(self, rows: Sequence[Row], lines: list[str], others: bool) -> Callable[[], None] | None:
        """Return what shows the lines as they are now; None if they are shown.

        `others`: whether other output comes below it.
        """
        ended = [f"[{kind}:{ranges(set(ids))}] {text}" for (kind, text), ids in self._ended.items()]
        shown = [*ended, *lines]
        self.done = bool(self._name) and not rows and (others or len(shown) > MAX_ROWS)
        if shown == self._shown:
            return None
        is_new = not self._name
        name = self._name = self._name or uuid.uuid4().hex
        self._shown = shown
        self._engines |= {(row.kind, engine) for row in rows for engine in row.engines}
        bundle = {"text/plain": "\n".join(shown)}
        options = {"transient": {"display_id": name}, "update": not is_new}
        return lambda: publish(bundle, {}, **options)


def fitting(lines: list[str]) -> list[str]:
    """Return lines that can be erased from a terminal again: not too many, none longer than it is wide."""
    if not lines:
        return lines
    width, height = shutil.get_terminal_size()
    room = max(1, min(MAX_ROWS, height // 2))
    if len(lines) > room:
        left = len(lines) - room + 1
        lines = [*lines[: room - 1], f"... {left} more"]
    fitted = []
    for line in lines:
        plain = without_colour(line)
        if len(plain) >= width:
            line = plain[: width - 1]
        fitted.append(f"{line}\x1b[0m" if "\x1b" in line else line)
    return fitted
