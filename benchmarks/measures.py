"""One measurement each; every function takes a side with its four engines up and returns samples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from benchmarks.sides import Side

BULK = np.arange(8_000_000.0)  # 64 MB


def noop() -> None:
    pass


# As if it had been typed at a prompt: engines cannot import this module.
noop.__module__ = "__main__"


def _timed(call: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    began = time.perf_counter()
    call(*args, **kwargs)
    return time.perf_counter() - began


def latency_of_all(side: Side) -> list[float]:
    view = side.client[:]
    view.apply_sync(noop)
    return [_timed(view.apply_sync, noop) for _ in range(60)]


def latency_of_one(side: Side) -> list[float]:
    view = side.client[0]
    view.apply_sync(noop)
    return [_timed(view.apply_sync, noop) for _ in range(60)]


def push(side: Side) -> list[float]:
    return [_timed(side.client[:].push, {"bulk": BULK}, block=True)]


def push_by_broadcast_view(side: Side) -> list[float]:
    return [_timed(side.client.broadcast_view().push, {"bulk": BULK}, block=True)]


def scatter(side: Side) -> list[float]:
    return [_timed(side.client[:].scatter, "part", BULK, block=True)]


def gather(side: Side) -> list[float]:
    view = side.client[:]
    view.scatter("part", BULK, block=True)
    began = time.perf_counter()
    gathered = view.gather("part", block=True)
    elapsed = time.perf_counter() - began
    if not np.array_equal(gathered, BULK):
        raise AssertionError(f"{side.name}: gather did not return what was scattered")
    return [elapsed]


def number_of_processes(side: Side) -> list[float]:
    return [float(len(side.processes()))]


def memory(side: Side) -> list[float]:
    """Proportional set size of all its processes (memory that they share counts once), in bytes."""
    total = 0
    for process in side.processes():
        about = process.memory_full_info()
        total += getattr(about, "pss", about.uss)
    return [float(total)]


def idle_cpu(side: Side, seconds: float = 4.0) -> list[float]:
    """Share of one core that an engine uses while nobody asks it anything."""
    engines = [psutil.Process(pid) for pid in side.client[:].apply_sync(os.getpid)]
    time.sleep(1)  # until the engines have settled
    before = [sum(engine.cpu_times()[:2]) for engine in engines]
    began = time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - began
    return [
        (sum(engine.cpu_times()[:2]) - used) / elapsed for engine, used in zip(engines, before, strict=True)
    ]


def where(side: Side) -> list[float]:
    """Ask what the engines are doing; IPython Parallel can say only how many tasks each has."""
    ask = side.client.where if hasattr(side.client, "where") else side.client.queue_status
    return [_timed(ask) for _ in range(20)]
