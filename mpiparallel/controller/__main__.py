"""Start a controller: ``python -m mpiparallel.controller``, or ``mpiparallel controller``."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mpiparallel import batchjob
from mpiparallel.config import SCHEMES, Config
from mpiparallel.controller import restore
from mpiparallel.controller.places import AlreadyRunning, UnsuitableDirectory, claim
from mpiparallel.controller.server import Server
from mpiparallel.error import LaunchError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ALREADY_RUNNING = 10

log = logging.getLogger("mpiparallel.controller")

_EXAMPLES = """\
examples:
  # the controller of the default cluster, for engines and clients on this host
  mpiparallel controller

  # one that engines and clients on other hosts can reach too, on a port that a firewall lets through
  mpiparallel controller --ip '*' --port 5432

  # with its files in a folder of your choice
  mpiparallel controller --directory ~/run1

  # one that ends by itself after an hour without clients and without work
  mpiparallel controller --idle-timeout 3600

  # the same once more after it was killed: engines and clients that are still there come back to it
  mpiparallel controller --directory ~/run1

exit codes: 0 stopped as asked, 1 could not start, 2 wrong usage, 10 a controller runs there already
"""


def make_argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="mpiparallel controller",
        description="Run a controller: the process that clients and engines connect to.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--directory", type=Path, help="where the files go (default: by profile and id)")
    parser.add_argument("--profile", default="default", help="whose folder to use (default: %(default)s)")
    parser.add_argument("--cluster-id", default="", help="tells clusters of one profile apart")
    parser.add_argument(
        "--ip", default="127.0.0.1", help="address to listen on, * for all (default: %(default)s)"
    )
    parser.add_argument("--port", type=_port, default=0, help="port to listen on (default: any free one)")
    parser.add_argument(
        "--lifeline", type=int, metavar="FD", help="end when this file descriptor does: its holder is gone"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="do not go on where a controller that was killed here has ended"
    )
    parser.add_argument(
        "--remove-directory", action="store_true", help="remove the whole directory in the end, logs too"
    )
    parser.add_argument(
        "--keep-results", action="store_true", help="... but for the results of tasks"
    )
    parser.add_argument(
        "--scheme", choices=SCHEMES, help="how engines are chosen for balanced tasks (default: leastload)"
    )
    parser.add_argument(
        "--hwm", type=_whole, metavar="N",
        help="balanced tasks on one engine at a time; 0: any number (default: by how long they take)",
    )  # fmt: skip
    parser.add_argument(
        "--idle-timeout", type=_seconds, metavar="SECONDS",
        help="end after so many seconds without clients and without work, once engines have come (default: "
        "never)",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", default="INFO", type=str.upper, choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="least level of what is logged to stderr (default: %(default)s)",
    )  # fmt: skip
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text}")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a time is not below zero, nor without end, as {text} is")
    return seconds


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"a number of tasks is not below zero, as {text} is")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run a controller until it is told to stop; return the exit code."""
    arguments = make_argument_parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = Config.from_environment()
        config = dataclasses.replace(
            config,
            scheme=arguments.scheme or config.scheme,
            hwm=config.hwm if arguments.hwm is None else arguments.hwm,
            idle_timeout=config.idle_timeout if arguments.idle_timeout is None else arguments.idle_timeout,
        )
        directory = arguments.directory or config.cluster_dir(arguments.profile, arguments.cluster_id)
    except ValueError as error:
        log.error("%s", error)
        return EXIT_USAGE
    try:
        return _run(directory.absolute(), config, arguments)
    except AlreadyRunning as error:
        log.error("%s", error)
        return EXIT_ALREADY_RUNNING
    except (LaunchError, OSError) as error:
        log.error("%s", error)
        return EXIT_USAGE if isinstance(error, UnsuitableDirectory) else EXIT_FAILED


def _run(directory: Path, config: Config, arguments: argparse.Namespace) -> int:
    ip = arguments.ip.strip("[]")
    if ip not in ("*", "") and not ip[0].isdigit() and ":" not in ip:
        try:
            ip = socket.gethostbyname(ip)
        except OSError as error:
            raise LaunchError(f"--ip {arguments.ip}: {error.strerror}") from None
    if arguments.lifeline is not None:
        try:
            os.fstat(arguments.lifeline)
        except OSError as error:
            raise LaunchError(f"--lifeline {arguments.lifeline}: {error.strerror}") from None
    _allow_many_connections()
    earlier = None if arguments.fresh else restore.read(directory)
    claim(directory, remove=arguments.remove_directory, again=earlier is not None)
    server = Server(
        directory,
        config,
        cluster_id=arguments.cluster_id or (earlier.cluster_id if earlier is not None else ""),
        ip=ip or "127.0.0.1",
        port=arguments.port,
        lifeline=arguments.lifeline,
        remove_directory=arguments.remove_directory,
        keep_results=arguments.keep_results,
        earlier=earlier,
    )
    _collect_garbage_rarely()
    with server, _Signals(server) as wakeup:
        server.run(wakeup)
    return EXIT_OK


def _collect_garbage_rarely() -> None:
    """Let Python look for cycles less often.

    What is kept for a task that waits is not garbage, and there are no cycles in it: looking through all of
    it again and again was a quarter of the controller's work with 30,000 tasks waiting.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _allow_many_connections() -> None:
    """Take all the file descriptors that we may: each connection is one, and the usual 1024 are few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Signals:
    """While entered, signals ask `server` to stop, and the loop wakes up for them."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> int:
        self._ours, theirs = socket.socketpair()
        self._theirs = theirs
        self._ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Who started us under nohup, or in the background, wants these to be ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        return self._ours.fileno()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        why = batchjob.why_killed() if number == signal.SIGTERM else ""
        self._server.stop(why or f"signal {signal.Signals(number).name}")

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(-1)
        self._ours.close()
        self._theirs.close()


if __name__ == "__main__":
    sys.exit(main())
