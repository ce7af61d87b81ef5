"""The templates that are shipped: each can be filled in, and is a good script then."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from mpiparallel.config import Config
from mpiparallel.launch import batch, submission
from mpiparallel.launch.requests import WorldRequest
from mpiparallel.launchoptions import LaunchOptions

ROOT = Path(__file__).parents[2]
SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"
ALL = LaunchOptions(
    nodes=2, ntasks_per_node=2, cpus_per_task=3, time="1:00:00", partition="debug", account="me", qos="high",
    reservation="course", constraint="gpu&big", gres="gpu:1", mem="4G", job_name="my job", requeue=True,
    modules=["gcc/12"], setup=["source ~/env.sh"], environment={"A": "1 2"}, srun_mpi="pmix",
)  # fmt: skip


def world(folder: Path, options: LaunchOptions, n: int = 4) -> WorldRequest:
    return WorldRequest(
        directory=folder, name="one", n=n, config=Config(site_dir=folder / "site"), options=options,
        environ=os.environ,
    )  # fmt: skip


def script_of(system: str, folder: Path, options: LaunchOptions, n: int = 4) -> Path:
    request = world(folder, options, n)
    which = batch.system(system)
    values = submission.world_values(which, request)
    values |= submission.job_values(which, options, n, request.log)
    return submission.write(which, "engines", values, folder, request.config, name="engines-one")


@pytest.mark.parametrize("options", [ALL, LaunchOptions(srun_mpi="none")], ids=["all", "none"])
@pytest.mark.parametrize("system", ["slurm"])
def test_filled_in_it_is_a_good_script(system: str, options: LaunchOptions, tmp_path: Path) -> None:
    script = script_of(system, tmp_path, options)
    assert "{{" not in script.read_text()
    assert script.stat().st_mode & 0o777 == 0o600  # the user's own variables may be in there
    # What cannot be followed, or is quoted for certainty: not the template's.
    command = [str(SHELLCHECK), "--shell=bash", "--exclude=SC1090,SC1091,SC2154", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
