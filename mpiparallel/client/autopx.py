"""Which lines of a cell are for the engines: ``%autopx``.

Part of IPython's input: what is for the engines becomes a ``%%px`` of it before anything is run, so this
works alike in a terminal, a kernel and with ``await``. Imported only where IPython runs.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from IPython.core.inputtransformer2 import make_tokens_by_line

MAGICS = ("px", "pxresult", "pxconfig", "pxwhere", "autopx", "result")
_LINE = re.compile(r"%(\w+)")
_INDENTATION = (tokenize.INDENT, tokenize.DEDENT)
_CELL = re.compile(r"%%(\w+)")


class AutoPx:
    """What turns cells of one shell into cells for engines.

    Attributes
    ----------
    active : str or None
        The suffix of the magics that cells are for; None: cells run here.
    suffixes : set of str
        The suffixes that there are.
    """

    has_side_effects = True  # IPython does not ask it whether a cell is complete: as Python, it is or is not

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.active: str | None = None
        self.suffixes: set[str] = set()

    def __call__(self, lines: list[str]) -> list[str]:
        return transform(lines, self.active, self.suffixes) if self._is_users() else lines

    def _is_users(self) -> bool:
        """Whether a user has entered what is run now: front-ends ask a kernel for variables by cells, too."""
        kernel = getattr(self._shell, "kernel", None)
        content = kernel.get_parent().get("content", {}) if kernel is not None else {}
        return not content.get("silent", False) and content.get("store_history", True)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Make a context in which cells run here."""
        active, self.active = self.active, None
        try:
            yield
        finally:
            self.active = active


def of_shell(shell: Any) -> AutoPx:
    """Return the one of `shell`, which is made at the first call."""
    for transformer in shell.input_transformers_cleanup:
        if isinstance(transformer, AutoPx):
            return transformer
    made = AutoPx(shell)
    shell.input_transformers_cleanup.append(made)
    return made


def transform(lines: list[str], active: str | None, suffixes: Collection[str]) -> list[str]:
    """Return the lines of a cell, with those for engines in calls of ``%%px``.

    ``%autopx`` switches from the next line on. Lines with other parallel magics are for this side always.

    Parameters
    ----------
    lines
        With their ends.
    active
        As in `AutoPx`, where the cell begins.
    suffixes
        Of the magics that there are.
    """
    if active is None and not any("autopx" in line for line in lines):
        return lines
    ours = {magic + suffix for magic in MAGICS for suffix in suffixes}
    cell_magic = _CELL.match(lines[0]) if lines else None
    if cell_magic is not None:
        return lines if active is None or cell_magic[1] in ours else [_sent(lines, active)]
    made: list[str] = []
    begin = 0
    for index, name in _commands(lines):
        if name not in ours:
            continue
        made += _part(lines[begin:index], active)
        made.append(lines[index])
        begin = index + 1
        if name.startswith("autopx"):
            suffix = name.removeprefix("autopx")
            active = None if active == suffix else suffix
    return made + _part(lines[begin:], active)


def _commands(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the places and names of magics that begin a line, and a statement."""
    for tokens in make_tokens_by_line(list(lines)):
        first = next((token for token in tokens if token.type not in _INDENTATION), None)
        if first is None or first.string != "%" or first.start[1]:
            continue
        row = first.start[0] - 1
        command = _LINE.match(lines[row])
        if command is not None:
            yield row, command[1]


def _part(lines: Sequence[str], active: str | None) -> list[str]:
    if active is None or not "".join(lines).strip():
        return list(lines)
    # As many lines as before, so that what follows keeps its numbers in tracebacks.
    return [_sent(lines, active), *["\n"] * (len(lines) - 1)]


def _sent(lines: Sequence[str], suffix: str) -> str:
    return f"get_ipython().run_cell_magic({'px' + suffix!r}, '', {''.join(lines)!r})\n"
