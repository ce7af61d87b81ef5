"""``mpiparallel clean``: remove what clusters have left that do not run any more."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel import connection_file
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import print_json, print_table, say
from mpiparallel.config import Config
from mpiparallel.error import IPythonError

EXAMPLES = """\
  mpiparallel clean --dry-run                    what there is
  mpiparallel clean                              end engines without a controller, remove files
  mpiparallel clean --results                    ... and the results that tasks have left
  mpiparallel clean --elsewhere                  ... and clusters of hosts that do not answer any more
"""
PATIENCE = 5.0  # seconds for a controller on another host to answer


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "clean",
        description="Remove what clusters have left that do not run any more: processes of engines whose "
        "controller is gone, logs, connection files. Clusters that run are not touched, and results stay "
        "unless --results says otherwise.",
        examples=EXAMPLES,
    )
    parser.add_argument("--profile", help="only of this profile")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and leave it")
    parser.add_argument("--results", action="store_true", help="the results of tasks, too")
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="clusters of other hosts whose controllers do not answer, too",
    )
    arguments.add_json(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Clean up."""
    rows, unsure = [], []
    for folder in files.find(config, options.profile):
        state = files.judge(folder)
        if state == "running":
            continue
        if state == "elsewhere":
            if not options.elsewhere:
                unsure.append(clusters.row(folder, state))
                continue
            if _answers(folder):
                continue
        row = _what(folder, state, options.results)
        if row["removed"]:
            rows.append(row)
            if not options.dry_run:
                # Numbers of processes mean nothing but on their own host.
                end = files.remove if state == "elsewhere" else files.clean
                end(folder, keep_results=not options.results)
                _remove_empty(folder)
    if options.json:
        print_json(rows)
        return exits.DONE
    if rows:
        print_table(["profile", "cluster_id", "state", "removed", "folder"], rows)
        if options.dry_run:
            say("Nothing was removed (--dry-run).")
    else:
        say("There is nothing to clean.")
    for row in unsure:
        say(
            f"{row['folder']} is of host {row['host'] or '(unknown)'}, and cannot be judged from here: "
            "stop it there, or say --elsewhere"
        )
    return exits.DONE


def _what(folder: Path, state: str, results: bool) -> dict[str, Any]:
    """Return what would be removed, for people."""
    profile, cluster_id = files.names(folder)
    engines = clusters.row(folder, state)["engines"] if state == "lost" else 0
    names = [path.name for path in folder.iterdir()]
    kept = files.has_results(folder) and not results
    parts = []
    if engines:
        parts.append(f"{engines} engines without controller")
    rest = [name for name in names if not (kept and name.startswith(files.RESULTS))]
    if rest or not kept:
        parts.append(f"{len(rest)} files" if len(rest) != 1 else "1 file")
    return {
        "profile": profile,
        "cluster_id": cluster_id,
        "state": state,
        "removed": ", ".join(parts),
        "folder": str(folder),
    }


def _answers(folder: Path) -> bool:
    """Return whether the controller of another host can be reached."""
    from mpiparallel.client.client import Client

    path = folder / connection_file.NAMES["client"]
    if not path.exists():
        return False
    try:
        with Client(str(path), timeout=PATIENCE):
            return True
    except (IPythonError, TimeoutError, OSError):
        return False


def _remove_empty(folder: Path) -> None:
    """Remove the profile's folder when no cluster is left in it."""
    try:
        folder.parent.rmdir()
    except OSError:
        return  # others are there
