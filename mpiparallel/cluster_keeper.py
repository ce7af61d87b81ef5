"""The keeper of a cluster in the background: it starts the controller again when that has died unasked.

`Cluster` starts one beside a controller that is to outlive its program:
``python -m mpiparallel.cluster_keeper FOLDER CLUSTER_FILE COMMAND...``. It ends with the cluster.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mpiparallel import cluster_file as files
from mpiparallel.error import LaunchError
from mpiparallel.launch import keeping, local
from mpiparallel.launch.launched import CONTROLLER_GRACE
from mpiparallel.launch.processes import Process

log = logging.getLogger("mpiparallel.keeper")

SETTLE = 0.2  # seconds after a death in which who has killed a controller that did not stop removes its files
LOOK_EVERY = 0.25  # seconds, where the kernel does not tell of the end of a process


def argv(folder: Path, cluster_file: Path, command: Sequence[str]) -> list[str]:
    """Return the command of a keeper for a controller that was started by `command`."""
    return [
        sys.executable, "-m", "mpiparallel.cluster_keeper", str(folder), str(cluster_file), *command
    ]  # fmt: skip


def keep(folder: Path, cluster_file: Path, command: Sequence[str]) -> None:
    """Watch the controller of a cluster, and start it again as long as that makes sense."""
    deaths = keeping.Deaths()
    process = Process.from_dict(files.read(cluster_file)["controller"])
    while True:
        deaths.started(time.monotonic())
        _await_end(process)
        now = time.monotonic()
        time.sleep(SETTLE)
        if files.is_stopping(folder, cluster_file) or not local.controller_ready(folder):
            return  # it has ended in order
        if not deaths.once_more(now):
            log.error("the controller is given up: %s", deaths)
            keeping.give_up(folder)
            return
        log.warning("the controller (pid %d) has died: it is started again", process.pid)
        said = folder / "controller.log"
        process = Process.start(command, log=said, environ=os.environ, append=True)
        record = files.read(cluster_file)
        files.write(cluster_file, {**record, "controller": process.to_dict()})
        if (folder / files.STOPPING).exists():
            process.stop(CONTROLLER_GRACE)  # who stops the cluster has seen the one before it
            return


def _await_end(process: Process) -> None:
    if hasattr(os, "pidfd_open") and process.running:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        try:
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)
    while process.running:
        time.sleep(LOOK_EVERY)


def main(arguments: Sequence[str]) -> int:
    """Keep a cluster; return the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    folder, cluster_file, *command = arguments
    try:
        keep(Path(folder), Path(cluster_file), command)
    except (FileNotFoundError, LaunchError) as error:
        log.error("the controller is not kept: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
