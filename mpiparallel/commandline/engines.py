"""``mpiparallel engines``: add a world to a running cluster."""

from __future__ import annotations

import argparse

from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import n_engines, say
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel engines -n 2                       until Ctrl-C, which ends these and no others
  mpiparallel engines -n 2 --daemonize           in the background, until mpiparallel stop
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(subcommands, "engines", examples=EXAMPLES)
    arguments.add_names(parser)
    arguments.add_engines(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Add a world; stay until Ctrl-C unless it goes to the background."""
    cluster = clusters.running(options, config)
    if cluster is None:
        return exits.NO_CLUSTER
    cluster.set_options(
        mpi_args=options.mpi_args, engine_args=options.engine_args, engine_timeout=options.engine_timeout
    )
    with clusters.signals_interrupt(), cluster.connect_client_sync() as client:
        before = len(client.ids)
        name = cluster.start_engines_sync(options.n)
        engine_set = cluster.engines[name]
        try:
            cluster.wait_for_engines_sync(client, before + engine_set.n)
            say(f"{n_engines(engine_set.n)} more; {len(client.ids)} in all")
            if options.daemonize:
                return exits.DONE
            say("Press Ctrl-C to stop them.")
            return clusters.wait_for_end(lambda: engine_set)
        except KeyboardInterrupt:
            say("stopping")
            cluster.stop_engines_sync(name)
            return exits.DONE
        except BaseException:
            cluster.stop_engines_sync(name)
            raise
