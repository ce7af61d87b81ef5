"""What the parsers of several subcommands share."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import msgspec

from mpiparallel import launchoptions, profiles
from mpiparallel.commandline import COMMANDS
from mpiparallel.config import Config
from mpiparallel.launch.argv import DEDICATED
from mpiparallel.launchoptions import LaunchOptions

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


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add engines by their ids."""
    parser.add_argument(
        "targets", nargs="*", type=count, metavar="ENGINE", help="only these engines, by id (all)"
    )


def add_json(parser: Any) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def add_engines(parser: argparse.ArgumentParser, *, controller: bool = False) -> None:
    """Add what a command needs that starts engines and may leave them running."""
    add_number(parser)
    parser.add_argument(
        "--daemonize", action="store_true", help="return when the engines are ready, and leave them running"
    )
    add_engine_options(parser, controller=controller)


def add_number(parser: Any, default: str = " (the number of cores)") -> None:
    """Add ``-n``."""
    parser.add_argument("-n", type=count, metavar="N", help=f"number of engines{default}")


# How settings are given here, by those who look for them first; all others by --set.
_SETTINGS: dict[str, tuple[list[str], str, str]] = {
    "engines": (["--engines"], "LAUNCHER", "what starts them: %(choices)s (mpi)"),
    "controller": (["--controller"], "LAUNCHER", "what starts the controller: one of these, too (mpi)"),
    "partition": (["-p", "--partition"], "NAME", "the job's partition or queue"),
    "time": (["-t", "--time"], "TIME", "its time limit: MM, HH:MM:SS or D-HH:MM:SS"),
    "account": (["-A", "--account"], "NAME", "who pays"),
    "qos": (["-q", "--qos"], "NAME", "its quality of service"),
    "nodes": (["-N", "--nodes"], "N", "number of nodes"),
    "ntasks_per_node": (["--ntasks-per-node"], "N", "engines on each node"),
    "cpus_per_task": (["-c", "--cpus-per-task"], "N", "cores for each engine"),
    "mem": (["--mem"], "SIZE", "memory of each node"),
    "gres": (["--gres"], "LIST", "other resources, as in gpu:2"),
    "host": (["--host"], "[USER@]HOST", "where ssh starts them"),
    "mpi_args": (["--mpi-args"], "ARG", "an argument for mpiexec; repeat for more"),
    "batch_args": (["--batch-args"], "ARG", "an argument for sbatch, qsub or bsub; repeat for more"),
    "engine_args": (
        ["--engine-args"],
        "ARG",
        "an argument for each engine, as in --engine-args=--raw-mpi; repeat for more",
    ),
    "engine_timeout": (["--engine-timeout"], "S", "seconds engines may take (60)"),
    "queue_timeout": (["--queue-timeout"], "S", "seconds their job may wait in the queue (a day)"),
    "idle_timeout": (["--idle-timeout"], "S", "end after so many seconds without work and clients (never)"),
    "controller_ip": (
        ["--ip"],
        "ADDRESS",
        "address to listen on; 0.0.0.0 for clients and engines on other machines",
    ),
}
_OF_CONTROLLERS = ("controller", "controller_ip", "idle_timeout")


def add_engine_options(parser: argparse.ArgumentParser, *, controller: bool = False) -> None:
    """Add how engines are started, and with `controller` how that is; `given` collects what was said.

    Nothing of it has a default here: what is not given is looked for in the environment and the profile.
    """
    group = parser.add_argument_group(
        "how they are started",
        "What is not given comes from the environment (MPIPARALLEL_<SETTING>) or from the profile.",
    )
    for key, (flags, metavar, meaning) in _SETTINGS.items():
        if controller or key not in _OF_CONTROLLERS:
            group.add_argument(*flags, dest=key, metavar=metavar, help=meaning, **_kind(key))
    group.add_argument(
        "--dedicated-bridge",
        action="store_true",
        help="start one rank more, which runs no user code: none can delay what is for other engines",
    )
    group.add_argument(
        "--set",
        action="append",
        type=_key_and_value,
        default=[],
        metavar="KEY=VALUE",
        help="any setting, as in --set modules='openmpi python' or --set environment.OMP_NUM_THREADS=1; "
        "mpiparallel profile show --all lists them; repeat for more",
    )


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given, -n among them."""
    keys = ["n", *_SETTINGS]
    found = {key: value for key in keys if (value := getattr(options, key, None)) is not None}
    more: dict[str, Any] = {}
    for key, value in options.set:
        if key == "environment":
            more[key] = {**more.get(key, {}), **value}
        elif isinstance(value, list):
            more[key] = more.get(key, []) + value
        else:
            more[key] = value
    return {**more, **found}


def settle(options: argparse.Namespace, config: Config) -> LaunchOptions:
    """Return all settings: of the command line, the environment and the profile that `options` name.

    This is for what makes no `Cluster`, which does it by itself.
    """
    name = getattr(options, "profile", None) or config.profile
    found = profiles.settle(given(options), name, config, os.environ)
    if options.dedicated_bridge and DEDICATED not in found.engine_args:
        found = msgspec.structs.replace(found, engine_args=[*found.engine_args, DEDICATED])
    return found


def _kind(key: str) -> dict[str, Any]:
    """Return what argparse needs to know of a setting."""
    if launchoptions.TYPES[key] == list[str]:
        return {"action": "append"}
    if key in ("engines", "controller"):
        return {"choices": launchoptions.LAUNCHERS}

    def value(text: str) -> Any:
        try:
            return launchoptions.parse(key, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return {"type": value}


def _key_and_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    key, _, variable = name.partition(".")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        if key == "environment" and variable:
            return key, launchoptions.check_one(key, {variable: value})
        return name, launchoptions.parse(name, value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
