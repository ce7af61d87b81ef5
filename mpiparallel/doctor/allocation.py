"""Two tasks of Slurm for the time of the checks."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpiparallel.doctor.modules import environment
from mpiparallel.error import LaunchError
from mpiparallel.launch.processes import Process
from mpiparallel.launchoptions import LaunchOptions

NAME = "mpiparallel-doctor"
MINUTES = 2  # after which Slurm ends what is left, come what may
RELEASE = 5.0
_GRANTED = "mpiparallel: granted"


class NoAllocation(Exception):
    """Slurm gave none."""

    def __init__(self, said: str, busy: bool) -> None:
        super().__init__(said)
        self.busy = busy  # it may give one later


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave: the environment of programs in it, and its number."""

    environ: Mapping[str, str]
    job: str


def salloc_argv(options: LaunchOptions, seconds: int, nodes: int, file: str) -> list[str]:
    """Return the command that gets two tasks on `nodes` nodes, and keeps them until its input ends."""
    words = ["salloc", f"--job-name={NAME}", f"--time={MINUTES}", f"--immediate={seconds}"]
    words += [f"--nodes={nodes}", "--ntasks=2"]
    for key in ("partition", "account", "qos", "reservation", "constraint", "gres", "mem"):
        if getattr(options, key):
            words.append(f"--{key}={getattr(options, key)}")
    words += options.batch_args
    # The lifeline: when the doctor dies, `cat` reads the end of its input, and salloc gives the job back.
    return [*words, "sh", "-c", f'env -0 > "$1"; echo "{_GRANTED}"; exec cat', "sh", file]


def words_of_salloc(text: str) -> str:
    """Return what salloc said of a failure, without what it puts before each line."""
    lines = [re.sub(r"^salloc: (error: )?", "", line).strip() for line in text.splitlines()]
    idle = ("Pending job", "job ", "Job allocation", "Requested ", "Relinquishing")
    said = [line for line in lines if line and not line.startswith(idle)] or [line for line in lines if line]
    return "\n".join(dict.fromkeys(said))


def is_busy(text: str) -> bool:
    """Whether there might be an allocation at another time."""
    signs = (
        "Connection timed out",
        "nodes are busy",
        "Unable to allocate resources: Requested",
        "Job dependency problem",  # which is also said of a job that begins later
    )
    return any(sign in text for sign in signs)


@contextmanager
def allocation(
    options: LaunchOptions, environ: Mapping[str, str], seconds: float, nodes: int
) -> Iterator[Allocation]:
    """Hold two tasks, which are asked for at once or never.

    Raises
    ------
    NoAllocation
        If there are none within `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="mpiparallel-doctor-") as folder:
        file, log = Path(folder) / "environment", Path(folder) / "log"
        argv = salloc_argv(options, max(1, int(seconds)), nodes, str(file))
        try:
            process = Process.start(argv, log=log, environ=environ, lifeline=True)
        except LaunchError as error:
            raise NoAllocation(str(error), busy=False) from None
        try:
            deadline = time.monotonic() + seconds + 2.0
            while _GRANTED not in process.tail():
                if not process.running:
                    text = process.tail()
                    raise NoAllocation(words_of_salloc(text), is_busy(text))
                if time.monotonic() > deadline:
                    raise NoAllocation(f"salloc has not answered within {seconds:.0f} s", busy=True)
                time.sleep(0.05)
            found = environment(file.read_bytes())
            yield Allocation({**environ, **found}, found.get("SLURM_JOB_ID", ""))
        finally:
            process.close_lifeline()
            process.wait(RELEASE)
            process.stop(RELEASE)
            process.close()
