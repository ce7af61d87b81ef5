"""Engines and controllers on another host, by a real sshd on a node of the cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

import mpiparallel as ipp
from mpiparallel import LaunchError
from slurm import machine
from slurm.ssh import MISSING, Ssh

pytestmark = [
    pytest.mark.usefixtures("separate"),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


def places(rc: ipp.Client) -> list[tuple[str, int, int]]:
    """Return host, rank and size of each engine, after all have met."""

    def place() -> tuple[str, int, int]:  # not of this module, which the node need not have
        import socket

        from mpi4py import MPI

        MPI.COMM_WORLD.Barrier()
        return socket.gethostname(), MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size

    found: list[tuple[str, int, int]] = rc[:].apply_sync(place)
    return found


@pytest.fixture(scope="module")
def far(nodes: list[str], _tag: str) -> Iterator[str]:
    """A node that ``ssh far`` reaches; it shares no state folder with this host."""
    folder = Path(tempfile.mkdtemp(prefix="mpis"))
    root = str(Path(__file__).parents[2])
    environ = {
        "PYTHONPATH": root, "MPIPARALLEL_STATE": "/dev/shm/mpiparallel-far", machine.TAG: _tag,
        "TMPDIR": os.environ["TMPDIR"],
    }  # fmt: skip
    ssh = Ssh(folder, environ)
    path = os.environ["PATH"]
    try:
        ssh.serve("far", node=nodes[-1])
        os.environ["PATH"] = ssh.path
        yield nodes[-1]
    finally:
        os.environ["PATH"] = path
        ssh.close()
        shutil.rmtree(folder)


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder that the node does not see."""
    folder = Path(tempfile.mkdtemp(prefix="mpiparallel-here-", dir="/dev/shm"))
    monkeypatch.setenv("MPIPARALLEL_STATE", str(folder))
    yield folder
    left = [path for path in folder.rglob("*") if not path.is_dir()]
    shutil.rmtree(folder)
    assert not left


@pytest.mark.mpi
@pytest.mark.parametrize("shared", [True, False])
def test_engines_there(far: str, shared: bool, request: pytest.FixtureRequest) -> None:
    if not shared:
        request.getfixturevalue("own_folder")
    with ipp.Cluster(n=2, engines="ssh", host="far") as rc:
        assert places(rc) == [(far, 0, 2), (far, 1, 2)]
        assert rc._connection.info.host == socket.gethostname()


@pytest.mark.mpi
@pytest.mark.parametrize("shared", [True, False])
def test_all_there(far: str, shared: bool, request: pytest.FixtureRequest) -> None:
    if not shared:
        request.getfixturevalue("own_folder")
    with ipp.Cluster(n=2, engines="ssh", controller="ssh", host="far") as rc:
        assert rc._connection.info.host == far
        assert places(rc) == [(far, 0, 2), (far, 1, 2)]


def test_the_controller_there_and_engines_here(far: str, own_folder: Path) -> None:
    with ipp.Cluster(n=2, controller="ssh", host="far") as rc:
        assert rc._connection.info.host == far
        here = socket.gethostname()
        assert places(rc) == [(here, 0, 2), (here, 1, 2)]


@pytest.mark.mpi
@pytest.mark.parametrize("what", ["engines", "controller"])
def test_what_runs_there_ends_with_its_ssh(far: str, what: str) -> None:
    """The fixture looks for processes that are left, on all nodes."""
    cluster = ipp.Cluster(n=2, engines="ssh", controller="ssh", host="far")
    rc = cluster.start_and_connect_sync()
    try:
        pids = rc[:].apply_sync(os.getpid)
        part = cluster.engine_set if what == "engines" else cluster.controller
        assert part is not None and part.pid is not None
        os.kill(part.pid, signal.SIGKILL)

        def there() -> list[str]:
            texts = machine.processes(os.environ[machine.TAG])
            return [text for text in texts.values() if "mpiparallel.engine" in text]

        if what == "engines":
            assert len(pids) == 2 and wait_until(lambda: not there(), 20.0)
    finally:
        rc.close()
        cluster.stop_cluster_sync()


def test_nothing_is_left_when_the_program_is_killed(far: str, tmp_path: Path) -> None:
    code = (
        "import mpiparallel as ipp, time\n"
        "rc = ipp.Cluster(n=2, engines='ssh', controller='ssh', host='far').start_and_connect_sync()\n"
        "print(rc.ids, flush=True)\ntime.sleep(100)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    with program.stdout:
        assert program.stdout.readline().strip() == "[0, 1]"
        program.kill()
        program.wait()


@pytest.mark.parametrize(
    ("what", "options", "says"),
    [
        ("engines", {"host": "nowhere.invalid"}, r"No host has that name here"),
        ("engines", {"host": "far", "ssh_args": ["-p", "9"]}, r"No ssh server answers there"),
        ("engines", {"host": "far", "mpiexec": "/no/mpiexec"}, r"/no/mpiexec. is no program"),
        ("controller", {"host": "far", "python": "/no/python"}, r"no such Python"),
    ],
)
def test_what_can_go_wrong(far: str, what: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(LaunchError, match=says):
        ipp.Cluster(n=2, **{what: "ssh"}, **options).start_and_connect_sync()


def test_ssh_is_not_let_in(far: str) -> None:
    answer = subprocess.run(["ssh", "-G", "far"], capture_output=True, text=True, check=True).stdout
    about = dict(line.split(" ", 1) for line in answer.splitlines())
    args = ["-i", "/dev/null", "-F", "/dev/null", "-o", "UserKnownHostsFile=/dev/null", "-p", about["port"]]
    with pytest.raises(LaunchError, match="ssh HOST"):
        ipp.Cluster(n=2, engines="ssh", host=about["hostname"], ssh_args=args).start_and_connect_sync()
