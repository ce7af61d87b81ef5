"""Print how one gets stuck with plain mpi4py, with IPython Parallel and with mpiparallel, and out again.

    python tests/stuck              everything: about a quarter of an hour
    python tests/stuck --ours       ours alone: about two minutes
    python tests/stuck deadlock     those whose name, or group, holds a word
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from contextlib import ExitStack

from ours import Outcome, get_stuck
from peers import Seen, ipython_parallel, plain
from rich.console import Console
from rich.table import Table
from ways import RANKS, WAYS, Way

import mpiparallel as ipp


def main() -> int:
    parser = argparse.ArgumentParser(description="Ways to get stuck with MPI, and out again.")
    parser.add_argument("words", nargs="*", help="only the ways whose name holds one of these")
    parser.add_argument("--ours", action="store_true", help="leave plain mpi4py and IPython Parallel out")
    options = parser.parse_args()
    ways = [way for way in WAYS if not options.words or any(word in way.name for word in options.words)]
    peers = not options.ours
    if peers and importlib.util.find_spec("ipyparallel") is None:
        print('IPython Parallel is not installed here: pip install ".[bench]"', file=sys.stderr)
        return 2
    title = f"{RANKS} ranks; seconds until one is told / can go on; where variables were kept"
    table = Table("#", "way to get stuck", title=title)
    for column in (["plain mpi4py", "IPython Parallel"] if peers else []) + ["mpiparallel"]:
        table.add_column(column)
    with ExitStack() as stack:
        peer = stack.enter_context(ipython_parallel()) if peers else None
        for number, way in enumerate(ways, 1):
            print(f"{number}/{len(ways)} {way.name}", file=sys.stderr, flush=True)
            cells = [_seen(plain(way)), _seen(peer.get_stuck(way))] if peer is not None else []
            table.add_row(str(number), way.name, *cells, _outcome(ours(way)))
    Console(width=200 if not sys.stdout.isatty() else None).print(table)
    return 0


def ours(way: Way) -> Outcome:
    """Run one way on engines of its own, which are started again when their world is lost."""
    with ipp.Cluster(n=RANKS, restart="same") as rc:
        return get_stuck(rc, way)


def _seen(seen: Seen) -> str:
    return seen.what + (f"; goes on after {seen.usable:.1f} s" if seen.usable else "")


def _outcome(outcome: Outcome) -> str:
    if outcome.told is None:
        return "[red]hangs[/]"
    usable = f"{outcome.usable:.2f}" if outcome.usable is not None else "never"
    return f"{outcome.told:.2f} / {usable} s, kept on {outcome.kept} of {RANKS}"


if __name__ == "__main__":
    sys.exit(main())
