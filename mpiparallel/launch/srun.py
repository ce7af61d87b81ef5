"""Start worlds of engines with ``srun``, in the allocation of Slurm that this program is in.

The command runs inside ``launchers/srun.sh``, which a site may replace. Where srun does not
speak the PMI of this MPI, `local` has mpiexec start the ranks on the same nodes.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Mapping

from mpiparallel import resources
from mpiparallel.error import LaunchError
from mpiparallel.launch import allocation, argv, local, mpi, pmi
from mpiparallel.launch.allocation import Allocation
from mpiparallel.launch.launched import EngineSet
from mpiparallel.launch.requests import WorldRequest
from mpiparallel.launch.steps import Step
from mpiparallel.launchoptions import LaunchOptions

log = logging.getLogger(__name__)


def start_world(request: WorldRequest) -> EngineSet:
    """Start one world of engines.

    Raises
    ------
    LaunchError
        If this program is in no allocation of Slurm, or the world cannot be started.
    """
    options = request.options
    environ = {**request.environ, **options.environment}
    where = _allocation(environ)
    which = which_mpi(options, environ)
    by = pmi.choose(options, which)
    if not by:
        log.info("srun does not start ranks of %s here: mpiexec starts them in %s", which, where)
        return local.start_world(request)
    return run(request, where, which, by)


def run(request: WorldRequest, where: Allocation, which: argv.MPI, by: str) -> EngineSet:
    """Start one world of engines in an allocation by ``srun --mpi=``\\ `by`."""
    options = request.options
    environ = {**request.environ, **options.environment}
    ranks, engine = request.ranks, request.engine
    script = resources.script("launchers", "srun.sh", request.config)
    step = f"engines-{request.name}"
    arguments = [f"--job-name={step}", *options.srun_args]
    command = [*local.runner(script), *argv.srun_arguments(ranks, engine, where.ntasks, arguments)]
    log.debug("starting %s in %s", command, where)
    environment = argv.world_environment(
        environ, which, n=ranks, cores=where.ntasks, root=os.geteuid() == 0, log=str(request.log)
    )
    environment = allocation.outside_of_step(environment) | {"MPIPARALLEL_SRUN_MPI": by}
    environment["MPIPARALLEL_WARN_BEFORE"] = str(options.warn_before)
    environment.setdefault("MPIPARALLEL_ORPHAN_AFTER", local.ORPHAN_PATIENCE)
    process = Step.start(command, log=request.log, environ=environment)
    process.job, process.step = where.job, step
    return EngineSet(process, request.name, request.n, request.first, what="srun")


def _allocation(environ: Mapping[str, str]) -> Allocation:
    where = allocation.find(environ)
    if where is None or where.system != "slurm":
        raise LaunchError(
            "engines='srun' starts engines in an allocation of Slurm, and this program is in none: run it in "
            "one (salloc -n 4, or sbatch), or use engines='slurm', which submits a job"
        )
    if not shutil.which("srun", path=environ.get("PATH", os.defpath)):
        raise LaunchError(
            f"there is no srun on the PATH, although this program is in {where}: load the module that brings "
            "Slurm's commands, or use engines='mpi'"
        )
    return where


def which_mpi(options: LaunchOptions, environ: Mapping[str, str]) -> argv.MPI:
    """Return the MPI whose ranks are to be started, as its mpiexec says; not needed if `srun_mpi` is set."""
    if options.mpiexec:
        environ = {**environ, "MPIPARALLEL_MPIEXEC": options.mpiexec}
    try:
        return mpi.detect(mpi.find_mpiexec(environ, options.python or sys.executable))
    except LaunchError:
        if options.srun_mpi in ("", "none"):
            raise
        return argv.MPI("mpiexec")
