"""This machine: versions, folders, disks, its name, what a process may use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mpiparallel import __version__, disk
from mpiparallel.doctor.finding import Context, Finding, fail, ok, warn

LIBRARIES = ("mpi4py", "pyzmq", "ipython", "numpy", "cloudpickle", "msgspec")
LITTLE = 200 << 20  # bytes; results and logs need more than that
SHARED = 64 << 20  # bytes of shared memory that a few ranks need
FILES = 1024  # open files; the controller has some for each client and world
_SHARED_MEMORY = Path("/dev/shm")


def versions() -> dict[str, str]:
    """Return the versions of what matters; a library that is missing has none."""
    found = {"mpiparallel": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def check_versions(context: Context) -> Iterator[Finding]:
    """Yield what runs here."""
    found = versions()
    missing = [name for name, version in found.items() if not version]
    words = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    if missing:
        remedy = f"{sys.executable} -m pip install --upgrade mpiparallel"
        yield fail("versions", f"Not installed: {', '.join(missing)}. There are {words}.", remedy, **found)
    else:
        yield ok("versions", f"{words}, at {sys.executable}.", executable=sys.executable, **found)


def check_name(context: Context) -> Iterator[Finding]:
    """Yield whether this host can look up its own name, which many an MPI wants."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield warn(
            "host name",
            f"This host cannot look up its own name, {name}: {error.strerror or error}. Some MPI libraries "
            "wait or fail then.",
            f"Add a line to /etc/hosts: 127.0.1.1 {name}",
            host=name,
        )
        return
    yield ok("host name", f"{name} is {address}.", host=name, address=address)


def check_folders(context: Context) -> Iterator[Finding]:
    """Yield whether the folders that are needed can be used, by us alone, and have room."""
    state = context.config.state_dir
    yield state_folder(state)
    yield from site_folder(context.config.site_dir)
    yield temporary_folder(Path(tempfile.gettempdir()))
    if _SHARED_MEMORY.is_dir():
        yield shared_memory(_SHARED_MEMORY)


def state_folder(folder: Path) -> Finding:
    """Return whether clusters can keep keys, logs and results there."""
    name, remedy = "state folder", "Name another by MPIPARALLEL_STATE, on a disk that compute nodes share."
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = disk.try_to_write(folder, sync=True)
    except OSError as error:
        words, _, remedy = disk.explain(folder, error).partition(". ")
        return fail(name, f"{words[0].upper()}{words[1:]}.", remedy, folder=str(folder))
    about = folder.stat()
    room = free(folder)
    facts = {"folder": str(folder), "mode": f"{stat.S_IMODE(about.st_mode):04o}", "free": room}
    if mode != 0o600:
        return fail(
            name,
            f"{folder}: files there get mode {mode:04o} whatever is asked for, so others could read the keys "
            "of your clusters.",
            remedy,
            **facts,
        )
    if about.st_uid not in (os.geteuid(), 0):
        words = f"{folder} belongs to another user (uid {about.st_uid}), who can change what is there."
        return fail(name, words, remedy, **facts)
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX:
        return fail(
            name,
            f"Others may write to {folder} (mode {stat.S_IMODE(about.st_mode):04o}), and could put files of "
            "their own in the place of yours.",
            f"chmod 700 {folder}",
            **facts,
        )
    if room < LITTLE:
        return warn(name, f"{folder} can be written, but only {size(room)} are free.", remedy, **facts)
    return ok(name, f"{folder} can be written, {size(room)} free.", **facts)


def site_folder(folder: Path) -> Iterator[Finding]:
    """Yield whether the folder of profiles and of a site's own scripts is safe."""
    if not folder.is_dir():
        return
    own = [path for path in sorted(folder.glob("*/*")) if path.is_file()]
    loose = [
        path
        for path in [folder, *own]
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) or path.stat().st_uid not in (os.geteuid(), 0)
    ]
    facts = {"folder": str(folder), "files": [str(path) for path in own]}
    if loose:
        yield fail(
            "settings",
            f"Others may change {loose[0]}, and so what runs in your name.",
            f"chmod go-w {loose[0]}; chown it to yourself if it is not yours.",
            **facts,
        )
        return
    unreadable = [path for path in own if not os.access(path, os.R_OK)]
    if unreadable:
        yield fail("settings", f"{unreadable[0]} cannot be read.", f"chmod u+r {unreadable[0]}", **facts)
        return
    names = ", ".join(str(path.relative_to(folder)) for path in own) or "nothing"
    yield ok("settings", f"{folder} holds {names}.", **facts)


def temporary_folder(folder: Path) -> Finding:
    """Return whether sockets and MPI's own files have a place."""
    name, remedy = "temporary", "Make room there, or name another folder by TMPDIR."
    try:
        disk.try_to_write(folder, sync=True)
    except OSError as error:
        return fail(name, f"{folder}: {error.strerror or error}.", remedy, folder=str(folder))
    room = free(folder)
    if room < LITTLE // 4:
        return warn(name, f"{folder} has {size(room)} free only.", remedy, folder=str(folder), free=room)
    return ok(name, f"{folder} can be written, {size(room)} free.", folder=str(folder), free=room)


def shared_memory(folder: Path) -> Finding:
    """Return whether ranks on this host can share memory."""
    name = "shared memory"
    remedy = "In a container, give it more: docker run --shm-size=1g. Elsewhere, remove what was left there."
    try:
        disk.try_to_write(folder, sync=True)
    except OSError as error:
        return fail(name, f"{folder}: {error.strerror or error}.", remedy, folder=str(folder))
    room = free(folder)
    if room < SHARED:
        words = f"{folder} has {size(room)} free, and MPI needs some 16 MB for each rank."
        return warn(name, words, remedy, folder=str(folder), free=room)
    return ok(name, f"{folder} has {size(room)} free.", folder=str(folder), free=room)


def check_limits(context: Context) -> Iterator[Finding]:
    """Yield whether a process may open files enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        yield warn(
            "limits",
            f"A process may have {soft} files open; a controller needs some for each client and world.",
            f"ulimit -n {FILES if hard == resource.RLIM_INFINITY else min(hard, 65536)}",
            open_files=soft,
        )
    else:
        words = "any number of" if soft == resource.RLIM_INFINITY else str(soft)
        yield ok("limits", f"{words} files may be open at once.", open_files=soft)


def free(folder: Path) -> int:
    """Return how many bytes can be written there."""
    return shutil.disk_usage(folder).free


def size(count: int) -> str:
    """Return a number of bytes for people."""
    if count < 1 << 30:
        return f"{count / (1 << 20):.0f} MB"
    return f"{count / (1 << 30):.0f} GB"
