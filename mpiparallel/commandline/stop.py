"""``mpiparallel stop``: stop one cluster, or all."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpiparallel import cluster_file as files
from mpiparallel import connection_file
from mpiparallel.cluster import Cluster
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail
from mpiparallel.config import Config

EXAMPLES = """\
  mpiparallel stop                               the default cluster
  mpiparallel stop --profile hpc                 that of a profile
  mpiparallel stop --all                         whatever runs
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(subcommands, "stop", examples=EXAMPLES)
    arguments.add_names(parser)
    parser.add_argument("--all", action="store_true", help="stop all clusters of all profiles")


def run(options: argparse.Namespace, config: Config) -> int:
    """Stop one cluster, or all."""
    if not options.all:
        folder = clusters.folder_of(options, config)
        return exits.DONE if stop(folder) else fail(f"no cluster runs in {folder}", exits.ALREADY_STOPPED)
    stopped = [folder for folder in files.find(config) if stop(folder)]
    return exits.DONE if stopped else fail("no cluster runs", exits.ALREADY_STOPPED)


def stop(folder: Path) -> bool:
    """Stop the cluster of `folder`, and say whether there was one."""
    state = files.judge(folder) if folder.exists() else "stale"
    if state == "running" and (folder / files.NAME).exists():
        Cluster.from_file(folder / files.NAME).stop_cluster_sync()
    elif state in ("running", "elsewhere"):
        _stop_by_message(folder)
    elif not files.is_script_job(folder):
        files.clean(folder, keep_results=True)
    return state != "stale"


def _stop_by_message(folder: Path) -> None:
    """Stop a controller that is not ours to signal: on another host, or started by hand."""
    from mpiparallel.client.client import Client

    with Client(str(folder / connection_file.NAMES["client"])) as client:
        client.shutdown(hub=True, block=True)
