"""Small things that several tests need."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def processes_of(state: Path) -> list[psutil.Process]:
    """Return the processes other than this one that were started for the state folder `state`, by anybody."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("MPIPARALLEL_STATE") == str(state)
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return found


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    """Wait for `condition` to hold and return whether it did."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
