"""Whether a world has the size that was asked for. Called by `__main__` before the world registers.

A launcher that does not speak the PMI of this MPI starts n worlds of one rank instead of one of n, each of
which is content with itself. So launchers say by ``MPIPARALLEL_N`` how many ranks there are to be.
"""

from __future__ import annotations

from collections.abc import Mapping

EXIT = 78  # EX_CONFIG of sysexits.h
EXPECTED = "MPIPARALLEL_N"
PATIENCE = 10.0  # seconds for which the others let one speak for them
# What says which of the started processes this is, MPI or not; mpiexec passes Slurm's numbers of its own on.
_NUMBERS = ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PALS_RANKID", "SLURM_PROCID")


def trouble(size: int, mpi: str, environ: Mapping[str, str], *, named: bool, dedicated: bool = False) -> str:
    """Return what is wrong with a world of `size` ranks, and the remedy; empty if nothing is.

    Parameters
    ----------
    mpi : str
        The MPI that mpi4py uses.
    named : bool
        Whether a launcher has started this world, and has named it. One that was started by hand is right if
        it is a world at all: the number may be in the environment for another reason.
    """
    text = environ.get(EXPECTED, "")
    expected = int(text) if text.isascii() and text.isdigit() else 0
    if expected in (0, size) or not (named or size == 1):
        return ""
    engines = expected - dedicated
    if size > 1:
        return (
            f"this world has {size} ranks, and {expected} were asked for. The launch script, or an option of "
            "mpiexec or srun, says another number: leave the number of ranks to mpiparallel"
        )
    by = "srun" if _by_srun(environ) else "mpiexec"
    return f"{by} started {expected} worlds instead of one world of {engines} engines: " + (
        _srun_remedy(mpi, environ)
        if by == "srun"
        else f"it belongs to another MPI than the one that mpi4py uses ({mpi}). Put the mpiexec of that MPI "
        "first on the PATH, or name it by MPIPARALLEL_MPIEXEC"
    )


def silence(environ: Mapping[str, str]) -> float | None:
    """Return after how many seconds this process is to tell the trouble, which all of them have; None: never.

    The first one speaks, and when it has ended, srun and Open MPI's mpiexec end the others before their turn.
    """
    numbers = [environ[name] for name in _NUMBERS if name in environ]
    if not numbers or numbers[0] == "0":
        return 0.0
    return None if "HYDI_CONTROL_FD" in environ else PATIENCE  # MPICH's mpiexec ends nobody


def _by_srun(environ: Mapping[str, str]) -> bool:
    # Slurm's variables are there under an mpiexec in a job, too.
    if any(name.startswith(("OMPI_COMM_WORLD_", "HYDI_", "PRTE_LAUNCHED")) for name in environ):
        return False
    return environ.get("SLURM_STEP_NUM_TASKS", "") == environ.get(EXPECTED)


def _srun_remedy(mpi: str, environ: Mapping[str, str]) -> str:
    asked = environ.get("SLURM_MPI_TYPE", "")
    wanted = "pmix" if "open mpi" in mpi.lower() else "pmi2"
    how = f"srun --mpi={asked}" if asked else "srun without --mpi"
    return (
        f"{how} does not start ranks of the MPI that mpi4py uses ({mpi}), which needs --mpi={wanted}. See "
        f"whether `srun --mpi=list` has {wanted}. If so, set srun_mpi to {wanted!r}; if not, set srun_mpi to "
        "'none', and mpiexec starts the ranks instead"
    )
