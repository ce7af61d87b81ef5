"""Run a program for a limited time, with all that it starts."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpiparallel.error import LaunchError
from mpiparallel.launch.processes import Process

# What srun adds to the words of those that have failed.
_CHATTER = re.compile(r"^srun: (launch/slurm: |error: \S+: tasks? \S+: |Job step aborted|Warning: can't run)")
GRACE = 2.0  # seconds to end in order, for a program that took too long

_running: set[Process] = set()


@dataclass(frozen=True)
class Run:
    """How a program did.

    Attributes
    ----------
    code : int or None
        Its exit code, negative after a signal; None: it was ended because it took too long.
    text : str
        What it wrote to its outputs.
    """

    argv: Sequence[str]
    code: int | None
    text: str
    seconds: float

    @property
    def went_well(self) -> bool:
        return self.code == 0

    @property
    def end(self) -> str:
        """How it ended, in words that continue its name."""
        if self.code is None:
            return f"did not end within {self.seconds:.0f} s"
        return f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"

    def last_words(self, lines: int = 4) -> str:
        """Return the last lines that say something."""
        said = [line.strip() for line in self.text.splitlines() if line.strip(" \t-=*")]
        said = [line for line in said if not _CHATTER.search(line)] or said
        return "\n".join(said[-lines:])


def run(argv: Sequence[str], limit: float, environ: Mapping[str, str], *, mpiexec: bool = False) -> Run:
    """Run a program for `limit` seconds at most; what is left of it then is killed.

    One that cannot be run at all has exit code 127, as for a shell.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mpiparallel-doctor-") as folder:
        try:
            process = Process.start(argv, log=Path(folder) / "log", environ=environ, mpiexec=mpiexec)
        except LaunchError as error:
            return Run(argv, 127, str(error), time.monotonic() - began)
        _running.add(process)
        try:
            ended = process.wait(limit)
            seconds = time.monotonic() - began
        finally:
            process.stop(GRACE)
            _running.discard(process)
        text = process.tail(2000)
        code = process.exit_code if ended else None
        process.close()
    return Run(argv, code, text, seconds)


def end_all() -> None:
    """End what still runs, when nobody waits for it any more: who looks on has pressed Ctrl-C."""
    for process in list(_running):
        process.kill()
