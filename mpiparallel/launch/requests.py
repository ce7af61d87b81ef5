"""What a launcher is asked for: all that it needs to know, so that it looks at nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpiparallel import connection_file
from mpiparallel.config import Config
from mpiparallel.launch import argv
from mpiparallel.launchoptions import LaunchOptions


@dataclass(frozen=True, kw_only=True)
class WorldRequest:
    """One world of engines.

    Attributes
    ----------
    directory : Path
        The cluster's folder: connection files are there, and the log and the script go there.
    name : str
        The engine set's.
    n : int
        Number of engines.
    first : int
        The id that the first engine shall have; -1: whatever comes next.
    environ : mapping of str
        The environment of the program that asks, with what the user has added.
    lifeline : bool
        Whether a job of it, which may wait in a queue for long, is to end with the program that asks.
    """

    directory: Path
    name: str
    n: int
    config: Config
    options: LaunchOptions = field(default_factory=LaunchOptions)
    first: int = -1
    environ: Mapping[str, str]
    lifeline: bool = True

    @property
    def log(self) -> Path:
        """Where the output goes."""
        return self.directory / f"engines-{self.name}.log"

    @property
    def ranks(self) -> int:
        """The number of ranks that it takes."""
        return argv.n_ranks(self.n, self.options.engine_args)

    @property
    def engine(self) -> list[str]:
        """The command that each rank runs."""
        return argv.engine_argv(
            self.options.python or sys.executable,
            self.directory / connection_file.NAMES["engine"],
            engine_set=self.name,
            first=self.first,
            extra=self.options.engine_args,
        )


@dataclass(frozen=True, kw_only=True)
class ControllerRequest:
    """A controller.

    Attributes
    ----------
    directory : Path
        The cluster's folder.
    lifeline : bool
        Whether it is to end with the program that asks.
    again : bool
        Whether it takes the place of one that has died.
    world : WorldRequest or None
        The engines that are to run in the same job, if a batch system starts the controller.
    """

    directory: Path
    cluster_id: str
    config: Config
    options: LaunchOptions = field(default_factory=LaunchOptions)
    log_level: str = "INFO"
    lifeline: bool = True
    again: bool = False
    world: WorldRequest | None = None
    environ: Mapping[str, str]

    @property
    def log(self) -> Path:
        """Where the output goes."""
        return self.directory / "controller.log"
