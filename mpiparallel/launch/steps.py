"""An ``srun`` on this machine, and the step of Slurm that it has started.

A step lives on when its srun is killed, and so would its ranks. `srun` starts these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mpiparallel.launch import batch
from mpiparallel.launch.batch import QueueError
from mpiparallel.launch.processes import Process

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)


class Step(Process):
    """An srun; when it is killed, its step is cancelled.

    Attributes
    ----------
    job, step : str
        The id of the job, and the name of the step.
    """

    job = ""
    step = ""

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        found = super().from_dict(record)
        found.job, found.step = record["step"]
        return found

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "step": [self.job, self.step]}

    def watch(self, ended: Callable[[], None]) -> None:
        def cancel_first() -> None:
            self._cancel()
            ended()

        super().watch(cancel_first)

    def finish(self, *args: Any) -> None:
        super().finish(*args)
        self._cancel()

    def _cancel(self) -> None:
        """Cancel the step, if it may have outlived its srun."""
        code = self.exit_code
        if not self.step or (code is not None and code >= 0):
            return
        try:
            answer = batch.ask(["squeue", "-s", "-h", "-j", self.job, "-o", "%i|%j"])
            for step in named(answer.stdout, self.step):
                batch.ask(["scancel", step])
        except QueueError as error:
            log.warning("ranks of %s may be left in job %s: %s", self.step, self.job, error)


def named(text: str, name: str) -> list[str]:
    """Return the steps of this name in what ``squeue -s -o '%i|%j'`` says."""
    lines = [line.strip().partition("|") for line in text.splitlines()]
    return [step for step, _, its in lines if its == name]
