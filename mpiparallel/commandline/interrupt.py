"""``mpiparallel interrupt``: interrupt what engines run, whoever has sent it."""

from __future__ import annotations

import argparse
import signal
import time
from typing import TYPE_CHECKING, Any

from mpiparallel import connection_file
from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail, print_json, say
from mpiparallel.config import Config
from mpiparallel.ranges import engines as engines_text

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

EXAMPLES = """\
  mpiparallel interrupt                          as Ctrl-C at a prompt, on all engines
  mpiparallel interrupt 0 3                      on two of them
  mpiparallel interrupt --signal KILL 3          when nothing else helps: this ends engine 3
"""
PATIENCE = 3.0  # seconds for what was interrupted to end
LOOK_EVERY = 0.1


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "interrupt",
        description="Raise KeyboardInterrupt in what engines run, in Python code and in MPI calls. Engines "
        "that are idle do not notice. The exit code is 1 when something goes on all the same.",
        examples=EXAMPLES,
    )
    arguments.add_names(parser)
    arguments.add_targets(parser)
    parser.add_argument(
        "--signal", type=_signal, default="INT", metavar="NAME", help="another signal (%(default)s)"
    )
    arguments.add_json(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Interrupt engines."""
    from mpiparallel.client.client import Client

    path = clusters.folder_of(options, config) / connection_file.NAMES["client"]
    if not path.exists():
        return clusters.no_cluster(options, config)
    with Client(str(path)) as client:
        try:
            targets = options.targets or client.ids
            before = _requests(client, targets) if targets else {}
            if targets:
                client.send_signal(options.signal, targets, block=True)
        except IndexError as error:
            return fail(error, exits.FAILED)
        left = _await_ends(client, before)
    ended = [engine for engine in before if engine not in left]
    if options.json:
        print_json({"ended": ended, "running": sorted(left)})
    elif not before:
        say("No engine was running anything.")
    else:
        if ended:
            say(f"{engines_text(ended)}: interrupted")
        if left:
            say(f"{engines_text(sorted(left))}: still running; see mpiparallel where, or try --signal KILL")
    return exits.FAILED if left else exits.DONE


def _requests(client: Client, targets: Any) -> dict[int, str]:
    """Return what runs on each of the engines that are not idle."""
    return {
        place.engine: place.request for place in client.where(targets) if place.state not in ("idle", "gone")
    }


def _await_ends(client: Client, before: dict[int, str]) -> set[int]:
    """Wait a moment; return the engines that still run what they did."""
    deadline = time.monotonic() + PATIENCE
    while True:
        known = [engine for engine in before if engine in client.ids]
        now = _requests(client, known) if known else {}
        left = {engine for engine in known if now.get(engine) == before[engine]}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(LOOK_EVERY)


def _signal(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    if text.isdigit() and 0 < int(text) <= 64:
        return int(text)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise argparse.ArgumentTypeError(f"no signal is called {text!r}") from None
