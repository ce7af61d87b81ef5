"""``mpiparallel restart``: start engines of a running cluster again, or the whole cluster."""

from __future__ import annotations

import argparse

from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import n_engines, say
from mpiparallel.config import Config
from mpiparallel.ranges import engines as engines_text

EXAMPLES = """\
  mpiparallel restart                            all engines, with the ids that they have
  mpiparallel restart 2                          those of the MPI world that engine 2 is in, or was
  mpiparallel restart --fresh                    ... with new ids: what was sent to the old ones fails
  mpiparallel restart --whole                    the controller, too: a new cluster, started in the same way
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "restart",
        description="Stop the engines of a running cluster and start them again. Clients stay connected, and "
        "views of the engines work again; what they had in memory is gone.",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "targets",
        nargs="*",
        type=arguments.count,
        default=[],
        metavar="ENGINE",
        help="only the worlds of these engines, by id (all)",
    )
    what.add_argument(
        "--whole", action="store_true", help="stop the cluster, and start it again in the background"
    )
    parser.add_argument("--fresh", action="store_true", help="with new ids")


def run(options: argparse.Namespace, config: Config) -> int:
    """Start engines again."""
    cluster = clusters.running(options, config)
    if cluster is None:
        return exits.NO_CLUSTER
    with clusters.signals_interrupt():
        return _whole(cluster, options) if options.whole else _engines(cluster, options)


def _engines(cluster: Cluster, options: argparse.Namespace) -> int:
    with cluster.connect_client_sync() as client:
        names = cluster.sets_of(client, options.targets or None)
        client.restart_engines(options.targets or None, same_ids=not options.fresh)
        cluster.learn_ids(client)
        come = [
            engine
            for name in names
            for engine in range(
                cluster.engines[name].first, cluster.engines[name].first + cluster.engines[name].n
            )
        ]
    if names:
        say(f"{engines_text(come)} started again")
    else:
        say("the cluster has no engines; start some by: " + clusters.command("engines", options))
    return exits.DONE


def _whole(cluster: Cluster, options: argparse.Namespace) -> int:
    n = sum(one.n for one in cluster.engines.values())
    cluster.stop_cluster_sync()
    cluster.start_and_connect_sync(n).close()
    say(f"{n_engines(n)} ready. Connect by: {clusters.how(options)}")
    return exits.DONE
