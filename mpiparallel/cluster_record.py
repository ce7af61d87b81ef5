"""The half of `Cluster` that writes it to its cluster file, and finds it again from another program.

Only `cluster.Cluster` derives from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mpiparallel import cluster_file as files
from mpiparallel.config import Config
from mpiparallel.launch.launched import Controller, EngineSet, attach
from mpiparallel.launch.processes import Process
from mpiparallel.launchoptions import LaunchOptions

if TYPE_CHECKING:
    from typing_extensions import Self


class RecordedCluster:
    """What `Cluster` does with its cluster file."""

    n: int | None
    profile: str
    cluster_id: str
    folder: Path
    cluster_file: Path
    host: str
    controller: Controller | None
    options: LaunchOptions
    keeper: Process | None  # starts the controller again when that dies
    engines: dict[str, EngineSet]
    _show_change: Callable[[], None]

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` needs to take this cluster over in another program."""
        return {
            "cluster": {
                "profile": self.profile,
                "cluster_id": self.cluster_id,
                "folder": str(self.folder),
                "host": self.host,
                "n": self.n,
                "options": msgspec.to_builtins(self.options),
            },
            "controller": self.controller.to_dict() if self.controller else None,
            "keeper": self.keeper.to_dict() if self.keeper else None,
            "engines": {"sets": {name: one.to_dict() for name, one in self.engines.items()}},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], config: Config | None = None) -> Self:
        """Return a cluster that another program started, to connect to, extend or stop it."""
        about = record["cluster"]
        folder = Path(about["folder"])
        cluster = cls(  # type: ignore[call-arg]  # as Cluster is made
            profile_dir=folder.parent,
            cluster_id=about["cluster_id"],
            shutdown_atexit=False,
            load_profile=False,  # it goes on as it was started
            config=config,
            **{**about.get("options", {}), "n": about.get("n")},
        )
        cluster.host = about["host"]
        if record["controller"]:
            cluster.controller = Controller(attach(record["controller"]))
        if record.get("keeper"):
            cluster.keeper = Process.from_dict(record["keeper"])
        for name, one in record["engines"]["sets"].items():
            cluster.engines[name] = EngineSet.from_dict(name, one)
        return cluster

    @classmethod
    def from_file(
        cls,
        cluster_file: str | Path | None = None,
        *,
        profile: str | None = None,
        profile_dir: str | Path | None = None,
        cluster_id: str | None = None,
        config: Config | None = None,
    ) -> Self:
        """Return the cluster of a cluster file, given by path or by profile and cluster id.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        config = config or Config.from_environment()
        if cluster_file is None:
            cluster_file = files.folder_of(config, profile, profile_dir, cluster_id) / files.NAME
        cluster = cls.from_dict(files.read(Path(cluster_file)), config)
        cluster.cluster_file = Path(cluster_file).absolute()
        return cluster

    def write_cluster_file(self) -> None:
        """Write the cluster file."""
        files.write(self.cluster_file, self.to_dict())

    def update_cluster_file(self) -> None:
        """Write the cluster file again if the cluster runs, else remove it."""
        if self.controller is None:
            self.remove_cluster_file()
        else:
            self.write_cluster_file()
        self._show_change()

    def remove_cluster_file(self) -> None:
        """Remove the cluster file, if it is there."""
        self.cluster_file.unlink(missing_ok=True)
        self._show_change()
