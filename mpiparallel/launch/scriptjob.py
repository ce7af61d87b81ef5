"""A user's script as a batch job of its own: controller, engines, script, and a clean end.

``mpiparallel submit`` calls this. The job's cluster has the job's number as its id, so that a script which is
submitted twice has two.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mpiparallel import connection_file, resources
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import argv, batch, submission, templates
from mpiparallel.launch.batch import System
from mpiparallel.launch.jobs import Job
from mpiparallel.launch.requests import WorldRequest
from mpiparallel.launchoptions import LaunchOptions

ENGINE_SET = "job"  # the name of its engines
NEEDS = ("launch", "script", "n")


@dataclass(frozen=True, kw_only=True)
class ScriptRequest:
    """A script to be run by a batch job.

    Attributes
    ----------
    script : str
        A file, or a module's name (`module`).
    arguments : sequence of str
        Its own.
    n : int
        Number of engines.
    output : str
        The file for what it prints, in which ``%j`` is the job's number; ``NAME-%j.out`` if empty.
    environ : mapping of str
        The environment of the program that asks.
    """

    script: str
    arguments: Sequence[str] = ()
    module: bool = False
    n: int
    profile: str
    output: str = ""
    config: Config
    options: LaunchOptions
    environ: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.options.job_name or Path(self.script).name.removesuffix(".py")

    @property
    def output_pattern(self) -> Path:
        """The file for what it prints, with ``%j``."""
        return Path(self.output or f"{self.name}-%j.out").absolute()

    @property
    def system(self) -> System:
        """The batch system."""
        return batch.system(self.options.engines if self.options.engines in ("pbs", "lsf") else "slurm")

    def folder(self, job: str) -> Path:
        """Return the folder of the job's cluster."""
        return self.config.cluster_dir(self.profile, job)


def values(request: ScriptRequest) -> dict[str, str]:
    """Return the placeholders of the template ``job``."""
    options, system = request.options, request.system
    ranks = argv.n_ranks(request.n, options.engine_args)
    python = options.python or sys.executable
    world = WorldRequest(
        directory=request.config.state_dir,
        name=ENGINE_SET,
        n=request.n,
        config=request.config,
        options=options,
        environ=request.environ,
    )
    found = submission.world_values(system, world)
    del found["engine"]  # its connection file is in a folder that is known in the job only
    named = msgspec.structs.replace(options, job_name=request.name)
    found |= submission.job_values(system, named, ranks, request.output_pattern)
    parts = [shlex.quote(part) if part else "" for part in str(request.output_pattern).split("%j")]
    script = ["-m", request.script] if request.module else [request.script]
    return found | {
        "output": templates.quoted([system.pattern(str(request.output_pattern))]),
        "output_file": f'"${system.job_variable}"'.join(parts),
        "n": str(request.n),
        "warn_before": str(options.warn_before or ""),
        "python": templates.quoted([python]),
        "state": templates.quoted([str(request.config.state_dir)]),
        "profile": templates.quoted([request.profile]),
        "controller_args": templates.quoted(options.controller_args),
        "engine_args": templates.quoted(options.engine_args),
        "engine_timeout": f"{options.engine_timeout:g}",
        "script": templates.quoted([python, *script, *request.arguments]),
    }


def text(request: ScriptRequest) -> str:
    """Return the script of the job: the template, filled in.

    Raises
    ------
    LaunchError
        If the template is wrong.
    """
    system, found = request.system, values(request)
    source = resources.script(system.name, f"job.{system.suffix}", request.config)
    inner = resources.script("launchers", "job.bash", request.config)
    try:
        found["job"] = templates.fill(inner.read_text(), found, str(inner), NEEDS).strip()
        outer = source.read_text()
        # A site's own may do all by itself.
        return templates.fill(outer, found, str(source), ("job",) if "{{job}}" in outer else NEEDS)
    except templates.TemplateError as error:
        raise LaunchError(f"the template of the job cannot be filled in: {error}") from None


def submit(request: ScriptRequest) -> Job:
    """Submit the script; what was submitted is kept in the folder of the job's cluster.

    Raises
    ------
    LaunchError
        If the batch system refuses it.
    """
    system, content = request.system, text(request)
    output = request.output_pattern.parent
    if "%j" not in str(output):
        output.mkdir(parents=True, exist_ok=True)  # a job that cannot write there says nothing at all
    folder = request.config.state_dir / request.profile
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".job-", suffix=f".{system.suffix}") as file:
        file.write(content)
        file.flush()
        job = Job.submit(
            system,
            Path(file.name),
            log=request.output_pattern,
            environ={**request.environ, **request.options.environment},
            arguments=request.options.batch_args,
            script=True,
        )
    job.log = Path(str(job.log).replace("%j", job.id))
    directory = request.folder(job.id)
    directory.mkdir(mode=0o700, exist_ok=True)  # the job may have begun, and made it
    connection_file.write_private(directory / f"job.{system.suffix}", content.encode())
    return job
