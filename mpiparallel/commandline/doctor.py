"""``mpiparallel doctor``: what works here, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from mpiparallel import launchoptions
from mpiparallel.commandline import arguments, exits
from mpiparallel.commandline.printing import say
from mpiparallel.config import Config

if TYPE_CHECKING:
    from mpiparallel.doctor.finding import Context, Finding

EXAMPLES = """\
  mpiparallel doctor                             this machine, and Slurm if it is there
  mpiparallel doctor --profile hpc               ... with the modules, partition, python of a profile
  mpiparallel doctor -p debug                    ... with jobs in another partition
  mpiparallel doctor --host user@login           ... and whether ssh gets there, and what is there
  salloc -n 2 mpiparallel doctor                 inside a job, when no nodes are free at once
  mpiparallel doctor --json > report.json        for a support ticket

It takes a minute at most, and two tasks of the batch system for some of it; it changes nothing.
Its exit code is 1 if something does not work.
"""
DESCRIPTION = """\
Check all that clusters need, and say in plain words what to do where something
is wrong: versions, folders, clusters that run, ssh, the MPI library and mpiexec,
Slurm and its nodes, and whether two ranks meet under each launcher that there is."""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "doctor",
        description=DESCRIPTION,
        usage="mpiparallel doctor [--json] [--profile NAME] [option ...]",
        examples=EXAMPLES,
    )
    parser.add_argument("--profile", help="check with the settings of this profile (default)")
    arguments.add_json(parser)
    arguments.add_engine_options(parser, controller=True)


def run(options: argparse.Namespace, config: Config) -> int:
    """Run all checks."""
    from mpiparallel.doctor import bounded, checks
    from mpiparallel.doctor.finding import Context

    began = time.monotonic()
    profile, problem = options.profile or config.profile, ""
    try:
        settings = arguments.settle(options, config)
    except ValueError as error:
        settings, problem = launchoptions.DEFAULTS, str(error)
    python = settings.python or sys.executable
    context = Context(
        config, settings, dict(os.environ), python, began + checks.TOGETHER,
        profile=profile, given=frozenset(arguments.given(options)), problem=problem,
    )  # fmt: skip
    try:
        found = _print(context, profile, began, json=options.json)
    finally:
        bounded.end_all()
    return exits.FAILED if any(one.status == "fail" for one in found) else exits.DONE


def _print(context: Context, profile: str, began: float, *, json: bool) -> list[Finding]:
    """Run all checks and print what they find, as they find it."""
    from mpiparallel.doctor import checks, report

    if json:
        found = list(checks.examine(context))
        say(report.as_json(found, profile, time.monotonic() - began))
        return found
    found = []
    with report.Printer() as printer:
        printer.print(report.heading(profile))
        for one in checks.examine(context, begins=printer.begins):
            printer.finding(one)
            found.append(one)
        printer.print(report.summary(found))
    return found
