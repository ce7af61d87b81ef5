"""mpiparallel: IPython Parallel's interface on MPI ranks.

``import mpiparallel as ipp`` gives IPython Parallel's names. They are loaded when first used, so that an
engine or a controller never imports the client, nor a client mpi4py.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
version_info = (0, 1, 0)

_HOMES = {
    "mpiparallel.cluster": ["Cluster"],
    "mpiparallel.cluster_manager": ["ClusterManager"],
    "mpiparallel.client.client": ["Client"],
    "mpiparallel.client.activation": ["load_ipython_extension", "unload_ipython_extension"],
    "mpiparallel.client.balanced": ["LoadBalancedView"],
    "mpiparallel.client.dependency": ["Dependency"],
    "mpiparallel.client.executor": ["ViewExecutor"],
    "mpiparallel.joblib_register": ["register_joblib_backend"],
    "mpiparallel.client.views": ["BroadcastView", "DirectView"],
    "mpiparallel.client.asyncresult": ["AsyncResult"],
    "mpiparallel.client.mapresult": ["AsyncMapResult"],
    "mpiparallel.client.hubqueries": ["AsyncHubResult"],
    "mpiparallel.client.functions": ["ParallelFunction", "RemoteFunction", "parallel", "remote"],
    "mpiparallel.client.compat": [
        "PrePickled", "can", "can_map", "deserialize_object", "pack_apply_message", "serialize_object",
        "uncan", "uncan_map", "unpack_apply_message", "use_cloudpickle", "use_dill", "use_pickle",
    ],
    "mpiparallel.engine.current": ["current_comm"],
    "mpiparallel.engine.jobtime": ["time_left"],
    "mpiparallel.wire.references": ["Reference", "depend", "dependent", "interactive", "require"],
    "concurrent.futures": ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"],
    "mpiparallel.error": [
        "AlreadyDisplayedError", "CommunicatorBroken", "CompositeError", "ConnectionFileError",
        "ConnectionRefused", "DeadlockError", "DependencyTimeout", "EngineError", "IPythonError",
        "ImpossibleDependency", "InvalidDependency", "KernelError", "LaunchError", "NoEnginesRegistered",
        "PeerFailed", "RemoteError", "TaskAborted", "TunnelError",
        "TaskRejectError", "TaskTimeout", "TimeoutError", "UnmetDependency", "WireError",
    ],
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", "version_info", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
