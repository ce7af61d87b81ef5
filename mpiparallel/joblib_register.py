"""``register_joblib_backend`` without a view: it takes the running cluster, or starts one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpiparallel import error
from mpiparallel.client.client import Client
from mpiparallel.cluster import Cluster

if TYPE_CHECKING:
    from mpiparallel.client.balanced import LoadBalancedView

_clients: list[Client] = []  # the one in use, so that a process starts at most one cluster


def register_joblib_backend(name: str = "ipyparallel", make_default: bool = False) -> None:
    """Make ``joblib.Parallel`` run on the engines of the running cluster, or of one that it starts.

    A cluster that it has started ends with this process. The name ``"mpiparallel"`` comes along with
    ``"ipyparallel"``.

    >>> ipp.register_joblib_backend()  # doctest: +SKIP
    >>> with joblib.parallel_config("mpiparallel"):  # doctest: +SKIP
    ...     search.fit(X, y)

    Parameters
    ----------
    name
        Of the backend.
    make_default
        Whether joblib uses it where nothing else is asked for.
    """
    from mpiparallel.client.joblib_backend import register_factory

    register_factory(name, _find_view, make_default)


def _find_view() -> LoadBalancedView:
    if not _clients or _clients[0]._connection.gone is not None:
        _clients[:] = [_connect()]
    return _clients[0].load_balanced_view()


def _connect() -> Client:
    try:
        client = Client(timeout=1)
    except (OSError, error.ConnectionRefused):  # TimeoutError is an OSError, too
        return Cluster().start_and_connect_sync()
    if not len(client):
        client.close()
        return Cluster().start_and_connect_sync()
    return client
