"""Where things are and how long things may take; the environment is read here and, for how things are
started, by `profiles`.

One frozen `Config` is made at the edge (a command, a `Client`, a `Cluster`, an engine's start) and handed
down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

# How the controller chooses engines for balanced tasks.
SCHEMES = ("leastload", "lru", "plainrandom", "twobin", "weighted", "pure")


@dataclass(frozen=True)
class Config:
    """Settings, with their defaults.

    Times are in seconds, sizes in bytes.
    """

    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("mpiparallel"))
    site_dir: Path = field(default_factory=lambda: Path("~/.config/mpiparallel").expanduser())
    profile: str = "default"  # of a cluster that is not named otherwise
    cluster_id: str = ""
    fold: bool | None = None  # whether identical output of several engines is shown once; None: to people
    job: str = ""  # the batch job that this program runs in
    log: str = ""  # the file that gets what mpiexec and the ranks of this world say
    ft: bool = True  # whether worlds are started so that ranks survive others, where the MPI can do that
    heartbeat: float = 5.0  # a peer that was silent for so long is asked to say something
    lost_after: float = 120.0  # silence after which a peer on another host counts as lost
    orphan_after: float = 120.0  # an engine's patience with a controller that is gone
    idle_timeout: float = 0.0  # after so long without clients and work a cluster ends; 0: never
    warn_before: float = 60.0  # how long before a job's time limit people are told
    reconnect_for: float = 60.0  # a client's patience with a controller that is gone
    notice_after: float = 30.0  # a wait in MPI that lasts so long is told to the client
    output_window: int = 256 << 10  # output in flight from one engine to the client
    max_frame: int = 16 << 30
    store: bool = True  # whether results wait in the controller's folder for those who come back
    results_bytes: int = 1 << 30  # of results that wait in the controller's folder
    results_count: int = 1_000_000
    results_age: float = 7 * 86400.0
    results_memory: int = 256 << 20  # of large results that are not on disk
    max_backlog: int = 2 << 30  # what the controller holds for peers that do not read
    scheme: str = "leastload"  # how engines are chosen for balanced tasks
    hwm: int | None = None  # balanced tasks on one engine; 0: any number; None: by how long they take

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Config:
        """Return the settings with what ``MPIPARALLEL_*`` variables say.

        ``MPIPARALLEL_STATE``, ``MPIPARALLEL_SITE`` (folders), ``MPIPARALLEL_PROFILE``,
        ``MPIPARALLEL_CLUSTER_ID`` (the cluster to use when none is named), ``MPIPARALLEL_FT`` (``0``: a world
        ends with its first rank that dies), ``MPIPARALLEL_FOLD`` (``0``, ``1``: whether identical output of
        several engines is shown once),
        ``MPIPARALLEL_STORE`` (``0``: results are not kept for clients that are gone),
        ``MPIPARALLEL_LOG`` (set by the launcher, for engines) and ``MPIPARALLEL_HEARTBEAT``, ``_LOST_AFTER``,
        ``_ORPHAN_AFTER``, ``_IDLE_TIMEOUT``, ``_WARN_BEFORE``, ``_RECONNECT_FOR``, ``_NOTICE_AFTER``,
        ``_OUTPUT_WINDOW``, ``_MAX_FRAME``,
        ``_MAX_BACKLOG``, ``_RESULTS_BYTES``, ``_RESULTS_COUNT``, ``_RESULTS_AGE``, ``_RESULTS_MEMORY``
        (numbers); ``MPIPARALLEL_SCHEME`` and ``MPIPARALLEL_HWM`` (for the controller). A batch system tells
        the job.

        Raises
        ------
        ValueError
            If a number is none.
        """
        values: dict[str, object] = {}
        for name, variable in (("state_dir", "MPIPARALLEL_STATE"), ("site_dir", "MPIPARALLEL_SITE")):
            if environ.get(variable):
                values[name] = Path(environ[variable]).expanduser().absolute()
        for name, variable in (("profile", "MPIPARALLEL_PROFILE"), ("cluster_id", "MPIPARALLEL_CLUSTER_ID")):
            if environ.get(variable):
                values[name] = environ[variable]
        if environ.get("MPIPARALLEL_FOLD"):
            values["fold"] = environ["MPIPARALLEL_FOLD"] != "0"
        values["ft"] = environ.get("MPIPARALLEL_FT", "1") not in ("", "0")
        if environ.get("MPIPARALLEL_SCHEME"):
            values["scheme"] = scheme = environ["MPIPARALLEL_SCHEME"]
            if scheme not in SCHEMES:
                raise ValueError(f"MPIPARALLEL_SCHEME={scheme!r}: expected one of {', '.join(SCHEMES)}")
        if environ.get("MPIPARALLEL_HWM"):
            values["hwm"] = _whole(environ["MPIPARALLEL_HWM"])
        values["store"] = environ.get("MPIPARALLEL_STORE", "1") not in ("", "0")
        values["log"] = environ.get("MPIPARALLEL_LOG", "")
        for variable in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"):
            values["job"] = values.get("job") or environ.get(variable, "")
        for name, number in (
            ("heartbeat", float), ("lost_after", float), ("orphan_after", float),
            ("reconnect_for", float), ("notice_after", float),
            ("output_window", int), ("max_frame", int), ("max_backlog", int),
            ("results_bytes", int), ("results_count", int), ("results_age", float), ("results_memory", int),
        ):  # fmt: skip
            variable = "MPIPARALLEL_" + name.upper()
            if environ.get(variable):
                values[name] = _number(number, variable, environ[variable])
        for name in ("idle_timeout", "warn_before"):
            variable = "MPIPARALLEL_" + name.upper()
            if environ.get(variable):
                values[name] = _seconds(variable, environ[variable])
        return cls(**values)  # type: ignore[arg-type]

    def cluster_dir(self, profile: str, cluster_id: str) -> Path:
        """Return the folder of one cluster: connection files, cluster file, logs."""
        for word, value in (("profile", profile), ("cluster id", cluster_id)):
            if "/" in value or value in (".", ".."):
                raise ValueError(
                    f"{word} {value!r}: it names a folder, so it may not hold a slash or be dots"
                )
        return (
            self.state_dir / (profile or "default") / ("cluster" + (f"-{cluster_id}" if cluster_id else ""))
        )


def noninteractive(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether nobody looks on: no progress bars then, and ``%px`` does not stream by default.

    ``MPIPARALLEL_NONINTERACTIVE`` says so, or ``IPP_NONINTERACTIVE``, if it is neither empty nor ``0``.
    """
    environ = os.environ if environ is None else environ
    return (environ.get("MPIPARALLEL_NONINTERACTIVE") or environ.get("IPP_NONINTERACTIVE") or "0") != "0"


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"MPIPARALLEL_HWM={text!r}: expected a whole number, not below zero")
    return int(text)


def _seconds(variable: str, text: str) -> float:
    """Return a time that may be 0: never, or not at all."""
    return 0.0 if text.strip() in ("0", "0.0") else float(str(_number(float, variable, text)))


def _number(kind: type, variable: str, text: str) -> object:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{variable}={text!r}: expected a number") from None
    if value <= 0:
        raise ValueError(f"{variable}={text!r}: expected a number above zero")
    return value
