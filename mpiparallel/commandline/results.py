"""``mpiparallel results``: list or print the results that the controller keeps, or has left."""

from __future__ import annotations

import argparse

from mpiparallel import cluster_file as files
from mpiparallel import connection_file
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel results                            the newest 20 tasks, whoever submitted them
  mpiparallel results --status error -n 0        all that failed
  mpiparallel results 5d2f...-17                 what one returned, raised and printed
  mpiparallel results --remove                   those of a cluster that is gone
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "results",
        description="List the newest tasks of a cluster, of all clients, or print what the named ones "
        "returned, raised and printed. Works when the cluster does not run any more, too: results of "
        "one in the background, and of one that was killed, stay until the next start.",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    parser.add_argument("msg_ids", nargs="*", metavar="MSG_ID", help="print these")
    parser.add_argument(
        "-n", type=arguments.count, default=20, metavar="N", help="how many (%(default)s; 0: all)"
    )
    parser.add_argument("--status", choices=["ok", "error", "aborted", "pending"], help="only such tasks")
    parser.add_argument("--label", help="only tasks with this label; * and ? stand for anything")
    arguments.add_json(parser)
    parser.add_argument(
        "--remove", action="store_true", help="remove all that a cluster has left which does not run any more"
    )


def run(options: argparse.Namespace, config: Config) -> int:
    """List or print results."""
    from mpiparallel.results_command import open_results, show

    folder = clusters.folder_of(options, config)
    known = (folder / connection_file.NAMES["client"]).exists()
    running = known and files.judge(folder) in ("running", "elsewhere")
    if options.remove:
        if running:
            return fail(f"a cluster runs in {folder}: use client.purge_hub_results('all')", exits.FAILED)
        if not files.has_results(folder):
            return fail(f"no results in {folder}", exits.FAILED)
        files.clean(folder)
        return exits.DONE
    with open_results(folder, running) as waiting:
        return show(options, waiting)
