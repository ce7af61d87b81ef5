"""How many events per second the hub takes, driven without a socket: ``python -m benchmarks.hub``.

It backs the claims that the hub takes 50,000 events/s with 10,000 engines and 1,000,000 balanced tasks, that
its memory stays flat, and that what a task costs does not grow with the number of engines. An event is a
message given to the hub, except that a request for many engines, or of many tasks, counts as one for each:
that is what it makes the hub note down. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable

from mpiparallel.controller.hub import Hub
from mpiparallel.controller.state import Send
from mpiparallel.wire.messages import Balance, Hello, HelloWorld, Message, Received, Result, Submit

RANKS = 100  # of each world
PART = b"x" * 100  # what each task and each result brings along


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
    settle(hub, len(tasks))
    tasks.clear()


def settle(hub: Hub, results: int) -> None:
    """Let the client say that it has its results, and the store take what has ended."""
    hub.receive("client", Message(Received(results)), 0.0)
    hub.take_records()


def balanced(hub: Hub, engines: int, events: int, size: int = 100) -> int:
    """Tasks that the hub finds engines for, `size` in a message; twice as many wait as there are engines.

    Each task of 1 ms has two events: that it comes, and that it ends.
    """
    tasks = events // 2
    in_hand = 2 * engines + 10 * size
    sent = done = 0
    clock = hub.state.now
    running: deque[tuple[str, int]] = deque()
    first = hub.state.counters["tasks of the benchmark"]
    hub.state.counters["tasks of the benchmark"] += tasks
    while done < tasks:
        while sent < tasks and sent - done < in_hand:
            count = min(size, tasks - sent)
            payload = [b"code", *[PART] * count]
            header = Balance(
                f"c-{first + sent}", "c", "map", [1] * count, common=1, function=b"f", function_frames=1
            )
            note(running, hub.receive("client", Message(header, payload), clock))
            sent += count
        ending = min(len(running), 1000)
        for _ in range(ending):
            request, engine = running.popleft()
            clock += 1e-5
            header = Result(request, engine, "ok", clock - 1e-3, clock)
            note(running, hub.receive(engine // RANKS, Message(header, (PART,)), clock))
        done += ending
        settle(hub, ending)
    return 2 * tasks


def note(running: deque[tuple[str, int]], sends: Iterable[Send]) -> None:
    for _, message in sends:
        if type(message.header) is Submit:
            running.append((message.header.request, message.header.engines[0]))


def singly(hub: Hub, engines: int, events: int) -> int:
    """The same, with one task in each message."""
    return balanced(hub, engines, events, 1)


def measure(workload: Callable[[Hub, int, int], int], engines: int, events: int) -> float:
    """Return events per second."""
    hub = hub_with(engines)
    gc.collect()
    began = time.process_time()
    done = workload(hub, engines, events)
    return done / (time.process_time() - began)


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


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def a_million(engines: int, tasks: int) -> None:
    """Print the rate of many tasks on many engines, and what they add to memory after the first tenth."""
    hub = hub_with(engines)
    balanced(hub, engines, 2 * (tasks // 10))
    before = peak()
    began = time.process_time()
    done = balanced(hub, engines, 2 * (tasks - tasks // 10))
    rate = done / (time.process_time() - began)
    print(f"{tasks:,} balanced tasks, {engines:,} engines: {rate:,.0f} events/s, {1e6 / rate:.1f} us each")
    print(f"peak memory: {before:.0f} MB after the first tenth, {peak() - before:.1f} MB more in the end")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=200_000, help="of each row (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="of the last run (default %(default)s)")
    options = parser.parse_args()
    gc.set_threshold(50_000, 20, 50)  # as the controller does
    workloads = [one_by_one, to_all, balanced, singly]
    names = f"{'one by one':>14} {'to all at once':>16} {'balanced':>14} {'singly':>14}"
    print(f"{'engines':>9} {names}   events/s")
    for engines in (1, 100, 10_000, 100_000):
        rates = [measure(workload, engines, options.events) for workload in workloads]
        print(f"{engines:>9,} {rates[0]:>14,.0f} {rates[1]:>16,.0f} {rates[2]:>14,.0f} {rates[3]:>14,.0f}")
    print(f"memory kept by {options.events // 4:,} more events: {kept(options.events // 4) / 1e3:.1f} kB")
    a_million(10_000, options.tasks)


if __name__ == "__main__":
    main()
