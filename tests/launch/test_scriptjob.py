"""A user's script as a batch job: what is written into the job's script."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
from msgspec.structs import replace

from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import scriptjob, slurm
from mpiparallel.launch.scriptjob import ScriptRequest
from mpiparallel.launchoptions import LaunchOptions

SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"
ALL = LaunchOptions(
    nodes=2, ntasks_per_node=2, cpus_per_task=3, time="1:00:00", partition="debug", account="me", qos="high",
    reservation="course", constraint="gpu&big", gres="gpu:1", mem="4G", requeue=True, warn_before=90,
    modules=["gcc/12"], setup=["source ~/env.sh"], environment={"A": "1 2"}, srun_mpi="pmix",
    engine_args=["--raw-mpi"], controller_args=["--scheme", "lru"], engine_timeout=120,
)  # fmt: skip
FEW = LaunchOptions(srun_mpi="none")


def request(folder: Path, options: LaunchOptions = FEW, **more: object) -> ScriptRequest:
    given = {"script": "dir/my script.py", "n": 4, "profile": "default", "options": options, **more}
    config = Config(state_dir=folder / "state", site_dir=folder / "site")
    return ScriptRequest(config=config, environ=os.environ, **given)  # type: ignore[arg-type]


def lines(folder: Path, options: LaunchOptions = FEW, **more: object) -> list[str]:
    return [line.strip() for line in scriptjob.text(request(folder, options, **more)).splitlines()]


@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf"])
@pytest.mark.parametrize("options", [ALL, FEW], ids=["all", "few"])
def test_filled_in_it_is_a_good_script(system: str, options: LaunchOptions, tmp_path: Path) -> None:
    script = tmp_path / "job"
    options = replace(options, engines=system)
    script.write_text(scriptjob.text(request(tmp_path, options, arguments=["--its", "o p"])))
    assert "{{" not in script.read_text()
    # What cannot be followed, is quoted for certainty, or runs when a signal comes.
    command = [str(SHELLCHECK), "--shell=bash", "--exclude=SC1090,SC1091,SC2154,SC2016,SC2329", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_directives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directives = [line for line in lines(tmp_path, ALL) if line.startswith("#SBATCH")]
    assert [line.removeprefix("#SBATCH --") for line in directives] == [
        "job-name='my script'", f"output='{tmp_path}/my script-%j.out'", "open-mode=append", "ntasks=4",
        "nodes=2", "ntasks-per-node=2", "cpus-per-task=3", "time=1:00:00", "partition=debug", "account=me",
        "qos=high", "reservation=course", "constraint='gpu&big'", "gres=gpu:1", "mem=4G",
        "signal=B:USR1@90", "requeue",
    ]  # fmt: skip


def test_the_directives_of_pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = lines(tmp_path, replace(ALL, engines="pbs"))
    assert [line.removeprefix("#PBS -") for line in found if line.startswith("#PBS")] == [
        "N my_script", "o /dev/null", "j oe", "l select=2:ncpus=6:mpiprocs=2:mem=4G:gpu=1",
        "l walltime=01:00:00", "q debug", "A me", "r y", "V",
    ]  # fmt: skip
    assert f"exec >> '{tmp_path}/my script-'\"$PBS_JOBID\".out 2>&1" in found
    assert "job=$PBS_JOBID" in found


def test_the_directives_of_lsf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = lines(tmp_path, replace(ALL, engines="lsf"), output="50%/%j")
    assert [line.removeprefix("#BSUB -") for line in found if line.startswith("#BSUB")] == [
        "J 'my script'", f"o {tmp_path}/50%%/%J", "n 4",
        "R 'select[gpu&big] span[ptile=2] affinity[core(3)]'", "W 1:00", "q debug", "P me", "U course",
        "gpu gpu:1", "M 4G", "r",
    ]  # fmt: skip
    assert f'exec >> {tmp_path}/50%/"$LSB_JOBID" 2>&1' in found


def test_what_is_left_open_is_left_to_the_site(tmp_path: Path) -> None:
    directives = [line.split("=")[0] for line in lines(tmp_path) if line.startswith("#SBATCH")]
    assert [line.removeprefix("#SBATCH --") for line in directives] == [
        "job-name", "output", "open-mode", "ntasks", "signal", "no-requeue",
    ]  # fmt: skip


def test_who_wants_no_warning_gets_no_signal(tmp_path: Path) -> None:
    found = lines(tmp_path, LaunchOptions(srun_mpi="none", warn_before=0))
    assert not [line for line in found if line.startswith("#SBATCH --signal")]


def test_its_command(tmp_path: Path) -> None:
    assert "/the/python 'dir/my script.py' --its 'o p' &" in lines(
        tmp_path, LaunchOptions(python="/the/python", srun_mpi="none"), arguments=["--its", "o p"]
    )
    assert "/the/python -m package.module &" in lines(
        tmp_path, LaunchOptions(python="/the/python", srun_mpi="none"), script="package.module", module=True
    )


def test_a_rank_more_for_the_bridge(tmp_path: Path) -> None:
    options = LaunchOptions(engine_args=["--dedicated-bridge"], srun_mpi="pmi2")
    found = lines(tmp_path, options)
    assert "#SBATCH --ntasks=5" in found
    engines = [line for line in found if "srun.sh --ntasks=5 " in line]
    assert len(engines) == 1 and [line for line in found if line.startswith("--dedicated-bridge >> ")]
    assert [line for line in found if "-m mpiparallel wait -n 4 " in line]


@pytest.mark.parametrize(
    ("output", "pattern"),
    [("/a/x-%j.log", "/a/x-%j.log"), ("/a/100%.log", "/a/100%%.log"), ("/a/%x\\b", "/a/%%x\\\\b")],
)
def test_only_the_number_of_the_job_is_put_into_the_name_of_the_output(output: str, pattern: str) -> None:
    assert slurm.SYSTEM.pattern(output) == pattern


def test_a_site_may_have_its_own_template(tmp_path: Path) -> None:
    (tmp_path / "site/slurm").mkdir(parents=True)
    (tmp_path / "site/slurm/job.sbatch").write_text("#!/bin/sh\n#SBATCH --qos={{qos}}\n{{job}}\n")
    found = lines(tmp_path)
    assert found[0] == "#!/bin/sh"
    assert found[1].startswith("# A controller, engines, and a script")
    (tmp_path / "site/launchers").mkdir()
    (tmp_path / "site/launchers/job.bash").write_text("{{launch}} {{script}} {{n}}\n")
    found = lines(tmp_path)
    assert found[0] == "#!/bin/sh"
    assert found[1].endswith("'dir/my script.py' 4")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("slurm/job.sbatch", "{{job}}\n{{partion}}\n", r"job.sbatch:2: nothing is known .*partion"),
        ("slurm/job.sbatch", "#SBATCH -n {{n}}\n", r"job.sbatch: .*launch.* is missing"),
        ("launchers/job.bash", "\n{{launch}} {{script}} {{n}} {{m}}\n", r"job.bash:2: nothing is known .*m"),
        ("launchers/job.bash", "{{launch}} {{n}}\n", r"job.bash: .*script.* is missing"),
    ],
)
def test_a_template_that_is_wrong(name: str, text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "site" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(LaunchError, match=words):
        scriptjob.text(request(tmp_path))
