"""The allocation of a batch system that this program is in, found by its environment.

``salloc``, ``sbatch`` and the like set variables for all that runs in a job. `find` reads those of Slurm, PBS
and LSF; the launchers and the default number of engines go by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path


@dataclass(frozen=True)
class Allocation:
    """What a batch system has given to this job.

    Attributes
    ----------
    system : str
        ``"slurm"``, ``"pbs"`` or ``"lsf"``.
    job : str
        The job's id.
    nodes : tuple of str
        Its nodes, each once, in the batch system's order.
    ntasks : int
        How many tasks it was asked for.
    hostfile : str
        A file with a line for each slot, if the batch system has written one.
    """

    system: str
    job: str
    nodes: tuple[str, ...]
    ntasks: int
    hostfile: str = ""

    def spreads(self, here: str) -> bool:
        """Return whether what is started in it may run on other hosts than `here`."""
        return any(_short(node) != _short(here) for node in self.nodes)

    def __str__(self) -> str:
        nodes = self.nodes[0] if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        return f"job {self.job} on {nodes}"


def find(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that a program with this environment is in; None if it is in none.

    Raises
    ------
    ValueError
        If the variables of a batch system say what cannot be understood.
    """
    for system in (_slurm, _pbs, _lsf):
        found = system(environ)
        if found is not None:
            return found
    return None


def _slurm(environ: Mapping[str, str]) -> Allocation | None:
    job = environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID")
    listed = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if not job or not listed:
        return None
    nodes = tuple(expand(listed))
    environ = outside_of_step(environ)
    text = environ.get("SLURM_NTASKS") or environ.get("SLURM_NPROCS") or ""
    # salloc without -n has not SLURM_NTASKS; the tasks per node are there always.
    ntasks = int(text) if text.isdigit() else sum(per_node(environ.get("SLURM_TASKS_PER_NODE", "")))
    return Allocation("slurm", job, nodes, ntasks or len(nodes))


# What a step tells the programs in it; mpiexec and srun would take the layout of that step for this world's.
_OF_A_STEP = re.compile(
    r"SLURM_(?:STEP|TASK_PID|NNODES$|NTASKS|NPROCS$|NODELIST$|TASKS_PER_NODE$|PROCID$|LOCALID$|NODEID$|GTIDS$|"
    r"CPU_BIND|MEM_BIND|DISTRIBUTION$|MPI_TYPE$|PMIX|SRUN_COMM|LAUNCH_NODE|EXACT$|OVERCOMMIT$|THREADS$|"
    r"LABELIO$|UNBUFFEREDIO$|KILL_BAD_EXIT$)"
)


def outside_of_step(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program in a step (``srun --pty ipython``) as its job would have it."""
    if not environ.get("SLURM_STEP_ID") and not environ.get("SLURM_STEPID"):
        return dict(environ)
    kept = {name: value for name, value in environ.items() if not _OF_A_STEP.match(name)}
    for name, of_job in (("NODELIST", "JOB_NODELIST"), ("NNODES", "JOB_NUM_NODES")):
        if f"SLURM_{of_job}" in environ:
            kept[f"SLURM_{name}"] = environ[f"SLURM_{of_job}"]
    # How many tasks the job was asked for is not known in a step; how many fit is.
    cpus = environ.get("SLURM_CPUS_PER_TASK", "")
    each = int(cpus) if cpus.isdigit() and int(cpus) else 1
    fit = [max(1, number // each) for number in per_node(environ.get("SLURM_JOB_CPUS_PER_NODE", ""))]
    if fit:
        kept["SLURM_TASKS_PER_NODE"] = ",".join(map(str, fit))
    return kept


def _pbs(environ: Mapping[str, str]) -> Allocation | None:
    job, hostfile = environ.get("PBS_JOBID"), environ.get("PBS_NODEFILE")
    if not job or not hostfile:
        return None
    slots = _lines(hostfile)
    return Allocation("pbs", job, tuple(dict.fromkeys(slots)), len(slots), hostfile) if slots else None


def _lsf(environ: Mapping[str, str]) -> Allocation | None:
    job = environ.get("LSB_JOBID")
    if not job:
        return None
    hostfile = environ.get("LSB_DJOB_HOSTFILE", "")
    # LSF leaves LSB_HOSTS out when the list is long; "host slots host slots" is there always.
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    if len(words) % 2:
        raise ValueError(f"LSB_MCPU_HOSTS={environ['LSB_MCPU_HOSTS']!r}: expected hosts and their slots")
    slots = [host for host, count in zip(words[::2], words[1::2], strict=True) for _ in range(int(count))]
    slots = slots or environ.get("LSB_HOSTS", "").split() or _lines(hostfile)
    return Allocation("lsf", job, tuple(dict.fromkeys(slots)), len(slots), hostfile) if slots else None


def _lines(path: str) -> list[str]:
    """Return the lines of a list of hosts; none when the file is gone: the variable has outlived its job."""
    try:
        return Path(path).read_text().split() if path else []
    except OSError:
        return []


def _short(host: str) -> str:
    """Return a host name without its domain, which batch systems leave out and ``gethostname`` may not."""
    return host if host.replace(".", "").isdigit() else host.partition(".")[0]


def expand(listed: str) -> list[str]:
    """Return the hosts of a list as Slurm writes it: ``"node[1-3,07],login"``.

    Raises
    ------
    ValueError
        If it is not such a list.
    """
    hosts: list[str] = []
    # A comma outside of brackets ends an item.
    for item in re.findall(r"(?:\[[^\]]*\]|[^,\[\]])+|[\[\]]", listed):
        pieces = re.split(r"\[([^\]]*)\]", item.strip())
        if "[" in "".join(pieces) or "]" in "".join(pieces):
            raise ValueError(f"{listed!r} is not a list of hosts")
        choices = [list(_numbers(piece, listed)) if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
        hosts += ["".join(parts) for parts in product(*choices)]
    return [host for host in hosts if host]


def _numbers(text: str, listed: str) -> Iterator[str]:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{listed!r} is not a list of hosts")
        for number in range(int(first), int(last or first) + 1):
            yield f"{number:0{len(first)}d}"


def per_node(text: str) -> list[int]:
    """Return the numbers of a list as Slurm writes it: ``"16(x2),3"`` is 16, 16, 3.

    Raises
    ------
    ValueError
        If it is not such a list.
    """
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ValueError(f"{text!r} is not a list of numbers of tasks")
        numbers += [int(found[1])] * int(found[2] or 1)
    return numbers
