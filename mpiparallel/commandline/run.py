"""``mpiparallel run``: run a script with a cluster of its own, in this very process.

So it cannot outlive the script.
"""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path

from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, exits
from mpiparallel.commandline.printing import fail
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel run -n 4 script.py --its option    the script connects by ipp.Client()
  mpiparallel run -n 4 -m package.module
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "run",
        description="Start a private cluster, run a Python script which finds it by ipp.Client(), and stop "
        "it. The exit code is the script's.",
        examples=EXAMPLES,
        usage="mpiparallel run [-n N] [--profile NAME] [option ...] [-m] SCRIPT ...",
    )
    arguments.add_number(parser)
    parser.add_argument("--profile", help="the profile whose settings are used (default)")
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is a module's name, as in python -m"
    )
    arguments.add_engine_options(parser)
    parser.add_argument("script", metavar="SCRIPT", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def run(options: argparse.Namespace, config: Config) -> int:
    """Run a script."""
    from mpiparallel.runscript import run_script

    if not options.module and not Path(options.script).is_file():
        return fail(f"no such file: {options.script}", exits.USAGE)
    cluster = Cluster(
        profile=options.profile,
        cluster_id=f"run-{os.getpid()}-{secrets.token_hex(2)}",
        dedicated_bridge=options.dedicated_bridge,
        config=config,
        **arguments.given(options),
    )
    cluster.start_and_connect_sync().close()
    # Whatever the script starts finds the cluster too.
    os.environ["MPIPARALLEL_PROFILE"], os.environ["MPIPARALLEL_CLUSTER_ID"] = (
        cluster.profile,
        cluster.cluster_id,
    )
    try:
        return run_script(options.script, options.arguments, module=options.module)
    finally:
        cluster.stop_cluster_sync()
