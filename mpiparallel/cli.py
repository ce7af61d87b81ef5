"""The ``mpiparallel`` command: its parser, and what is the same for all subcommands.

Each subcommand is a module of `commandline`, imported when it is used; the exit codes are in
`commandline.exits`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from mpiparallel import __version__
from mpiparallel.commandline import COMMANDS, PROGRAMS, exits

EXAMPLES = """\
examples:
  mpiparallel start -n 4                  a cluster for ipp.Client(), until Ctrl-C
  mpiparallel start -n 4 --daemonize      ... in the background, until `mpiparallel stop`
  mpiparallel engines -n 2                two more engines for it, as a second MPI world
  mpiparallel list                        the clusters that run
  mpiparallel results --status error      tasks that failed, whoever submitted them
  mpiparallel where                       what its engines are doing, and who waits for whom
  mpiparallel run -n 4 script.py          a cluster for one script, gone with it
  mpiparallel doctor                      what works here, what does not, and what to do
  mpiparallel COMMAND --help              more about one command, with examples
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with room for the names of all commands beside what they do."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options)
        # argparse forgets that these are indented.
        self._action_max_length = max(map(len, [*COMMANDS, *PROGRAMS])) + 4


def make_argument_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command; or one that knows no more than the names of the others.

    The latter imports just what the subcommand `only` needs: nothing if that is empty.
    """
    parser = argparse.ArgumentParser(
        prog="mpiparallel",
        description="IPython Parallel's interface on MPI ranks: start and stop clusters.",
        epilog=f"{EXAMPLES}\n{exits.TEXT}",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subcommands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, description in COMMANDS.items():
        if only is None or name == only:
            module_of(name).add(subcommands)
        else:
            subcommands.add_parser(name, help=description, add_help=False)
    for name, description in PROGRAMS.items():
        subcommands.add_parser(name, help=description, add_help=False)
    return parser


def module_of(command: str) -> ModuleType:
    """Return the module of a subcommand."""
    return importlib.import_module(f"mpiparallel.commandline.{command}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        return _main(argv)
    except KeyboardInterrupt:  # before the command itself began, or when it had ended
        return exits.INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    # The main command's own options print something and end: what follows them does not matter.
    first = words[0] if words else ""
    if first in PROGRAMS:
        main = importlib.import_module(f"mpiparallel.{first}.__main__").main
        return int(main(words[1:]) or 0)
    rest: list[str] = []
    if first == "submit" and "--" in words:
        # argparse cannot tell apart what comes before and after options.
        at = words.index("--")
        words, rest = words[:at], words[at + 1 :]
    options = make_argument_parser(first if first in COMMANDS else "").parse_args(words)
    options.rest = rest
    return execute(options)


def execute(options: argparse.Namespace) -> int:
    """Run the subcommand that `options` name and return the exit code."""
    from mpiparallel.cluster_file import AlreadyRunning
    from mpiparallel.commandline.printing import fail
    from mpiparallel.config import Config
    from mpiparallel.error import IPythonError

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        code = int(module_of(options.command).run(options, Config.from_environment()))
        sys.stdout.flush()
        return code
    except AlreadyRunning as error:
        return fail(error, exits.ALREADY_STARTED)
    except BrokenPipeError:
        # Who reads what we say has seen enough. Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except (IPythonError, ValueError, OSError) as error:
        return fail(error, exits.FAILED)
    except KeyboardInterrupt:
        return exits.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
