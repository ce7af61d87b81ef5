"""Jobs of a batch system, as `launch.running.Running` things.

All jobs of one program and one batch system share a `Queue`, which asks about all of them in one call, the
less often the longer nothing has changed: ``squeue`` is a burden to the one who answers it.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpiparallel.launch import batch
from mpiparallel.launch.batch import JobInfo, Phase, QueueError, System
from mpiparallel.launch.processes import Process

log = logging.getLogger("mpiparallel.jobs")

QUICKEST, SLOWEST = 0.5, 15.0  # seconds between two questions
PATIENCE_SHARE = 0.1  # of the time for which nothing has changed, to wait for the next question
NEW = 10.0  # seconds in which a batch system need not know of a job yet that it has taken
UNTOLD = 3  # seconds in which engines end by themselves when their controller does
CANCELLED = 20.0  # seconds for a job to be gone after it was cancelled, if nobody says otherwise


def pause(unchanged: float) -> float:
    """Return the seconds between two questions when nothing has changed for `unchanged` seconds."""
    return min(SLOWEST, max(QUICKEST, PATIENCE_SHARE * unchanged))

# Ends with its standard input, whose other end this program holds.
_GUARD = 'read -r line; sleep "$1"; shift; exec "$@"'


class _Entry:
    """What the queue remembers of one job."""

    def __init__(self, now: float) -> None:
        self.info = JobInfo(Phase.WAITING, "")
        self.submitted = self.changed = now
        self.watchers: list[Callable[[], None]] = []


class Queue:
    """The jobs of this program in one batch system."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._jobs: dict[str, _Entry] = {}
        self._asked = float("-inf")
        self._asking = threading.Lock()  # over a question and what comes of it
        self._change = threading.Condition()  # over what is remembered; told when a job has ended
        self._watching = False
        self._silent = False  # whether the last question was not answered

    def info(self, job: str, max_age: float | None = None) -> JobInfo:
        """Return what is known of a job, not older than `max_age` seconds; None: as fresh as is fitting."""
        with self._change:
            entry = self._jobs.setdefault(job, _Entry(time.monotonic()))
        if not self._is_fresh(entry, max_age):
            with self._asking:
                if not self._is_fresh(entry, max_age):
                    self._ask()
        return entry.info

    def expect(self, job: str, created: float) -> None:
        """Ask about a job, too, that was submitted at this time (seconds since the epoch)."""
        with self._change:
            if job not in self._jobs:
                self._jobs[job] = _Entry(time.monotonic() - max(0.0, time.time() - created))

    def _is_fresh(self, entry: _Entry, max_age: float | None) -> bool:
        now = time.monotonic()
        if entry.info.phase is Phase.ENDED:
            return True
        if not entry.info.state:
            return False  # it was never asked about
        return now - self._asked < (pause(now - entry.changed) if max_age is None else max_age)

    def _ask(self) -> None:
        """Ask about all jobs that have not ended. Only the holder of `_asking` does that."""
        with self._change:
            asked = {job: entry for job, entry in self._jobs.items() if entry.info.phase is not Phase.ENDED}
        try:
            found = self.system.query(sorted(asked))
        except QueueError as error:
            self._asked = time.monotonic()
            # Somebody else's server is down for a while: the jobs are what they were, as far as we know.
            log.log(logging.DEBUG if self._silent else logging.WARNING, "%s", error)
            self._silent = True
            found = {}
            for entry in asked.values():
                if not entry.info.state:
                    entry.info = JobInfo(Phase.WAITING, "UNKNOWN", str(error))
            return
        self._silent = False
        now = time.monotonic()
        for job, entry in asked.items():
            if job not in found and now - entry.submitted >= NEW:
                found[job] = self.system.recall(job)
        self._asked = time.monotonic()
        for job, info in found.items():
            self._note(job, asked[job], info)

    def _note(self, job: str, entry: _Entry, info: JobInfo) -> None:
        with self._change:
            if info != entry.info:
                log.debug("job %s: %s", job, info)
                entry.info, entry.changed = info, time.monotonic()
            if info.phase is not Phase.ENDED:
                return
            watchers, entry.watchers = entry.watchers, []
            self._change.notify_all()
        for ended in watchers:
            threading.Thread(target=ended, name=f"job-{job}", daemon=True).start()

    def watch(self, job: str, ended: Callable[[], None]) -> None:
        """Call `ended` from a thread when the job has ended."""
        with self._change:
            entry = self._jobs.setdefault(job, _Entry(time.monotonic()))
            if entry.info.phase is not Phase.ENDED:
                entry.watchers.append(ended)
                if not self._watching:
                    self._watching = True
                    name = f"jobs-{self.system.name}"
                    threading.Thread(target=self._watch, name=name, daemon=True).start()
                return
        threading.Thread(target=ended, name=f"job-{job}", daemon=True).start()

    def _watch(self) -> None:
        """Ask again and again, as long as somebody wants to be told of an end."""
        while True:
            with self._change:
                watched = [entry for entry in self._jobs.values() if entry.watchers]
                if not watched:
                    self._watching = False
                    return
                now = time.monotonic()
                self._change.wait(pause(min(now - entry.changed for entry in watched)))
            for job, entry in list(self._jobs.items()):
                if entry.watchers:
                    self.info(job)

    def forget(self, job: str) -> None:
        """Ask no more about a job."""
        with self._change:
            self._jobs.pop(job, None)


@functools.cache
def queue(name: str) -> Queue:
    """Return this program's queue of the batch system of that name."""
    return Queue(batch.system(name))


class Job:
    """A job of a batch system. See `launch.running.Running`.

    Attributes
    ----------
    id : str
        The batch system's.
    log : Path
        What gets the job's output.
    script : bool
        Whether signals are for the process of the batch script, not for the ranks.
    also : list of Path
        Other logs of it, which come first when its end is looked into.
    """

    pid = None
    has_lifeline = False

    def __init__(
        self,
        job_id: str,
        system: str,
        log: Path,
        created: float,
        *,
        script: bool = False,
        also: Sequence[Path] = (),
    ) -> None:
        self.id = job_id
        self.log = log
        self.created = created
        self.asked_to_stop = False
        self.script = script
        self.also = list(also)
        self._queue = queue(system)
        self._queue.expect(job_id, created)
        self._guard: Process | None = None

    @classmethod
    def submit(
        cls,
        system: System,
        script_file: Path,
        *,
        log: Path,
        environ: Mapping[str, str],
        arguments: Sequence[str] = (),
        script: bool = False,
        also: Sequence[Path] = (),
    ) -> Job:
        """Submit a script, and cancel it again if we are interrupted meanwhile."""
        began = time.time()
        job_id = system.submit(script_file, arguments, environ)
        return cls(job_id, system.name, log, began, script=script, also=also)

    def guard(self, log: Path) -> None:
        """Have it cancelled when this program ends, however it does, even while it waits in the queue."""
        cancel = self._queue.system.cancelling([self.id])
        words = ["/bin/sh", "-c", _GUARD, "guard", str(UNTOLD), *cancel]
        self._guard = Process.start(words, log=log, environ=os.environ, lifeline=True)

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.close()
            self._guard = None

    def beside(self, log: Path) -> Job:
        """Return the same job as something else in it that writes to `log`."""
        return Job(self.id, self._queue.system.name, log, self.created, also=self.also)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Job:
        """Return the job that `to_dict` described, perhaps in another program."""
        return cls(
            str(record["job"]),
            str(record["system"]),
            Path(record["log"]),
            float(record["created"]),
            script=bool(record.get("script")),
            also=[Path(path) for path in record.get("also", ())],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` needs."""
        return {
            "job": self.id,
            "system": self._queue.system.name,
            "pid": None,
            "created": self.created,
            "log": str(self.log),
            **({"script": True} if self.script else {}),
            **({"also": [str(path) for path in self.also]} if self.also else {}),
        }

    @property
    def name(self) -> str:
        return f"job {self.id}"

    @property
    def has_own_signals(self) -> bool:
        """Whether signals reach what they are for, and not the whole job."""
        return self._queue.system.signals_alone

    def info(self, max_age: float | None = None) -> JobInfo:
        """Return what the batch system says of it, not older than so many seconds."""
        return self._queue.info(self.id, max_age)

    @property
    def running(self) -> bool:
        """Whether it has yet to end; what waits in the queue has."""
        return self.info().phase is not Phase.ENDED

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs, and when nobody knows."""
        return self.info().exit_code

    def describe_end(self) -> str:
        """Return how it ended, in words."""
        info = self.info()
        if info.phase is not Phase.ENDED:
            return "is running" if info.phase is Phase.RUNNING else f"is {info.state}"
        return info.end or f"ended ({info.state})"

    def where(self) -> str:
        """Return its name and its nodes."""
        nodes = self.info().nodes
        return f"{self.name} on {nodes}" if nodes else self.name

    def what_it_waits_for(self) -> str:
        """Return in which state it waits, and until when by estimate; empty when it does not wait."""
        info = self.info()
        if info.phase is not Phase.WAITING:
            return ""
        reason = f": {info.reason}" if info.reason and info.reason != "None" else ""
        start = f", estimated start {_clock(info.start)}" if info.start else ""
        again = f" (restarted {info.restarts} times)" if info.restarts else ""
        return f"{self.name} is {info.state or 'submitted'}{reason}{start}{again}"

    def why_never(self) -> str:
        """Return why it can never start, and what to do; empty when it may."""
        info = self.info()
        return self._queue.system.why_never(self.id, info) if info.phase is Phase.WAITING else ""

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of its logs; nothing when it has written none."""
        ends = (_end_of(path) for path in (*self.also, self.log))
        return "\n".join("\n".join(text.splitlines()[-lines:]) for text in ends if text)

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; False when `timeout` seconds did not suffice."""
        deadline = time.monotonic() + timeout
        began = time.monotonic()
        while self.info(pause(time.monotonic() - began)).phase is not Phase.ENDED:
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(QUICKEST / 2, max(0.0, deadline - time.monotonic())))
        return True

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended` from a thread when it has ended."""
        self._queue.watch(self.id, ended)

    def send_signal(self, signum: int) -> None:
        """Send a signal to its ranks, or to its batch script; if it waits, TERM cancels it."""
        phase = self.info(QUICKEST).phase
        if phase is Phase.RUNNING:
            self._queue.system.signal(self.id, signum, script=self.script)
        elif phase is Phase.WAITING and signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            self._queue.system.cancel([self.id])

    def close_lifeline(self) -> None:
        """Do nothing: a job has no lifeline."""

    def stop(self, grace: float) -> None:
        """Cancel it and wait until it is gone: the batch system has its own time between TERM and KILL."""
        self.asked_to_stop = True
        if self.running:
            self._queue.system.cancel([self.id])
            if not self.wait(max(grace, CANCELLED)):
                log.warning("%s was cancelled, and %s still", self.name, self.describe_end())
                return
        self._dismiss_guard()

    def kill(self) -> None:
        """Cancel it; the batch system kills what does not end by itself."""
        self.stop(0.0)

    def finish(self) -> None:
        """Cancel what is left of it."""
        self.stop(0.0)

    def close(self) -> None:
        """Let go of what watches over it, if it has ended; its log is opened when it is read."""
        if not self.running:
            self._dismiss_guard()

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self._queue.system.title}>"


def _end_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - (1 << 16)))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _clock(start: str) -> str:
    """Return the hour of an ISO time, with the day if that is not today; other times as they are."""
    found = re.fullmatch(r"(\d+-\d+-\d+)T(\d+:\d+).*", start)
    if not found:
        return start
    day, hour = found.groups()
    return hour if day == time.strftime("%Y-%m-%d") else f"{day} {hour}"


def signal_name(signum: int) -> str:
    """Return the name of a signal as batch systems write it: ``"USR1"``; ``"53"`` if it has none."""
    try:
        return signal.Signals(signum).name.removeprefix("SIG")
    except ValueError:
        return str(signum)
