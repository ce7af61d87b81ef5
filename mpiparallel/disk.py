"""Can files be written to a folder? Asked before anything is started that would fail in the middle of it."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from mpiparallel.error import LaunchError

ROOM = 256 << 10  # bytes: what a cluster writes at its start, and a little more

_FULL = "Remove what you do not need (df -h {folder}; old results: mpiparallel list), or name another folder"
_REMEDIES = {
    errno.ENOSPC: f"The disk is full. {_FULL}",
    errno.EDQUOT: f"Your quota is used up. {_FULL}",
    errno.EROFS: "The disk can only be read from here. Name another folder",
    errno.EACCES: "Another user's folder is in the way (ls -ld {folder}). Name another one",
}


def check(folder: Path) -> None:
    """See whether logs, keys and results can be written to `folder`, which is there.

    Raises
    ------
    LaunchError
        If not; the message says what to do.
    """
    try:
        try_to_write(folder)
    except OSError as error:
        raise LaunchError(explain(folder, error)) from None


def explain(folder: Path, error: OSError) -> str:
    """Return why nothing can be written there, and what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "Name another folder").format(folder=folder)
    return f"cannot write to {folder}: {error.strerror or error}. {remedy} by MPIPARALLEL_STATE."


def try_to_write(folder: Path, sync: bool = False) -> int:
    """Write a file to `folder` and remove it; return the mode that it got when 0600 was asked for.

    With `sync` the disk itself must have taken it, which may take a while.

    Raises
    ------
    OSError
        If it cannot be written, or not all of it.
    """
    descriptor, path = tempfile.mkstemp(dir=folder, prefix=".trial-")
    try:
        # Unbuffered and incompressible: a lack of room is told here, or by close.
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            content = memoryview(os.urandom(ROOM))
            while content:
                content = content[file.write(content) or 0 :]
            if sync:
                os.fsync(file.fileno())
        return stat.S_IMODE(os.stat(path).st_mode)
    finally:
        os.unlink(path)
