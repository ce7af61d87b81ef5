"""``mpiparallel status``: show one cluster's controller and engines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel import connection_file
from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail, note, print_json, print_table
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
    folder = clusters.folder_of(options, config)
    elsewhere = clusters.is_elsewhere(folder)
    if elsewhere:
        # Its processes cannot be seen from here, but its controller answers.
        rows = [{"part": "controller", "n": 1, "pid": None, "state": "running", "job": ""}]
        known: Collection[str] = ()
    elif (folder / files.NAME).exists() and files.judge(folder) == "running":
        cluster = Cluster.from_file(folder / files.NAME, config=config)
        assert cluster.controller is not None
        rows = [_row("controller", 1, cluster.controller)]
        rows += [_row(f"engines {name}", one.n, one) for name, one in cluster.engines.items()]
        known = cluster.engines
    else:
        return clusters.no_cluster(options, config)
    try:
        rows += _joined(folder, known)
    except (TimeoutError, RuntimeError, IPythonError) as error:
        if elsewhere:
            return fail(error, exits.NO_CLUSTER)
        note(f"engines that others have started are not shown: {error}")
    if options.json:
        print_json({**clusters.row(folder, files.judge(folder)), "parts": rows})
    else:
        jobs = ["job"] if any(row["job"] for row in rows) else []
        print_table(["part", "n", "pid", "state", *jobs], rows)
    return exits.DONE


def _joined(folder: Path, known: Collection[str]) -> list[dict[str, Any]]:
    """Return rows for engines that others have started than who has started the `known` sets."""
    from mpiparallel.client.client import Client

    path = folder / connection_file.NAMES["client"]
    if not path.exists():
        return []  # it waits in a queue
    # What a client says while it waits does not belong to the table.
    with redirect_stdout(sys.stderr), Client(str(path), timeout=PATIENCE) as client:
        worlds = client._ask("status")["worlds"]
    return [
        {
            "part": f"engines {ranges(world['engines'])} on {', '.join(sorted(set(world['hosts'])))}",
            "n": len(world["engines"]),
            "pid": None,
            "state": "running",
            "job": world["job"].partition(":")[2],
        }
        for world in worlds
        if world["engine_set"] not in known
    ]


def _row(part: str, n: int, one: Launched) -> dict[str, Any]:
    state = "waiting" if one.process.what_it_waits_for() else one.state
    return {"part": part, "n": n, "pid": one.pid, "state": state, "job": clusters.job_of(one)}
