"""The templates that are shipped: each can be filled in, and is a good script then."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import launchers
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"
SUFFIX = {"slurm": "sbatch", "pbs": "pbs", "lsf": "bsub"}
SUBMIT = {
    "slurm": ("sbatch", "echo 123"),
    "pbs": ("qsub", "echo 123"),
    "lsf": ("bsub", "echo 'Job <123> is submitted to queue <normal>.'"),
}
NOTHING = LaunchOptions(srun_mpi="none")
ALL = LaunchOptions(
    nodes=2, ntasks_per_node=2, cpus_per_task=3, time="1:00:00", partition="debug", account="me", qos="high",
    reservation="course", constraint="gpu&big", gres="gpu:1", mem="4G", job_name="my job", requeue=True,
    modules=["gcc/12"], setup=["source ~/env.sh"], environment={"A": "1 2"}, srun_mpi="pmix",
    batch_args=["--exclusive"],
)  # fmt: skip


@pytest.fixture(params=list(SUFFIX))
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A batch system that takes every job, and writes down how it was called."""
    name, answer = SUBMIT[request.param]
    fake = tmp_path / "bin" / name
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\ncat > {tmp_path}/stdin\n{answer}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    return str(request.param)


def world(system: str, folder: Path, options: LaunchOptions) -> WorldRequest:
    return WorldRequest(
        directory=folder,
        name="one",
        n=4,
        config=Config(site_dir=folder / "site"),
        options=msgspec.structs.replace(options, engines=system, controller=system),
        environ=os.environ,
        lifeline=False,
    )


def controller(system: str, folder: Path, options: LaunchOptions) -> ControllerRequest:
    one = world(system, folder, options)
    return ControllerRequest(
        directory=folder,
        cluster_id="x",
        config=one.config,
        options=one.options,
        environ=os.environ,
        lifeline=False,
    )


def check(script: Path) -> str:
    text = script.read_text()
    assert "{{" not in text
    assert script.stat().st_mode & 0o777 == 0o600  # the user's own variables may be in there
    # What cannot be followed, and conditions that were filled in.
    command = [str(SHELLCHECK), "--shell=bash", "--exclude=SC1090,SC1091,SC2154,SC2050,SC2317", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    return text


@pytest.mark.parametrize("options", [ALL, NOTHING], ids=["all", "nothing"])
def test_engines(system: str, options: LaunchOptions, tmp_path: Path) -> None:
    engine_set = launchers.start_world(world(system, tmp_path, options))
    assert engine_set.process.name == "job 123"
    text = check(tmp_path / f"engines-one.{SUFFIX[system]}")
    assert "--engine-set one" in text
    hostfile = {"slurm": "", "pbs": '"$PBS_NODEFILE"', "lsf": '"$LSB_DJOB_HOSTFILE"'}[system]
    assert hostfile in text.splitlines()[-1]
    called = (tmp_path / "called").read_text().splitlines() + (tmp_path / "stdin").read_text().splitlines()
    assert ("--exclusive" in called) == (options is ALL)


@pytest.mark.parametrize("options", [ALL, NOTHING], ids=["all", "nothing"])
def test_controller_and_engines(system: str, options: LaunchOptions, tmp_path: Path) -> None:
    started, engine_set = launchers.start_together(
        controller(system, tmp_path, options), world(system, tmp_path, options)
    )
    assert started.process.name == engine_set.process.name == "job 123"
    text = check(tmp_path / f"cluster.{SUFFIX[system]}")
    assert "-m mpiparallel.controller" in text
    assert "--remove-directory" not in text
    assert "--engine-set one" in text


def test_a_controller_alone(system: str, tmp_path: Path) -> None:
    started = launchers.start_controller(controller(system, tmp_path, ALL))
    assert started.process.name == "job 123"
    text = check(tmp_path / f"cluster.{SUFFIX[system]}")
    assert "mpiparallel.engine" not in text
    assert "if ! false" in text


def test_a_sites_own_template_comes_first(system: str, tmp_path: Path) -> None:
    request = world(system, tmp_path, NOTHING)
    site = request.config.site_dir / system / f"engines.{SUFFIX[system]}"
    site.parent.mkdir(parents=True)
    site.write_text("#!/bin/sh\n# ours: {{job_name}}\n{{launch}} {{engine}}\n")
    launchers.start_world(request)
    text = (tmp_path / f"engines-one.{SUFFIX[system]}").read_text()
    assert text.startswith("#!/bin/sh\n# ours: mpiparallel\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\n{{launch}} {{engin}}\n", r":2: nothing is known by the name \{\{engin\}\}"),
        ("#!/bin/sh\n{{launch}}\n", r"the placeholder \{\{engine\}\} is missing"),
    ],
)
def test_a_wrong_template_is_an_error(system: str, text: str, said: str, tmp_path: Path) -> None:
    request = world(system, tmp_path, NOTHING)
    site = request.config.site_dir / system / f"engines.{SUFFIX[system]}"
    site.parent.mkdir(parents=True)
    site.write_text(text)
    with pytest.raises(LaunchError, match=rf"template of the job.*{site}.*{said}"):
        launchers.start_world(request)
    assert not (tmp_path / "called").exists()


def test_a_request_for_nonsense_is_not_submitted(system: str, tmp_path: Path) -> None:
    request = world(system, tmp_path, LaunchOptions(srun_mpi="none", time="an hour"))
    with pytest.raises(ValueError, match=r"time='an hour': expected minutes"):
        launchers.start_world(request)
    assert not (tmp_path / "called").exists()


def test_what_a_value_holds_is_not_run(system: str, tmp_path: Path) -> None:
    evil = "$(touch evil);`touch evil`'\""
    options = LaunchOptions(srun_mpi="none", environment={"EVIL": evil}, engine_args=[evil], job_name="a b;c")
    request = replace(world(system, tmp_path, options), name="two words")
    launchers.start_world(request)
    lines = (tmp_path / f"engines-two words.{SUFFIX[system]}").read_text().splitlines()
    assert shlex.split(lines[-1])[-1] == evil
    script = "\n".join([*lines[:-1], 'printf "%s" "$EVIL" > seen'])
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    assert (tmp_path / "seen").read_text() == evil
    assert not (tmp_path / "evil").exists()
