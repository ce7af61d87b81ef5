"""What a batch system is to the rest of the launchers: submit, ask, cancel, and its words.

`slurm`, `pbs` and `lsf` are such systems; `jobs` asks them about the jobs of this program, and `submission`
writes the scripts that they get.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mpiparallel.error import LaunchError
from mpiparallel.launchoptions import LaunchOptions

PATIENCE = 30.0  # seconds for a command of the batch system to answer
SUBMITTED = 60.0  # ... for the one that submits, which may run a site's checks


class Phase(Enum):
    """How far a job is, whatever the batch system calls it."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class JobInfo:
    """What the batch system says of a job.

    Attributes
    ----------
    state, reason : str
        In its own words: ``"PENDING"``, ``"Resources"``.
    start : str
        When it began, or will begin by estimate (``2026-11-21T14:05:00``); empty when that is not known.
    nodes : str
        Where it runs, or ran.
    limit : str
        Its time limit.
    exit_code : int or None
        As of a process, negative after a signal; None while it runs, or when nobody knows.
    restarts : int
        How often it was sent back to the queue.
    end : str
        How it ended, in words that continue "job 123 ...".
    """

    phase: Phase
    state: str
    reason: str = ""
    start: str = ""
    nodes: str = ""
    limit: str = ""
    exit_code: int | None = None
    restarts: int = 0
    end: str = ""


class QueueError(LaunchError):
    """The batch system does not answer."""


class System(ABC):
    """One batch system.

    Attributes
    ----------
    name, title : str
        In settings, and to people.
    suffix : str
        Of its templates, which are in the folder `name`.
    job_variable : str
        The variable that tells a job its id.
    hostfile : str
        What a job has the list of its hosts in, for an mpiexec that does not ask Slurm by itself.
    signals_alone : bool
        Whether a signal can be sent to the batch script and nothing else of a job.
    """

    name: str
    title: str
    suffix: str
    job_variable: str
    hostfile: str = ""
    signals_alone: bool = False

    @abstractmethod
    def submit(self, script: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
        """Submit a script, with more arguments for the command that does that; return the job's id.

        Raises
        ------
        LaunchError
            If it is refused; the message says why, word for word, and what to do.
        """

    @abstractmethod
    def query(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        """Return what is known of these jobs; those that are not known any more are not in it.

        Raises
        ------
        QueueError
            If the batch system does not answer.
        """

    @abstractmethod
    def recall(self, job: str) -> JobInfo:
        """Return how a job ended that the queue does not know any more, as far as can be found out."""

    @abstractmethod
    def cancelling(self, ids: Sequence[str]) -> list[str]:
        """Return the command that cancels jobs."""

    @abstractmethod
    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are left alone.

        Raises
        ------
        QueueError
            If the batch system does not do it.
        """

    @abstractmethod
    def signal(self, job: str, signum: int, *, script: bool) -> None:
        """Send a signal to the ranks of a job, or (`script`) to the process of its batch script."""

    @abstractmethod
    def why_never(self, job: str, info: JobInfo) -> str:
        """Return why a job that waits can never start, and what to do; empty when it can."""

    def pattern(self, path: str) -> str:
        """Return a file's name, in which ``%j`` is the job's number, as this system's directives want it."""
        return path

    @abstractmethod
    def values(self, options: LaunchOptions, ranks: int, log: Path) -> dict[str, str]:
        """Return the placeholders of directives that this system writes in its own way."""


def system(name: str) -> System:
    """Return the batch system of this name."""
    module = importlib.import_module(f"mpiparallel.launch.{name}")
    found: System = module.SYSTEM
    return found


# What a job tells the programs in it, and what filters or formats the answers of the commands.
_OF_A_JOB = re.compile(r"SLURM_(?!CONF$|JWT$|CLUSTERS$)|SLURMD_|PBS_(?!CONF_FILE$|DEFAULT$|SERVER$)|LSB_")
_OF_ANSWERS = re.compile(r"(?:SQUEUE|SINFO|SCONTROL|SACCT|SCANCEL)_")


def outside(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without what the job that this program may itself run in has put there.

    ``sbatch`` would take a part of it for wishes, and the new job would take itself for a part of that one.
    """
    return {name: value for name, value in environ.items() if not _OF_A_JOB.match(name)}


def ask(
    command: Sequence[str], *, timeout: float = PATIENCE, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of the batch system and return its answer, whatever its exit code.

    Raises
    ------
    QueueError
        If it is not there, or takes too long.
    """
    if environ is None:
        plain = {name: value for name, value in os.environ.items() if not _OF_ANSWERS.match(name)}
        environ = {**plain, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        # In a session of its own, so that the terminal's Ctrl-C does not end it in the middle.
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=dict(environ),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise QueueError(
            f"{command[0]} was not found on the PATH: run this where the batch system's commands are, on a "
            "login node of the cluster (or load the module that brings them)"
        ) from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{' '.join(command)}: no answer within {timeout:g} s") from None
    except OSError as error:
        raise QueueError(f"{command[0]}: {error.strerror or error}") from None


def submit(
    command: Sequence[str],
    environ: Mapping[str, str],
    undo: Callable[[str], None],
    script: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command that submits a job; if we are interrupted meanwhile, call `undo` with its output.

    A command that reads `script` from its standard input gets that.

    Raises
    ------
    LaunchError
        If it is not there, or takes too long.
    """
    try:
        with open(os.devnull if script is None else script) as standard_input:
            process = subprocess.Popen(
                command,
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**environ, "LC_ALL": "C"},
                start_new_session=True,  # out of the reach of the terminal's Ctrl-C
            )
    except OSError as error:
        raise LaunchError(
            f"cannot run {command[0]} ({error.strerror or error}): start this where the batch system's "
            "commands are, on a login node of the cluster, or load the module that brings them"
        ) from None
    try:
        output, errors = process.communicate(timeout=SUBMITTED)
    except BaseException as error:
        # It may have been taken already, or be taken in a moment.
        if isinstance(error, subprocess.TimeoutExpired):
            process.kill()
        try:
            undo(process.communicate(timeout=PATIENCE)[0])
        finally:
            process.kill()
        if isinstance(error, subprocess.TimeoutExpired):
            words = " ".join(command)
            raise LaunchError(f"{words}: the job was not taken within {SUBMITTED:g} s; try again") from None
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def said(answer: subprocess.CompletedProcess[str]) -> str:
    """Return what a command has written, for a message."""
    return "\n".join(text for text in (answer.stderr.strip(), answer.stdout.strip()) if text)


_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def seconds(text: str) -> int:
    """Return the seconds of a time limit as Slurm writes it.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> [seconds(text) for text in ("90", "1:30", "1:00:00", "2-12", "1-00:30")]
    [5400, 90, 3600, 216000, 88200]
    """
    found = _TIME.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"time={text!r}: expected minutes (90), HH:MM:SS (1:30:00), or D-HH:MM:SS (2-12:00:00)"
        )
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    if days is not None:
        return ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    if second is None:
        return (first or 0) * 60
    if third is None:
        return (first or 0) * 60 + second
    return ((first or 0) * 60 + second) * 60 + third


def advised(output: str, remedies: Iterable[tuple[str, str]]) -> str:
    """Return what a command said, with the remedy of the first pattern that is found in it."""
    for pattern, remedy in remedies:
        if re.search(pattern, output):
            return f"{output}\n{remedy}."
    return output
