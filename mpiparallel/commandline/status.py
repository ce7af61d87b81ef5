"""``mpiparallel status``: show one cluster's controller and engines."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import note, print_json, print_table
from mpiparallel.config import Config
from mpiparallel.error import IPythonError
from mpiparallel.launch.launched import Launched
from mpiparallel.ranges import ranges

PATIENCE = 5.0  # seconds for the controller to say who is there

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
    rows += _joined(cluster)
    if options.json:
        print_json({**clusters.row(cluster.folder, "running"), "parts": rows})
    else:
        jobs = ["job"] if any(row["job"] for row in rows) else []
        print_table(["part", "n", "pid", "state", *jobs], rows)
    return exits.DONE


def _joined(cluster: Cluster) -> list[dict[str, Any]]:
    """Return rows for engines that others have started: other jobs, or somebody by hand."""
    if not cluster.connection_file.exists():
        return []  # it waits in a queue
    try:
        # What a client says while it waits does not belong to the table.
        with redirect_stdout(sys.stderr), cluster.connect_client_sync(timeout=PATIENCE) as client:
            worlds = client._ask("status")["worlds"]
    except (TimeoutError, RuntimeError, IPythonError) as error:
        note(f"engines that others have started are not shown: {error}")
        return []
    return [
        {
            "part": f"engines {ranges(world['engines'])} on {', '.join(sorted(set(world['hosts'])))}",
            "n": len(world["engines"]),
            "pid": None,
            "state": "running",
            "job": world["job"].partition(":")[2],
        }
        for world in worlds
        if world["engine_set"] not in cluster.engines
    ]


def _row(part: str, n: int, one: Launched) -> dict[str, Any]:
    state = "waiting" if one.process.what_it_waits_for() else one.state
    return {"part": part, "n": n, "pid": one.pid, "state": state, "job": clusters.job_of(one)}
