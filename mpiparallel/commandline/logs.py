"""``mpiparallel logs``: show what the parts of a cluster have written, and what they write."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mpiparallel import cluster_file as files
from mpiparallel.commandline import arguments, clusters, exits, jobs
from mpiparallel.commandline.printing import fail
from mpiparallel.config import Config
from mpiparallel.launch.tailing import Tail

EXAMPLES = """\
  mpiparallel logs                               the last lines of each log of the default cluster
  mpiparallel logs -f                            ... and what comes, until Ctrl-C or the cluster's end
  mpiparallel logs --part engines -n 1000        what mpiexec and the engines said
  mpiparallel logs 123                           what the script of job 123 has printed (mpiparallel submit)
  mpiparallel logs -f 123                        ... until the job ends; the exit code is the job's
  mpiparallel logs 123 --part engines            what the engines of job 123 said
"""
LINES = 40  # of each log, unless somebody asks for more
LOOK_EVERY = 0.3  # seconds
JUDGE_EVERY = 2.0  # ... whether the cluster is still there


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(subcommands, "logs", examples=EXAMPLES)
    arguments.add_names(parser)
    parser.add_argument("job", nargs="?", metavar="JOB", help="a batch job, by its number")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument(
        "-n", type=arguments.count, default=None, metavar="N", help="last lines of each (40; of a job: all)"
    )
    parser.add_argument(
        "--part", choices=["script", "controller", "engines"], help="only the log of this part"
    )
    parser.add_argument("--path", action="store_true", help="print where the logs are, and no more")


def run(options: argparse.Namespace, config: Config) -> int:
    """Show logs."""
    if options.job:
        return _of_job(options, config)
    folder = clusters.folder_of(options, config)
    paths = logs_in(folder, options.part)
    if not paths:
        return fail(f"no logs in {folder}; see mpiparallel list", exits.NO_CLUSTER)
    return _show(options, paths, folder)


def _of_job(options: argparse.Namespace, config: Config) -> int:
    found = jobs.find(config, options.job)
    if found is None:
        known = "mpiparallel list shows the jobs of clusters; squeue --me those of Slurm"
        return fail(f"nothing is known of job {options.job} here: {known}", exits.NO_CLUSTER)
    job, folder = found
    if options.part in ("controller", "engines"):
        return _show(options, logs_in(folder, options.part), folder)
    if options.follow and not options.path:
        tail = Tail(job.log)
        if options.n is not None:
            tail.skip_to_last(options.n)
        return jobs.follow(job, tail)
    return _show(options, [job.log], folder)


def logs_in(folder: Path, part: str | None) -> list[Path]:
    """Return the logs of a cluster, or of one part of it."""
    patterns = {
        "controller": ["controller.log", "keeper.log"],
        "engines": ["engines-*.log"],
        "script": [],
        None: ["controller.log", "keeper.log", "engines-*.log"],
    }
    found = [path for pattern in patterns[part] for path in sorted(folder.glob(pattern))]
    if part in ("script", None):
        found = [*jobs.outputs(folder), *found]
    return found


def _show(options: argparse.Namespace, paths: list[Path], folder: Path) -> int:
    if options.path:
        print(*paths, sep="\n")
        return exits.DONE
    tails = [Tail(path) for path in paths]
    for tail in tails:
        if options.n is not None or options.job is None:
            tail.skip_to_last(LINES if options.n is None else options.n)
    shown: Tail | None = None
    judged = time.monotonic()
    while True:
        for tail in tails:
            while text := tail.read():
                if tail is not shown and len(tails) > 1:
                    print(f"{'' if shown is None else chr(10)}==> {tail.path.name} <==")
                shown = tail
                sys.stdout.write(text)
        sys.stdout.flush()
        if not options.follow:
            return exits.DONE
        if time.monotonic() - judged > JUDGE_EVERY:
            if not folder.is_dir() or files.judge(folder) == "stale":
                return exits.DONE
            judged = time.monotonic()
        time.sleep(LOOK_EVERY)
