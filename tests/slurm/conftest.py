"""A real Slurm cluster for the tests in this folder, and a look at what each of them leaves there.

``make test-slurm`` runs them; ``pytest`` without a folder does not. A cluster of ``slurm-up`` that runs
already is used; otherwise root starts one and takes it down at the end. ``MPIPARALLEL_TEST_NODES`` names
the nodes to use (default: the first three). Tests tell Slurm to use no others by `Slurm.here`, as in
``batch_args=slurm.here``.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import wait_until

from mpiparallel.controller.places import host_addresses
from mpiparallel.launch import mpi
from mpiparallel.launch.argv import Dialect
from slurm import machine
from slurm.machine import Slurm

GONE = 20.0  # seconds that jobs and processes may take to end: a job's grace is 5
ORDINARY_USER = "nobody"

_started = pytest.StashKey[bool]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start a cluster, if none runs and nobody has tried; once, not in each worker of pytest-xdist."""
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if os.environ.get(machine.WHY_NOT) or machine.find():
        return
    try:
        machine.start()
    except machine.NoSlurm as error:
        os.environ[machine.WHY_NOT] = str(error)
    except RuntimeError as error:
        pytest.exit(str(error), returncode=1)
    else:
        config.stash[_started] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(_started, False):
        machine.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm() -> Slurm:
    """The running cluster."""
    if os.environ.get(machine.WHY_NOT):
        pytest.skip(os.environ[machine.WHY_NOT])
    found = machine.find()
    assert found, "the cluster was there when the tests began"
    return found


@pytest.fixture(scope="session")
def _tag(slurm: Slurm, state_dir: Path) -> Iterator[str]:
    """Mark all that this session starts, jobs and processes, and see that they leave no files either."""
    tag = f"tests{secrets.token_hex(4)}"
    tempfile.gettempdir()  # pytest's own files stay where they are
    # Short, for sockets are in there.
    temporary = Path(tempfile.mkdtemp(prefix="mpit"))
    temporary.chmod(0o1777)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(machine.TAG, tag)
        patch.setenv("TMPDIR", str(temporary))
        for name in machine.TAGS_OF_JOBS:
            patch.setenv(name, tag)
        yield tag
    jobs = machine.jobs(tag)
    if jobs:
        subprocess.run(["scancel", *(job.id for job in jobs)], check=False)
    left = [
        str(path.relative_to(temporary))
        for path in temporary.rglob("*")
        # Open MPI's daemon on another node, when Slurm kills it, leaves its topology.
        if not path.is_dir() and not path.parent.name.startswith("prted.")
    ]
    shutil.rmtree(temporary)
    assert not jobs, f"left in the queue: {jobs}"
    assert not left, f"left in {temporary}: {left}"


@pytest.fixture(autouse=True)
def nothing_left(_tag: str) -> Iterator[None]:
    """Fail a test that leaves jobs in the queue, or processes here or on a node.

    What fixtures of a module have started before the test may stay.
    """
    jobs = {job.id for job in machine.jobs(_tag)}
    processes = set(machine.processes(_tag))
    yield

    def left() -> list[str]:
        return [
            *(f"job {job.id} {job.name}: {job.state}" for job in machine.jobs(_tag) if job.id not in jobs),
            *(text for pid, text in machine.processes(_tag).items() if pid not in processes),
        ]

    if not wait_until(lambda: not left(), GONE):
        found = left()
        subprocess.run(
            ["scancel", *(job.id for job in machine.jobs(_tag) if job.id not in jobs)],
            check=False, capture_output=True,
        )  # fmt: skip
        pytest.fail("left running:\n  " + "\n  ".join(found))


@pytest.fixture(scope="session")
def nodes(slurm: Slurm) -> list[str]:
    """The names of the nodes that tests use: three, or more."""
    return list(slurm.nodes)


@pytest.fixture(scope="session")
def srun_mpi() -> str:
    """How srun starts ranks of the MPI that these tests run with."""
    found = mpi.detect(mpi.find_mpiexec(os.environ))
    return "pmix" if found.dialect is Dialect.OPENMPI else "pmi2"


@pytest.fixture
def separate(slurm: Slurm) -> None:
    """Skips a test that needs nodes with host names and addresses of their own."""
    if slurm.mode != "separate":
        pytest.skip("the nodes share this host's name and address: namespaces cannot be made here")


@pytest.fixture
def root() -> None:
    """Skips a test that only root can run."""
    if os.geteuid() != 0:
        pytest.skip("only root can do this to nodes")


@pytest.fixture
def victims(slurm: Slurm, root: None, separate: None) -> Iterator[list[str]]:
    """Nodes that a test may kill, crash and unplug: three, or more; they are whole again afterwards."""
    chosen = list(slurm.victims)
    yield chosen
    for node in chosen:
        slurm.node("plug", node)
        slurm.node("start", node)
    assert wait_until(lambda: all(slurm.up(node) for node in chosen), 60.0), "a node does not come back"


@pytest.fixture
def far_address(slurm: Slurm, root: None, separate: None) -> Iterator[tuple[str, str]]:
    """A node, and an address of this host to which it has no way any more."""
    node = slurm.nodes[-1]
    others = [one for one in host_addresses() if one != slurm.address and not one.startswith("127.")]
    if not others:
        pytest.skip("this host has no second address")
    route = [f"{others[0]}/32", "via", f"{slurm.address.rpartition('.')[0]}.250"]
    slurm.node("exec", node, "ip", "route", "replace", *route)
    try:
        yield node, others[0]
    finally:
        slurm.node("exec", node, "ip", "route", "del", *route)


@dataclass
class Person:
    """An ordinary user with a home folder.

    Attributes
    ----------
    home : Path
    python : str
        A Python that this user may run, with all packages of these tests.
    environ : dict of str
    """

    home: Path
    python: str
    environ: dict[str, str]

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a program as this user, in the home folder."""
        user = pwd.getpwnam(ORDINARY_USER)
        return subprocess.Popen(
            [str(word) for word in words],
            env=self.environ, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )  # fmt: skip

    def run(self, *words: object, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program as this user, in the home folder."""
        with self.start(*words) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture
def person(slurm: Slurm, root: None, _tag: str) -> Iterator[Person]:
    """An ordinary user of the cluster, for tests that root runs."""
    home = Path(tempfile.mkdtemp(prefix="mpih"))
    shutil.chown(home, ORDINARY_USER)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("MPIPARALLEL_", "XDG_"))
    }
    beside = os.path.dirname(sys.executable)
    environ |= {
        "HOME": str(home), "USER": ORDINARY_USER, "LOGNAME": ORDINARY_USER, machine.TAG: _tag,
        "PATH": os.pathsep.join([beside, environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), sysconfig.get_path("purelib")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    # The Python of root's virtual environment may be in root's home. The system's can take its packages.
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    wheel = sorted(Path(sys.prefix, "lib").glob("libmpi.so.*"))
    if wheel:
        environ["MPI4PY_LIBMPI"] = str(wheel[0])
    found, why = None, ""
    for python in (sys.executable, system):
        somebody = Person(home, python, environ)
        try:
            probe = somebody.run(python, "-c", "import mpiparallel.cli, mpi4py, zmq")
        except OSError as error:
            why += f"{error}; "
            continue
        if probe.returncode == 0:
            found = somebody
            break
        why += probe.stderr.strip()[-200:]
    if found:
        yield found
    shutil.rmtree(home)
    if not found:
        pytest.skip(f"{ORDINARY_USER} can run no Python with these packages: {why}")


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The ``mpiparallel`` command."""
    return [sys.executable, "-m", "mpiparallel.cli"]


@pytest.fixture(scope="session")
def environ(_tag: str) -> dict[str, str]:
    """The environment for a bare mpiexec or srun: also as root, and with more ranks than cores."""
    names = [f"{one}_ALLOW_RUN_AS_ROOT{more}" for one in ("OMPI", "PRTE") for more in ("", "_CONFIRM")]
    return {
        **os.environ,
        **dict.fromkeys(names, "1"),
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
