"""Correct programs with long waits on real engines: nobody may ever say that they are stuck.

``python -m tests.engine.guard.test_no_false_alarms SECONDS SEED`` tries as many as there is time for.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

import mpiparallel as ipp
from tests.engine.guard.real_writer import RealWriter, tasks_of

pytestmark = pytest.mark.mpi

RUNNER = Path(__file__).with_name("real_programs.py").read_text()
RANKS, EVENTS, TIMEOUT = 4, 40, 120.0


def run_program(view: ipp.DirectView, seed: int) -> float:
    """Run one program, check what came of it and return how long its longest call took."""
    rng = random.Random(seed)
    writer = RealWriter(rng, RANKS, nonblocking=rng.random() < 0.8)
    writer.write(EVENTS)
    tasks = tasks_of(writer.cut_into_tasks(rng.choice(("one", "several"))))
    view.push({"tasks": tasks}, block=True)
    arguments = f"comm, {writer.comms}, {rng.random() < 0.5}, {seed}"
    running = [view.execute(f"runner = Runner({arguments})", block=False)]
    running += [view.execute(f"runner.run(tasks[{i}][mpi_rank])", block=False) for i in range(len(tasks))]
    for result in running:
        result.get(TIMEOUT)
    sent = [tuple(message) for messages in view["runner.sent"] for message in messages]
    got = [tuple(message) for messages in view["runner.got"] for message in messages]
    assert sorted(sent) == sorted(got)
    longest = max(view["runner.longest"])
    view.execute("[c.Free() for name, c in runner.comms.items() if c and name != 'w']", block=True)
    return longest


@pytest.mark.timeout(300)
def test_correct_programs_are_left_alone() -> None:
    with ipp.Cluster(n=RANKS) as rc:
        view = rc[:]
        view.execute(RUNNER, block=True)
        longest = [run_program(view, seed) for seed in range(8)]
    assert min(longest) > 0.1, "too short for anybody to look whether it ends"


if __name__ == "__main__":
    until, seed = time.monotonic() + float(sys.argv[1]), int(sys.argv[2])
    with ipp.Cluster(n=RANKS) as rc:
        rc[:].execute(RUNNER, block=True)
        while time.monotonic() < until:
            seed += 1
            took = time.monotonic()
            longest = run_program(rc[:], seed)
            print(seed, f"{time.monotonic() - took:.1f} s, longest call {longest:.2f} s", flush=True)
