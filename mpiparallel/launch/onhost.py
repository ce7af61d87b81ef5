"""``python -m mpiparallel.launch.onhost``: what `ssh` runs on another host to start a part of a cluster.

One line of JSON on standard input says what; output goes back through ssh. It ends what it has started when
it is told to, and when the connection is gone: nobody would be there to end it later.
"""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

import mpiparallel
from mpiparallel.config import Config
from mpiparallel.connection_file import NAMES, write_private
from mpiparallel.error import LaunchError
from mpiparallel.launch import local
from mpiparallel.launch.processes import Process
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

EXIT_CONFIG = 78
HERE = ".here"  # in the cluster's folder: who sees it shares that folder with who has made it
MARK = "mpiparallel: connection files are in "  # nothing follows when they are where they are wanted
LOOK_EVERY = 0.1  # seconds
GRACE = 5.0


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to start. `connection` is the content of engine.json; `token` that of the file `HERE`."""

    version: str
    kind: str
    directory: str
    options: LaunchOptions
    name: str = ""
    n: int = 0
    first: int = -1
    log: str = ""
    ft: bool = True
    connection: str = ""
    token: str = ""
    profile: str = ""
    cluster_id: str = ""
    log_level: str = "INFO"
    lifeline: bool = False


def main() -> int:
    """Start what is asked for, and stay until it ends; return its exit code."""
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, _stop)
    line = sys.stdin.buffer.readline()
    try:
        order = msgspec.json.decode(line, type=Order)
    except msgspec.MsgspecError as error:
        return _say(f"what this host is asked to start is not understood: {error}. {_VERSIONS}")
    if order.version != mpiparallel.__version__:
        return _say(f"mpiparallel is {mpiparallel.__version__} here, and {order.version} there. {_VERSIONS}")
    aside: Path | None = None
    process = None
    try:
        if order.kind == "world":
            directory, aside = _folder_of_world(order)
            process = _start_world(order, directory)
        else:
            process = _start_controller(order)
        return _stay(process, order.lifeline)
    except (LaunchError, OSError) as error:
        return _say(str(error))
    finally:
        if process is not None:
            process.stop(GRACE)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


_VERSIONS = "Install the same version of mpiparallel on both hosts, or name another Python there (python)"


def _stop(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


def _say(words: str) -> int:
    print(f"mpiparallel on {os.uname().nodename}: {words}", file=sys.stderr, flush=True)
    return EXIT_CONFIG


def _folder_of_world(order: Order) -> tuple[Path, Path | None]:
    """Return the folder with engine.json: the cluster's, if this host sees it, or a new one, twice then."""
    shared = Path(order.directory)
    try:
        if (shared / NAMES["engine"]).read_text() == order.connection:
            return shared, None
    except OSError:
        pass  # it is another host's
    aside = Path(tempfile.mkdtemp(prefix="mpiparallel-"))
    write_private(aside / NAMES["engine"], order.connection.encode())
    return aside, aside


def _start_world(order: Order, directory: Path) -> Process:
    request = WorldRequest(
        directory=directory,
        name=order.name,
        n=order.n,
        first=order.first,
        config=dataclasses.replace(Config.from_environment(), ft=order.ft),
        options=order.options,
        environ=os.environ,
    )
    command, environment = local.world_command(request)
    environment["MPIPARALLEL_LOG"] = order.log  # where the controller may find it
    return Process.start(command, log=None, environ=environment, mpiexec=True)


def _start_controller(order: Order) -> Process:
    shared = Path(order.directory)
    try:
        is_shared = (shared / HERE).read_text() == order.token
    except OSError:
        is_shared = False
    config = Config.from_environment()
    directory = shared if is_shared else config.cluster_dir(order.profile, order.cluster_id)
    request = ControllerRequest(
        directory=directory,
        cluster_id=order.cluster_id,
        config=config,
        options=order.options,
        log_level=order.log_level,
        environ=os.environ,
    )
    environment = {**os.environ, **order.options.environment}
    command = local.controller_command(request)
    process = Process.start(command, log=None, environ=environment, lifeline=True)
    deadline = time.monotonic() + local.CONTROLLER_START
    while process.running and not _written_by(process, directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    print(f"{MARK}{'' if is_shared else directory}", flush=True)
    return process


def _written_by(process: Process, directory: Path) -> bool:
    try:
        return f'"pid": {process.pid},' in (directory / NAMES["client"]).read_text()
    except OSError:
        return False


def _stay(process: Process, lifeline: bool) -> int:
    """Wait for the end of the process, or of those who want it; return its exit code."""
    ends = select.poll()
    ends.register(1, 0)  # an error, or nobody to read
    if lifeline:
        ends.register(0, select.POLLIN)
    while process.running:
        for descriptor, _ in ends.poll(LOOK_EVERY * 1000):
            if descriptor == 1 or not os.read(0, 4096):
                process.close_lifeline()
                process.wait(GRACE)
                return 0
    code = process.exit_code or 0
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
