"""``mpiparallel doctor`` on a real cluster: what is well, and what was broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiparallel import launchoptions
from mpiparallel.config import Config
from mpiparallel.doctor import checks, jobs
from mpiparallel.doctor.finding import Context, Finding
from slurm import machine
from slurm.machine import Slurm
from slurm.ssh import MISSING, Ssh

Examine = Callable[..., dict[str, Finding]]

IN_JOBS = {"modules", "MPI library", "Slurm", "a job"}  # what these tests are about


@pytest.fixture
def examine(slurm: Slurm) -> Examine:
    """Run the checks that have to do with the batch system, and return the findings by name."""

    def examine(environ: dict[str, str] | None = None, only: set[str] = IN_JOBS, **options: Any) -> Any:
        options.setdefault("batch_args", slurm.here)
        settings = launchoptions.check(options, "test")
        given = {**os.environ, **(environ or {})}
        began = time.monotonic()
        deadline = began + checks.TOGETHER
        python = settings.python or sys.executable
        context = Context(Config.from_environment(), settings, given, python, deadline)
        some = tuple(one for one in checks.CHECKS if one[0] in only)
        found = {one.name: one for one in checks.examine(context, some)}
        for one in found.values():
            print(one.status, one.name, one.words, one.remedy, f"{one.seconds} s", sep=" | ")
        assert time.monotonic() - began < checks.TOGETHER + 5.0
        assert all(one.remedy for one in found.values() if one.status in ("warn", "fail"))
        return found

    return examine


@pytest.mark.mpi
def test_all_is_well(examine: Examine, srun_mpi: str, separate: None) -> None:
    found = examine()
    assert {one.status for one in found.values()} == {"ok"}, found
    assert found["Slurm"].facts["partition"] == "main"
    assert f"--mpi={srun_mpi} suits" in found["srun"].words
    assert found["port"].facts["from"].startswith("node")
    for name in ("ranks by srun", "ranks in a job"):
        assert "have met on node" in found[name].words and " and node" in found[name].words


@pytest.mark.mpi
def test_the_command_in_a_job(slurm: Slurm, command: list[str]) -> None:
    words = ["salloc", "--quiet", *slurm.here, "-N2", "-n2", *command, "doctor", "--json"]
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - began < 65.0
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["ok"], done.stdout
    statuses = {one["name"]: one["status"] for one in report["checks"]}
    assert [statuses[name] for name in ("a node", "ranks by srun", "ranks in a job")] == ["ok"] * 3


@pytest.mark.mpi
def test_a_way_of_srun_for_another_mpi(examine: Examine, srun_mpi: str) -> None:
    wrong = {"pmix": "pmi2", "pmi2": "pmix"}[srun_mpi]
    found = examine(srun_mpi=wrong)
    assert found["srun"].status == "warn" and f"needs {srun_mpi}" in found["srun"].words
    assert found["ranks by srun"].status == "fail"
    assert f'srun_mpi = "{srun_mpi}"' in found["ranks by srun"].remedy
    assert found["ranks in a job"].status == "ok"


@pytest.mark.anympi
def test_a_wrong_partition(examine: Examine) -> None:
    found = examine(partition="nosuch")
    assert found["Slurm"].status == "fail" and "main, short (main is the default)" in found["Slurm"].remedy
    assert "a job" not in found


@pytest.mark.anympi
def test_a_job_that_cannot_be(examine: Examine) -> None:
    found = examine(mem="900T")
    assert found["a job"].status == "fail" and "Memory specification" in found["a job"].words
    assert "What there is: main" in found["a job"].remedy


@pytest.mark.anympi
def test_no_job_in_time(examine: Examine, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait long, and leaves nothing behind. A job for tomorrow is as good as a full queue."""
    monkeypatch.setattr(jobs, "QUEUE", 3.0)
    found = examine(only={"Slurm", "a job"}, batch_args=[*slurm.here, "--begin=now+1day"])
    assert found["a job"].status == "warn" and "no two free tasks within 3 s" in found["a job"].words
    assert "mpiparallel doctor" in found["a job"].remedy
    assert not [job for job in machine.jobs(os.environ[machine.TAG]) if "doctor" in job.name]


@pytest.mark.anympi
def test_modules_that_nodes_do_not_have(examine: Examine, tmp_path: Path, slurm: Slurm) -> None:
    """The login node has them, in a folder of its own."""
    (tmp_path / ".bash_profile").write_text(
        'module() { [ "$(hostname)" = "$LOGIN" ] && export LOADEDMODULES=$2 && return 0\n'
        "echo \"ERROR: Unable to locate a modulefile for '$2'\" >&2; return 1; }\n"
    )
    environ = {"HOME": str(tmp_path), "LOGIN": os.uname().nodename}
    found = examine(environ, modules=["openmpi/5"])
    assert found["modules"].status == "ok"
    if slurm.mode == "separate":
        assert found["modules, node"].status == "fail"
        assert "Unable to locate a modulefile for 'openmpi/5'" in found["modules, node"].words
        assert "module avail" in found["modules, node"].remedy


@pytest.mark.anympi
def test_a_python_that_nodes_do_not_have(examine: Examine, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ -n "$SLURM_PROCID" ] && exit 127\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    found = examine(python=str(python))
    assert found["MPI library"].status == "ok"
    assert found["a node"].status == "fail" and "exit code 127" in found["a node"].words
    assert "`python`" in found["a node"].remedy


@pytest.fixture
def unshared(root: None, separate: None, tmp_path: Path) -> Iterator[Path]:
    """A folder that nodes do not see."""
    folder = tmp_path / "local"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.anympi
def test_a_folder_that_nodes_do_not_see(
    examine: Examine, unshared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(unshared))
    found = examine()
    assert found["shared folder"].status == "fail" and str(unshared) in found["shared folder"].words
    assert "MPIPARALLEL_STATE" in found["shared folder"].remedy


@pytest.mark.anympi
def test_a_host_that_nodes_have_no_way_to(
    examine: Examine, slurm: Slurm, far_address: tuple[str, str]
) -> None:
    node, address = far_address
    others = ",".join(one for one in slurm.all_nodes if one != node)
    found = examine(controller_ip=address, batch_args=[f"--exclude={others}"], only={"Slurm", "a job"})
    assert found["port"].status == "fail" and f"{node} does not reach" in found["port"].words
    assert address in found["port"].words and "controller_ip" in found["port"].remedy


@pytest.mark.mpi
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_hosts_behind_ssh(examine: Examine, tmp_path: Path) -> None:
    servers = Ssh(tmp_path / "ssh", {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        server = servers.serve("login")
        environ = {"PATH": servers.path, "HOME": str(tmp_path)}
        well = examine(environ, {"ssh"}, host="login", python=sys.executable)
        bare = examine(environ, {"ssh"}, host="login", python="/no/python")
        (servers.folder / "authorized_keys").write_text("")
        keyless = examine(environ, {"ssh"}, host="login")
        server.stop()
        down = examine(environ, {"ssh"}, host="login")
        unknown = examine(environ, {"ssh"}, host="nosuch.invalid")
    finally:
        servers.close()
    assert well["ssh host"].status == "ok" and well["ranks by ssh"].status == "ok", well
    assert bare["ssh host"].status == "warn" and "no mpiparallel" in bare["ssh host"].words
    assert keyless["ssh host"].status == "fail" and "Permission denied" in keyless["ssh host"].words
    assert "ssh-copy-id login" in keyless["ssh host"].remedy
    assert down["ssh host"].status == "fail" and "Connection refused" in down["ssh host"].words
    assert unknown["ssh host"].status == "fail" and "no host of this name" in unknown["ssh host"].remedy


@pytest.mark.anympi
def test_an_ordinary_user(person: Any) -> None:
    """The whole command; other nodes than ours may be asked, for a moment."""
    done = person.run(person.python, "-m", "mpiparallel.cli", "doctor", "--json", timeout=90.0)
    report = json.loads(done.stdout)
    statuses = {one["name"]: one["status"] for one in report["checks"]}
    assert statuses["ranks here"] == "ok" and statuses["state folder"] == "ok", done.stdout
    assert statuses["ranks by srun"] == "ok", done.stdout
    shutil.rmtree(person.home / ".local", ignore_errors=True)
