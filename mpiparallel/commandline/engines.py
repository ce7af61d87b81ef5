"""``mpiparallel engines``: add a world to a running cluster."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import n_engines, say
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel engines -n 2                       until Ctrl-C, which ends these and no others
  mpiparallel engines -n 2 --daemonize           in the background, until mpiparallel stop
  sbatch -n 64 --array=1-4 --wrap "mpiparallel engines"   four jobs of 64 for the cluster of this host
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "engines",
        usage="mpiparallel engines [-n N] [--profile NAME] [option ...]",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    arguments.add_engines(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Add a world; stay until Ctrl-C unless it goes to the background."""
    folder = clusters.folder_of(options, config)
    if clusters.is_elsewhere(folder):
        return _join(folder, options, config)
    cluster = clusters.running(options, config)
    if cluster is None:
        return exits.NO_CLUSTER
    cluster.set_options(dedicated_bridge=options.dedicated_bridge, **arguments.given(options))
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


def _join(folder: Path, options: argparse.Namespace, config: Config) -> int:
    """Add a world to a cluster that is not this host's to change: in a batch job, most of the time."""
    import msgspec

    from mpiparallel.commandline import jobs, joining
    from mpiparallel.launch import local

    launch = arguments.settle(options, config)
    decided = jobs.of_allocation(arguments.given(options), os.environ, options.dedicated_bridge)
    launch = msgspec.structs.replace(launch, **decided)
    n = launch.n or local.default_n(launch, os.environ)
    return joining.join(folder, n, launch, config, stay=not options.daemonize)
