"""How controller and engines are to be started: what a profile, the environment and a command line can say.

`LaunchOptions` is the one list of these words: profiles are checked against it, `Cluster` takes them as
keywords, the command as options, and templates have them as placeholders.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

LAUNCHERS = ("mpi", "srun", "slurm", "ssh", "pbs", "lsf")


class LaunchOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Settings of a start; what is None or empty is left to the site.

    Attributes
    ----------
    engines : str
        What starts engines: ``mpi`` (mpiexec on this machine, or inside the allocation that this program is
        in), ``srun`` (inside an allocation), ``slurm``, ``pbs``, ``lsf`` (a batch job), ``ssh`` (mpiexec on
        `host`).
    controller : str
        What starts the controller: ``mpi`` (here), ``ssh``, or a batch system: in the engines' job then.
    n : int
        Number of engines.
    nodes, ntasks_per_node, cpus_per_task : int
        How a job is laid out.
    time : str
        Time limit as Slurm writes it: ``MM``, ``HH:MM:SS``, ``D-HH:MM:SS``.
    partition, account, qos, reservation, constraint, gres, mem : str
        Passed to the batch system.
    job_name : str
        The job's name.
    requeue : bool
        Whether a job that is preempted, or whose node fails, is to wait for another turn.
    warn_before : int
        Seconds before the time limit at which clients and user code are warned.
    modules : list of str
        Environment modules to load before anything is started.
    setup : list of str
        Lines of shell to run before anything is started (``source ...``).
    environment : dict of str
        More environment variables.
    python : str
        The Python of the engines; the one that runs the client if empty.
    mpiexec : str
        The mpiexec to use.
    srun_mpi : str
        How srun starts MPI ranks: ``pmix``, ``pmi2``, ...; ``none`` for mpiexec instead of srun; found out if
        empty.
    mpi_args, engine_args, controller_args, batch_args, srun_args, ssh_args : list of str
        More arguments for mpiexec, each engine, the controller, the batch system's submit command, srun, ssh.
    host : str
        ``[user@]host`` for ssh.
    controller_ip : str
        The address that the controller listens on; if empty, this machine only when all engines run here,
        else ``*``, all networks.
    controller_port : int
        Its port; 0 is any free one.
    engine_timeout : float
        Seconds that engines may take to connect once their job runs.
    queue_timeout : float
        Seconds that a job may wait in the queue.
    idle_timeout : float
        Seconds without work and without clients after which the cluster ends by itself; 0: never.
    """

    engines: str = "mpi"
    controller: str = "mpi"
    n: int | None = None
    nodes: int | None = None
    ntasks_per_node: int | None = None
    cpus_per_task: int | None = None
    time: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    gres: str = ""
    mem: str = ""
    job_name: str = ""
    requeue: bool = False
    warn_before: int = 60
    modules: list[str] = []
    setup: list[str] = []
    environment: dict[str, str] = {}
    python: str = ""
    mpiexec: str = ""
    srun_mpi: str = ""
    mpi_args: list[str] = []
    engine_args: list[str] = []
    controller_args: list[str] = []
    batch_args: list[str] = []
    srun_args: list[str] = []
    ssh_args: list[str] = []
    host: str = ""
    controller_ip: str = ""
    controller_port: int = 0
    engine_timeout: float = 60.0
    queue_timeout: float = 86400.0
    idle_timeout: float = 0.0


class UnknownOption(ValueError, TypeError):
    """There is no such option: a wrong value in a file, a wrong keyword in a call."""


KEYS = LaunchOptions.__struct_fields__


def check(values: Mapping[str, Any], source: str) -> LaunchOptions:
    """Return `values` as options.

    Raises
    ------
    ValueError
        If one is unknown (`UnknownOption`, which is a TypeError, too), or of another type than it should be;
        the message names `source` and the remedy.
    """
    for key in values:
        if key not in KEYS:
            raise UnknownOption(f"{source}: no setting is called {key!r}{_hint(key)}")
    try:
        options = msgspec.convert(dict(values), LaunchOptions)
    except msgspec.ValidationError as error:
        raise ValueError(f"{source}: {error}") from None
    for key in ("engines", "controller"):
        if getattr(options, key) not in LAUNCHERS:
            raise ValueError(
                f"{source}: {key}={getattr(options, key)!r}: mpiparallel can start by {', '.join(LAUNCHERS)}"
            )
    return options


def _hint(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(KEYS)}"


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return one mapping of several, the first of which wins; ``environment`` is joined by its variables."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key == "environment":
                found[key] = {**value, **found.get(key, {})}
            elif value is not None:
                found.setdefault(key, value)
    return found
