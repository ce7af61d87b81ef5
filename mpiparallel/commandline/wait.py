"""``mpiparallel wait``: wait until a cluster has its engines. For scripts: batch jobs, and jobs that join."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpiparallel import connection_file
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail, n_engines, say
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel wait -n 64 && python script.py     until 64 engines are there, for a minute at most
  mpiparallel wait -n 64 --timeout 3600          engines of several jobs, which start when Slurm has room
"""
LOOK_EVERY = 0.1  # seconds


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "wait",
        description="Wait until a cluster, which need not have been started yet, has as many engines. The "
        "exit code is 1 when they do not come in time.",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    parser.add_argument("-n", type=arguments.count, default=1, metavar="N", help="how many (%(default)s)")
    parser.add_argument(
        "--timeout", type=arguments.seconds, default=60.0, metavar="S", help="seconds (%(default)g)"
    )


def run(options: argparse.Namespace, config: Config) -> int:
    """Wait for engines."""
    from mpiparallel.client.client import Client

    deadline = time.monotonic() + options.timeout
    folder = clusters.folder_of(options, config)
    if not _await_file(folder / connection_file.NAMES["client"], deadline):
        trouble = f"no controller has come within {options.timeout:g} s in {folder}"
        return fail(trouble, exits.NO_CLUSTER)
    with Client(str(folder / connection_file.NAMES["client"])) as client:
        try:
            client.wait_for_engines(options.n, timeout=max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            there = len(client.ids)
            return fail(f"{there} of {n_engines(options.n)} came within {options.timeout:g} s", exits.FAILED)
        say(f"{n_engines(len(client.ids))} ready")
    return exits.DONE


def _await_file(path: Path, deadline: float) -> bool:
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY)
    return True
