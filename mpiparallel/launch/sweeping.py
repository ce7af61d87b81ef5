"""Remove what MPI leaves on this machine when it is killed: folders, and shared memory.

Called by `launch.local` and `cluster_file` when a world has ended. This is left when everything is ended by
``kill -9`` (Open MPI 5.0, MPICH 5.0):

==========================================  =======================================================
``/tmp/ompi.PID``                           Open MPI; PID is that of mpiexec
``/dev/shm/sm_segment.HOST.UID.JOB.RANK``   Open MPI (``vader_segment`` before version 5)
``/dev/shm/mpich_shm_NUMBER_0``             MPICH
``/tmp/hydra_hwloc_xmlfile_NAME``           MPICH; its proxy writes it for its ranks
==========================================  =======================================================

The names of all but the first do not say whose they are. A segment is removed when it was made since the
world began and no process maps it: MPI maps a segment as soon as it is made, so nobody can use it any more.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

SEGMENTS = re.compile(r"(?:sm_segment|vader_segment)\.|mpich_shm_")
PROXY = "hydra_pmi_proxy"
SHARED_MEMORY = Path("/dev/shm")
YOUNG = 1.0  # seconds; a younger segment is looked at twice, for its maker may be about to map it
MADE_WITHIN = 10.0  # seconds in which a proxy writes its file


def sweep(pid: int, since: float) -> None:
    """Remove what an mpiexec that has ended, with this pid and begun at `since`, has left behind."""
    temporary = Path(tempfile.gettempdir())
    folder = temporary / f"ompi.{pid}"
    if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
        shutil.rmtree(folder, ignore_errors=True)
    _sweep_segments(since)
    _sweep_proxy_files(temporary, since)


def _sweep_segments(since: float) -> None:
    segments = dict(_ours(SHARED_MEMORY, SEGMENTS, since))
    if not segments:
        return
    unused = set(segments) - _mapped()
    if any(time.time() - segments[path] < YOUNG for path in unused):
        time.sleep(0.1)
        unused -= _mapped()
    for path in unused:
        path.unlink(missing_ok=True)


def _sweep_proxy_files(temporary: Path, since: float) -> None:
    files = list(_ours(temporary, re.compile("hydra_hwloc_xmlfile_"), since))
    if not files:
        return
    processes = psutil.process_iter(["name", "create_time"])
    proxies = [one.info["create_time"] for one in processes if one.info["name"] == PROXY]
    for path, made in files:
        if not any(0 <= made - began + 1 <= MADE_WITHIN for began in proxies):
            path.unlink(missing_ok=True)


def _ours(folder: Path, pattern: re.Pattern[str], since: float) -> Iterator[tuple[Path, float]]:
    """Yield the files of this user in `folder` that are called so and were made since then, with the time."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not pattern.match(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # its owner has removed it
            if status.st_uid == os.geteuid() and status.st_ctime >= since - 1.0 and entry.is_file():
                yield Path(entry.path), status.st_ctime


def _mapped() -> set[Path]:
    """Return the files in shared memory that processes have mapped."""
    found: set[Path] = set()
    for pid in psutil.pids():
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
        except OSError:
            continue  # it has ended, or is another user's, who cannot map our files
        found.update(Path(name) for name in re.findall(rf"{SHARED_MEMORY}/\S+", maps))
    return found
