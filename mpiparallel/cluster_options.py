"""The part of `Cluster` that holds how its controller and engines are started.

Only `cluster.Cluster` derives from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mpiparallel import launchoptions
from mpiparallel.launch import launchers
from mpiparallel.launchoptions import LaunchOptions

_SPELLINGS = {"local": "mpi", "MPI": "mpi", "Local": "mpi"}  # one mpiexec on this machine


class OptionedCluster:
    """What `Cluster` does with its options."""

    options: LaunchOptions
    engine_timeout: float

    def _take_options(self, *layers: Mapping[str, Any]) -> None:
        """Take options from several places, the first of which wins."""
        found = launchoptions.merged(*layers)
        if found.get("controller") in launchers.BATCH:
            found.setdefault("engines", found["controller"])  # more engines are further jobs
        self.options = launchoptions.check(found, "Cluster")
        self.engine_timeout = self.options.engine_timeout

    def set_options(self, **options: Any) -> None:
        """Start what is started from now on in another way; what is None stays as it is."""
        self._take_options(options, msgspec.to_builtins(self.options))


def launcher(what: str, name: Any, launcher_class: Any) -> str | None:
    """Return how to start engines or controller, by the one of two spellings that was used."""
    if name is not None and launcher_class is not None:
        raise TypeError(f"give {what} or {what.removesuffix('s')}_launcher_class, not both")
    wish = name if name is not None else launcher_class
    return None if wish is None else _SPELLINGS.get(wish, wish)
