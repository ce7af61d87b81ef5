"""Start a controller and worlds of engines on this machine.

`cluster.Cluster` calls this. Commands come from `launch.argv`, processes are `launch.processes.Process`; the
world's ``mpiexec`` runs inside ``launchers/mpiexec.sh``, which a site may replace.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpiparallel import connection_file, resources
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import argv, mpi
from mpiparallel.launch.processes import Process
from mpiparallel.launch.sweeping import sweep

log = logging.getLogger(__name__)

CONTROLLER_START = 30.0  # how long a controller may take to write its connection files
CONTROLLER_GRACE = 10.0  # ... and to stop its worlds and itself
WORLD_GRACE = 5.0
ORPHAN_PATIENCE = "30"  # ... and engines to wait for one that was killed to be started again


class Launched:
    """One started thing of a cluster.

    Attributes
    ----------
    process : Process
    """

    what = "process"

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ended = threading.Event()  # set after `report_end` has seen to it
        self.lost = ""  # why it ended, if somebody who knows has said so

    @property
    def running(self) -> bool:
        return self.process.running

    @property
    def pid(self) -> int:
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

    def get_output(self, lines: int = 100) -> str:
        """Return the last lines of its log."""
        return self.process.tail(lines)

    def end(self) -> str:
        """Return how it ended, in one line."""
        return f"{self.what} {self.process.describe_end()}" + (f": {self.lost}" if self.lost else "")

    def failure(self) -> LaunchError:
        """Return an error that says how it ended and what it said last."""
        said = self.process.tail().strip()
        return LaunchError(f"{self.end()}. " + (f"It said:\n{said}" if said else "It said nothing."))

    def report_end(self, logger: logging.Logger, then: Callable[[], None] = lambda: None) -> None:
        """Log a warning when it ends and nobody had asked it to, whenever that is; call `then` afterwards."""

        def report() -> None:
            if self.state == "failed":
                logger.warning("%s", self.failure())
            self.ended.set()
            then()

        self.process.watch(report)

    def to_dict(self) -> dict[str, Any]:
        return self.process.to_dict()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} pid={self.pid} {self.state}>"


class Controller(Launched):
    """A cluster's controller."""

    what = "the controller"

    def __init__(self, process: Process, command: Sequence[str] = ()) -> None:
        super().__init__(process)
        self.command = list(command)  # that has started it, if that was done here

    def stop(self) -> None:
        """Ask it to stop its worlds and itself; kill it if it does not in time."""
        self.process.asked_to_stop = True
        # One word is enough: a second would tell it to hurry, and engines could not end in order.
        if self.process.has_lifeline:
            self.process.close_lifeline()
        else:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(CONTROLLER_GRACE)
        self.process.kill()


class EngineSet(Launched):
    """One world of engines: one ``mpiexec``.

    Attributes
    ----------
    name : str
    n : int
        The number of engines it was started with.
    first : int
        The id of its first engine; -1: not known yet.
    """

    what = "mpiexec"

    def __init__(self, process: Process, name: str, n: int, first: int = -1) -> None:
        super().__init__(process)
        self.name = name
        self.n = n
        self.first = first

    def stop(self, grace: float = WORLD_GRACE) -> None:
        """End all its engines, by way of mpiexec."""
        self.process.stop(grace)
        sweep(self.pid, self.process.created)

    def clear_away(self) -> None:
        """End what is left of a set whose mpiexec has ended by itself, and let go of its log."""
        self.process.finish()
        sweep(self.pid, self.process.created)
        self.process.close()

    def kill(self) -> None:
        """End all its engines at once."""
        self.process.kill()
        sweep(self.pid, self.process.created)

    def to_dict(self) -> dict[str, Any]:
        return {**self.process.to_dict(), "n": self.n, "first": self.first}

    @classmethod
    def from_dict(cls, name: str, record: Mapping[str, Any]) -> EngineSet:
        return cls(Process.from_dict(record), name, int(record["n"]), int(record.get("first", -1)))

    def __repr__(self) -> str:
        return f"<EngineSet {self.name!r} n={self.n} pid={self.pid} {self.state}>"


def start_controller(
    directory: Path,
    *,
    cluster_id: str = "",
    ip: str = "",
    log_level: str = "INFO",
    lifeline: bool = True,
    extra: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    again: bool = False,
) -> Controller:
    """Start a controller, perhaps `again`; `await_controller` tells when it is ready."""
    command = argv.controller_argv(
        sys.executable,
        directory,
        cluster_id=cluster_id,
        ip=ip,
        log_level=log_level,
        lifeline=lifeline,
        extra=extra,
    )
    log.debug("starting %s", command)
    said = directory / "controller.log"
    process = Process.start(command, log=said, environ=environ, lifeline=lifeline, append=again)
    return Controller(process, command)


def controller_ready(directory: Path) -> bool:
    """Return whether the controller of `directory` has written its connection files."""
    return all((directory / name).exists() for name in connection_file.NAMES.values())


def await_controller(
    controller: Controller,
    directory: Path,
    *,
    timeout: float = CONTROLLER_START,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait for the connection files in `directory`, calling `check` meanwhile, which may raise.

    Raises
    ------
    LaunchError
        If the controller ends, or takes longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not controller_ready(directory):
        check()
        if not controller.running:
            raise controller.failure()
        if time.monotonic() > deadline:
            raise LaunchError(
                f"the controller wrote no connection files within {timeout:g} s. "
                f"It said:\n{controller.get_output()}"
            )
        time.sleep(0.01)


def start_world(
    directory: Path,
    *,
    name: str,
    n: int,
    config: Config,
    first: int = -1,
    mpi_args: Sequence[str] = (),
    extra: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> EngineSet:
    """Start `n` engines as one world of the cluster in `directory`, with ids from `first` if that is given.

    Raises
    ------
    LaunchError
        If there is no mpiexec, or it cannot be run.
    """
    script = resources.script("launchers", "mpiexec.sh", config)
    which = _mpi_for(script, environ, config)
    engine = argv.engine_argv(
        sys.executable,
        directory / connection_file.NAMES["engine"],
        engine_set=name,
        first=first,
        extra=extra,
    )
    ranks = argv.n_ranks(n, extra)
    survive = argv.ft_arguments(which, mpi_args) if config.ft else []
    command = [*_runner(script), *argv.mpiexec_arguments(ranks, engine, [*survive, *mpi_args])]
    log.debug("starting %s with %s", command, which)
    said = directory / f"engines-{name}.log"
    environment = argv.world_environment(
        environ, which, n=ranks, cores=cores(), root=os.geteuid() == 0, log=str(said)
    )
    # Its controller is started again at once, or never.
    environment.setdefault("MPIPARALLEL_ORPHAN_AFTER", ORPHAN_PATIENCE)
    process = Process.start(command, log=said, environ=environment)
    return EngineSet(process, name, n, first)


def _mpi_for(script: Path, environ: Mapping[str, str], config: Config) -> argv.MPI:
    try:
        return mpi.detect(mpi.find_mpiexec(environ))
    except LaunchError:
        if script.is_relative_to(config.site_dir) and not environ.get("MPIPARALLEL_MPIEXEC"):
            return argv.MPI("mpiexec")  # the site's own script may load the module that brings it
        raise


def _runner(script: Path) -> list[str]:
    """Return how to run `script`: by its first line, or by sh when nobody made it executable."""
    return [str(script)] if os.access(script, os.X_OK) else ["/bin/sh", str(script)]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
