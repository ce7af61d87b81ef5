"""What the parsers of several subcommands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mpiparallel.commandline import COMMANDS

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def new_parser(
    subcommands: Subcommands, name: str, *, description: str = "", examples: str = "", **more: Any
) -> argparse.ArgumentParser:
    """Return the parser of one subcommand; its options will have it as ``parser``, to complain by."""
    parser = subcommands.add_parser(
        name,
        help=COMMANDS[name],
        description=description or COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    parser.set_defaults(parser=parser)
    return parser


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add what names a cluster."""
    parser.add_argument("--profile", help="the cluster's profile (default)")
    parser.add_argument("--profile-dir", help="the profile's folder, instead of its name")
    parser.add_argument("--cluster-id", help="the cluster's id within the profile (none)")


def add_json(parser: Any) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Add what a command needs that starts engines and may leave them running."""
    add_number(parser)
    parser.add_argument(
        "--daemonize", action="store_true", help="return when the engines are ready, and leave them running"
    )
    add_engine_options(parser)


def add_number(parser: argparse.ArgumentParser) -> None:
    """Add ``-n``."""
    parser.add_argument("-n", type=count, metavar="N", help="number of engines (the number of cores)")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add how engines are started."""
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


def seconds(text: str) -> float:
    """Return a number of seconds above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above zero")
    return value


def count(text: str) -> int:
    """Return a whole number that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value
