"""The subcommands of ``mpiparallel``: a module for each, which is imported when that command is used.

A module has ``add(subcommands)``, which adds the command's parser (by `arguments.new_parser`), and
``run(options, config) -> int``, which does the work and returns one of the codes of `exits`. `cli` finds it
by its line in `COMMANDS`.
"""

from __future__ import annotations

# What each does, in a few words, in the order in which they are shown.
COMMANDS = {
    "start": "start a controller and engines",
    "stop": "stop a cluster that was started in the background",
    "restart": "start engines of a running cluster again",
    "list": "list the clusters that run",
    "status": "show one cluster's controller and engines",
    "where": "show what engines are doing",
    "interrupt": "interrupt what engines run",
    "results": "list and print results that the controller keeps",
    "engines": "add engines to a running cluster, as one more MPI world",
    "run": "run a Python script with a cluster of its own",
    "submit": "submit a Python script as a batch job, with engines of its own",
    "logs": "show what the parts of a cluster, or a job, have written",
    "wait": "wait until a cluster has its engines",
    "profile": "show, write and check named settings",
    "completion": "print what completes this command in bash or zsh",
    "clean": "remove what clusters have left that do not run any more",
    "attach": "reach a cluster on another machine through ssh",
    "doctor": "check this machine, MPI, the batch system and ssh, and say what to do",
}

# Programs with parsers of their own: an engine loads mpi4py, a controller neither that nor IPython.
PROGRAMS = {
    "controller": "run a controller by itself (see mpiparallel controller --help)",
    "engine": "run one engine, or one rank of a world under mpiexec (see mpiparallel engine --help)",
}
