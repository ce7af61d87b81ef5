"""Where engines are in the cells that they run: the cells' lines, with the engines beside them.

What ``%pxwhere`` shows, below the picture of `where`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpiparallel.client.where import Whereabouts
from mpiparallel.client.wheretree import CELL
from mpiparallel.ranges import ranges

if TYPE_CHECKING:
    from mpiparallel.client.where import EnginePlace

CONTEXT = 2  # lines around those where somebody is
MARK = " -> "
GAP = "..."


class CellWhereabouts(Whereabouts):
    """What engines are doing, and where in their cells.

    Parameters
    ----------
    places
        As for `Whereabouts`.
    cells
        The texts of cells, by the requests that run them.
    """

    def __init__(self, places: Sequence[EnginePlace], cells: Mapping[str, str]) -> None:
        super().__init__(places)
        self.cells = cells

    def __str__(self) -> str:
        parts = [super().__str__()]
        for request, cell in self.cells.items():
            drawn = listing(cell, [place for place in self.places if place.request == request])
            if drawn:
                parts.append(drawn)
        return "\n\n".join(parts)


def listing(cell: str, places: Sequence[EnginePlace]) -> str:
    """Return the lines of `cell` where engines are, and some around them; nothing if it is one line, or no
    engine is in it.

    >>> print(listing(cell, places))  # doctest: +SKIP
            1  import time
    0-2, 4 -> 2  comm.barrier()
         3 -> 3  work(x)
    """
    lines = cell.rstrip().splitlines()
    engines: dict[int, list[int]] = {}
    for place in places:
        line = _line(place, lines)
        if line:
            engines.setdefault(line, []).append(place.engine)
    if not engines or len(lines) == 1:
        return ""
    near = {number for line in engines for number in range(line - CONTEXT, line + CONTEXT + 1)}
    shown = [number for number in range(1, len(lines) + 1) if number in near]
    who = {line: ranges(several) + MARK for line, several in engines.items()}
    margin, digits = max(map(len, who.values())), len(str(shown[-1]))
    drawn = []
    last = 0
    for number in shown:
        if number > last + 1:
            drawn.append(" " * (margin + digits - 1) + GAP)
        drawn.append(f"{who.get(number, '').rjust(margin)}{number:{digits}}  {lines[number - 1]}".rstrip())
        last = number
    if last < len(lines):
        drawn.append(" " * (margin + digits - 1) + GAP)
    return "\n".join(drawn)


def _line(place: EnginePlace, lines: Sequence[str]) -> int:
    """Return the number of the line in which an engine is; 0 if that cannot be said."""
    inside = [
        frame for frame in place.stack
        if frame.file.startswith((CELL, "<ipython-input")) and 0 < frame.line <= len(lines)
    ]  # fmt: skip
    for frame in reversed(inside):  # a function may be another cell's, and its line there
        if frame.text and frame.text == lines[frame.line - 1].strip()[: len(frame.text)]:
            return frame.line
    return next((frame.line for frame in inside if frame.function == "<module>"), 0)
