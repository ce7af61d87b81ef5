"""``mpiparallel run``: run a script with a cluster of its own, in this very process.

So it cannot outlive the script.
"""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, clusters, exits, jobs
from mpiparallel.commandline.printing import fail
from mpiparallel.config import Config

AGAIN = "again"  # what one copy has said
EXAMPLES = """\
  mpiparallel run -n 4 script.py --its option    the script connects by ipp.Client()
  mpiparallel run -n 4 -m package.module
  sbatch -n 64 --wrap "mpiparallel run script.py"    an engine for each task of the job, on all of its nodes
  salloc -n 64 mpiparallel run script.py             the same, with the script on this host
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
    trouble = copies(os.environ)
    if trouble:
        return exits.USAGE if trouble == AGAIN else fail(trouble, exits.USAGE)
    clusters.doubt_profile(options, config)
    given = arguments.given(options)
    cluster = Cluster(
        profile=options.profile,
        cluster_id=f"run-{os.getpid()}-{secrets.token_hex(2)}",
        dedicated_bridge=options.dedicated_bridge,
        config=config,
        **{**jobs.of_allocation(given, os.environ, options.dedicated_bridge), **given},
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


# How many processes a launcher has started, and which of them this is.
_LAUNCHERS = (
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("mpiexec", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpiexec", "PMI_SIZE", "PMI_RANK"),
)


def copies(environ: Mapping[str, str]) -> str:
    """Return what is wrong when a launcher has started this command several times: each would have a cluster.

    Only the first is to say so; for the others it is `AGAIN`.
    """
    for launcher, size, rank in _LAUNCHERS:
        number = environ.get(size, "")
        if number.isdigit() and int(number) > 1:
            if environ.get(rank, "0") != "0":
                return AGAIN
            return (
                f"{launcher} has started this command {number} times, and each would start engines of its "
                f"own: leave {launcher} out, as in `mpiparallel run script.py`; it starts the engines itself"
            )
    return ""
