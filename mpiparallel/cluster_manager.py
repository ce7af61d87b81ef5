"""`ClusterManager`: several clusters by key, as a notebook's server keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpiparallel import cluster_file as files
from mpiparallel import cluster_looks
from mpiparallel.client.looks import Card, Shown, name_of
from mpiparallel.cluster import Cluster
from mpiparallel.config import Config


class ClusterManager(Shown):
    """Several clusters by key."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config.from_environment()
        self._clusters: dict[str, Cluster] = {}

    def __repr__(self) -> str:
        return f"<ClusterManager: {', '.join(self._clusters) or 'no clusters'}>"

    def _card(self) -> Card:
        states = {key: cluster_looks.state_of(cluster) for key, cluster in self.clusters.items()}
        return cluster_looks.manager_card(name_of(self, "manager"), states)

    @property
    def clusters(self) -> dict[str, Cluster]:
        """All clusters that were loaded or made, by key."""
        return dict(self._clusters)

    def load_clusters(
        self, *, profile: str | None = None, profile_dir: str | Path | None = None
    ) -> dict[str, Cluster]:
        """Find the clusters that run, of one profile or of all, and return all that are known."""
        config, name = self.config, profile
        if profile_dir is not None:
            path = Path(profile_dir).expanduser().absolute()
            config, name = Config(state_dir=path.parent), path.name
        for folder in files.find(config, name):
            if files.judge(folder) == "stale" or not (folder / files.NAME).exists():
                continue
            cluster = Cluster.from_file(folder / files.NAME, config=self.config)
            self._clusters.setdefault(_key(cluster), cluster)
        for key, cluster in self.clusters.items():
            if cluster.controller is not None and not cluster.controller.running:
                del self._clusters[key]
        return self.clusters

    def new_cluster(self, **kwargs: Any) -> tuple[str, Cluster]:
        """Return a new cluster, not started, and its key; `kwargs` are those of `Cluster`.

        Raises
        ------
        KeyError
            If its key is taken.
        """
        cluster = Cluster(**{"config": self.config, **kwargs})
        key = _key(cluster)
        if key in self._clusters:
            raise KeyError(f"cluster {key} exists already")
        self._clusters[key] = cluster
        return key, cluster

    def get_cluster(self, key: str) -> Cluster:
        """Return a cluster, or raise `KeyError`."""
        return self._clusters[key]

    def remove_cluster(self, key: str) -> None:
        """Forget a cluster, or raise `KeyError`; it is not stopped."""
        del self._clusters[key]


def _key(cluster: Cluster) -> str:
    return f"{cluster.profile}:{cluster.cluster_id}"
