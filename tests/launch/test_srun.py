"""What is started by srun, and when it cannot be."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import srun
from mpiparallel.launch.allocation import outside_of_step
from mpiparallel.launch.argv import srun_arguments
from mpiparallel.launch.launched import attach
from mpiparallel.launch.requests import WorldRequest
from mpiparallel.launch.steps import Step, named
from mpiparallel.launchoptions import LaunchOptions

JOB = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "4"}


def program(path: Path, lines: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def request(tmp_path: Path, environ: dict[str, str], n: int = 4, **options: object) -> WorldRequest:
    return WorldRequest(
        directory=tmp_path, name="a", n=n, config=Config(), environ=environ,
        options=LaunchOptions(engines="srun", **options),  # type: ignore[arg-type]
    )  # fmt: skip


def test_arguments() -> None:
    assert srun_arguments(4, ["python"], 4) == ["--ntasks=4", "python"]
    assert srun_arguments(2, ["python"], 4, ["--mine"]) == ["--mine", "--ntasks=2", "python"]
    assert srun_arguments(5, ["python"], 4) == ["--overcommit", "--ntasks=5", "python"]
    with pytest.raises(ValueError, match="cannot start 0 engines"):
        srun_arguments(0, ["python"], 4)


@pytest.mark.parametrize("environ", [{}, {"PBS_JOBID": "1", "PBS_NODEFILE": __file__}])
def test_outside_of_an_allocation_there_is_nowhere_to_start(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(LaunchError, match=r"in none: run it in one \(salloc.*engines='slurm'"):
        srun.start_world(request(tmp_path, environ))


def test_no_srun_on_the_path(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"no srun on the PATH, although .* in job 5 on 2 nodes"):
        srun.start_world(request(tmp_path, {**JOB, "PATH": str(tmp_path)}))


@pytest.mark.parametrize(("n", "more"), [(4, ""), (6, "--overcommit ")])
def test_the_command_and_its_environment(tmp_path: Path, n: int, more: str) -> None:
    program(
        tmp_path / "bin/srun",
        'echo "$*"; env | grep -E "^(MPIPARALLEL_|PMI|SLURM_PROCID|SLURM_NTASKS|HELLO)" | sort; exit 7',
    )
    program(tmp_path / "bin/mpiexec", 'echo "mpiexec (Open MPI) 5.0.11"')
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "PMI_RANK": "0", "SLURM_JOB_CPUS_PER_NODE": "2(x2)"}
    started = srun.start_world(
        request(
            tmp_path,
            {**JOB, **step, "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "1"},
            n=n, srun_mpi="pmix", environment={"HELLO": "1"}, srun_args=["--mine"], python="/p/python",
            engine_args=["--raw-mpi"],
        )
    )  # fmt: skip
    assert started.process.wait(20)
    assert str(started.failure()).startswith("srun ended with exit code 7. ")
    said = started.get_output().splitlines()
    assert said == [
        "--overlap --kill-on-bad-exit=1 --input=none --mpi=pmix --cpus-per-task=1 "
        f"{more}--job-name=engines-a --mine --ntasks={n} /p/python -m mpiparallel.engine "
        f"--connection-file {tmp_path}/engine.json --engine-set a --raw-mpi",
        "HELLO=1",
        f"MPIPARALLEL_LOG={tmp_path}/engines-a.log",
        f"MPIPARALLEL_MPIEXEC={tmp_path}/bin/mpiexec",
        f"MPIPARALLEL_N={n}",
        "MPIPARALLEL_ORPHAN_AFTER=30",
        "MPIPARALLEL_SRUN_MPI=pmix",
        "MPIPARALLEL_WARN_BEFORE=60",
    ]
    record = started.to_dict()
    assert record["what"] == "srun" and record["step"] == ["5", "engines-a"]
    again = attach(record)
    assert isinstance(again, Step) and (again.job, again.step) == ("5", "engines-a")
    started.clear_away()


def test_steps_by_name() -> None:
    said = "5.0|engines-a\n5.1|engines-b\n5.batch|batch\n\n5.2|engines-a\n"
    assert named(said, "engines-a") == ["5.0", "5.2"]
    assert named("", "engines-a") == []


def test_the_step_of_an_srun_that_was_killed_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin/mpiexec", 'echo "mpiexec (Open MPI) 5.0.11"')
    program(tmp_path / "bin/srun", "exec sleep 60")
    program(tmp_path / "bin/squeue", f'echo "$*" >> {tmp_path}/asked; echo "5.3|engines-a"; echo "5.4|x"')
    program(tmp_path / "bin/scancel", f'echo "cancel $*" >> {tmp_path}/asked')
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)
    started = srun.start_world(request(tmp_path, {**JOB, "PATH": path}, srun_mpi="pmix"))
    ended = threading.Event()
    started.process.watch(ended.set)
    assert started.pid is not None
    os.kill(started.pid, signal.SIGKILL)
    assert ended.wait(20)
    started.process.close()
    assert (tmp_path / "asked").read_text() == "-s -h -j 5 -o %i|%j\ncancel 5.3\n"


def test_the_environment_outside_of_a_step() -> None:
    step = {
        "SLURM_STEP_ID": "3", "SLURM_STEP_NODELIST": "node1", "SLURM_NODELIST": "node1", "SLURM_NNODES": "1",
        "SLURM_NTASKS": "1", "SLURM_NPROCS": "1", "SLURM_TASKS_PER_NODE": "1", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_MPI_TYPE": "none", "SLURM_CPU_BIND": "quiet", "SLURM_CPU_BIND_TYPE": "x",
    }  # fmt: skip
    job = {
        "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "8,4", "SLURM_CPUS_PER_TASK": "4", "SLURM_CONF": "/c", "HOME": "/h",
    }  # fmt: skip
    layout = {"SLURM_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_TASKS_PER_NODE": "2,1"}
    assert outside_of_step({**job, **step}) == {**job, **layout}
    assert outside_of_step(job) == job
    assert outside_of_step({}) == {}
