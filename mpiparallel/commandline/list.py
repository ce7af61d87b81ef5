"""``mpiparallel list``: list the clusters that run, and clean up after those that are gone."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpiparallel import cluster_file as files
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import print_json, print_table
from mpiparallel.config import Config

COLUMNS = ["profile", "cluster_id", "state", "engines", "host", "pid", "job", "folder"]
SHOWN = 10  # jobs that have ended
EXAMPLES = """\
  mpiparallel list                               all of yours
  mpiparallel list --profile hpc                 those of one profile
  mpiparallel list --json                        [{"profile": ..., "cluster_id": ..., "state": ...}, ...]
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(subcommands, "list", examples=EXAMPLES)
    parser.add_argument("--profile", help="only this profile's")
    arguments.add_json(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """List clusters."""
    rows, left, ended = [], [], []
    folders = files.find(config, options.profile)
    clusters.expect_jobs(folders)
    for folder in folders:
        state = files.judge(folder)
        if state == "stale" and files.is_script_job(folder) and _is_young(folder, config):
            ended.append(files.names(folder)[1])
            continue
        if state == "stale":
            files.clean(folder, keep_results=_results_are_young(folder, config))
            if files.has_results(folder):
                left.append(folder)
            continue
        rows.append(clusters.row(folder, state))
    if options.json:
        print_json(rows)
        return exits.DONE
    if rows:
        print_table(COLUMNS, rows)
    else:
        print("no cluster runs")
    if ended:
        print(f"jobs that have ended: {', '.join(ended[-SHOWN:])}; what they printed: mpiparallel logs JOB")
    for folder in left:
        profile, cluster_id = files.names(folder)
        words = f"--profile {profile}" + (f" --cluster-id {cluster_id}" if cluster_id else "")
        print(f"results are left, see (or --remove) them by: mpiparallel results {words}")
    return exits.DONE


def _results_are_young(folder: Path, config: Config) -> bool:
    return _is_young(folder / files.RESULTS, config)


def _is_young(path: Path, config: Config) -> bool:
    try:
        return time.time() - path.stat().st_mtime < config.results_age
    except FileNotFoundError:
        return False
