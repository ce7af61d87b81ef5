"""The cluster that a command line names: its folder, the cluster in it, words that name it again."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel.cluster import Cluster
from mpiparallel.commandline import exits
from mpiparallel.commandline.printing import fail, say
from mpiparallel.config import Config


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: as good as Ctrl-C."""


def cluster_id(options: argparse.Namespace, config: Config) -> str:
    """Return the id of the cluster that `options` name."""
    return config.cluster_id if options.cluster_id is None else str(options.cluster_id)


def folder_of(options: argparse.Namespace, config: Config) -> Path:
    """Return the folder of the cluster that `options` name."""
    return files.folder_of(config, options.profile, options.profile_dir, cluster_id(options, config))


def no_cluster(options: argparse.Namespace, config: Config) -> int:
    """Say that the cluster does not run, and how to start one; return the exit code for that."""
    folder = folder_of(options, config)
    return fail(f"no cluster runs in {folder}; start one by: {command('start', options)}", exits.NO_CLUSTER)


def running(options: argparse.Namespace, config: Config) -> Cluster | None:
    """Return the cluster that `options` name; None, and say so, when it does not run."""
    folder = folder_of(options, config)
    if (folder / files.NAME).exists() and files.judge(folder) == "running":
        return Cluster.from_file(folder / files.NAME, config=config)
    no_cluster(options, config)
    return None


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
    }
    if (folder / files.NAME).exists():
        cluster = Cluster.from_file(folder / files.NAME)
        here = [one for one in cluster.engines.values() if state == "elsewhere" or one.running]
        facts["engines"] = sum(one.n for one in here)
        facts["host"] = cluster.host
        facts["pid"] = cluster.controller.pid if cluster.controller else None
    return {**facts, "folder": str(folder)}


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
