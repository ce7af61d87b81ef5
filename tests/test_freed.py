"""Memory that was freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpiparallel import freed

FREES = """
import ctypes, sys
from mpiparallel import freed

def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

kept = [bytearray(2000) for _ in range(50_000)]  # too large for Python's own allocator
last = bytearray(2000)  # at the top of the heap, so that nothing below it goes back by itself
full = size()
kept.clear()
before = size()
assert freed.trim()
print((before - size()) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a call of glibc")
def test_freed_memory_goes_back() -> None:
    run = subprocess.run([sys.executable, "-c", FREES], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 50


def test_it_is_done_now_and_then_and_only_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[float] = []
    clock = [0.0]
    monkeypatch.setattr(freed, "trim", lambda: trims.append(clock[0]))
    monkeypatch.setattr(freed.time, "monotonic", lambda: clock[0])
    returner = freed.Returner()
    for moment, done in [(1.0, 5), (31.0, 5), (40.0, 6), (62.0, 6), (93.0, 6), (200.0, 7), (201.0, 8)]:
        clock[0] = moment
        returner.look(done)
    assert trims == [31.0, 62.0, 200.0]
