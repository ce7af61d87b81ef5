"""``mpiexec -n N python -m mpiparallel.engine``: one rank of a world of engines."""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpiparallel import batchjob, connection_file, peek
from mpiparallel.config import Config
from mpiparallel.connection_file import NAMES
from mpiparallel.engine.jobtime import clock
from mpiparallel.error import ConnectionFileError, ConnectionRefused

if TYPE_CHECKING:
    from mpiparallel.engine.bridge import Line
    from mpiparallel.engine.courier import Courier
    from mpiparallel.engine.guard import Guard
    from mpiparallel.engine.world import World

SEEN_WITHIN = 5.0  # seconds for a connection file that has been written to be there on a shared file system
FINALIZED = 30  # seconds that the end of MPI and of Python may take


def make_argument_parser() -> argparse.ArgumentParser:
    """Return the parser of ``mpiparallel engine``."""
    parser = argparse.ArgumentParser(
        prog="mpiparallel engine",
        description="Run one engine; under mpiexec, one world of them.",
        epilog="examples:\n  mpiexec -n 4 python -m mpiparallel.engine\n"
        "  mpiexec -n 64 python -m mpiparallel.engine --connection-file ~/shared/engine.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connection-file", type=Path, help="the controller's engine.json")
    parser.add_argument("--profile", help="profile of the cluster to join (default: default)")
    parser.add_argument("--cluster-id", help="id of the cluster to join (default: the profile's own)")
    parser.add_argument("--engine-set", default="", help="a name for this world, as Cluster uses it")
    parser.add_argument(
        "--first-id",
        type=int,
        default=-1,
        metavar="ID",
        help="the id that rank 0 should have, if it and those that follow are free (default: the next)",
    )
    parser.add_argument(
        "--raw-mpi",
        action="store_true",
        help="leave MPI as mpi4py has it: calls that block cannot be interrupted, nor told about",
    )
    parser.add_argument(
        "--dedicated-bridge",
        action="store_true",
        help="let the first rank pass messages on and run no user code: there is one engine less than ranks",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds to wait for the connection file, then for the controller",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run this rank's engine until its world ends; return the exit code."""
    options = make_argument_parser().parse_args(argv)
    faulthandler.enable()
    # The terminal's Ctrl-C is for the program that the user looks at; an engine's client interrupts it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if batchjob.from_environment() is not None:
        clock.listen()
    config = Config.from_environment()

    from mpiparallel.engine import size
    from mpiparallel.engine.world import join_world, users_comm

    if _has_wrong_size(options):
        return size.EXIT
    world = join_world(options.dedicated_bridge)
    guard, users = None, users_comm(world)
    if users is not None and not options.raw_mpi:
        from mpiparallel.engine.guard import install

        guard = install(users)
    elif users is not None:
        from mpi4py import MPI

        setattr(MPI, "COMM_WORLD", users)  # noqa: B010 (a name that nobody else may change)
    try:
        courier, engine_id, trouble = _register(world, options, config, guard)
    except BaseException:
        # A rank has died, most likely. The others might wait for us for ever, and MPI_Finalize for the dead.
        reason = f"mpiparallel: {world.who} could not start: {traceback.format_exc()}"
        print(reason, file=sys.stderr, flush=True)
        world.everyone.Abort(70)
        raise
    if courier is None:
        if world.rank == 0:
            print(f"mpiparallel engine: {trouble}", file=sys.stderr, flush=True)
        return 1
    if world.is_engine:
        _serve(courier, engine_id, config, guard)
    else:
        _serve_alone(courier, engine_id, config)
    if not courier.can_finalize:
        # Ranks have died, and MPI_Finalize would wait for them.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    end_within(FINALIZED)
    return 0


def _has_wrong_size(options: argparse.Namespace) -> bool:
    """Whether this world is not what was asked for; one process says so."""
    from mpi4py import MPI

    from mpiparallel.engine import size
    from mpiparallel.engine.world import library

    everyone = MPI.COMM_WORLD
    named, dedicated = bool(options.engine_set), options.dedicated_bridge
    wrong = size.trouble(everyone.size, library(), os.environ, named=named, dedicated=dedicated)
    if wrong and everyone.rank == 0 and (wait := size.silence(os.environ)) is not None:
        time.sleep(wait)
        print(f"mpiparallel engine: {wrong}", file=sys.stderr, flush=True)
    os.environ.pop(size.EXPECTED, None)  # what user code starts is another world
    return bool(wrong)


def end_within(seconds: int) -> None:
    """Let this process live no longer: MPI_Finalize waits for ever when a rank dies while others are in it.

    The kernel keeps the time, as Python has ended by then.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def _register(
    world: World, options: argparse.Namespace, config: Config, guard: Guard | None
) -> tuple[Courier | None, int, str]:
    """Meet the controller; return the courier and this rank's engine id, or the trouble. Collective."""
    from mpiparallel.engine.courier import Courier

    line, engines, trouble = None, [], ""
    if world.rank == 0:
        line, trouble = _line(options, config)
    line, trouble = world.mail.bcast((line, trouble))
    if line is None:
        return None, -1, trouble
    courier = Courier(world, line, config, guard)
    if world.rank == 0:
        try:
            engines = courier.register().engines
        except ConnectionRefused as error:
            trouble = str(error)
    engines, trouble, world.name = world.mail.bcast((engines, trouble, world.name))
    return (None, -1, trouble) if trouble else (courier, engines[0] + world.place, "")


def _line(options: argparse.Namespace, config: Config) -> tuple[Line | None, str]:
    """Return how to reach the controller, or what the trouble is."""
    from mpiparallel.engine.bridge import Line

    try:
        path = _connection_path(options, config)
        job = batchjob.from_environment()
        timeout = options.timeout
        if options.engine_set:
            # A Cluster starts engines when the file is there, but another host may see it a little later.
            timeout = min(SEEN_WITHIN, timeout) if job is not None else 0.0
        info = _wait_for(path, timeout, started=bool(options.engine_set))
        script = Path(os.environ.get("MPIPARALLEL_SCRIPT", ""))
        if options.engine_set and script.parent == path.parent and not _is_there(script, timeout):
            raise ConnectionFileError(f"the cluster has ended; that of {path} came after it")
    except (ConnectionFileError, ValueError) as error:
        return None, str(error)
    return Line(info, path, config, options.timeout, options.engine_set, options.first_id, job), ""


def _serve(courier: Courier, engine_id: int, config: Config, guard: Guard | None) -> None:
    """Be an engine until the world ends. An error that is not user code's ends the process, with reason."""
    from mpiparallel.engine import asking, current, datapub, evidence
    from mpiparallel.engine.executor import Executor
    from mpiparallel.engine.output import OutputCapture
    from mpiparallel.engine.watcher import Watcher

    sys.setswitchinterval(0.001)  # the courier must get its turn while user code computes
    sys.stdin = open(os.devnull)  # noqa: SIM115 (it stays for the life of the process)
    asking.refuse()
    output = OutputCapture(engine_id, courier.post, config.output_window)
    output.install()
    datapub.output = output
    faulthandler.enable(file=output.log)
    peek.offer()
    rank = courier.world.place
    executor = Executor(engine_id, rank, output, courier.post, guard)
    courier.equip(executor, output, Watcher(rank, engine_id, executor, guard, courier.post))
    current.install(courier.current)
    evidence.install(rank, output.log, config.log, courier.world.survives)
    if guard is not None:
        guard.disregard(courier)
    courier.start()
    try:
        courier.serve()
        courier.join()
    except BaseException:
        courier.die(traceback.format_exc())
    output.restore()


def _serve_alone(courier: Courier, engine_id: int, config: Config) -> None:
    """Be the bridge alone until the world ends. What an engine has for user code is there, without use."""
    from mpiparallel.engine.executor import Executor
    from mpiparallel.engine.output import OutputCapture
    from mpiparallel.engine.watcher import Watcher

    peek.offer()
    rank = courier.world.place
    output = OutputCapture(engine_id, courier.post, config.output_window)  # ours goes where mpiexec's does
    executor = Executor(engine_id, rank, output, courier.post)
    courier.equip(executor, output, Watcher(rank, engine_id, executor, None, courier.post))
    try:
        courier.serve()
        courier.start()  # no thread was needed before: nothing here keeps the main thread
        courier.join()
    except BaseException:
        courier.die(traceback.format_exc())


def _connection_path(options: argparse.Namespace, config: Config) -> Path:
    if options.connection_file is not None:
        return Path(options.connection_file)
    profile = options.profile or config.profile
    return (
        config.cluster_dir(profile, config.cluster_id if options.cluster_id is None else options.cluster_id)
        / (NAMES["engine"])
    )


def _wait_for(path: Path, timeout: float, started: bool) -> connection_file.ConnectionInfo:
    """Read the connection file, waiting for it to appear."""
    if not _is_there(path, timeout):
        remedy = (
            "the cluster has ended, or this host does not see that folder: it has to be on a file system "
            "that all hosts share (set MPIPARALLEL_STATE to such a one)"
            if started
            else "start a controller first (mpiparallel controller, or mpiparallel start)"
        )
        raise ConnectionFileError(
            f"no connection file {path} on {socket.gethostname()} after {timeout:.0f} s: {remedy}"
        )
    return connection_file.read(path)


def _is_there(path: Path, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    sys.exit(main())
