"""What a newcomer gets wrong on a cluster: each is told soon, with what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiparallel import Cluster
from mpiparallel.error import LaunchError
from slurm.machine import Slurm

SOON = 30.0  # seconds from the start of the command to its last word


@pytest.fixture
def start(slurm: Slurm, capfd: pytest.CaptureFixture[str]) -> Any:
    """Start two engines in a job in a wrong way, and return what is said about it."""

    def start(**options: Any) -> str:
        options.setdefault("batch_args", slurm.here)
        cluster = Cluster(n=2, engines="slurm", time="5", **options)
        began = time.monotonic()
        try:
            with pytest.raises(LaunchError) as error:
                cluster.start_and_connect_sync()
        finally:
            cluster.stop_cluster_sync()
        took = time.monotonic() - began
        print(f"after {took:.1f} s:\n{error.value}")
        assert took < SOON, str(error.value)
        return str(error.value)

    return start


@pytest.mark.anympi
def test_a_wrong_partition(start: Any) -> None:
    said = start(partition="nosuch")
    assert "invalid partition" in said  # word for word
    assert "Partitions that exist: main (default, " in said and "short (" in said
    assert "partition=" in said and "-p" in said


@pytest.mark.anympi
def test_more_than_the_partition_has(start: Any) -> None:
    """Slurm takes such a job, and would let it wait for ever."""
    said = start(partition="short", nodes=1, cpus_per_task=999)
    assert "main (default, " in said and "CPUs" in said


@pytest.mark.anympi
def test_no_modules_on_the_nodes(start: Any) -> None:
    said = start(modules=["nosuch/1.0"], environment={"MODULESHOME": "", "LMOD_PKG": ""})
    assert "there is no command 'module' on node" in said
    assert "modules=nosuch/1.0" in said and "setup" in said


@pytest.fixture
def with_modules(tmp_path: Path) -> dict[str, str]:
    """Variables by which bash in jobs knows `module`, as at sites that have modules."""
    file = tmp_path / "bashenv"
    file.write_text(
        'module() { if [ "$2" = good ]; then export LOADEDMODULES=good; return 0; fi\n'
        "echo \"ERROR: Unable to locate a modulefile for '$2'\" >&2; return 1; }\n"
    )
    return {"BASH_ENV": str(file)}


@pytest.mark.anympi
def test_a_missing_module(start: Any, with_modules: dict[str, str]) -> None:
    said = start(modules=["good", "nosuch/1.0"], environment=with_modules)
    assert "ERROR: Unable to locate a modulefile for 'nosuch/1.0'" in said  # word for word
    assert "nosuch/1.0 cannot be loaded on node" in said and "module avail" in said


@pytest.mark.mpi
def test_a_way_of_srun_for_another_mpi(start: Any, srun_mpi: str) -> None:
    wrong = {"pmix": "pmi2", "pmi2": "pmix"}[srun_mpi]
    said = start(srun_mpi=wrong)
    assert "srun_mpi" in said and f"'{srun_mpi}'" in said
    assert said.index("srun_mpi") < 600, "what to do comes before what libraries say"


@pytest.mark.anympi
def test_a_way_that_srun_does_not_know(start: Any, srun_mpi: str) -> None:
    said = start(srun_mpi="nosuch")
    assert "srun_mpi='nosuch': this srun knows" in said
    assert f"Use '{srun_mpi}', or leave it out" in said


@pytest.mark.anympi
def test_a_python_that_nodes_do_not_have(start: Any) -> None:
    said = start(python="/nosuch/bin/python")
    assert "no such Python where engines run" in said and "(python)" in said


@pytest.fixture
def full_disk(root: None, tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk with no room left."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        with open(folder / "old", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.anympi
def test_a_full_disk_for_the_log(start: Any, full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(full_disk))
    said = start()
    assert str(full_disk) in said and "No space left on device" in said
    assert "The disk is full" in said and "MPIPARALLEL_STATE" in said
    assert [path for path in full_disk.rglob("*") if path.is_file()] == [full_disk / "old"]


@pytest.mark.anympi
def test_a_full_disk_by_the_command(full_disk: Path, command: list[str]) -> None:
    environ = {**os.environ, "MPIPARALLEL_STATE": str(full_disk)}
    began = time.monotonic()
    for words in (["start", "-n", "1"], ["controller"]):
        done = subprocess.run(
            [*command, *words], env=environ, capture_output=True, text=True, timeout=SOON, check=False
        )
        assert done.returncode == 1 and "The disk is full" in done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert time.monotonic() - began < SOON


@pytest.mark.anympi
def test_a_controller_that_listens_on_its_host_only(start: Any, separate: None) -> None:
    said = start(controller_ip="127.0.0.1")
    assert "tried from node" in said and "tcp://127.0.0.1:" in said and "Connection refused" in said
    assert "controller_ip='0.0.0.0'" in said and "--ip" in said


@pytest.mark.anympi
def test_a_controller_that_nodes_have_no_way_to(start: Any, far_address: tuple[str, str]) -> None:
    node, address = far_address
    said = start(controller_ip=address, batch_args=[f"--nodelist={node}"])
    assert f"tried from {node}" in said and f"tcp://{address}:" in said
    assert "firewall" in said


@pytest.mark.anympi
def test_what_is_said_by_the_command(command: list[str], slurm: Slurm) -> None:
    """In one line or a few, on stderr, with exit code 1."""
    program = (
        "from mpiparallel import Cluster\n"
        f"Cluster(n=2, engines='slurm', partition='nosuch', batch_args={slurm.here}).start_and_connect_sync()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON, check=False
    )
    assert done.returncode == 1
    assert "LaunchError: Slurm refused the job: sbatch: error: invalid partition specified" in done.stderr
