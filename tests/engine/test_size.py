"""A world of another size than was asked for is refused, with what to do, and once."""

from __future__ import annotations

import pytest

from mpiparallel.engine.size import PATIENCE, silence, trouble

OPENMPI, MPICH = "Open MPI v5.0.11", "MPICH Version: 5.0.2"
STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("size", "environ", "named"),
    [
        (4, {"MPIPARALLEL_N": "4"}, True),
        (4, {"MPIPARALLEL_N": "4", **STEP}, False),
        (1, {"MPIPARALLEL_N": "1"}, True),
        (1, {}, True),
        (3, {}, False),
        (1, {"MPIPARALLEL_N": ""}, True),
        (1, {"MPIPARALLEL_N": "many"}, True),
        (3, {"MPIPARALLEL_N": "8"}, False),  # the number is for another purpose: mpiexec -n 3 by hand
    ],
)
def test_right(size: int, environ: dict[str, str], named: bool) -> None:
    assert trouble(size, OPENMPI, environ, named=named) == ""


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("mpi", "asked", "says", "wanted"),
    [
        (OPENMPI, {}, "srun without --mpi does not", "pmix"),
        (OPENMPI, {"SLURM_MPI_TYPE": "pmi2"}, "srun --mpi=pmi2 does not", "pmix"),
        (MPICH, {"SLURM_MPI_TYPE": "pmix"}, "srun --mpi=pmix does not", "pmi2"),
        ("Intel(R) MPI Library 2021.11", {"SLURM_MPI_TYPE": "none"}, "srun --mpi=none does not", "pmi2"),
    ],
)
def test_srun_with_the_wrong_pmi(
    mpi: str, asked: dict[str, str], says: str, wanted: str, named: bool
) -> None:
    found = trouble(1, mpi, {"MPIPARALLEL_N": "4", **STEP, **asked}, named=named)
    assert found.startswith("srun started 4 worlds instead of one world of 4 engines: ")
    for part in (says, mpi, f"--mpi={wanted}", "srun --mpi=list", f"srun_mpi to '{wanted}'", "'none'"):
        assert part in found


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PMI_RANK": "1", "HYDI_CONTROL_FD": "3", **STEP},  # MPICH's mpiexec, in a job
        {"OMPI_COMM_WORLD_RANK": "1", **STEP},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_an_mpiexec_of_another_mpi(environ: dict[str, str]) -> None:
    found = trouble(1, OPENMPI, {"MPIPARALLEL_N": "4", **environ}, named=True)
    assert found.startswith("mpiexec started 4 worlds instead of one world of 4 engines: ")
    assert OPENMPI in found and "MPIPARALLEL_MPIEXEC" in found


def test_a_dedicated_bridge_is_no_engine() -> None:
    assert "of 4 engines" in trouble(1, OPENMPI, {"MPIPARALLEL_N": "5"}, named=True, dedicated=True)
    assert not trouble(5, OPENMPI, {"MPIPARALLEL_N": "5"}, named=True, dedicated=True)


def test_a_world_of_another_size() -> None:
    assert "this world has 3 ranks, and 4 were" in trouble(3, OPENMPI, {"MPIPARALLEL_N": "4"}, named=True)


@pytest.mark.parametrize(
    ("environ", "after"),
    [
        ({}, 0.0),
        ({"SLURM_PROCID": "0"}, 0.0),
        ({"SLURM_PROCID": "3"}, PATIENCE),
        # Open MPI's own number counts, not that of the Slurm task which its daemon is.
        ({"PMIX_RANK": "0", "SLURM_PROCID": "1"}, 0.0),
        ({"OMPI_COMM_WORLD_RANK": "1", "SLURM_PROCID": "0"}, PATIENCE),
        ({"PMI_RANK": "0", "HYDI_CONTROL_FD": "3"}, 0.0),
        ({"PMI_RANK": "1", "HYDI_CONTROL_FD": "3"}, None),
    ],
)
def test_one_speaks_for_all(environ: dict[str, str], after: float | None) -> None:
    assert silence(environ) == after
