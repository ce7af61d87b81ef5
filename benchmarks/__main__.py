"""Run the measurements round by round, both systems in turn, and print a table of medians.

python -m benchmarks                     # everything, three rounds
python -m benchmarks --rounds 7 latency  # the rows whose name begins with "latency"
python -m benchmarks --ours              # without IPython Parallel
python -m benchmarks guard               # MPI calls, guarded and plain
python -m benchmarks farm                # task farms, beside four others; "farm-noop": only those rows
python -m benchmarks bridge              # a bridge of its own: tasks while the first engine is busy
python -m benchmarks soak --minutes 30   # mixed traffic; by itself only, and with options of its own
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import bridge, farm, guard, magics, measures, soak
from benchmarks.sides import Side, bare_mpiexec, both, settle
from benchmarks.table import Line, render


@dataclass
class Row:
    """One claim: a measurement and what it is to reach."""

    name: str
    title: str
    unit: str
    measure: Callable[[Side], list[float]]
    ratio: float | None = None  # so many times less than IPython Parallel
    below: float | None = None  # or less than this, in `unit`
    once: bool = False  # rounds add nothing
    samples: dict[str, list[float]] = field(default_factory=dict)


ROWS = [
    # First, while no measurement has left anything in the engines' memory.
    Row("processes", "processes of a cluster of 4", "", measures.number_of_processes, below=6, once=True),
    Row("memory", "memory of a cluster of 4 (PSS)", "MB", measures.memory, below=350, once=True),
    Row("idle", "idle CPU per engine", "%", measures.idle_cpu, below=1, once=True),
    Row("latency-4", "apply_sync no-op, 4 engines", "ms", measures.latency_of_all, ratio=10),
    Row("latency-1", "apply_sync no-op, 1 engine", "ms", measures.latency_of_one, ratio=10),
    Row("where", "where() of 4 engines; theirs: queue_status()", "ms", measures.where, below=20),
    Row("push", "push 64 MB to 4", "ms", measures.push, ratio=12),
    Row("push-broadcast", "push 64 MB to 4, BroadcastView", "ms", measures.push_by_broadcast_view, ratio=3.5),
    Row("scatter", "scatter 64 MB over 4", "ms", measures.scatter, ratio=3),
    Row("gather", "gather 64 MB from 4", "ms", measures.gather, ratio=6),
    Row("px", "%px pass, 4 engines, warm", "ms", magics.warm, below=5),
]
FARMS = {f"farm-{workload}": workload for workload in farm.WORKLOADS}
SCALE = {"ms": 1e3, "s": 1.0, "MB": 1e-6, "%": 100.0, "": 1.0}
START, GUARD, BRIDGE = "start", "guard", "bridge"  # "start" has the first %px, too
FIRST_PX = 500.0  # ms that it may take


def make_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    names = ", ".join([START, *(row.name for row in ROWS), *FARMS, GUARD, BRIDGE])
    parser.add_argument("names", nargs="*", help=f"rows to measure: {names}")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each is measured (default %(default)s)"
    )
    parser.add_argument("--ours", action="store_true", help="leave the others out")
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["soak"]:
        return soak.main(argv[1:])
    options = make_argument_parser().parse_args(argv)
    sides = both()[:1] if options.ours else both()
    if len(sides) == 1 and not options.ours:
        print('IPython Parallel is not installed here (pip install ".[bench]"): only ours is measured.')

    def wanted(name: str) -> bool:
        return not options.names or any(name.startswith(prefix) for prefix in options.names)

    rows = [row for row in ROWS if wanted(row.name)]
    workloads = [workload for name, workload in FARMS.items() if wanted(name)]
    if not rows and not workloads and not any(map(wanted, (START, GUARD, BRIDGE))):
        print(f"no row begins with {', '.join(options.names)}", file=sys.stderr)
        return 2
    lines = start_lines(sides, options.rounds) if wanted(START) else []
    if rows:
        try:
            for side in sides:
                progress(f"starting {side.name}")
                side.start()
            measure_rows(rows, sides, options.rounds)
        finally:
            for side in sides:
                side.stop()
    if rows or lines:
        print(render([*lines, *(line_of(row, sides) for row in rows)], [side.name for side in sides]))
    if workloads:
        print(farm.table(workloads, options.rounds, options.ours, progress))
    if wanted(GUARD):
        for n in (2, 4):
            progress(f"guarded and plain MPI calls on {n} ranks")
            print(guard.table(n))
    if wanted(BRIDGE):
        progress("tasks while the first engine is busy, with a bridge of its own and without")
        print(bridge.table(options.rounds))
    return 0


def progress(text: str) -> None:
    """Say what is being measured, on one line of a terminal or line by line elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text} ...", end="", file=sys.stderr, flush=True)
    else:
        print(f"{text} ...", file=sys.stderr, flush=True)


def start_lines(sides: list[Side], rounds: int) -> list[Line]:
    """Measure how long it takes from nothing to a client with four engines, then its first ``%px``."""
    took: dict[str, list[float]] = {side.name: [] for side in sides}
    first: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            progress(f"start and stop, round {number + 1} of {rounds}, {side.name}")
            try:
                took[side.name].append(side.start())
                first[side.name].append(magics.first(side))
            finally:
                side.stop()
    bare = bare_mpiexec(rounds)
    values = [statistics.median(took[side.name]) for side in sides]
    goal = f"mpiexec's own {bare:.2f} s + 1 s"
    pauses = [statistics.median(first[side.name]) * 1e3 for side in sides]
    return [
        Line("start of 4 engines, connected", "s", values, goal, values[0] <= bare + 1),
        Line("%px pass, the first after that", "ms", pauses, f"below {FIRST_PX:g} ms", pauses[0] < FIRST_PX),
    ]


def measure_rows(rows: list[Row], sides: list[Side], rounds: int) -> None:
    """Measure in turn, each while the other is quiet, so that a busy moment of the machine meets both."""
    for row in rows:
        if not row.once:
            for side in sides:
                row.measure(side)  # the first time pays for connections and caches
        for number in range(1 if row.once else rounds):
            for side in sides:
                progress(f"{row.title}, round {number + 1}, {side.name}")
                gc.collect()
                settle(sides)
                row.samples.setdefault(side.name, []).extend(row.measure(side))


def line_of(row: Row, sides: list[Side]) -> Line:
    """Return the row of the table with its medians."""
    values = [statistics.median(row.samples[side.name]) * SCALE[row.unit] for side in sides]
    if row.ratio is not None:
        met = values[1] / values[0] >= row.ratio if len(values) > 1 else None
        return Line(row.title, row.unit, values, f"{row.ratio:g} x", met)
    assert row.below is not None
    bound = "at most" if row.unit == "" else "below"
    met = values[0] <= row.below if row.unit == "" else values[0] < row.below
    return Line(row.title, row.unit, values, f"{bound} {row.below:g} {row.unit}".rstrip(), met)


if __name__ == "__main__":
    sys.exit(main())
