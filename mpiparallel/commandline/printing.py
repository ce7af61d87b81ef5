"""What the subcommands print, for people and for programs. Tables are drawn on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec


def say(text: str) -> None:
    """Print a line now, also where nobody looks."""
    print(text, flush=True)


def fail(error: object, code: int) -> int:
    """Complain on stderr and return `code`."""
    print(f"mpiparallel: {error}", file=sys.stderr)
    return code


def note(text: str) -> None:
    """Say something beside the matter, on stderr."""
    print(f"mpiparallel: {text}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print `value` as JSON, a line for each thing in it."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def n_engines(n: int | None) -> str:
    """Return "4 engines", "1 engine"."""
    return f"{n} engine{'' if n == 1 else 's'}"


def print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under the names of their columns."""
    cells = [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns)
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    cells.insert(0, list(columns))
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
