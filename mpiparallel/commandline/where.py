"""``mpiparallel where``: show what the engines of one cluster are doing, once or again and again."""

from __future__ import annotations

import argparse
import sys
import time

from mpiparallel import connection_file
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail, print_json, say
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel where                              all engines
  mpiparallel where 0 3                          two of them
  mpiparallel where --watch 2                    again every 2 s
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "where",
        description="Show for every engine of a running cluster what it is doing: idle, running which line, "
        "blocked in which MPI call and with whom. It does not disturb what runs.",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    arguments.add_targets(parser)
    form = parser.add_mutually_exclusive_group()
    arguments.add_json(form)
    form.add_argument(
        "--watch", type=arguments.seconds, metavar="S", help="show it again every S seconds, until Ctrl-C"
    )


def run(options: argparse.Namespace, config: Config) -> int:
    """Show what the engines are doing."""
    from mpiparallel.client.client import Client

    path = clusters.found(options, config) / connection_file.NAMES["client"]
    if not path.exists():
        return clusters.no_cluster(options, config)
    with Client(str(path)) as client:
        try:
            targets = options.targets or None
            while options.watch:
                # The terminal's codes for: go to the upper left corner, clear from there on.
                clear = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
                say(f"{clear}{time.strftime('%H:%M:%S')}\n{client.where(targets)}\n")
                time.sleep(options.watch)
            found = client.where(targets)
        except IndexError as error:
            return fail(error, exits.FAILED)
    if options.json:
        print_json(found.to_builtins())
    else:
        say(str(found))
    return exits.DONE
