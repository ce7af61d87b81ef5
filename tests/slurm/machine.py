"""The Slurm cluster on this machine: is there one, start one, what belongs to these tests in it.

The scripts beside this file start it; they say in their headers how. `conftest.py` calls this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
SETTINGS = Path("/var/run/slurm-test/settings")  # written by slurm-up
NODES = 3  # that the tests need
CPUS = 16  # that each node claims to have: 12 ranks and more jobs beside them
TAG = "MPIPARALLEL_TEST_TAG"  # in the environment of all that a session starts
WHY_NOT = "MPIPARALLEL_TEST_NO_SLURM"  # tells processes that are started what `NoSlurm` has said
# Slurm notes these at each job, whatever starts it.
TAGS_OF_JOBS = ("SBATCH_WCKEY", "SALLOC_WCKEY", "SLURM_WCKEY")


class NoSlurm(Exception):
    """Slurm cannot be had here; the message says why."""


@dataclass(frozen=True)
class Job:
    """One line of squeue."""

    id: str
    name: str
    state: str
    user: str
    tag: str


@dataclass(frozen=True)
class Slurm:
    """A running cluster.

    Attributes
    ----------
    mode : str
        ``separate``: nodes have host names, addresses and process ids of their own; ``shared``: they
        have this host's.
    all_nodes : list of str
    nodes : list of str
        Those that tests use.
    victims : list of str
        Those that may be killed and cut off; others than `nodes`, where there are more.
    address : str
        This host's, as seen by nodes.
    """

    mode: str
    all_nodes: tuple[str, ...]
    nodes: tuple[str, ...]
    victims: tuple[str, ...]
    address: str

    @property
    def here(self) -> list[str]:
        """What tells sbatch, salloc and srun to use no other nodes than `nodes`."""
        others = [node for node in self.all_nodes if node not in self.nodes]
        return [f"--exclude={','.join(others)}"] if others else []

    def node(self, action: str, node: str, *words: object, timeout: float = 60.0) -> str:
        """Run ``slurm-node ACTION NODE ...`` and return what it printed; only root can."""
        return run(HERE / "slurm-node", action, node, *words, timeout=timeout)

    def up(self, node: str) -> bool:
        """Return whether Slurm would give work to `node`."""
        state = run("sinfo", "-h", "-N", "-n", node, "-o", "%T").split()
        return bool(state) and state[0] in ("idle", "mixed", "allocated", "completing", "planned")


def run(*words: object, timeout: float = 60.0, environ: dict[str, str] | None = None) -> str:
    """Run a program that has to succeed and return what it printed."""
    done = subprocess.run(
        [str(word) for word in words], env=environ, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def find() -> Slurm | None:
    """Return the cluster that runs here, if one with enough nodes does."""
    if not SETTINGS.exists() or not shutil.which("sinfo"):
        return None
    values = dict(word.split("=") for word in SETTINGS.read_text().split())
    answer = subprocess.run(
        ["timeout", "10", "sinfo", "-h", "-N", "-p", "main", "-o", "%N"], capture_output=True, text=True
    )
    found = sorted(set(answer.stdout.split()), key=lambda name: (len(name), name))
    named = os.environ.get("MPIPARALLEL_TEST_NODES", "").replace(",", " ").split()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    if len(named) >= NODES * (int(worker) + 1):
        named = named[NODES * int(worker) :][:NODES]  # each of pytest-xdist's workers has its own
    nodes = named or found[:NODES]
    if len(nodes) < NODES or not set(nodes) <= set(found):
        return None
    spare = () if named else tuple(found[NODES:])
    return Slurm(
        values["mode"],
        tuple(found),
        tuple(nodes),
        spare or tuple(nodes),
        f"{values['subnet']}.1" if values["mode"] == "separate" else "127.0.0.1",
    )


def start(nodes: int = NODES) -> Slurm:
    """Start a cluster.

    Raises
    ------
    NoSlurm
        If this machine, or this user, cannot have one.
    RuntimeError
        If it could, but did not start.
    """
    if os.geteuid() != 0:
        raise NoSlurm(
            f"no Slurm cluster of {NODES} nodes runs here, and only root can start one: "
            f"sudo {HERE / 'slurm-up'} -n {nodes} -c {CPUS}"
        )
    command = [str(HERE / "slurm-up"), "-n", str(nodes), "-c", str(CPUS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    if done.returncode == 3:
        raise NoSlurm(f"Slurm cannot be installed here: {done.stdout.strip()}")
    slurm = find()
    if done.returncode or slurm is None:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return slurm


def stop() -> None:
    """End the cluster that `start` has started."""
    run(HERE / "slurm-down", timeout=120)


def jobs(tag: str = "") -> list[Job]:
    """Return the jobs that have not ended: all, or those of the session with this tag."""
    lines = run("squeue", "-h", "-r", "--Format=JobID:|,Name:|,State:|,UserName:|,WCKey:|").splitlines()
    found = [Job(*(word.strip() for word in line.split("|")[:5])) for line in lines if line.strip()]
    return [job for job in found if not tag or job.tag == tag]


def processes(tag: str) -> dict[int, str]:
    """Return what was started by the session with this tag and still runs, here and on nodes, by pid.

    This host sees the processes of its nodes, too.
    """
    found = {}
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get(TAG) != tag or process.pid == os.getpid():
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                where = environ.get("SLURMD_NODENAME", "this host")
                found[process.pid] = f"{where}: {process.pid} {' '.join(process.cmdline())}"
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return found
