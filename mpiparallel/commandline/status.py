"""``mpiparallel status``: show one cluster's controller and engines."""

from __future__ import annotations

import argparse
from typing import Any

from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import print_json, print_table
from mpiparallel.config import Config
from mpiparallel.launch.launched import Launched

EXAMPLES = """\
  mpiparallel status                             of the default cluster
  mpiparallel status --json                      {"state": ..., "parts": [...], ...}
  mpiparallel status > /dev/null || mpiparallel start -n 4 --daemonize
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(subcommands, "status", examples=EXAMPLES)
    arguments.add_names(parser)
    arguments.add_json(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Show one cluster's parts."""
    cluster = clusters.running(options, config)
    if cluster is None:
        return exits.NO_CLUSTER
    assert cluster.controller is not None
    rows = [_row("controller", 1, cluster.controller)]
    rows += [_row(f"engines {name}", one.n, one) for name, one in cluster.engines.items()]
    if options.json:
        print_json({**clusters.row(cluster.folder, "running"), "parts": rows})
    else:
        jobs = ["job"] if any(row["job"] for row in rows) else []
        print_table(["part", "n", "pid", "state", *jobs], rows)
    return exits.DONE


def _row(part: str, n: int, one: Launched) -> dict[str, Any]:
    state = "waiting" if one.process.what_it_waits_for() else one.state
    return {"part": part, "n": n, "pid": one.pid, "state": state, "job": clusters.job_of(one)}
