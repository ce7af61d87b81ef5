"""The folder of a cluster and its ``cluster.json``: what runs where, and what is left of one that is gone.

`cluster.Cluster` writes it, the commands read it. A folder belongs to one controller at a time; `claim` says
whose it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from mpiparallel import connection_file, disk
from mpiparallel.config import Config
from mpiparallel.error import ConnectionFileError, LaunchError
from mpiparallel.launch.launched import attach
from mpiparallel.launch.running import Running

NAME = "cluster.json"
RESULTS = "results.db"  # what the tasks have returned
STOPPING = "stopping"  # there while somebody stops the cluster: what ends now is not to be started again
_BEING_MADE = 30.0  # a folder without any file in it may be that of a cluster which starts just now

# running: the controller is there. lost: it died, engines are left. stale: nothing runs.
# elsewhere: it belongs to another host, and cannot be judged from here.
State = Literal["running", "lost", "stale", "elsewhere"]


class AlreadyRunning(LaunchError):
    """A cluster of this profile and id runs already."""


def folder_of(
    config: Config,
    profile: str | None = None,
    profile_dir: str | Path | None = None,
    cluster_id: str | None = None,
) -> Path:
    """Return the folder of a cluster; `profile_dir` names the profile by its folder."""
    cluster_id = config.cluster_id if cluster_id is None else cluster_id
    if profile_dir is None:
        return config.cluster_dir(profile or config.profile, cluster_id)
    path = Path(profile_dir).expanduser().absolute()
    return Config(state_dir=path.parent).cluster_dir(path.name, cluster_id)


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a cluster file; a reader sees the old one or the new one."""
    connection_file.write_private(path, json.dumps(record, indent=2).encode())


def read(path: Path) -> dict[str, Any]:
    """Return what a cluster file says.

    Raises
    ------
    FileNotFoundError
        If there is none.
    LaunchError
        If it is no cluster file.
    """
    try:
        record = json.loads(path.read_bytes())
        record["cluster"]["cluster_id"], record["controller"], record["engines"]["sets"]
    except (ValueError, KeyError, TypeError) as error:
        raise LaunchError(
            f"{path} is not a cluster file ({error!r}); remove it if no cluster uses it"
        ) from None
    return dict(record)


def claim(folder: Path) -> None:
    """Make `folder` for a new cluster, in place of what an earlier one left.

    Raises
    ------
    AlreadyRunning
        If a cluster lives there.
    LaunchError
        If it cannot be made, or nothing can be written to it.
    """
    try:
        _make(folder)
        disk.check(folder)
    except OSError as error:
        raise LaunchError(disk.explain(folder, error)) from None
    except AlreadyRunning:
        raise
    except LaunchError:
        remove(folder)
        raise


def _make(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(2):
        try:
            folder.mkdir(mode=0o700)
            return
        except FileExistsError:
            pass
        state = judge(folder)
        if state == "running":
            raise AlreadyRunning(
                f"a cluster runs already, see {folder}; stop it or choose another cluster id"
            )
        if state == "elsewhere":
            raise AlreadyRunning(
                f"a cluster was started on host {_host(folder)}, see {folder}; stop it there, "
                f"or remove the folder if that host is gone, or choose another cluster id"
            )
        clean(folder)
    raise AlreadyRunning(f"another program starts a cluster in {folder} at this moment")


def judge(folder: Path) -> State:
    """Return whether the cluster of `folder` lives."""
    if _host(folder) not in ("", socket.gethostname()):
        return "elsewhere"
    controller, engines = _processes(folder)
    if controller is None:
        if not _controller_of_connection_file(folder):
            return "running" if not engines and _just_made(folder) else "stale"
        return "running"
    if controller.running or _is_kept(folder):
        return "running"
    return "lost" if any(one.running for one in engines) else "stale"


def clean(folder: Path, *, keep_results: bool = False) -> None:
    """End what is left of a cluster whose controller is gone; remove its folder, or all but the results."""
    _, engines = _processes(folder)
    for process in engines:
        process.stop(2.0)
    remove(folder, keep_results=keep_results)


def remove(folder: Path, *, keep_results: bool = False) -> None:
    """Remove the folder, or all but the results, and the socket of its controller if that was killed."""
    try:
        local = connection_file.read(folder / connection_file.NAMES["client"]).local
    except ConnectionFileError:
        local = ""  # it never got so far, or has cleaned up behind itself
    # Whoever has started the cluster, whoever stops it, and the controller may all be cleaning up at once.
    with suppress(FileNotFoundError):
        if local:
            _remove_sockets(Path(local.removeprefix("ipc://")).parent)
    if not (keep_results and has_results(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith(RESULTS):
                path.unlink(missing_ok=True)


def _remove_sockets(directory: Path) -> None:
    if directory.stat().st_uid != os.geteuid():
        return
    for name in os.listdir(directory):
        if (directory / name).is_socket():
            (directory / name).unlink(missing_ok=True)
    if not os.listdir(directory):
        directory.rmdir()


def is_of_script(folder: Path) -> bool:
    """Whether it is the folder of a script that was submitted as a job."""
    return any((folder / f"job.{suffix}").exists() for suffix in ("sbatch", "pbs", "bsub"))


def is_script_job(folder: Path) -> bool:
    """Whether it is the folder of a script that was submitted as a job; its logs are of use after its end."""
    return any(folder.glob("job.*"))


def mark_stopping(folder: Path) -> None:
    """Tell whoever keeps the cluster's controller, in this or another program, that it is to end."""
    if folder.is_dir():
        (folder / STOPPING).touch(mode=0o600)


def is_stopping(folder: Path, cluster_file: Path) -> bool:
    """Return whether the cluster is being stopped, or has been."""
    # In this order: the mark is taken away last.
    return (folder / STOPPING).exists() or not cluster_file.exists()


def has_results(folder: Path) -> bool:
    """Whether a cluster has left results there."""
    path = folder / RESULTS
    if not path.exists():
        return False
    try:
        tables = sqlite3.connect(path, timeout=5.0)
    except sqlite3.OperationalError:
        return False  # it has gone meanwhile
    try:
        return bool(tables.execute("SELECT EXISTS (SELECT 1 FROM tasks)").fetchone()[0])
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)
    except sqlite3.DatabaseError:
        return True  # damaged, but perhaps of use to somebody
    finally:
        tables.close()


def find(config: Config, profile: str | None = None) -> list[Path]:
    """Return the folders of all clusters, or of those of one profile, by name."""
    pattern = f"{profile or '*'}/cluster*"
    return sorted(path for path in config.state_dir.glob(pattern) if path.is_dir())


def names(folder: Path) -> tuple[str, str]:
    """Return profile and cluster id of a folder."""
    return folder.parent.name, folder.name.removeprefix("cluster").removeprefix("-")


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what the cluster file says of each thing that was started; nothing when there is none."""
    try:
        record = read(folder / NAME)
    except (FileNotFoundError, LaunchError):
        return []
    return [one for one in (record["controller"], *record["engines"]["sets"].values()) if one]


def _processes(folder: Path) -> tuple[Running | None, list[Running]]:
    """Return the controller and the mpiexecs that the cluster file names."""
    try:
        record = read(folder / NAME)
    except (FileNotFoundError, LaunchError):
        return None, []
    controller = attach(record["controller"]) if record["controller"] else None
    return controller, [attach(one) for one in record["engines"]["sets"].values()]


def _is_kept(folder: Path) -> bool:
    """Whether a keeper is there, who starts the controller again in a moment."""
    if (folder / STOPPING).exists() or not (folder / connection_file.NAMES["client"]).exists():
        return False  # stopped, or given up
    try:
        keeper = read(folder / NAME).get("keeper")
    except (FileNotFoundError, LaunchError):
        return False
    # Our own program knows better which of its clusters it keeps, and does not ask.
    return keeper is not None and keeper["pid"] != os.getpid() and attach(keeper).running


def _host(folder: Path) -> str:
    """Return the host whose processes the folder is about; empty when it does not say."""
    try:
        return str(read(folder / NAME)["cluster"].get("host", ""))
    except (FileNotFoundError, LaunchError):
        pass
    try:
        return connection_file.read(folder / connection_file.NAMES["client"]).host
    except ConnectionFileError:
        return ""


def _controller_of_connection_file(folder: Path) -> bool:
    """Return whether a controller that was started by hand, without cluster file, runs."""
    try:
        pid = connection_file.read(folder / connection_file.NAMES["client"]).pid
        return any("mpiparallel" in word for word in psutil.Process(pid).cmdline())
    except (ConnectionFileError, psutil.NoSuchProcess):
        return False


def _just_made(folder: Path) -> bool:
    try:
        if has_results(folder):
            return False
        return not any(folder.glob("*.json")) and time.time() - folder.stat().st_mtime < _BEING_MADE
    except FileNotFoundError:
        return False
