"""How many events per second the hub takes, driven without a socket: ``python -m benchmarks.hub``.

It backs the claim that the hub takes 50,000 events/s with 10,000 engines, and that what a task costs does
not grow with the number of engines. An event is a message given to the hub, except that a request for many
engines counts as one for each: that is what it makes the hub note down.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
import tracemalloc
from collections.abc import Callable

from mpiparallel.controller.hub import Hub
from mpiparallel.wire.messages import Hello, HelloWorld, Message, Result, Submit

RANKS = 100  # of each world


def hub_with(engines: int) -> Hub:
    """Return a hub with a client and `engines` engines in worlds of 100."""
    hub = Hub()
    hub.receive("client", Message(Hello("v", "c", "h", 1)), 0.0)
    for number in range(0, engines, RANKS):
        size = min(RANKS, engines - number)
        hello = HelloWorld("v", f"w{number}", ["h"] * size, list(range(size)))
        hub.receive(number // RANKS, Message(hello), 0.0)
    return hub


def one_by_one(hub: Hub, engines: int, events: int) -> int:
    """Tasks for random engines, 1,000 open at any time."""
    chosen = random.Random(7).choices(range(engines), k=events // 2)
    open_tasks: list[tuple[str, int]] = []
    for number, engine in enumerate(chosen):
        request = f"c-{id(chosen)}{number}"
        hub.receive("client", Message(Submit(request, "c", "apply", [engine])), 0.0)
        open_tasks.append((request, engine))
        if len(open_tasks) == 1000:
            finish(hub, open_tasks)
    finish(hub, open_tasks)
    return events


def to_all(hub: Hub, engines: int, events: int) -> int:
    """Requests for all engines at once."""
    rounds = max(1, events // (2 * engines))
    for number in range(rounds):
        request = f"c-{id(hub)}all{number}"
        hub.receive("client", Message(Submit(request, "c", "apply", list(range(engines)))), 0.0)
        finish(hub, [(request, engine) for engine in range(engines)])
    return rounds * 2 * engines


def finish(hub: Hub, tasks: list[tuple[str, int]]) -> None:
    for request, engine in tasks:
        hub.receive(engine // RANKS, Message(Result(request, engine, "ok")), 0.0)
    tasks.clear()


def measure(workload: Callable[[Hub, int, int], int], engines: int, events: int) -> float:
    """Return events per second."""
    hub = hub_with(engines)
    gc.collect()
    began = time.perf_counter()
    done = workload(hub, engines, events)
    return done / (time.perf_counter() - began)


def kept(events: int) -> int:
    """Return the bytes that twice `events` events leave beyond what `events` do."""
    hub = hub_with(RANKS)
    tracemalloc.start()
    one_by_one(hub, RANKS, events)
    before = tracemalloc.get_traced_memory()[0]
    one_by_one(hub, RANKS, events)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=200_000, help="of each row (default %(default)s)")
    options = parser.parse_args()
    print(f"{'engines':>9} {'one by one':>14} {'to all at once':>16}   events/s")
    for engines in (1, 100, 10_000, 100_000):
        rates = [measure(workload, engines, options.events) for workload in (one_by_one, to_all)]
        print(f"{engines:>9,} {rates[0]:>14,.0f} {rates[1]:>16,.0f}")
    print(f"memory kept by {options.events // 4:,} more events: {kept(options.events // 4) / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
