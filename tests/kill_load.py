"""A client that never rests: requests of all kinds, of which each must end. For test_random_kills.py.

Run with a connection file and a seed it is a process of its own, which goes on until it is killed, or until
one of its requests has not ended as it should.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpiparallel import AsyncResult, Client
from mpiparallel.error import CompositeError, EngineError, NoEnginesRegistered, RemoteError, TaskAborted

PATIENCE = 20.0  # seconds in which a request ends after the last death
OPEN = 6  # requests under way
APART = ["apply", "push", "pull", "prints", "one"]  # requests whose parts do not wait for one another
KINDS = [*APART, "allreduce", "pairs"]
SIZE = 1 << 17  # numbers in an array of 1 MB

# The ids may belong to other processes by the time that the request arrives. A collective of some engines of
# another world would wait for the rest of it for ever, and rightly so.
OURS = "import os\nif os.getpid() not in {pids}: raise LookupError('started again meanwhile')\n"
ALLREDUCE = "total = comm.allreduce(1)\nassert total == comm.size"
PAIRS = """
peer = comm.rank ^ 1
for step in range(5 if peer < comm.size else 0):
    if comm.rank < peer:
        comm.send((step, comm.rank), peer, tag=step)
        got = comm.recv(source=peer, tag=step)
    else:
        got = comm.recv(source=peer, tag=step)
        comm.send((step, comm.rank), peer, tag=step)
    assert got == (step, peer)
"""
PRINTS = "for line in range(50): print('line', line, 'x' * 60)"

# What may become of a task on an engine, besides its value.
REASONS = {"PeerFailed", "CommunicatorBroken", "DeadlockError", "EngineError", "TaskAborted"}
EXPLAINED = {"started again meanwhile", "name 'array' is not defined"}


class Load(threading.Thread):
    """Sends requests and keeps each until it has ended."""

    def __init__(self, rc: Client, seed: int, kinds: Sequence[str] = KINDS) -> None:
        super().__init__(name="load", daemon=True)
        self._rc, self._dice, self._kinds = rc, random.Random(seed), kinds
        self._enough = threading.Event()
        self.paused = False  # send nothing for now
        self._lock = threading.Lock()
        self._open: list[tuple[str, float, AsyncResult]] = []
        self.done = 0  # how many requests have ended
        self.ended: Counter[str] = Counter()  # how they and their tasks have
        self.wrong: list[str] = []  # what ended as it should not have

    def run(self) -> None:
        """Keep some requests under way until told to stop."""
        while not self._enough.is_set():
            self.look()
            if len(self._open) >= OPEN:
                self._open[0][2].wait(0.01)
            elif self.paused or not self._send():
                with self._rc._connection.changed:
                    self._rc._connection.changed.wait(0.01)  # nobody is there, or nothing is to be sent

    def stop(self) -> None:
        """Send nothing more."""
        self._enough.set()
        self.join()

    def open(self) -> list[tuple[str, float, AsyncResult]]:
        """Return the requests that have not ended: their kind, and since when."""
        with self._lock:
            return [one for one in self._open if not one[2].done()]

    def overdue(self, since: float, patience: float = PATIENCE) -> list[str]:
        """Return the requests that are open for too long, counted from `since` at the earliest."""
        now = time.monotonic()
        return [
            f"{kind}, sent {now - sent:.1f} s ago: {result!r}"
            for kind, sent, result in self.open()
            if now - max(sent, since) > patience
        ]

    def _send(self) -> bool:
        engines = dict(self._rc._connection.engines)
        kind = self._dice.choice(self._kinds)
        try:
            view = self._rc[list(engines)]
            result = self._request(kind, view, [info.pid for info in engines.values()])
        except (NoEnginesRegistered, IndexError):  # they left just now
            return False
        with self._lock:
            self._open.append((kind, time.monotonic(), result))
        return True

    def _request(self, kind: str, view: Any, pids: list[int]) -> AsyncResult:
        if kind == "apply":
            return view.apply_async(lambda: 1)
        if kind == "one":
            return self._rc[self._dice.choice(view.targets)].apply_async(lambda: 1)
        if kind == "push":
            return view.push({"array": np.ones(SIZE)}, block=False)
        if kind == "pull":
            return view.pull("array", block=False)
        cell = {"allreduce": ALLREDUCE, "pairs": PAIRS, "prints": PRINTS}[kind]
        return view.execute(OURS.format(pids=pids) + cell, block=False)

    def look(self) -> None:
        """Count what has ended, and how."""
        with self._lock:
            ended = [one for one in self._open if one[2].done()]
            self._open = [one for one in self._open if not one[2].done()]
        for kind, _, result in ended:
            try:
                values = result.get(0)
            except Exception as error:
                problems = _parts(error)
            else:
                problems = []
                if kind == "pull" and not all(len(value) == SIZE for value in values):
                    self.wrong.append(f"pull: {values}")
            self.done += 1
            self.ended["result"] += not problems
            for name, text, traceback in problems:
                self.ended[name] += 1
                if not text or not (name in REASONS or text in EXPLAINED):
                    self.wrong.append(f"{kind}: {name}: {text!r}\n{traceback}")


def _parts(error: Exception) -> list[tuple[str, str, str]]:
    """Return names, texts and tracebacks of the errors that are in one."""
    if isinstance(error, CompositeError):
        return [(name, text, traceback) for name, text, traceback, _ in error.elist]
    if isinstance(error, RemoteError):
        return [(error.ename, error.evalue, error.traceback)]
    name = next((one.__name__ for one in (EngineError, TaskAborted) if isinstance(error, one)), "")
    return [(name or type(error).__name__, str(error), "")]


def main(file: str, seed: int) -> None:
    """Send requests until killed."""
    with Client(file) as rc:
        load = Load(rc, seed, APART)  # a communicator that is broken by others' requests is not the point
        load.start()
        while rc._connection.gone is None and not load.wrong:
            # Not known here is when somebody died: not all the time, anyway.
            if late := load.overdue(0.0, 3 * PATIENCE):
                raise SystemExit(f"not ended: {late}")
            time.sleep(0.1)
        load.stop()
        raise SystemExit(f"the connection has ended: {rc._connection.gone}; wrong: {load.wrong}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
