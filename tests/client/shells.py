"""An IPython shell in the test's own process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpiparallel.client.magics import ParallelMagics

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@contextmanager
def shell_running() -> Iterator[Any]:
    """Give a shell, which is the one of this process meanwhile."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    try:
        yield shell
    finally:
        InteractiveShell.clear_instance()


def magics_of(shell: Any, suffix: str = "") -> ParallelMagics:
    """Return the magics that a shell has."""
    magics = shell.find_line_magic(f"px{suffix}").__self__
    assert isinstance(magics, ParallelMagics)
    return magics


def plain(text: str) -> str:
    """Return text without colours."""
    return _COLOUR.sub("", text)
