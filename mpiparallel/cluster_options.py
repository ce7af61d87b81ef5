"""The part of `Cluster` that holds how its controller and engines are started.

Only `cluster.Cluster` derives from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from mpiparallel import launchoptions, profiles
from mpiparallel.config import Config
from mpiparallel.launch import local
from mpiparallel.launch.argv import DEDICATED
from mpiparallel.launchoptions import LaunchOptions

_SPELLINGS = {"local": "mpi", "MPI": "mpi", "Local": "mpi"}  # one mpiexec on this machine


class OptionedCluster:
    """What `Cluster` does with its options."""

    config: Config
    n: int | None
    options: LaunchOptions
    engine_timeout: float

    def _take_options(self, *layers: Mapping[str, Any], profile: str = "", dedicated: bool = False) -> None:
        """Take options from several places, the first of which wins.

        With `profile` the last of them are the environment and that profile. What is `dedicated` has a bridge
        of its own, whatever other arguments there are for engines.
        """
        further = profiles.layers(profile, self.config, os.environ) if profile else []
        found = launchoptions.joined(*layers, *(layer.values for layer in further))
        if dedicated and DEDICATED not in found.get("engine_args", ()):
            found["engine_args"] = [*found.get("engine_args", ()), DEDICATED]
        self.options = launchoptions.check(found, "Cluster")
        self.engine_timeout = self.options.engine_timeout

    def set_options(self, *, dedicated_bridge: bool = False, **options: Any) -> None:
        """Start what is started from now on in another way; what is None stays as it is."""
        self._take_options(options, msgspec.to_builtins(self.options), dedicated=dedicated_bridge)

    def _number(self, n: int | None) -> int:
        if n is None:
            n = self.n
        if n is None:
            n = local.default_n(self.options, os.environ)
        if n < 0:
            raise ValueError(f"n={n}: the number of engines cannot be negative")
        self.n = n
        return n


def launcher(what: str, name: Any, launcher_class: Any) -> str | None:
    """Return how to start engines or controller, by the one of two spellings that was used."""
    if name is not None and launcher_class is not None:
        raise TypeError(f"give {what} or {what.removesuffix('s')}_launcher_class, not both")
    wish = name if name is not None else launcher_class
    return None if wish is None else _SPELLINGS.get(wish, wish)
