"""How soon tasks reach the other engines while user code on the first keeps the GIL.

``python -m benchmarks.gil [--dedicated-bridge] [--switch SECONDS]`` starts four engines. The first runs a
loop in pure Python, then a call in C that never lets the GIL go; the others get tasks of 20 ms, one after the
other, and say when they began. With ``--switch`` the switch interval of the first engine is another.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mpiparallel as ipp

SECONDS = 5.0


def loop(seconds: float) -> None:
    """Compute in Python."""
    import time

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(i * i for i in range(1000))


def hold(seconds: float) -> None:
    """Stay in C, with the GIL."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def began() -> float:
    """Return when it began to run, and take 20 ms."""
    import time

    now = time.time()
    time.sleep(0.02)
    return now


def latencies(rc: Any, busy: Any, seconds: float = SECONDS) -> list[float]:
    """Return how long tasks took to begin on the others while `busy` ran on the first engine."""
    others = rc[1:]
    others.apply_sync(began)
    until = time.time() + seconds
    holding = rc[0].apply_async(busy, seconds)
    time.sleep(0.1)
    found = []
    while time.time() < until - 0.1:
        sent = time.time()
        found += [start - sent for start in others.apply_sync(began)]
    holding.get()
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dedicated-bridge", action="store_true")
    parser.add_argument("--switch", type=float)
    options = parser.parse_args()
    with ipp.Cluster(n=4, dedicated_bridge=options.dedicated_bridge, log_level="WARNING") as rc:
        if options.switch:
            rc[0].apply_sync(lambda interval: __import__("sys").setswitchinterval(interval), options.switch)
        for name, busy in (("nothing", time.sleep), ("a Python loop", loop), ("the GIL in C", hold)):
            found = [1000 * one for one in latencies(rc, busy)]
            print(
                f"{name:15} {len(found):5} tasks, ms: median {statistics.median(found):7.1f}, "
                f"99 % {sorted(found)[int(0.99 * len(found))]:7.1f}, longest {max(found):7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
