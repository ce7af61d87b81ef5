"""Start a controller on this machine, and worlds of engines here or all over this program's allocation.

`cluster.Cluster` calls this. Commands come from `launch.argv`, processes are `launch.processes.Process`; the
world's ``mpiexec`` runs inside ``launchers/mpiexec.sh``, which a site may replace.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from mpiparallel import connection_file, resources
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import allocation, argv, mpi
from mpiparallel.launch.allocation import Allocation
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.processes import Process
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

log = logging.getLogger(__name__)

CONTROLLER_START = 30.0  # how long a controller may take to write its connection files
ORPHAN_PATIENCE = "30"  # seconds for engines to wait for one that was killed to be started again


def start_controller(request: ControllerRequest) -> Controller:
    """Start a controller, perhaps again; `await_controller` tells when it is ready."""
    command = controller_command(request)
    log.debug("starting %s", command)
    environ = {**request.environ, **request.options.environment}
    process = Process.start(
        command, log=request.log, environ=environ, lifeline=request.lifeline, append=request.again
    )
    return Controller(process, command)


def controller_command(request: ControllerRequest) -> list[str]:
    """Return the command of a controller on this machine."""
    options = request.options
    return argv.controller_argv(
        sys.executable,
        request.directory,
        cluster_id=request.cluster_id,
        ip=options.controller_ip or default_ip(options, request.environ),
        port=options.controller_port,
        log_level=request.log_level,
        lifeline=request.lifeline,
        idle_timeout=options.idle_timeout,
        extra=options.controller_args,
    )


def default_ip(options: LaunchOptions, environ: Mapping[str, str]) -> str:
    """Return the address that a controller on this machine listens on if it was not told: loopback (empty)
    when all of its engines are going to run here, else every network.
    """
    where = find_allocation(environ)
    elsewhere = options.engines != "mpi" or (where is not None and where.spreads(socket.gethostname()))
    return "*" if elsewhere else ""


def find_allocation(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that this program is in, if it is in one that can be understood."""
    try:
        return allocation.find(environ)
    except ValueError as error:
        log.warning("the variables of the batch system are not understood, and ignored: %s", error)
        return None


def default_n(options: LaunchOptions, environ: Mapping[str, str]) -> int:
    """Return how many engines there are by default: one for each task of the allocation, or core."""
    where = find_allocation(environ) if options.engines in ("mpi", "srun") else None
    if where is None:
        return min(psutil.cpu_count(logical=False) or 1, cores())
    return max(1, where.ntasks - (argv.DEDICATED in options.engine_args))


def controller_ready(directory: Path) -> bool:
    """Return whether the controller of `directory` has written its connection files."""
    return all((directory / name).exists() for name in connection_file.NAMES.values())


def await_controller(
    controller: Controller,
    directory: Path,
    *,
    timeout: float = CONTROLLER_START,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait for the connection files in `directory`, calling `check` meanwhile, which may raise.

    Raises
    ------
    LaunchError
        If the controller ends, or takes longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not controller_ready(directory):
        check()
        if not controller.running:
            raise controller.failure()
        if time.monotonic() > deadline:
            raise LaunchError(
                f"the controller wrote no connection files within {timeout:g} s. "
                f"It said:\n{controller.get_output()}"
            )
        time.sleep(0.01)


def start_world(request: WorldRequest) -> EngineSet:
    """Start one world of engines: here, or over the nodes of the allocation.

    Raises
    ------
    LaunchError
        If there is no mpiexec, or it cannot be run.
    """
    command, environment = world_command(request)
    process = Process.start(command, log=request.log, environ=environment, mpiexec=True)
    return EngineSet(process, request.name, request.n, request.first)


def world_command(request: WorldRequest) -> tuple[list[str], dict[str, str]]:
    """Return the command of a world of engines and its environment.

    Raises
    ------
    LaunchError
        If there is no mpiexec.
    """
    options, config = request.options, request.config
    environ = {**request.environ, **options.environment}
    where = find_allocation(environ)
    if options.mpiexec:
        environ["MPIPARALLEL_MPIEXEC"] = options.mpiexec
    script = resources.script("launchers", "mpiexec.sh", config)
    which = _mpi_for(script, environ, config, options.python or sys.executable)
    ranks, engine = request.ranks, request.engine
    survive = argv.ft_arguments(which, options.mpi_args) if config.ft else []
    spread = where is not None and where.spreads(socket.gethostname())
    environment = argv.world_environment(
        environ,
        which,
        n=ranks,
        cores=where.ntasks if where and spread else cores(),
        root=os.geteuid() == 0,
        log=str(request.log),
    )
    environment["MPIPARALLEL_WARN_BEFORE"] = str(options.warn_before)
    far = argv.host_arguments(which, where.hostfile if where and spread else "", options.mpi_args)
    if far:
        far += argv.passed_arguments(which, environment, list(options.environment))
    mpi_args = [*survive, *far, *options.mpi_args]
    command = [*runner(script), *argv.mpiexec_arguments(ranks, engine, mpi_args)]
    log.debug("starting %s with %s in %s", command, which, where or "no allocation")
    if where is not None and where.system == "slurm":
        # mpiexec starts its helpers by srun, which would wait for those of other worlds to end.
        environment = {"SLURM_OVERLAP": "1", **allocation.outside_of_step(environment)}
    # Its controller is started again at once, or never.
    environment.setdefault("MPIPARALLEL_ORPHAN_AFTER", ORPHAN_PATIENCE)
    return command, environment


def _mpi_for(script: Path, environ: Mapping[str, str], config: Config, python: str) -> argv.MPI:
    try:
        return mpi.detect(mpi.find_mpiexec(environ, python))
    except LaunchError:
        if script.is_relative_to(config.site_dir) and not environ.get("MPIPARALLEL_MPIEXEC"):
            return argv.MPI("mpiexec")  # the site's own script may load the module that brings it
        raise


def runner(script: Path) -> list[str]:
    """Return how to run `script`: by its first line, or by sh when nobody made it executable."""
    return [str(script)] if os.access(script, os.X_OK) else ["/bin/sh", str(script)]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
