"""``%px pass`` in an IPython shell of this process: the first one after a start, and later ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from benchmarks.sides import Side

WARM = 5  # cells before it is measured
SUFFIX = "_measured"


@contextmanager
def shell_of(side: Side) -> Iterator[Any]:
    """Make a shell whose ``%px_measured`` runs on the engines of `side`; nothing of it is left behind."""
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    try:
        side.client.activate(suffix=SUFFIX)
        yield shell
    finally:
        InteractiveShell.clear_instance()


def seconds_of(shell: Any, code: str = "pass") -> float:
    """Run a line on all engines as a user does, and return how long the prompt was gone."""
    began = time.perf_counter()
    outcome = shell.run_cell(f"%px{SUFFIX} {code}")
    elapsed = time.perf_counter() - began
    outcome.raise_error()
    return elapsed


def first(side: Side) -> float:
    """Return how long the first one takes, when the engines have only just come."""
    with shell_of(side) as shell:
        return seconds_of(shell)


def warm(side: Side) -> list[float]:
    with shell_of(side) as shell:
        for _ in range(WARM):
            seconds_of(shell)
        return [seconds_of(shell) for _ in range(40)]
