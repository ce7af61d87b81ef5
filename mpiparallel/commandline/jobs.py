"""What subcommands do with a batch job: stay with it, find it, find out whether it can run at all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpiparallel import cluster_file as files
from mpiparallel.commandline import exits
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import allocation, following
from mpiparallel.launch.tailing import Tail

if TYPE_CHECKING:
    from mpiparallel.launch.jobs import Job

SOON = 3.0  # seconds within which a batch system says why a job waits
AGAIN = 2.0  # seconds for a second Ctrl-C, which ends the job


def of_allocation(
    given: Mapping[str, Any], environ: Mapping[str, str], dedicated_bridge: bool = False
) -> dict[str, Any]:
    """Return the settings that the batch job decides in which this program is, if it is in one.

    A profile says how to submit jobs, most of the time, and how large. What was `given` on the command line,
    or by the environment, is as it was said.
    """
    where = allocation.find(environ)
    if where is None:
        return {}
    ours = {"engines": "mpi", "controller": "mpi", "n": max(1, where.ntasks - dedicated_bridge)}
    return {
        key: value
        for key, value in ours.items()
        if given.get(key) is None and not environ.get(f"MPIPARALLEL_{key.upper()}")
    }


def find(config: Config, job: str) -> tuple[Job, Path] | None:
    """Return a job of one of our clusters, and the cluster's folder, by the job's number."""
    from mpiparallel.launch.jobs import Job

    folders = files.find(config)
    # That of a script is called as the job is.
    for folder in sorted(folders, key=lambda folder: files.names(folder)[1] != job):
        for record in files.records(folder):
            if record.get("job") == job:
                return Job.from_dict(record), folder
    return None


def outputs(folder: Path) -> list[Path]:
    """Return what gets the output of the jobs of a cluster, where that is not in its folder."""
    paths = [Path(record["log"]) for record in files.records(folder) if "job" in record]
    return list(dict.fromkeys(path for path in paths if path.parent != folder))


def await_word(job: Job) -> str:
    """Wait, for a few seconds, until it is known what becomes of a job; return why it can never start."""
    deadline = time.monotonic() + SOON
    while True:
        never = job.why_never()
        info = job.info(0.3)
        decided = never or not job.what_it_waits_for() or info.reason not in ("", "None")
        if decided or time.monotonic() > deadline:
            return never
        time.sleep(0.1)


def follow(job: Job, tail: Tail | None = None, hopeless: Callable[[], object] = lambda: None) -> int:
    """Show what a job prints until it has ended; return its exit code.

    Ctrl-C leaves it alone; a second one ends it. `hopeless` is called when it can never start.
    """
    try:
        following.follow(job, tail or Tail(job.log), _show, _tell)
    except LaunchError:
        hopeless()
        raise
    except KeyboardInterrupt:
        return _interrupted(job)
    _tell(f"{job.name} {job.describe_end()}")
    return following.as_exit_code(job.exit_code)


def _interrupted(job: Job) -> int:
    try:
        _tell(f"{job.name} goes on: mpiparallel logs -f {job.id}. Ctrl-C again within {AGAIN:g} s ends it")
        time.sleep(AGAIN)
    except KeyboardInterrupt:
        _tell(f"{job.name} is being cancelled")
        job.stop(0.0)
        _tell(f"{job.name} {job.describe_end()}")
    return exits.INTERRUPTED


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tell(text: str) -> None:
    print(f"mpiparallel: {text}", file=sys.stderr, flush=True)
