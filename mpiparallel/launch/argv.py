"""Command lines and environments, as pure functions of their arguments.

Called by `launch.local`, which runs what comes out of here. Nothing in this module looks at the machine:
tests compare whole command lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Dialect(Enum):
    """The families of ``mpiexec``, which differ in their options."""

    OPENMPI = "openmpi"
    MPICH = "mpich"
    INTELMPI = "intelmpi"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class MPI:
    """One ``mpiexec`` and what is known about it."""

    mpiexec: str
    dialect: Dialect = Dialect.UNKNOWN
    version: str = ""

    def __str__(self) -> str:
        return f"{self.mpiexec} ({self.dialect.value} {self.version})".replace(" )", ")")


# In the text of `mpiexec --version`. Intel's may name Hydra and MPICH too, so it comes first.
_SIGNS = (
    (Dialect.INTELMPI, re.compile(r"Intel\(R\) MPI Library.*?Version ([\w.]+)", re.S)),
    (Dialect.OPENMPI, re.compile(r"\(Open(?: MPI|RTE)\) ([\w.]+)")),
    (Dialect.OPENMPI, re.compile(r"(?:PRRTE|prterun).*?([\d][\w.]+)")),
    (Dialect.MPICH, re.compile(r"HYDRA build details:.*?Version:\s+([\w.]+)", re.S)),
)


def identify(mpiexec: str, version_text: str) -> MPI:
    """Return which MPI `mpiexec` belongs to by the text of its ``--version``."""
    for dialect, sign in _SIGNS:
        found = sign.search(version_text)
        if found:
            return MPI(mpiexec, dialect, found.group(1))
    return MPI(mpiexec)


def controller_argv(
    python: str,
    directory: Path,
    *,
    cluster_id: str = "",
    ip: str = "",
    port: int = 0,
    log_level: str = "INFO",
    lifeline: bool = True,
    idle_timeout: float = 0.0,
    remove: bool = True,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the command of a controller that writes its files to `directory` and removes it when it ends.

    With `lifeline` it ends when its standard input does, so that it never outlives who started it. Without,
    it leaves the results that clients may want later.
    """
    argv = [python, "-m", "mpiparallel.controller", "--directory", str(directory)]
    if remove:
        argv += ["--remove-directory"]
    if cluster_id:
        argv += ["--cluster-id", cluster_id]
    if ip:
        argv += ["--ip", ip]
    if port:
        argv += ["--port", str(port)]
    if lifeline:
        argv += ["--lifeline", "0"]
    else:
        argv += ["--keep-results"]
    if idle_timeout:
        argv += ["--idle-timeout", f"{idle_timeout:g}"]
    return [*argv, "--log-level", log_level, *extra]


def engine_argv(
    python: str, connection_file: Path, *, engine_set: str = "", first: int = -1, extra: Sequence[str] = ()
) -> list[str]:
    """Return the command of one engine: what each rank of a world runs.

    `first` is the id that the first engine shall have; -1: whatever comes next.
    """
    argv = [python, "-m", "mpiparallel.engine", "--connection-file", str(connection_file)]
    if engine_set:
        argv += ["--engine-set", engine_set]
    if first >= 0:
        argv += ["--first-id", str(first)]
    return [*argv, *extra]


DEDICATED = "--dedicated-bridge"  # an engine's argument: the first rank is none, and has the bridge alone


def n_ranks(n: int, extra: Sequence[str]) -> int:
    """Return how many ranks it takes for `n` engines that are started with the arguments `extra`."""
    return n + 1 if n > 0 and DEDICATED in extra else n


def mpiexec_arguments(n: int, program: Sequence[str], mpi_args: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``mpiexec`` that start `n` ranks of `program`.

    What differs between MPIs goes by the environment (`world_environment`) where it can, so that a person's
    own `mpi_args` can say otherwise.

    Raises
    ------
    ValueError
        If `n` is not above zero.
    """
    if n < 1:
        raise ValueError(f"cannot start {n} engines: the number must be above zero")
    return [*mpi_args, "-n", str(n), *program]


def host_arguments(mpi: MPI, hostfile: str, mpi_args: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``mpiexec`` that start ranks on the hosts of a batch system's `hostfile`.

    For PBS and LSF, which Open MPI knows only if it was built for them; Slurm is known to all.
    """
    named = ("hostfile", "machinefile", "host", "hosts", "f", "default-hostfile")
    if not hostfile or any(word.lstrip("-").partition("=")[0] in named for word in mpi_args):
        return []
    return ["-f" if mpi.dialect in (Dialect.MPICH, Dialect.INTELMPI) else "--hostfile", hostfile]


def passed_arguments(mpi: MPI, environ: Mapping[str, str], names: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``mpiexec`` that take variables along to hosts that it reaches by ssh.

    Open MPI takes its own along only, MPICH and Intel MPI all.
    """
    if mpi.dialect is not Dialect.OPENMPI:
        return []
    ours = [name for name in environ if name.startswith("MPIPARALLEL_") or name in ("PYTHONPATH", "PATH")]
    chosen = dict.fromkeys([*sorted(ours), *(name for name in names if name in environ)])
    return [word for name in chosen for word in ("-x", name)]


def srun_arguments(n: int, program: Sequence[str], ntasks: int, srun_args: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``srun`` that start `n` ranks of `program` in an allocation for `ntasks`.

    Raises
    ------
    ValueError
        If `n` is not above zero.
    """
    if n < 1:
        raise ValueError(f"cannot start {n} engines: the number must be above zero")
    more = ["--overcommit"] if n > ntasks else []  # engines share cores: they wait most of the time
    return [*more, *srun_args, f"--ntasks={n}", *program]


def ft_arguments(mpi: MPI, mpi_args: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``mpiexec`` that let ranks survive when others die, if it has any.

    Open MPI has had ULFM inside since version 5; it is silent about ranks that die, and leaves the others
    alone, only when it is asked to.
    """
    asked = any(word.lstrip("-").startswith(("with-ft", "without-ft")) for word in mpi_args)
    major = mpi.version.partition(".")[0]
    if asked or mpi.dialect is not Dialect.OPENMPI or not major.isdigit() or int(major) < 5:
        return []
    return ["--with-ft", "ulfm"]


# What an MPI job tells its ranks. A world started from inside such a job (an IPython under srun, say) would
# take itself for a part of it.
_OF_ANOTHER_JOB = re.compile(
    r"PMIX_(?!MCA_|INSTALL_PREFIX)|PMI_|PMI2_|HYDI_|MPI_LOCAL(?:NRANKS|RANKID)|PRTE_LAUNCHED|"
    r"OMPI_(?:COMM_WORLD_|UNIVERSE_SIZE|APP_CTX_NUM_PROCS|NUM_APP_CTX|FIRST_RANKS|FILE_LOCATION|ARGV|COMMAND|"
    r"MCA_(?:orte|ess|pmix)_)"
)

_AS_ROOT = {
    f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1" for prefix in ("OMPI", "PRTE") for suffix in ("", "_CONFIRM")
}

# Engines share cores by design: they wait for a person most of the time, and each has a second thread, which
# binding would put on the core of the first.
_SHARED_CORES = {
    "PRTE_MCA_hwloc_default_binding_policy": "none",  # Open MPI 5
    "OMPI_MCA_hwloc_base_binding_policy": "none",  # Open MPI 4
}
# Slot by slot, or the first node of an allocation would get as many ranks as it has cores.
_MORE_THAN_CORES = {
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


def world_environment(
    environ: Mapping[str, str],
    mpi: MPI,
    *,
    n: int,
    cores: int,
    root: bool,
    log: str = "",
    allocated: bool = False,
) -> dict[str, str]:
    """Return the environment for the ``mpiexec`` of `n` ranks on `cores` cores, whose output goes to `log`.

    `allocated`: a batch system has a place for each of them, and says where. What a person has set already
    stays as it is.
    """
    kept = {name: value for name, value in environ.items() if not _OF_ANOTHER_JOB.match(name)}
    ours: dict[str, str] = {}
    # An mpiexec that could not be identified may still be Open MPI's; the others ignore these variables.
    if mpi.dialect in (Dialect.OPENMPI, Dialect.UNKNOWN):
        ours.update(_SHARED_CORES)
        if not allocated:
            ours.update(_MORE_THAN_CORES)
        if root:
            ours.update(_AS_ROOT)
        if n > cores:
            ours["OMPI_MCA_mpi_yield_when_idle"] = "1"
    if mpi.dialect is Dialect.INTELMPI and n > cores:
        # Ranks that share a core sleep while they wait, and are not bound to the same one.
        ours.update(I_MPI_WAIT_MODE="1", I_MPI_PIN="0")
    told = {"MPIPARALLEL_MPIEXEC": mpi.mpiexec, "MPIPARALLEL_N": str(n)}
    if log:
        told["MPIPARALLEL_LOG"] = log
    return {**ours, **kept, **told}
