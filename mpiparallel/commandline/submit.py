"""``mpiparallel submit``: a script as a batch job of its own, with a controller and engines."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mpiparallel.commandline import arguments, exits, jobs
from mpiparallel.commandline.printing import fail, n_engines, print_json, say
from mpiparallel.config import Config

if TYPE_CHECKING:
    from mpiparallel.launch.jobs import Job
    from mpiparallel.launch.scriptjob import ScriptRequest

EXAMPLES = """\
  mpiparallel submit script.py -n 64 -t 1:00:00 -p debug
  mpiparallel submit script.py -n 64 --follow            show what it prints; the exit code is its own
  mpiparallel submit -n 64 script.py -- --its options    what follows -- is for the script
  mpiparallel submit script.py -n 64 --print > j.sbatch  see it, change it, sbatch it
  mpiparallel logs -f 123                                what job 123 prints, until it ends
  mpiparallel where --cluster-id 123                     what its engines are doing
  mpiparallel stop --cluster-id 123                      end it
"""


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "submit",
        description="Submit a batch job that starts a controller and engines, waits for these, runs a Python "
        "script which finds them by ipp.Client(), stops them, and ends with the script's exit code.",
        usage="mpiparallel submit -n N [--profile NAME] [option ...] [-m] SCRIPT [-- ARGUMENT ...]",
        examples=EXAMPLES,
    )
    arguments.add_number(parser, default="")
    parser.add_argument("--profile", help="the profile whose settings are used (default)")
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is a module's name, as in python -m"
    )
    parser.add_argument(
        "-o", "--output", default="", metavar="FILE", help="what gets its output; %%j is the job's number "
        "(SCRIPT-%%j.out)",
    )  # fmt: skip
    after = parser.add_mutually_exclusive_group()
    after.add_argument("-f", "--follow", action="store_true", help="stay, and show what it prints")
    after.add_argument("--print", action="store_true", help="submit nothing: print the script of the job")
    after.add_argument("--json", action="store_true", help="say what was submitted as JSON, for programs")
    arguments.add_engine_options(parser)
    parser.add_argument("script", metavar="SCRIPT", help="a Python file")


def run(options: argparse.Namespace, config: Config) -> int:
    """Submit the script; with --follow stay until the job has ended."""
    from mpiparallel.launch import scriptjob

    request = _request(options, config)
    trouble = _check_script(request)
    if trouble:
        return fail(trouble, exits.USAGE)
    if options.print:
        print(scriptjob.text(request), end="")
        return exits.DONE
    job = scriptjob.submit(request)
    _record(request, job)
    if options.json:
        print_json(
            {
                "job": job.id,
                "profile": request.profile,
                "cluster_id": job.id,
                "engines": request.n,
                "output": str(job.log),
                "folder": str(request.folder(job.id)),
            }
        )
    else:
        say(f"{job.name} was submitted: {request.script} with {n_engines(request.n)}; it prints to {job.log}")
    never = jobs.await_word(job)
    if never:
        job.stop(0.0)
        return fail(f"{never}. It was cancelled", exits.FAILED)
    if options.follow:
        return jobs.follow(job, hopeless=lambda: job.stop(0.0))
    if not options.json:
        waits = job.what_it_waits_for()
        say((f"{waits}\n" if waits else "") + _hints(request, job))
    return exits.DONE


def _request(options: argparse.Namespace, config: Config) -> ScriptRequest:
    from mpiparallel.launch.scriptjob import ScriptRequest

    launch = arguments.settle(options, config)
    n = launch.n
    if n is None and launch.nodes and launch.ntasks_per_node:
        n = launch.nodes * launch.ntasks_per_node
    n = n or options.parser.error("say how many engines the job is to have: -n 64")
    return ScriptRequest(
        script=options.script,
        arguments=options.rest,
        module=options.module,
        n=n,
        profile=options.profile or config.profile,
        output=options.output,
        config=config,
        options=launch,
        environ=os.environ,
    )


def _check_script(request: ScriptRequest) -> str:
    """Return what is wrong with the script, as far as that can be seen before hours in a queue."""
    if request.module:
        return ""
    path = Path(request.script)
    if not path.is_file():
        return f"no such file: {path}"
    if request.options.python:
        return ""  # it may understand another Python than this one
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        at = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"{path}{at}: {getattr(error, 'msg', error)}; nothing was submitted"
    return ""


def _record(request: ScriptRequest, job: Job) -> None:
    """Write the cluster file, by which the other commands find the job."""
    from mpiparallel.cluster import Cluster
    from mpiparallel.launch.launched import Controller, EngineSet
    from mpiparallel.launch.scriptjob import ENGINE_SET

    cluster = Cluster(
        n=request.n, profile=request.profile, cluster_id=job.id, shutdown_atexit=False, config=request.config
    )
    cluster.options = request.options
    cluster.controller = Controller(job)
    cluster.engines[ENGINE_SET] = EngineSet(job, ENGINE_SET, request.n)
    cluster.write_cluster_file()


def _hints(request: ScriptRequest, job: Job) -> str:
    profile = f"--profile {request.profile} " if request.profile != "default" else ""
    return (
        f"See what it prints: mpiparallel logs -f {job.id}\n"
        f"See what its engines do: mpiparallel where {profile}--cluster-id {job.id}\n"
        f"End it: mpiparallel stop {profile}--cluster-id {job.id}"
    )
