"""What a bridge of its own is good for: tasks of 20 ms on three engines while the first is kept busy.

Run by ``python -m benchmarks bridge``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

import mpiparallel as ipp

ENGINES = 4
TASK = 0.02  # seconds
BUSY = 5.0  # seconds for which the first engine is kept busy
GOAL = 50.0  # ms from submission to start, at worst


def compute(seconds: float) -> int:
    """Compute in Python, as user code does that never gives the GIL away by itself."""
    import time

    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for i in range(1000):
            count += i & 1
    return count


def keep_the_gil(seconds: float) -> None:
    """Spend some time in one C call that does not release the GIL."""
    import ctypes

    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1e6)))


def sleep(seconds: float) -> None:
    """Be a task: what it takes beyond `seconds` is not its own."""
    import time

    time.sleep(seconds)


USER_CODE: dict[str, Callable[[float], Any] | None] = {
    "is idle": None,
    "runs a Python loop": compute,
    "keeps the GIL in C": keep_the_gil,
}


def farm(client: Any, busy: Callable[[float], Any] | None) -> tuple[list[float], list[float]]:
    """Keep the other engines at work while the first does `busy`.

    Returns, in seconds, how long each task took from its submission to its start, and how much longer than
    its own time its round trip took.
    """
    view = client.load_balanced_view(targets=list(range(1, ENGINES)))
    view.map_sync(sleep, [TASK] * ENGINES * 2)  # connections and caches
    held = None
    if busy is not None:
        held = client[0].apply_async(busy, BUSY)
        time.sleep(0.2)  # until it has begun; nobody can be asked
    until = time.monotonic() + BUSY - 0.4
    begun, around = [], []
    in_flight: list[tuple[float, float, Any]] = []
    while in_flight or time.monotonic() < until:
        while len(in_flight) < ENGINES - 1 and time.monotonic() < until:
            in_flight.append((time.monotonic(), time.time(), view.apply_async(sleep, TASK)))
        for one in list(in_flight):
            sent, submitted, result = one
            if not result.ready():
                continue
            in_flight.remove(one)
            result.get()
            around.append(time.monotonic() - sent - TASK)
            begun.append(result.metadata["started"].timestamp() - submitted)
        time.sleep(0.0005)
    if held is not None:
        held.get(timeout=60)
    return begun, around


def table(rounds: int = 3) -> str:
    """Measure with and without, and return a table of medians and worst cases."""
    lines = []
    for dedicated in (False, True):
        with ipp.Cluster(n=ENGINES, dedicated_bridge=dedicated) as client:
            for name, busy in USER_CODE.items():
                begun: list[float] = []
                around: list[float] = []
                for _ in range(rounds):
                    for samples, more in zip((begun, around), farm(client, busy), strict=True):
                        samples += more
                lines.append((name, dedicated, begun, around))
    return _render(lines)


def _render(lines: list[tuple[str, bool, list[float], list[float]]]) -> str:
    grid = Table(title=f"Tasks of {TASK * 1e3:g} ms on {ENGINES - 1} engines, in ms; goal: {GOAL:g} at worst")
    for name in ("the first engine", "bridge", "tasks", "to start", "worst", "round trip", "worst"):
        grid.add_column(name, justify="left" if name in ("the first engine", "bridge") else "right")
    for name, dedicated, begun, around in lines:
        figures = [
            f"{value * 1e3:.1f}"
            for samples in (begun, around)
            for value in (statistics.median(samples), max(samples))
        ]
        grid.add_row(name, "its own" if dedicated else "engine 0's", str(len(begun)), *figures)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(grid)
    return capture.get()
