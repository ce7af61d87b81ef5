"""How controller and engines are to be started: what a profile, the environment and a command line can say.

`LaunchOptions` is the one list of these words: profiles are checked against it, `Cluster` takes them as
keywords, the command as options, and templates have them as placeholders. Where a value comes from is seen to
by `profiles`.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import msgspec

LAUNCHERS = ("mpi", "srun", "slurm", "ssh", "pbs", "lsf")
BATCH = ("slurm", "pbs", "lsf")  # which submit jobs


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
DEFAULTS = LaunchOptions()
TYPES = get_type_hints(LaunchOptions)
_WORDS = {
    str: "a text",
    int: "a whole number",
    int | None: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: 'a list of texts, as in ["one", "two"]',
    dict[str, str]: 'texts by name, as in {NAME = "text"}',
}
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
# Where one is not known by its type alone: whether a value is right, and the words for what is.
_SENSIBLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "engines": (LAUNCHERS.__contains__, f"mpiparallel can start by {', '.join(LAUNCHERS)}"),
    "controller": (LAUNCHERS.__contains__, f"mpiparallel can start by {', '.join(LAUNCHERS)}"),
    "n": (lambda n: n is None or n >= 0, "the number of engines cannot be negative"),
    **{
        key: (lambda n: n is None or n >= 1, "expected a number above zero")
        for key in ("nodes", "ntasks_per_node", "cpus_per_task")
    },
    "time": (
        lambda text: not text or _TIME.fullmatch(text) is not None,
        "expected minutes, HH:MM:SS or D-HH:MM:SS",
    ),
    "warn_before": (lambda s: s >= 0, "expected seconds, not below zero"),
    "environment": (
        lambda table: all(name and "=" not in name for name in table),
        "a variable's name is not empty and holds no =",
    ),
    # What ssh would take for an option of its own could run any command.
    "host": (
        lambda text: re.fullmatch(r"([^-\s]\S*)?", text) is not None,
        "expected a host's name, or user@host",
    ),
    "controller_port": (lambda port: 0 <= port < 1 << 16, "a port is a number from 0 to 65535"),
    "engine_timeout": (lambda s: s > 0, "expected seconds, more than zero"),
    "queue_timeout": (lambda s: s > 0, "expected seconds, more than zero"),
    "idle_timeout": (lambda s: s >= 0, "expected seconds, not below zero"),
}


def check(values: Mapping[str, Any], source: str) -> LaunchOptions:
    """Return `values` as options.

    Raises
    ------
    ValueError
        If one is unknown (`UnknownOption`, which is a TypeError, too), or of another type than it should be;
        the message names `source` and the remedy.
    """
    try:
        return LaunchOptions(**{key: check_one(key, value) for key, value in values.items()})
    except UnknownOption as error:
        raise UnknownOption(f"{source}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def check_one(key: str, value: Any) -> Any:
    """Return the value of one setting, made of the right type where no doubt is possible.

    Raises
    ------
    ValueError
        If it is unknown (`UnknownOption`), or not what it should be; the message says what it should be.
    """
    if key not in KEYS:
        raise UnknownOption(f"no setting is called {key!r}{_hint(key)}")
    kind = TYPES[key]
    try:
        found = msgspec.convert(_as_text(value, kind), kind)
    except msgspec.ValidationError:
        raise ValueError(f"{key}={_shown(value)}: expected {_WORDS[kind]}") from None
    if isinstance(found, float) and math.isnan(found):
        raise ValueError(f"{key}={_shown(value)}: expected {_WORDS[kind]}")
    # Most of these become part of a line in a script.
    for text in [found] if isinstance(found, str) else found if key in ("modules", "setup") else []:
        if any((ord(letter) < 32 and letter != "\t") or ord(letter) == 127 for letter in text):
            raise ValueError(f"{key}={_shown(value)}: expected one line, without control characters")
    right, words = _SENSIBLE.get(key, (None, ""))
    if right is not None and not right(found):
        raise ValueError(f"{key}={_shown(value)}: {words}")
    return found


def parse(key: str, text: str) -> Any:
    """Return the value of a setting that an environment variable or a command line has as text.

    A list is written as words for a shell, or in brackets as in a profile; `setup` is one line.

    Raises
    ------
    ValueError
        As `check_one`; and for `environment`, which is a table.
    """
    kind = TYPES.get(key)
    value: Any = text
    if kind is bool:
        value = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
            text.lower(), text
        )
    elif key == "setup":
        value = [text]
    elif kind == list[str] and text.startswith("["):
        try:
            value = msgspec.toml.decode(f"list = {text}")["list"]
        except msgspec.DecodeError as error:
            raise ValueError(f"{key}={text!r}: as a list of TOML, {error}") from None
    elif kind == list[str]:
        try:
            value = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{key}={text!r}: {str(error).lower()}; words are as in a shell") from None
    elif kind == dict[str, str]:
        raise ValueError(f"{key} is a table: give {key}.NAME=VALUE, or write it in a profile")
    elif kind in (int, int | None, float):
        try:
            value = float(text) if kind is float else int(text)
        except ValueError:
            value = text  # of which `check_one` says what it should be
    return check_one(key, value)


def descriptions() -> dict[str, str]:
    """Return what each setting means, by the docstring of `LaunchOptions`."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (LaunchOptions.__doc__ or "").partition("----------\n")[2].splitlines():
        entry = re.fullmatch(r"    ([\w, ]+) : .*", line)
        if entry:
            names = entry[1].split(", ")
        elif line.startswith("        "):
            for name in names:
                found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def _as_text(value: Any, kind: Any) -> Any:
    """Return a value as text where a text is meant and nobody would write it as one."""
    if kind is str and isinstance(value, (int, datetime.time)) and not isinstance(value, bool):
        return str(value)  # account = 1234, time = 01:00:00
    if kind == list[str] and isinstance(value, (list, tuple)):
        return [_as_text(one, str) for one in value]
    if kind == dict[str, str] and isinstance(value, Mapping):
        return {name: _as_text(one, str) for name, one in value.items()}
    return value


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _hint(key: str) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), KEYS, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(KEYS)}"


def joined(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return `merged`, with what follows from it: a controller in a job has engines in jobs."""
    found = merged(*layers)
    if found.get("controller") in BATCH:
        found.setdefault("engines", found["controller"])
    return found


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
