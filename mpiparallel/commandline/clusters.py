"""The cluster that a command line names: its folder, the cluster in it, words that name it again."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel import connection_file, profiles
from mpiparallel.cluster import Cluster
from mpiparallel.commandline import exits
from mpiparallel.commandline.printing import fail, note, say
from mpiparallel.config import Config
from mpiparallel.launch.jobs import Job
from mpiparallel.launch.launched import Launched, attach


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: as good as Ctrl-C."""


def cluster_id(options: argparse.Namespace, config: Config) -> str:
    """Return the id of the cluster that `options` name."""
    return config.cluster_id if options.cluster_id is None else str(options.cluster_id)


def folder_of(options: argparse.Namespace, config: Config) -> Path:
    """Return the folder of the cluster that `options` name."""
    return files.folder_of(config, options.profile, options.profile_dir, cluster_id(options, config))


def found(options: argparse.Namespace, config: Config) -> Path:
    """Return the folder where a client looks that has the same names: without any, also another that runs."""
    from mpiparallel.client import locate

    folder = folder_of(options, config)
    if (folder / files.NAME).exists() and files.judge(folder) != "stale":
        return folder  # it may wait in a queue
    other = locate.cluster_file(config, options.profile, options.profile_dir, options.cluster_id).parent
    if other != folder:
        note(f"this is cluster {files.names(other)[1]}; the default one does not run")
    return other


def no_cluster(options: argparse.Namespace, config: Config) -> int:
    """Say that the cluster does not run, and how to start one; return the exit code for that."""
    folder = folder_of(options, config)
    ended = [job for job in map(attach, files.records(folder)) if isinstance(job, Job) and not job.running]
    if ended:
        job = ended[0]
        trouble = f"{job.name} {job.describe_end()}; what it printed: mpiparallel logs {job.id}"
        return fail(trouble, exits.NO_CLUSTER)
    return fail(f"no cluster runs in {folder}; start one by: {command('start', options)}", exits.NO_CLUSTER)


def running(options: argparse.Namespace, config: Config) -> Cluster | None:
    """Return the cluster that `options` name; None, and say so, when it does not run."""
    folder = folder_of(options, config)
    if (folder / files.NAME).exists() and files.judge(folder) == "running":
        return Cluster.from_file(folder / files.NAME, config=config)
    no_cluster(options, config)
    return None


def is_elsewhere(folder: Path) -> bool:
    """Return whether a cluster is there that another host has started, or somebody by hand."""
    if not (folder / connection_file.NAMES["client"]).exists():
        return False
    state = files.judge(folder)
    return state == "elsewhere" or (state == "running" and not (folder / files.NAME).exists())


def row(folder: Path, state: str) -> dict[str, Any]:
    """Return what is known of the cluster in `folder` without asking it."""
    profile, name = files.names(folder)
    facts: dict[str, Any] = {
        "profile": profile,
        "cluster_id": name,
        "state": state,
        "engines": None,
        "host": "",
        "pid": None,
        "job": "",
    }
    if (folder / files.NAME).exists():
        cluster = Cluster.from_file(folder / files.NAME)
        here = [one for one in cluster.engines.values() if state == "elsewhere" or one.running]
        facts["engines"] = sum(one.n for one in here)
        facts["host"] = cluster.host
        facts["pid"] = cluster.controller.pid if cluster.controller else None
        facts["job"] = "; ".join(dict.fromkeys(filter(None, map(job_of, parts_of(cluster)))))
        if cluster.controller and cluster.controller.process.what_it_waits_for():
            facts["state"] = "waiting"
    return {**facts, "folder": str(folder)}


def parts_of(cluster: Cluster) -> list[Launched]:
    """Return the controller, if there is one, and the engine sets."""
    return [*([cluster.controller] if cluster.controller else []), *cluster.engines.values()]


def job_of(part: Launched) -> str:
    """Return which batch job a part is, and how it does; empty when it is none."""
    process = part.process
    if not isinstance(process, Job):
        return ""
    info = process.info()
    if not process.running:
        return f"{process.id} {process.describe_end()}"
    why = f": {info.reason}" if info.reason not in ("", "None") else ""
    return f"{process.id} {info.state}" + (f" on {info.nodes}" if info.nodes else why)


def expect_jobs(folders: Iterable[Path]) -> None:
    """Have the batch system asked about the jobs of all these clusters at once."""
    for folder in folders:
        for record in files.records(folder):
            attach(record)


def doubt_profile(options: argparse.Namespace, config: Config) -> None:
    """Warn of a profile that has no settings when one of a similar name has: it may be a slip."""
    near = profiles.similar(options.profile, config) if options.profile else ""
    if near:
        unknown = f"the profile {options.profile!r} has no file, so that it is a name only"
        note(f"{unknown}. Did you mean {near!r}?")


def how(options: argparse.Namespace) -> str:
    """Return how a client finds the cluster, in Python."""
    names = {"profile": options.profile, "profile_dir": options.profile_dir, "cluster_id": options.cluster_id}
    return "ipp.Client(" + ", ".join(f"{name}={value!r}" for name, value in names.items() if value) + ")"


def command(name: str, options: argparse.Namespace) -> str:
    """Return the command `name` for the same cluster."""
    words = ["mpiparallel", name]
    for option in ("profile", "profile_dir", "cluster_id"):
        if getattr(options, option):
            words += ["--" + option.replace("_", "-"), getattr(options, option)]
    return " ".join(words)


def wait_for_end(current: Callable[[], Any]) -> int:
    """Wait until a part of a cluster has ended for good, asleep; return the exit code for how it did."""
    part = None
    while part is not current():
        part = current()
        part.ended.wait()
    if part.state == "failed":
        return exits.FAILED  # why has been logged
    say(f"{part.what} has ended")
    return exits.DONE


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Make SIGTERM and SIGHUP interrupt like Ctrl-C."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
