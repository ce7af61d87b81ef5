"""The parts of a cluster that were started: its controller, and its sets of engines.

They are `launch.running.Running` things with a purpose. `Cluster` holds them; the launchers (see
`launch.launchers`) make the things.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mpiparallel.error import LaunchError
from mpiparallel.launch import advice
from mpiparallel.launch.jobs import Job
from mpiparallel.launch.processes import Process
from mpiparallel.launch.running import Running
from mpiparallel.launch.steps import Step

CONTROLLER_GRACE = 10.0  # seconds that a controller may take to stop its worlds and itself
WORLD_GRACE = 5.0


def attach(record: Mapping[str, Any]) -> Running:
    """Return the running thing that a ``to_dict`` described, perhaps in another program."""
    if "job" in record:
        return Job.from_dict(record)
    if "step" in record:
        return Step.from_dict(record)
    return Process.from_dict(record)


class Launched:
    """One started thing of a cluster.

    Attributes
    ----------
    process : Running
    """

    what = "process"

    def __init__(self, process: Running) -> None:
        self.process = process
        self.ended = threading.Event()  # set after `report_end` has seen to it
        self.lost = ""  # why it ended, if somebody who knows has said so

    @property
    def running(self) -> bool:
        return self.process.running

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        return self.process.exit_code

    @property
    def state(self) -> str:
        """``"running"``, ``"stopped"``, or ``"failed"``: it ended with an error, unasked."""
        if self.process.running:
            return "running"
        unwanted = self.process.exit_code or self.lost
        return "failed" if unwanted and not self.process.asked_to_stop else "stopped"

    def where(self) -> str:
        """Return what it is known by, and where it runs, for people."""
        return self.process.where()

    def get_output(self, lines: int = 100) -> str:
        """Return the last lines of its log."""
        return self.process.tail(lines)

    def end(self) -> str:
        """Return how it ended, in one line."""
        what = self.process.name if isinstance(self.process, Job) else self.what
        return f"{what} {self.process.describe_end()}" + (f": {self.lost}" if self.lost else "")

    def failure(self) -> LaunchError:
        """Return an error that says how it ended and what it said last."""
        return LaunchError(advice.failure(self.end(), self.process.tail()))

    def report_end(self, failed: Callable[[Launched], None], then: Callable[[], None] = lambda: None) -> None:
        """Call `failed` when it ends and nobody had asked it to, whenever that is; `then` at any end."""

        def report() -> None:
            if self.state == "failed":
                failed(self)
            self.ended.set()
            then()

        self.process.watch(report)

    def to_dict(self) -> dict[str, Any]:
        return self.process.to_dict()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.process.name} {self.state}>"


class Controller(Launched):
    """A cluster's controller."""

    what = "the controller"

    def __init__(self, process: Running, command: Sequence[str] = ()) -> None:
        super().__init__(process)
        self.command = list(command)  # that has started it, if that was done here

    def stop(self, told: bool = False) -> None:
        """Ask it to stop its worlds and itself, if it was not `told`; kill it if it does not in time."""
        self.process.asked_to_stop = True
        # One word is enough: a second would tell it to hurry, and engines could not end in order.
        if told:
            pass
        elif self.process.has_lifeline:
            self.process.close_lifeline()
        else:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(CONTROLLER_GRACE)
        self.process.kill()


class EngineSet(Launched):
    """One world of engines: one ``mpiexec``, or what else has started it.

    Attributes
    ----------
    name : str
    n : int
        The number of engines it was started with.
    first : int
        The id of its first engine; -1: not known yet.
    """

    def __init__(self, process: Running, name: str, n: int, first: int = -1, what: str = "mpiexec") -> None:
        super().__init__(process)
        self.what = what
        self.name = name
        self.n = n
        self.first = first

    def stop(self, grace: float = WORLD_GRACE) -> None:
        """End all its engines, by way of mpiexec."""
        self.process.stop(grace)

    def leave(self, patience: float) -> None:
        """End them, after `patience` seconds in which they may do so by themselves: they were sent home."""
        if not self.process.what_it_waits_for():
            self.process.wait(patience)
        self.stop()
        self.process.close()

    def clear_away(self) -> None:
        """End what is left of a set whose mpiexec has ended by itself, and let go of its log."""
        self.process.finish()
        self.process.close()

    def kill(self) -> None:
        """End all its engines at once."""
        self.process.kill()

    def to_dict(self) -> dict[str, Any]:
        return {**self.process.to_dict(), "n": self.n, "first": self.first, "what": self.what}

    @classmethod
    def from_dict(cls, name: str, record: Mapping[str, Any]) -> EngineSet:
        what = str(record.get("what", "mpiexec"))
        return cls(attach(record), name, int(record["n"]), int(record.get("first", -1)), what)

    def __repr__(self) -> str:
        return f"<EngineSet {self.name!r} n={self.n} {self.process.name} {self.state}>"
