"""Command lines and environments, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpiparallel.launch.argv import (
    MPI,
    Dialect,
    controller_argv,
    engine_argv,
    ft_arguments,
    host_arguments,
    identify,
    mpiexec_arguments,
    passed_arguments,
    world_environment,
)

OPENMPI_5 = "mpiexec (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n"
OPENMPI_4 = "mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n"
OPENMPI_1 = "mpiexec (OpenRTE) 2.1.1\n"
MPICH = "HYDRA build details:\n    Version:                                 5.0.2\n    Release Date: x\n"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.11 Build 20231005 (id: 74c4a23)\n"


@pytest.mark.parametrize(
    ("text", "dialect", "version"),
    [
        (OPENMPI_5, Dialect.OPENMPI, "5.0.11"),
        (OPENMPI_4, Dialect.OPENMPI, "4.1.4"),
        (OPENMPI_1, Dialect.OPENMPI, "2.1.1"),
        (MPICH, Dialect.MPICH, "5.0.2"),
        (INTEL, Dialect.INTELMPI, "2021.11"),
        ("", Dialect.UNKNOWN, ""),
        ("slurm 22.05.8", Dialect.UNKNOWN, ""),
    ],
)
def test_identify(text: str, dialect: Dialect, version: str) -> None:
    assert identify("/opt/bin/mpiexec", text) == MPI("/opt/bin/mpiexec", dialect, version)


def test_controller() -> None:
    assert controller_argv("py", Path("/d")) == [
        *("py", "-m", "mpiparallel.controller", "--directory", "/d", "--remove-directory"),
        *("--lifeline", "0", "--log-level", "INFO"),
    ]


def test_controller_with_everything() -> None:
    argv = controller_argv(
        "py",
        Path("/d"),
        cluster_id="a",
        ip="0.0.0.0",
        log_level="DEBUG",
        lifeline=False,
        extra=["--port", "1"],
    )
    assert argv == [
        *("py", "-m", "mpiparallel.controller", "--directory", "/d", "--remove-directory"),
        *("--cluster-id", "a", "--ip", "0.0.0.0", "--keep-results", "--log-level", "DEBUG", "--port", "1"),
    ]


def test_engine() -> None:
    file = Path("/d/engine.json")
    command = ["py", "-m", "mpiparallel.engine", "--connection-file", "/d/engine.json"]
    assert engine_argv("py", file) == command
    assert engine_argv("py", file, engine_set="a", extra=["-x"]) == [*command, "--engine-set", "a", "-x"]
    assert engine_argv("py", file, first=8) == [*command, "--first-id", "8"]


def test_mpiexec() -> None:
    assert mpiexec_arguments(4, ["a", "b"]) == ["-n", "4", "a", "b"]
    assert mpiexec_arguments(4, ["a"], ["--host", "h"]) == ["--host", "h", "-n", "4", "a"]


@pytest.mark.parametrize(
    ("dialect", "version", "mpi_args", "expected"),
    [
        (Dialect.OPENMPI, "5.0.11", [], ["--with-ft", "ulfm"]),
        (Dialect.OPENMPI, "10.1", ["--host", "h"], ["--with-ft", "ulfm"]),
        (Dialect.OPENMPI, "5.0.11", ["--with-ft", "no"], []),
        (Dialect.OPENMPI, "5.0.11", ["--without-ft"], []),
        (Dialect.OPENMPI, "4.1.4", [], []),
        (Dialect.OPENMPI, "", [], []),
        (Dialect.MPICH, "5.0.2", [], []),
        (Dialect.UNKNOWN, "", [], []),
    ],
)
def test_surviving_ranks(dialect: Dialect, version: str, mpi_args: list[str], expected: list[str]) -> None:
    assert ft_arguments(MPI("/m", dialect, version), mpi_args) == expected


@pytest.mark.parametrize(
    ("dialect", "hostfile", "mpi_args", "arguments"),
    [
        (Dialect.OPENMPI, "/nodes", [], ["--hostfile", "/nodes"]),
        (Dialect.MPICH, "/nodes", [], ["-f", "/nodes"]),
        (Dialect.INTELMPI, "/nodes", ["-genv", "A", "1"], ["-f", "/nodes"]),
        (Dialect.OPENMPI, "", [], []),
        (Dialect.OPENMPI, "/nodes", ["--host", "a,b"], []),
        (Dialect.OPENMPI, "/nodes", ["--hostfile=mine"], []),
        (Dialect.INTELMPI, "/nodes", ["-hosts", "a,b"], []),
        (Dialect.MPICH, "/nodes", ["-f", "mine"], []),
    ],
)
def test_hosts_of_a_batch_system(
    dialect: Dialect, hostfile: str, mpi_args: list[str], arguments: list[str]
) -> None:
    assert host_arguments(MPI("/m", dialect), hostfile, mpi_args) == arguments


def test_variables_for_hosts_that_are_reached_by_ssh() -> None:
    environ = {"PATH": "/b", "MPIPARALLEL_N": "4", "HOME": "/h", "MINE": "1", "PYTHONPATH": "/p"}
    assert passed_arguments(MPI("/m", Dialect.OPENMPI), environ, ["MINE", "ABSENT"]) == [
        "-x", "MPIPARALLEL_N", "-x", "PATH", "-x", "PYTHONPATH", "-x", "MINE",
    ]  # fmt: skip
    assert passed_arguments(MPI("/m", Dialect.INTELMPI), environ, ["MINE"]) == []


@pytest.mark.parametrize("n", [0, -1])
def test_mpiexec_of_none(n: int) -> None:
    with pytest.raises(ValueError, match=f"cannot start {n} engines"):
        mpiexec_arguments(n, ["a"])


SHARED = {
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}
ROOT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1"}


@pytest.mark.parametrize(
    ("dialect", "n", "root", "expected"),
    [
        (Dialect.OPENMPI, 2, False, SHARED),
        (Dialect.OPENMPI, 3, False, {**SHARED, **YIELD}),
        (Dialect.OPENMPI, 3, True, {**SHARED, **YIELD, **ROOT}),
        (Dialect.MPICH, 3, True, {}),
        (Dialect.INTELMPI, 2, True, {}),
        (Dialect.INTELMPI, 3, True, {"I_MPI_WAIT_MODE": "1", "I_MPI_PIN": "0"}),
        (Dialect.UNKNOWN, 2, True, {**SHARED, **ROOT}),
    ],
)
def test_environment(dialect: Dialect, n: int, root: bool, expected: dict[str, str]) -> None:
    environment = world_environment({"HOME": "/h"}, MPI("/m", dialect), n=n, cores=2, root=root)
    told = {"MPIPARALLEL_MPIEXEC": "/m", "MPIPARALLEL_N": str(n)}
    assert environment == {"HOME": "/h", **expected, **told}
    with_log = world_environment(
        {"HOME": "/h"}, MPI("/m", dialect), n=n, cores=2, root=root, log="/d/engines-a.log"
    )
    assert with_log == {**environment, "MPIPARALLEL_LOG": "/d/engines-a.log"}


def test_ranks_of_a_job_stay_where_the_batch_system_has_laid_them_out() -> None:
    made = [
        world_environment({}, MPI("/m", Dialect.OPENMPI), n=12, cores=12, root=False, allocated=allocated)
        for allocated in (False, True)
    ]
    assert set(made[0]) - set(made[1]) == {
        "PRTE_MCA_rmaps_default_mapping_policy", "OMPI_MCA_rmaps_base_oversubscribe"
    }  # fmt: skip
    assert made[1]["PRTE_MCA_hwloc_default_binding_policy"] == "none"


def test_a_persons_settings_stay() -> None:
    mine = {"PRTE_MCA_hwloc_default_binding_policy": "core", "OMPI_MCA_mpi_yield_when_idle": "0"}
    environment = world_environment(mine, MPI("/m", Dialect.OPENMPI), n=3, cores=2, root=False)
    assert {name: environment[name] for name in mine} == mine


def test_a_world_started_inside_an_mpi_job_is_no_part_of_it() -> None:
    job = {
        "PMIX_RANK": "0", "PMIX_SERVER_URI41": "x", "OMPI_COMM_WORLD_SIZE": "2", "PRTE_LAUNCHED": "1",
        "PMI_RANK": "0", "PMI_FD": "7", "MPI_LOCALNRANKS": "2", "HYDI_CONTROL_FD": "3",
        "OMPI_MCA_ess_base_jobid": "1",
    }  # fmt: skip
    kept = {
        "PMIX_MCA_psec": "native",
        "SLURM_JOB_ID": "7",
        "OMPI_MCA_btl": "self,tcp",
        "I_MPI_FABRICS": "shm",
    }
    environment = world_environment({**job, **kept}, MPI("/m", Dialect.MPICH), n=1, cores=2, root=False)
    assert environment == {**kept, "MPIPARALLEL_MPIEXEC": "/m", "MPIPARALLEL_N": "1"}
