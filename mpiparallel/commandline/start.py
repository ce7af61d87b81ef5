"""``mpiparallel start``: start a cluster; stay until Ctrl-C unless it goes to the background."""

from __future__ import annotations

import argparse
import time

from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import n_engines, print_json, say
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel start -n 4                         until Ctrl-C; connect by ipp.Client()
  mpiparallel start -n 4 --daemonize             in the background, until mpiparallel stop
  mpiparallel start -n 4 --daemonize --json      {"connection_file": ..., "engines": 4, ...}
  mpiparallel start -n 4 --cluster-id two        a second cluster beside the first
  mpiparallel start -n 4 --restart same          engines that die are started again, with their ids
  mpiparallel start -n 4 --ip 0.0.0.0            for clients on other machines, too
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "start",
        description="Start a controller and engines, and stay until Ctrl-C, which stops them.",
        usage="mpiparallel start [-n N] [--profile NAME] [option ...]",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    arguments.add_engines(parser, controller=True)
    arguments.add_json(parser)
    parser.add_argument("--log-level", default="INFO", help="how much the controller logs (%(default)s)")
    parser.add_argument(
        "--restart",
        choices=["same", "fresh"],
        help="start engines that ended unasked again, with the same ids or fresh ones; not with --daemonize",
    )


def run(options: argparse.Namespace, config: Config) -> int:
    """Start a cluster."""
    if options.restart and options.daemonize:
        options.parser.error(
            "--restart needs this command to stay, so that it cannot be used with --daemonize"
        )
    if options.json and not options.daemonize:
        options.parser.error("--json goes with --daemonize")
    clusters.doubt_profile(options, config)
    cluster = Cluster(
        profile=options.profile,
        profile_dir=options.profile_dir,
        cluster_id=clusters.cluster_id(options, config),
        log_level=options.log_level,
        restart=options.restart or False,
        dedicated_bridge=options.dedicated_bridge,
        shutdown_atexit=not options.daemonize,
        config=config,
        **arguments.given(options),
    )
    with clusters.signals_interrupt():
        began = time.monotonic()
        cluster.start_and_connect_sync().close()
        took = time.monotonic() - began
        if options.json:
            facts = clusters.row(cluster.folder, "running")
            print_json({**facts, "connection_file": str(cluster.connection_file), "seconds": round(took, 3)})
            return exits.DONE
        say(f"{n_engines(cluster.n)} ready in {took:.1f} s. Connect by: {clusters.how(options)}")
        if options.daemonize:
            say(f"Stop them by: {clusters.command('stop', options)}")
            return exits.DONE
        try:
            say("Press Ctrl-C to stop.")
            return clusters.wait_for_end(lambda: cluster.controller)
        except KeyboardInterrupt:
            say("stopping")
            return exits.DONE
        finally:
            cluster.stop_cluster_sync()
