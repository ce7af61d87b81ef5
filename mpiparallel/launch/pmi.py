"""How ``srun`` has to start ranks of an MPI so that they find each other, as far as it can."""

from __future__ import annotations

import functools
import re

from mpiparallel.error import LaunchError
from mpiparallel.launch import batch
from mpiparallel.launch.argv import MPI, Dialect
from mpiparallel.launch.batch import QueueError
from mpiparallel.launchoptions import LaunchOptions

# What each MPI understands. Open MPI 5 has nothing but PMIx, and MPICH's and Intel's own is PMI-2.
_UNDERSTANDS = {
    Dialect.OPENMPI: ("pmix",),
    Dialect.MPICH: ("pmi2",),
    Dialect.INTELMPI: ("pmi2",),
    Dialect.UNKNOWN: (),
}


def choose(options: LaunchOptions, which: MPI, there: bool = True) -> str:
    """Return the ``--mpi`` of srun; empty when mpiexec is to start the ranks.

    `there` says whether there can be an srun at all.

    Raises
    ------
    LaunchError
        If srun does not know what the options ask for.
    """
    if options.srun_mpi:
        if options.srun_mpi == "none":
            return ""
        if there:
            _see_whether_offered(options.srun_mpi, which)
        return options.srun_mpi
    # Who gives arguments for mpiexec, or names one, wants it.
    if not there or options.mpi_args or options.mpiexec:
        return ""
    return fitting(which.dialect, offered())


def _see_whether_offered(wish: str, which: MPI) -> None:
    plugins = offered()
    if not plugins or wish in plugins:
        return
    best = fitting(which.dialect, plugins)
    raise LaunchError(
        f"srun_mpi={wish!r}: this srun knows {', '.join(plugins)} only (srun --mpi=list). "
        + (f"Use {best!r}, or leave it out" if best else "Use 'none'")
        + (": it is found out then." if best else ": mpiexec starts the ranks then.")
    )


def fitting(dialect: Dialect, plugins: tuple[str, ...]) -> str:
    """Return the first of srun's plugins that an MPI understands; empty when there is none."""
    return next((name for name in _UNDERSTANDS[dialect] if name in plugins), "")


@functools.cache
def offered() -> tuple[str, ...]:
    """Return the plugins that ``srun --mpi=list`` names; none when there is no srun."""
    try:
        answer = batch.ask(["srun", "--mpi=list"])
    except QueueError:
        return ()
    return parse_list(answer.stdout + answer.stderr)


def parse_list(text: str) -> tuple[str, ...]:
    """Return the names in what ``srun --mpi=list`` says, with or without "srun:" before each.

    Examples
    --------
    >>> parse_list("MPI plugin types are...\\n\\tpmix\\n\\tnone\\n\\tpmi2")
    ('pmix', 'none', 'pmi2')
    """
    names = []
    for line in text.splitlines():
        line = re.sub(r"^srun:\s*", "", line).strip()
        _, colon, versions = line.partition("versions available:")
        words = re.split(r"[,\s]+", versions.strip()) if colon else [line]
        names += [word for word in words if re.fullmatch(r"[A-Za-z]\w*", word)]
    return tuple(dict.fromkeys(names))
