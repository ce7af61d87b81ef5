"""Task farms side by side: many small tasks, uneven ones, gangs. Run by ``python -m benchmarks farm``.

Every system runs in a process of its own with four workers, all of them in turn in each round; the table has
the medians of the rounds. A system that is not installed, or does not run with this MPI, is left out, and a
line says why.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.sides import OPEN_MPI

ROOT = Path(__file__).parent.parent
OURS, IPYPARALLEL, MPI4PY, EXECUTORLIB, DASK = (
    "mpiparallel", "IPython Parallel", "mpi4py.futures", "executorlib", "dask",
)  # fmt: skip
PEERS = (IPYPARALLEL, MPI4PY, EXECUTORLIB, DASK)
PATIENCE = 600.0  # seconds for the workloads of one system

Medians = dict[str, float]  # by system


@dataclass(frozen=True)
class Row:
    """One workload: how its figures are shown, and whether they are as they should be."""

    workload: str
    title: str
    show: Callable[[float], str]
    more_is_better: bool
    goal: str
    met: Callable[[Medians], bool | None]

    def times(self, medians: Medians, peer: str) -> float:
        """Return how many times better ours is than the peer's."""
        ratio = medians[OURS] / medians[peer]
        return ratio if self.more_is_better else 1 / ratio


def fast(medians: Medians) -> bool | None:
    ours = medians[OURS]
    ahead = all(ours > medians[peer] for peer in (MPI4PY, EXECUTORLIB) if peer in medians)
    return ours >= 10_000 and ours >= 25 * medians.get(IPYPARALLEL, 0.0) and ahead


def first(more_is_better: bool) -> Callable[[Medians], bool | None]:
    """Return the goal to be ahead of every peer that is there."""

    def met(medians: Medians) -> bool | None:
        peers = [value for name, value in medians.items() if name != OURS]
        if not peers:
            return None
        return medians[OURS] > max(peers) if more_is_better else medians[OURS] < min(peers)

    return met


def even(medians: Medians) -> bool | None:
    return medians[OURS] <= 1.10


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


FAST = f"10,000/s, 25 x {IPYPARALLEL}, ahead"
ROWS = [
    Row("noop-map", "no-op tasks by map, chunksize=1", "{:,.0f}/s".format, True, FAST, fast),
    Row("noop-loop", "no-op tasks, submitted in a loop", "{:,.0f}/s".format, True, FAST, fast),
    Row("naps", "4,000 tasks of 1 ms: efficiency", "{:.0%}".format, True, "ahead", first(True)),
    Row("ascending", "8 s of uneven work, shortest first", "{:.2f}".format, False, "at most 1.10", even),
    Row("descending", "the same, longest first", "{:.2f}".format, False, "at most 1.10", even),
    Row("heavy-tailed", "the same, heavy-tailed (Pareto)", "{:.2f}".format, False, "at most 1.10", even),
    Row("gangs", "a gang of 2, one after the other", milliseconds, False, "ahead", first(False)),
]  # fmt: skip
LONG_MAP = "long-map"
# MB by which they may grow in a map of ten million items. The client has the values in the end: 80 MB of
# references to None, and as many in the lists that came.
GROWTH = {"client": 200.0, "controller": 50.0, "engines": 50.0}
STORE = "store"
STORE_COST = 0.20
WORKLOADS = (*(row.workload for row in ROWS), STORE, LONG_MAP)


@dataclass
class System:
    """One column, and what came of it."""

    name: str
    environ: dict[str, str]
    samples: dict[str, list[Any]]
    missing: str = ""

    def run(self, workloads: Sequence[str]) -> None:
        """Run the workloads once more, in a new process."""
        if self.missing or not workloads:
            return
        figures = run_farm(self.name, workloads, self.environ)
        self.missing = figures.pop("missing", "")
        for workload, figure in figures.items():
            self.samples.setdefault(workload, []).append(figure)

    def median(self, workload: str) -> float | None:
        """Return the median; None if this system cannot do it."""
        numbers = [one for one in self.samples.get(workload, []) if isinstance(one, float)]
        return statistics.median(numbers) if numbers else None

    def complaints(self) -> list[str]:
        """Return why figures are missing."""
        if self.missing:
            return [f"{self.name} is left out: {self.missing}"]
        return sorted(
            {
                f"{self.name}, {workload}: {one}"
                for workload, found in self.samples.items()
                for one in found
                if isinstance(one, str)
            }
        )


def run_farm(name: str, workloads: Sequence[str], environ: dict[str, str]) -> dict[str, Any]:
    """Run one system in a process of its own and return its figures, or what was in the way."""
    command = [sys.executable, "-m", "benchmarks.farms", name, *workloads]
    if name == MPI4PY:
        mpiexec = ["mpiexec", "-n", "5"]  # one of them hands out
        command = [*mpiexec, sys.executable, "-m", "mpi4py.futures", *command[1:]]
    with tempfile.TemporaryDirectory(prefix="farm-", ignore_cleanup_errors=True) as folder:
        env = {**os.environ, **OPEN_MPI, **environ}
        env.update(IPYTHONDIR=folder, MPIPARALLEL_STATE=folder, PYTHONWARNINGS="ignore")
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        try:
            run = subprocess.run(
                command, env=env, cwd=folder, capture_output=True, text=True, timeout=PATIENCE,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"missing": str(error)}
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if not lines:
        said = (run.stderr.strip() or run.stdout.strip() or "nothing").splitlines()[-1]
        return {"missing": f"it ended with code {run.returncode} and said last: {said}"}
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def table(wanted: Sequence[str], rounds: int, ours_only: bool, progress: Callable[[str], None]) -> str:
    """Measure the workloads `wanted` and return the table, and what else is to be said."""
    rows = [row for row in ROWS if row.workload in wanted]
    systems = [System(name, {}, {}) for name in ((OURS,) if ours_only else (OURS, *PEERS))]
    # The same with nothing kept of tasks that have ended: what the store costs.
    without = System(OURS, {"MPIPARALLEL_STORE": "0"}, {})
    for number in range(rounds):
        for system in systems:
            progress(f"task farms, round {number + 1}, {system.name}")
            system.run([row.workload for row in rows])
        if STORE in wanted:
            progress(f"task farms, round {number + 1}, with and without the store")
            without.run(["noop-map"])
            if "noop-map" not in wanted:
                systems[0].run(["noop-map"])
    if LONG_MAP in wanted:
        progress("a map of ten million items")
        systems[0].run([LONG_MAP])
    parts = [render(rows, systems)] if rows else []
    parts += store_lines(systems[0], without) if STORE in wanted else []
    parts += long_map_lines(systems[0]) if LONG_MAP in wanted else []
    parts += [line for system in [*systems, without] for line in system.complaints()]
    return "\n".join(parts)


def render(rows: Sequence[Row], systems: Sequence[System]) -> str:
    shown = [system for system in systems if not system.missing]
    title = "task farms of 4 workers: medians; in brackets, how many times better ours is"
    made = Table(title=title, title_justify="left", show_edge=False)
    made.add_column("workload")
    for system in shown:
        made.add_column(system.name, justify="right")
    made.add_column("goal")
    made.add_column("")
    for row in rows:
        found = {system.name: system.median(row.workload) for system in shown}
        medians = {name: value for name, value in found.items() if value is not None}
        cells = []
        for system in shown:
            if system.name not in medians:
                cells.append("")
                continue
            text = row.show(medians[system.name])
            if system.name != OURS and OURS in medians:
                text += f" ({row.times(medians, system.name):.1f} x)"
            cells.append(text)
        met = row.met(medians) if OURS in medians else None
        made.add_row(row.title, *cells, row.goal, verdict(met, "[green]{}[/]", "[red]{}[/]"))
    out = io.StringIO()
    Console(file=out, width=180, force_terminal=sys.stdout.isatty()).print(made)
    return out.getvalue()


def verdict(met: bool | None, yes: str = "{}", no: str = "{}") -> str:
    return "" if met is None else yes.format("reached") if met else no.format("not reached")


def store_lines(ours: System, without: System) -> list[str]:
    kept, unkept = ours.median("noop-map"), without.median("noop-map")
    if kept is None or unkept is None:
        return ["store: not measured"]
    cost = 1 - kept / unkept
    return [
        f"no-op tasks with the store {kept:,.0f}/s, without {unkept:,.0f}/s: it costs {cost:.0%} "
        f"(goal: at most {STORE_COST:.0%}): {verdict(cost <= STORE_COST)}"
    ]


def long_map_lines(ours: System) -> list[str]:
    found = [one for one in ours.samples.get(LONG_MAP, []) if isinstance(one, dict)]
    if not found:
        return ["a map of ten million items: not measured"]
    seconds = found[-1]["seconds"]
    grown = {name: size / 1e6 for name, size in found[-1].items() if name != "seconds"}
    text = ", ".join(f"{name} {size:.0f} MB (at most {GROWTH[name]:.0f})" for name, size in grown.items())
    met = all(size <= GROWTH[name] for name, size in grown.items())
    return [
        f"a map of ten million items in chunks of 10,000: {seconds:.1f} s; at its peak, grown by: {text}: "
        f"{verdict(met)}"
    ]
