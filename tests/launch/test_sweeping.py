"""What MPI leaves behind when it is killed, and that it goes."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from helpers import wait_until

from mpiparallel.launch import argv, mpi, sweeping

OURS = ["sm_segment.vm.0.5e450000.0", "vader_segment.vm.0.1.2", "mpich_shm_421013b5_0"]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders in place of /dev/shm and /tmp."""
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    for folder in (shared, temporary):
        folder.mkdir()
    monkeypatch.setattr(sweeping, "SHARED_MEMORY", shared)
    monkeypatch.setattr(sweeping.tempfile, "gettempdir", lambda: str(temporary))
    return shared, temporary


def test_segments_that_nobody_uses(folders: tuple[Path, Path]) -> None:
    shared, _ = folders
    for name in [*OURS, "sem.mine", "my_sm_segment.1"]:
        (shared / name).write_bytes(b"x" * 4096)
    with open(shared / OURS[0], "r+b") as file, mmap.mmap(file.fileno(), 0):
        sweeping.sweep(0, time.time())
        left = sorted(path.name for path in shared.iterdir())
        assert left == sorted([OURS[0], "sem.mine", "my_sm_segment.1"])
    sweeping.sweep(0, time.time() + 60)  # what is older than the world is not its
    assert (shared / OURS[0]).exists()
    sweeping.sweep(0, time.time() - 60)
    assert sorted(path.name for path in shared.iterdir()) == ["my_sm_segment.1", "sem.mine"]


def test_folders_and_files(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, temporary = folders
    for pid in (1234, 1235):
        (temporary / f"ompi.{pid}/0").mkdir(parents=True)
    (temporary / "hydra_hwloc_xmlfile_abc").touch()
    made = (temporary / "hydra_hwloc_xmlfile_abc").stat().st_ctime

    def processes(began: float) -> Callable[[list[str]], list[SimpleNamespace]]:
        proxy = {"name": sweeping.PROXY, "create_time": began}
        return lambda attributes: [SimpleNamespace(info=proxy)]

    # A proxy that began shortly before may have made it for its ranks.
    monkeypatch.setattr(sweeping.psutil, "process_iter", processes(made - 2))
    sweeping.sweep(1234, made - 60)
    assert sorted(path.name for path in temporary.iterdir()) == ["hydra_hwloc_xmlfile_abc", "ompi.1235"]
    monkeypatch.setattr(sweeping.psutil, "process_iter", processes(made - 30))
    sweeping.sweep(1234, made - 60)
    assert [path.name for path in temporary.iterdir()] == ["ompi.1235"]


WORLD = """
import time
from mpi4py import MPI
MPI.COMM_WORLD.barrier()
print("up", flush=True)
time.sleep(60)
"""


def segments_of(processes: list[psutil.Process]) -> set[Path]:
    """Return the files in shared memory that these processes have mapped."""
    mapped = {Path(region.path) for process in processes for region in process.memory_maps()}
    shared = {path for path in mapped if path.parent == sweeping.SHARED_MEMORY}
    return {path for path in shared if sweeping.SEGMENTS.match(path.name)}  # UCX removes its own at once


@pytest.fixture
def world(tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """mpiexec and everything below it, two ranks among them."""
    which = mpi.detect(mpi.find_mpiexec(os.environ))
    command = [which.mpiexec, *argv.ft_arguments(which), "-n", "2", sys.executable, "-c", WORLD]
    environment = argv.world_environment(os.environ, which, n=2, cores=1, root=os.geteuid() == 0)
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
    family = []
    try:
        assert wait_until(lambda: (tmp_path / "said").read_text().count("up") == 2, 30)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield family
    finally:
        for one in family:
            if one.is_running():
                one.kill()
        process.wait(10)


@pytest.mark.mpi
def test_after_kill_9_of_everything(world: list[psutil.Process]) -> None:
    mpiexec, began = world[0].pid, world[0].create_time()
    segments = segments_of(world)
    assert segments
    sweeping.sweep(0, began)
    assert all(path.exists() for path in segments)  # as long as they are used
    for one in world:
        one.send_signal(signal.SIGKILL)
    os.waitpid(mpiexec, 0)
    assert wait_until(lambda: not any(Path(f"/proc/{one.pid}/maps").exists() for one in world))
    sweeping.sweep(mpiexec, began)
    assert not any(path.exists() for path in segments)
    assert not Path(tempfile.gettempdir(), f"ompi.{mpiexec}").exists()
