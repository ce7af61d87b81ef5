"""What the subcommands of ``mpiparallel`` do; called by `cli.main`.

They return exit codes and print for people. Tables are drawn on a terminal only; elsewhere rows are text.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel.cluster import Cluster
from mpiparallel.config import Config
from mpiparallel.error import IPythonError

FAILED, ALREADY_STARTED, ALREADY_STOPPED, NO_CLUSTER, INTERRUPTED = 1, 10, 11, 12, 130


class _Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: as good as Ctrl-C."""


def execute(options: argparse.Namespace) -> int:
    """Run the subcommand that `options` name and return the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    command = {
        "start": start,
        "stop": stop,
        "list": list_clusters,
        "status": status,
        "where": where,
        "results": results,
        "engines": engines,
        "run": run,
    }[options.command]
    try:
        return command(options, Config.from_environment())
    except files.AlreadyRunning as error:
        return _fail(error, ALREADY_STARTED)
    except (IPythonError, ValueError, FileNotFoundError, TimeoutError) as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def start(options: argparse.Namespace, config: Config) -> int:
    """Start a cluster; stay until Ctrl-C unless it goes to the background."""
    cluster = Cluster(
        n=options.n,
        profile=options.profile,
        profile_dir=options.profile_dir,
        cluster_id=_cluster_id(options, config),
        controller_ip=options.ip,
        log_level=options.log_level,
        mpi_args=options.mpi_args,
        engine_args=options.engine_args,
        engine_timeout=options.engine_timeout,
        restart=options.restart or False,
        shutdown_atexit=not options.daemonize,
        config=config,
    )
    with _signals_interrupt():
        began = time.monotonic()
        cluster.start_and_connect_sync().close()
        took = time.monotonic() - began
        _say(f"{_engines(cluster.n)} ready in {took:.1f} s. Connect by: {_how(options)}")
        if options.daemonize:
            _say(f"Stop them by: {_command('stop', options)}")
            return 0
        try:
            _say("Press Ctrl-C to stop.")
            return _wait_for_end(lambda: cluster.controller)
        except KeyboardInterrupt:
            _say("stopping")
            return 0
        finally:
            cluster.stop_cluster_sync()


def engines(options: argparse.Namespace, config: Config) -> int:
    """Add a world to a running cluster; stay until Ctrl-C unless it goes to the background."""
    cluster = _running(options, config)
    if cluster is None:
        return NO_CLUSTER
    cluster.set_options(
        mpi_args=options.mpi_args, engine_args=options.engine_args, engine_timeout=options.engine_timeout
    )
    with _signals_interrupt(), cluster.connect_client_sync() as client:
        before = len(client.ids)
        name = cluster.start_engines_sync(options.n)
        engine_set = cluster.engines[name]
        try:
            cluster.wait_for_engines_sync(client, before + engine_set.n)
            _say(f"{_engines(engine_set.n)} more; {len(client.ids)} in all")
            if options.daemonize:
                return 0
            _say("Press Ctrl-C to stop them.")
            return _wait_for_end(lambda: engine_set)
        except KeyboardInterrupt:
            _say("stopping")
            cluster.stop_engines_sync(name)
            return 0
        except BaseException:
            cluster.stop_engines_sync(name)
            raise


def stop(options: argparse.Namespace, config: Config) -> int:
    """Stop one cluster, or all."""
    if not options.all:
        folder = _folder(options, config)
        if not _stop(folder):
            return _fail(f"no cluster runs in {folder}", ALREADY_STOPPED)
        return 0
    stopped = [folder for folder in files.find(config) if _stop(folder)]
    return 0 if stopped else _fail("no cluster runs", ALREADY_STOPPED)


def _stop(folder: Path) -> bool:
    """Stop the cluster of `folder`, and say whether there was one."""
    state = files.judge(folder) if folder.exists() else "stale"
    if state == "running" and (folder / files.NAME).exists():
        Cluster.from_file(folder / files.NAME).stop_cluster_sync()
    elif state in ("running", "elsewhere"):
        _stop_by_message(folder)
    else:
        files.clean(folder, keep_results=True)
    return state != "stale"


def _stop_by_message(folder: Path) -> None:
    """Stop a controller that is not ours to signal: on another host, or started by hand."""
    from mpiparallel import connection_file
    from mpiparallel.client.client import Client

    with Client(str(folder / connection_file.NAMES["client"])) as client:
        client.shutdown(hub=True, block=True)


def list_clusters(options: argparse.Namespace, config: Config) -> int:
    """List clusters, and clean up after those that are gone."""
    rows, left = [], []
    for folder in files.find(config, options.profile):
        state = files.judge(folder)
        if state == "stale":
            files.clean(folder, keep_results=_results_are_young(folder, config))
            if files.has_results(folder):
                left.append(folder)
            continue
        rows.append(_row(folder, state))
    if options.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _table(["profile", "cluster_id", "state", "engines", "host", "pid", "folder"], rows)
    else:
        print("no cluster runs")
    for folder in left if not options.json else ():
        profile, cluster_id = files.names(folder)
        words = f"--profile {profile}" + (f" --cluster-id {cluster_id}" if cluster_id else "")
        print(f"results are left, see (or --remove) them by: mpiparallel results {words}")
    return 0


def _results_are_young(folder: Path, config: Config) -> bool:
    try:
        return time.time() - (folder / files.RESULTS).stat().st_mtime < config.results_age
    except FileNotFoundError:
        return False


def _row(folder: Path, state: str) -> dict[str, Any]:
    profile, cluster_id = files.names(folder)
    row: dict[str, Any] = {
        "profile": profile,
        "cluster_id": cluster_id,
        "state": state,
        "engines": None,
        "host": "",
        "pid": None,
    }
    if (folder / files.NAME).exists():
        cluster = Cluster.from_file(folder / files.NAME)
        row["engines"] = sum(one.n for one in cluster.engines.values() if state == "elsewhere" or one.running)
        row["host"] = cluster.host
        row["pid"] = cluster.controller.pid if cluster.controller else None
    return {**row, "folder": str(folder)}


def status(options: argparse.Namespace, config: Config) -> int:
    """Show one cluster's parts."""
    cluster = _running(options, config)
    if cluster is None:
        return NO_CLUSTER
    assert cluster.controller is not None
    rows = [{"part": "controller", "n": 1, "pid": cluster.controller.pid, "state": cluster.controller.state}]
    for name, one in cluster.engines.items():
        rows.append({"part": f"engines {name}", "n": one.n, "pid": one.pid, "state": one.state})
    if options.json:
        print(json.dumps({**_row(cluster.folder, "running"), "parts": rows}, indent=2))
    else:
        _table(["part", "n", "pid", "state"], rows)
    return 0


def results(options: argparse.Namespace, config: Config) -> int:
    """List or print the results that the controller keeps, or has left."""
    from mpiparallel import connection_file
    from mpiparallel.results_command import open_results, show

    folder = _folder(options, config)
    known = (folder / connection_file.NAMES["client"]).exists()
    running = known and files.judge(folder) in ("running", "elsewhere")
    if options.remove:
        if running:
            return _fail(f"a cluster runs in {folder}: use client.purge_hub_results('all')", FAILED)
        if not files.has_results(folder):
            return _fail(f"no results in {folder}", FAILED)
        files.clean(folder)
        return 0
    with open_results(folder, running) as waiting:
        return show(options, waiting)


def where(options: argparse.Namespace, config: Config) -> int:
    """Show what the engines of one cluster are doing, once or again and again."""
    from mpiparallel import connection_file
    from mpiparallel.client.client import Client

    folder = _folder(options, config)
    path = folder / connection_file.NAMES["client"]
    if not path.exists():
        return _fail(f"no cluster runs in {folder}; start one by: {_command('start', options)}", NO_CLUSTER)
    with Client(str(path)) as client:
        try:
            targets = options.targets or None
            while options.watch:
                # The terminal's codes for: go to the upper left corner, clear from there on.
                clear = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
                _say(f"{clear}{time.strftime('%H:%M:%S')}\n{client.where(targets)}\n")
                time.sleep(options.watch)
            found = client.where(targets)
        except IndexError as error:
            return _fail(error, FAILED)
    _say(json.dumps(found.to_builtins(), indent=2) if options.json else str(found))
    return 0


def run(options: argparse.Namespace, config: Config) -> int:
    """Run a script with a cluster of its own, in this very process: so it cannot outlive the script."""
    from mpiparallel.runscript import run_script

    if not options.module and not Path(options.script).is_file():
        return _fail(f"no such file: {options.script}", 2)
    cluster = Cluster(
        n=options.n,
        profile=config.profile,
        cluster_id=f"run-{os.getpid()}-{secrets.token_hex(2)}",
        mpi_args=options.mpi_args,
        engine_args=options.engine_args,
        engine_timeout=options.engine_timeout,
        config=config,
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


# ---------------------------------------------------------------- what they share


def _cluster_id(options: argparse.Namespace, config: Config) -> str:
    return config.cluster_id if options.cluster_id is None else str(options.cluster_id)


def _folder(options: argparse.Namespace, config: Config) -> Path:
    return files.folder_of(config, options.profile, options.profile_dir, _cluster_id(options, config))


def _running(options: argparse.Namespace, config: Config) -> Cluster | None:
    """Return the cluster that `options` name; None, and say so, when it does not run."""
    folder = _folder(options, config)
    if (folder / files.NAME).exists() and files.judge(folder) == "running":
        return Cluster.from_file(folder / files.NAME, config=config)
    _fail(f"no cluster runs in {folder}; start one by: {_command('start', options)}", NO_CLUSTER)
    return None


def _wait_for_end(current: Callable[[], Any]) -> int:
    """Wait until a part of a cluster has ended for good, asleep; return the exit code for how it did."""
    part = None
    while part is not current():
        part = current()
        part.ended.wait()
    if part.state == "failed":
        return FAILED  # why has been logged
    _say(f"{part.what} has ended")
    return 0


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Make SIGTERM and SIGHUP interrupt like Ctrl-C."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise _Interrupted

    before = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _how(options: argparse.Namespace) -> str:
    names = {"profile": options.profile, "profile_dir": options.profile_dir, "cluster_id": options.cluster_id}
    return "ipp.Client(" + ", ".join(f"{name}={value!r}" for name, value in names.items() if value) + ")"


def _command(name: str, options: argparse.Namespace) -> str:
    words = ["mpiparallel", name]
    for option in ("profile", "profile_dir", "cluster_id"):
        if getattr(options, option):
            words += ["--" + option.replace("_", "-"), getattr(options, option)]
    return " ".join(words)


def _engines(n: int | None) -> str:
    return f"{n} engine{'' if n == 1 else 's'}"


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(error: object, code: int) -> int:
    print(f"mpiparallel: {error}", file=sys.stderr)
    return code


def _table(columns: list[str], rows: list[dict[str, Any]]) -> None:
    cells = [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns)
        for row in cells:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]
    for row in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
