"""Write the scripts of batch jobs and submit them: the same for all batch systems.

The template of a script is the site's or ours; what was submitted is kept beside the log.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from mpiparallel import connection_file, resources
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import argv, batch, local, mpi, pmi, templates
from mpiparallel.launch.batch import System
from mpiparallel.launch.jobs import Job
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

log = logging.getLogger(__name__)

_HOSTS = "HOSTS-OF-THE-JOB"  # stands for a variable that only the job has
PASSED_ON = (
    "nodes", "cpus_per_task", "time", "partition", "account", "qos", "reservation", "constraint", "gres",
    "mem", "warn_before",
)  # fmt: skip


def start_world(system: System, request: WorldRequest) -> EngineSet:
    """Submit a job that is one world of engines.

    Raises
    ------
    LaunchError
        If the batch system refuses it, or the template is wrong.
    """
    options = request.options
    name = f"engines-{request.name}"
    values = world_values(system, request, request.directory / f"{name}.{system.suffix}")
    values |= job_values(system, options, request.ranks, request.log)
    script = write(system, "engines", values, request.directory, request.config, name=name)
    job = Job.submit(
        system,
        script,
        log=request.log,
        environ={**request.environ, **options.environment},
        arguments=options.batch_args,
    )
    if request.lifeline:
        job.guard(request.directory / f"guard-{request.name}.log")
    log.info("%s was submitted: %d engines; the script is %s", job.name, request.n, script)
    return EngineSet(job, request.name, request.n, request.first)


def start_controller(system: System, request: ControllerRequest) -> Controller:
    """Submit a job that is a controller, with a world of engines if the request has one.

    Raises
    ------
    LaunchError
        If the batch system refuses it, or the template is wrong.
    """
    options, world = request.options, request.world
    ranks = 1 if world is None else world.ranks
    output = request.directory / "job.log"
    controller = argv.controller_argv(
        options.python or sys.executable,
        request.directory,
        cluster_id=request.cluster_id,
        ip=options.controller_ip or "*",
        port=options.controller_port,
        log_level=request.log_level,
        lifeline=False,
        idle_timeout=options.idle_timeout,
        remove=False,  # who looks for the cause of an end looks at the logs
        extra=options.controller_args,
    )
    nothing = {"launch": ":", "engine": "", "environment": templates.exports(options.environment)}
    values = {
        **(nothing if world is None else world_values(system, world)),
        **job_values(system, options, ranks, output),
        "controller": templates.quoted(controller),
        "controller_log": templates.quoted([str(request.log)]),
        "engines_log": templates.quoted([str(request.log if world is None else world.log)]),
        "connection_file": templates.quoted([str(request.directory / connection_file.NAMES["client"])]),
        "with_engines": "false" if world is None else "true",
    }
    needs = ("controller", "launch", "engine")
    name = "cluster"
    script = write(system, "cluster", values, request.directory, request.config, name=name, needs=needs)
    job = Job.submit(
        system,
        script,
        log=request.log,
        environ={**request.environ, **options.environment},
        arguments=options.batch_args,
        script=True,
        also=[output],
    )
    if request.lifeline:
        job.guard(request.directory / "guard.log")
    log.info("%s was submitted: a controller; the script is %s", job.name, script)
    return Controller(job)


def in_same_job(controller: Controller, request: WorldRequest) -> EngineSet:
    """Return the engines that were submitted together with their controller."""
    job = controller.process
    assert isinstance(job, Job)
    return EngineSet(job.beside(request.log), request.name, request.n, request.first)


def write(
    system: System,
    template: str,
    values: Mapping[str, str],
    directory: Path,
    config: Config,
    *,
    name: str,
    needs: Collection[str] = ("launch", "engine"),
) -> Path:
    """Fill in a template and keep the script in the cluster's folder; return its path.

    Raises
    ------
    LaunchError
        If the template is wrong.
    """
    source = resources.script(system.name, f"{template}.{system.suffix}", config)
    try:
        text = templates.fill(source.read_text(), values, str(source), needs)
    except templates.TemplateError as error:
        raise LaunchError(f"the template of the job cannot be filled in: {error}") from None
    script = directory / f"{name}.{system.suffix}"
    connection_file.write_private(script, text.encode())
    return script


def job_values(system: System, options: LaunchOptions, ranks: int, log_file: Path) -> dict[str, str]:
    """Return the placeholders that say how a job is laid out, and what comes before its programs."""
    if options.time:
        batch.seconds(options.time)  # a word that no batch system takes is said at once
    values = {name: _word(getattr(options, name)) for name in PASSED_ON}
    values |= {
        "job_name": _word(options.job_name or "mpiparallel"),
        "ranks": str(ranks),
        "modules": templates.loads(options.modules),
        "setup": "\n".join(options.setup),
    }
    return values | system.values(options, ranks, log_file)


def _word(value: object) -> str:
    return "" if value is None or value == "" else templates.quoted([str(value)])


def world_values(system: System, request: WorldRequest, script: Path | None = None) -> dict[str, str]:
    """Return the placeholders ``{{launch}}``, ``{{engine}}`` and ``{{environment}}`` of a world.

    By `script`, which goes with their cluster's folder, engines tell it from a cluster that came after it.
    """
    options = request.options
    ranks, engine = request.ranks, request.engine
    environ = {**request.environ, **options.environment}
    which = _mpi(options, environ)
    by = pmi.choose(options, which) if system.name == "slurm" else ""
    root = os.geteuid() == 0
    ours = argv.world_environment(
        {}, which, n=ranks, cores=ranks, root=root, log=str(request.log), allocated=True
    )
    told = ("MPIPARALLEL_LOG", "MPIPARALLEL_N", "MPIPARALLEL_MPIEXEC")
    ours = {name: value for name, value in ours.items() if name in told or name not in environ}
    ours["MPIPARALLEL_WARN_BEFORE"] = str(options.warn_before)
    if script is not None:
        ours["MPIPARALLEL_SCRIPT"] = str(script)
    patience = environ.get("MPIPARALLEL_ORPHAN_AFTER", local.ORPHAN_PATIENCE)
    ours.setdefault("MPIPARALLEL_ORPHAN_AFTER", patience)
    if by:
        launcher = resources.script("launchers", "srun.sh", request.config)
        arguments = [*options.srun_args, f"--ntasks={ranks}"]
        ours["MPIPARALLEL_SRUN_MPI"] = by
        del ours["MPIPARALLEL_MPIEXEC"]
    else:
        launcher = resources.script("launchers", "mpiexec.sh", request.config)
        survive = argv.ft_arguments(which, options.mpi_args) if request.config.ft else []
        # An mpiexec that was built without the batch system's library does not know the hosts of its job.
        far = argv.host_arguments(which, _HOSTS if system.hostfile else "", options.mpi_args)
        arguments = [*far, *survive, *options.mpi_args, "-n", str(ranks)]
        if options.modules and not options.mpiexec:
            del ours["MPIPARALLEL_MPIEXEC"]  # the modules bring one
    return {
        "launch": templates.quoted([*local.runner(launcher), *arguments]).replace(
            _HOSTS, f'"{system.hostfile}"'
        ),
        "engine": templates.quoted(engine),
        "environment": templates.exports({**options.environment, **ours}),
    }


def _mpi(options: LaunchOptions, environ: Mapping[str, str]) -> argv.MPI:
    """Return the MPI that the engines will have, as far as that can be seen from here."""
    if options.mpiexec:
        environ = {**environ, "MPIPARALLEL_MPIEXEC": options.mpiexec}
    python = options.python or sys.executable
    if not os.path.exists(python):
        python = sys.executable  # the nodes' may be on their own disks; they say so if it is nowhere
    try:
        return mpi.detect(mpi.find_mpiexec(environ, python))
    except LaunchError:
        if options.srun_mpi not in ("", "none") or options.modules or options.setup:
            return argv.MPI(options.mpiexec or "mpiexec")  # it is on the nodes only, or not needed
        raise
