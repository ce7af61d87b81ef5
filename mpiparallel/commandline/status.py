"""``mpiparallel status``: show one cluster's controller and engines."""

from __future__ import annotations

import argparse

from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import print_json, print_table
from mpiparallel.config import Config

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
    rows = [{"part": "controller", "n": 1, "pid": cluster.controller.pid, "state": cluster.controller.state}]
    for name, one in cluster.engines.items():
        rows.append({"part": f"engines {name}", "n": one.n, "pid": one.pid, "state": one.state})
    if options.json:
        print_json({**clusters.row(cluster.folder, "running"), "parts": rows})
    else:
        print_table(["part", "n", "pid", "state"], rows)
    return exits.DONE
