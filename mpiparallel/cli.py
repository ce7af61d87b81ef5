"""The ``mpiparallel`` command: its arguments.

What the subcommands do is in `commands`, which is imported when one runs. The exit codes are in `EXAMPLES`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from mpiparallel import __version__

EXAMPLES = """\
examples:
  mpiparallel start -n 4                  a cluster for ipp.Client(), until Ctrl-C
  mpiparallel start -n 4 --daemonize      ... in the background, until `mpiparallel stop`
  mpiparallel engines -n 2                two more engines for it, as a second MPI world
  mpiparallel list                        the clusters that run
  mpiparallel results --status error      tasks that failed, whoever submitted them
  mpiparallel where                       what its engines are doing, and who waits for whom
  mpiparallel run -n 4 script.py          a cluster for one script, gone with it

exit codes:
  0 done   1 failed   2 wrong usage   10 runs already   11 stopped already   12 no such cluster
  130 interrupted
"""

_PASSED_ON = {
    "controller": "run a controller by itself (see mpiparallel controller --help)",
    "engine": "run one engine, or one rank of a world under mpiexec (see mpiparallel engine --help)",
}


def make_argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="mpiparallel",
        description="IPython Parallel's interface on MPI ranks: start and stop clusters.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subcommands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_start(subcommands)
    stop = subcommands.add_parser("stop", help="stop a cluster that was started in the background")
    _add_names(stop)
    stop.add_argument("--all", action="store_true", help="stop all clusters of all profiles")
    listing = subcommands.add_parser("list", help="list the clusters that run")
    listing.add_argument("--profile", help="only this profile's")
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")
    status = subcommands.add_parser("status", help="show one cluster's controller and engines")
    _add_names(status)
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    _add_where(subcommands)
    _add_results(subcommands)
    engines = subcommands.add_parser(
        "engines", help="add engines to a running cluster, as one more MPI world"
    )
    _add_names(engines)
    _add_engines(engines)
    _add_run(subcommands)
    for name, description in _PASSED_ON.items():
        subcommands.add_parser(name, help=description, add_help=False)
    return parser


def _add_start(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    start = subcommands.add_parser("start", help="start a controller and engines")
    _add_names(start)
    _add_engines(start)
    start.add_argument(
        "--ip", default="", help="address to listen on; 0.0.0.0 for clients and engines on other machines"
    )
    start.add_argument("--log-level", default="INFO", help="how much the controller logs (%(default)s)")
    start.add_argument(
        "--restart",
        choices=["same", "fresh"],
        help="start engines that ended unasked again, with the same ids or fresh ones; not with --daemonize",
    )


def _add_where(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    where = subcommands.add_parser(
        "where",
        help="show what engines are doing",
        description="Show for every engine of a running cluster what it is doing: idle, running which line, "
        "blocked in which MPI call and with whom. It does not disturb what runs.",
    )
    _add_names(where)
    where.add_argument(
        "targets", nargs="*", type=_count, metavar="ENGINE", help="only these engines, by id (all)"
    )
    form = where.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, for programs")
    form.add_argument(
        "--watch", type=_seconds, metavar="S", help="show it again every S seconds, until Ctrl-C"
    )


def _add_results(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    results = subcommands.add_parser(
        "results",
        help="list and print results that the controller keeps",
        description="List the newest tasks of a cluster, of all clients, or print what the named ones "
        "returned, raised and printed. Works when the cluster does not run any more, too: results of "
        "one in the background, and of one that was killed, stay until the next start.",
    )
    _add_names(results)
    results.add_argument("msg_ids", nargs="*", metavar="MSG_ID", help="print these")
    results.add_argument("-n", type=_count, default=20, metavar="N", help="how many (%(default)s; 0: all)")
    results.add_argument("--status", choices=["ok", "error", "aborted", "pending"], help="only such tasks")
    results.add_argument("--label", help="only tasks with this label; * and ? stand for anything")
    results.add_argument("--json", action="store_true", help="as JSON, for programs")
    results.add_argument(
        "--remove", action="store_true", help="remove all that a cluster has left which does not run any more"
    )


def _add_run(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = subcommands.add_parser(
        "run",
        help="run a Python script with a cluster of its own",
        description="Start a private cluster, run a Python script which finds it by ipp.Client(), and stop "
        "it. The exit code is the script's.",
    )
    run.add_argument("-n", type=_count, metavar="N", help="number of engines (the number of cores)")
    run.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is a module's name, as in python -m"
    )
    _add_engine_options(run)
    run.add_argument("script", metavar="SCRIPT", help="a Python file")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", help="the cluster's profile (default)")
    parser.add_argument("--profile-dir", help="the profile's folder, instead of its name")
    parser.add_argument("--cluster-id", help="the cluster's id within the profile (none)")


def _add_engines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=_count, metavar="N", help="number of engines (the number of cores)")
    parser.add_argument(
        "--daemonize", action="store_true", help="return when the engines are ready, and leave them running"
    )
    _add_engine_options(parser)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds engines may take (%(default)g)",
    )
    parser.add_argument(
        "--mpi-args",
        action="append",
        default=[],
        metavar="ARG",
        help="an argument for mpiexec; repeat for more",
    )
    parser.add_argument(
        "--engine-args",
        action="append",
        default=[],
        metavar="ARG",
        help="an argument for each engine, as in --engine-args=--raw-mpi; repeat for more",
    )
    parser.add_argument(
        "--dedicated-bridge",
        action="append_const",
        dest="engine_args",
        const="--dedicated-bridge",
        help="start one rank more, which runs no user code: none can delay what is for other engines",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above zero")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _PASSED_ON:
        return _pass_on(words[0], words[1:])
    parser = make_argument_parser()
    options = parser.parse_args(words)
    if options.command == "start" and options.restart and options.daemonize:
        parser.error("--restart needs this command to stay, so that it cannot be used with --daemonize")
    from mpiparallel import commands

    return commands.execute(options)


def _pass_on(command: str, words: list[str]) -> int:
    # By name, so that each loads only what it needs: an engine mpi4py, a controller neither that nor IPython.
    main = importlib.import_module(f"mpiparallel.{command}.__main__").main
    return int(main(words) or 0)


if __name__ == "__main__":
    sys.exit(main())
