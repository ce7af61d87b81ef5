"""All checks, in order, each within its time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from mpiparallel.doctor import clusters, here, jobs, modules, mpi, settings, slurm, ssh
from mpiparallel.doctor.finding import Context, Finding, fail

Check = Callable[[Context], Iterator[Finding]]

TOGETHER = 60.0  # seconds for all of them

# What comes later may build on what came before; with the seconds that each may take by itself.
CHECKS: tuple[tuple[str, Check, float], ...] = (
    ("versions", here.check_versions, 5.0),
    ("profile", settings.check_profile, 5.0),
    ("host name", here.check_name, 5.0),
    ("folders", here.check_folders, 10.0),
    ("limits", here.check_limits, 5.0),
    ("clusters", clusters.check_clusters, 10.0),
    ("ssh", ssh.check_ssh, 45.0),
    ("modules", modules.check_modules, 20.0),
    ("MPI library", mpi.check_library, 25.0),
    ("mpiexec", mpi.check_mpiexec, 35.0),
    ("Slurm", slurm.check_slurm, 25.0),
    ("a job", jobs.check_jobs, 60.0),
)

_END = None


def examine(
    context: Context,
    checks: tuple[tuple[str, Check, float], ...] = CHECKS,
    begins: Callable[[str], None] = lambda name: None,
) -> Iterator[Finding]:
    """Yield what all checks find, as they find it; call `begins` with the name of each."""
    for name, check, limit in checks:
        begins(name)
        if time.monotonic() >= context.deadline:
            yield fail(
                name, f"Not tried: the checks before have taken all of the time ({TOGETHER:.0f} s).",
                "Mend what is slow above, and run this again."
            )  # fmt: skip
            continue
        yield from bounded(name, check, context, context.within(limit))


def bounded(name: str, check: Check, context: Context, limit: float) -> Iterator[Finding]:
    """Yield what one check finds; give it up after `limit` seconds: a disk that is gone hangs for ever."""
    found: queue.Queue[Finding | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            for one in check(context):
                found.put(one)
        except BaseException as error:  # it is told about below
            found.put(error)
        found.put(_END)

    threading.Thread(target=work, name=f"mpiparallel-doctor-{name}", daemon=True).start()
    began = last = time.monotonic()
    while True:
        try:
            one = found.get(timeout=max(0.0, began + limit - time.monotonic()))
        except queue.Empty:
            yield fail(
                name,
                f"Given up after {limit:.0f} s without an answer.",
                "Most likely a disk or a server does not answer. Try again; if it stays so, tell your site.",
            )
            return
        if one is _END:
            return
        if isinstance(one, BaseException):
            yield fail(
                name,
                f"This check itself has failed: {type(one).__name__}: {one}",
                "Please report this, with what stands above.",
            )
            return
        now = time.monotonic()
        yield replace(one, seconds=round(now - last, 2))
        last = now
