"""``mpiexec -n 2 python -m mpiparallel.engine.hello``: what MPI says of itself, a line of JSON for each rank.

Run by ``mpiparallel doctor``, which must not load MPI itself. With ``--library`` MPI is loaded and not
started.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from mpiparallel import __version__

MARK = "mpiparallel-hello "  # before each line of ours: MPI and batch systems say things of their own
LIBRARY = "--library"


def library() -> dict[str, Any]:
    """Return which MPI library mpi4py has loaded, without starting it."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    config = mpi4py.get_config()
    words = MPI.Get_library_version().replace("\0", "").replace("\t", " ").strip().splitlines()
    return {
        "mpi4py": mpi4py.__version__,
        "built_with": str(config.get("mpicc") or config.get("mpicxx") or ""),
        "vendor": vendor,
        "version": ".".join(map(str, version)),
        "library": " ".join(words[0].partition(",")[0].split()) if words else "",
        "file": _mapped_library(),
    }


def _mapped_library() -> str:
    """Return the file of the MPI library in this process; empty where the system does not tell."""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split(maxsplit=5)[5].strip() for line in maps if "libmpi" in line}
    except OSError:
        return ""
    return next((file for file in sorted(files) if os.path.basename(file).startswith("libmpi")), "")


def meet() -> dict[str, Any]:
    """Start MPI, have all ranks exchange their hosts, and return what this one has seen. Collective."""
    import mpi4py

    mpi4py.rc.initialize = True
    from mpi4py import MPI

    from mpiparallel.engine.world import _can_lose_ranks

    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    levels = {
        MPI.THREAD_SINGLE: "SINGLE",
        MPI.THREAD_FUNNELED: "FUNNELED",
        MPI.THREAD_SERIALIZED: "SERIALIZED",
        MPI.THREAD_MULTIPLE: "MULTIPLE",
    }
    comm = MPI.COMM_WORLD
    return {
        "rank": comm.rank,
        "size": comm.size,
        "hosts": comm.allgather(socket.gethostname()),
        "threads": levels[MPI.Query_thread()],
        "ulfm": _can_lose_ranks(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print what there is to say, or why there is nothing; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    said: dict[str, Any] = {
        "mpiparallel": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "host": socket.gethostname(),
    }
    try:
        said.update(library())
        if LIBRARY not in words:
            said.update(meet())
    except (ImportError, RuntimeError, OSError) as error:
        # mpi4py that finds no library says so by a RuntimeError or an ImportError.
        said["error"] = f"{type(error).__name__}: {error}"
    # In one write, lest lines of several ranks mix.
    sys.stdout.write(f"{MARK}{json.dumps(said)}\n")
    sys.stdout.flush()
    return 1 if "error" in said else 0


if __name__ == "__main__":
    sys.exit(main())
