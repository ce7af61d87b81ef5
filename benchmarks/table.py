"""The table of results, as plain text or, on a terminal, in colour."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Line:
    title: str
    unit: str
    values: list[float]  # ours, then IPython Parallel's
    goal: str
    met: bool | None  # None: there is nothing to compare with


def render(lines: list[Line], names: list[str]) -> str:
    """Return the table as text."""
    table = Table(title="medians; the ratio is theirs to ours", title_justify="left", show_edge=False)
    table.add_column("measure")
    for name in names:
        table.add_column(name, justify="right")
    for heading in ("ratio", "goal", ""):
        table.add_column(heading, justify="right" if heading == "ratio" else "left")
    for line in lines:
        ratio = line.values[1] / line.values[0] if len(line.values) > 1 and line.values[0] else None
        table.add_row(
            line.title,
            *(number(value, line.unit) for value in line.values),
            f"{ratio:.1f}" if ratio is not None else "",
            line.goal,
            {True: "[green]reached[/]", False: "[red]not reached[/]", None: ""}[line.met],
        )
    out = io.StringIO()
    Console(file=out, width=140, force_terminal=sys.stdout.isatty()).print(table)
    return out.getvalue()


def number(value: float, unit: str) -> str:
    """Return a number with three significant digits and its unit."""
    digits = 0 if value >= 100 or unit == "" else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}".rstrip()
