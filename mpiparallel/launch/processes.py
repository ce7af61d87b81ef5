"""Processes of a cluster: each the leader of a session of its own, with a log file.

Used by `launch.local`. A `Process` is either started here (and then ours to wait for) or attached to by its
pid and start time, when another program started it. It owns the log's file descriptor and, if it has one, the
*lifeline*: the writing end of the process's standard input, which closes when this program ends, however it
does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from mpiparallel.error import LaunchError
from mpiparallel.launch.sweeping import sweep

if TYPE_CHECKING:
    from typing_extensions import Self

AFTERMATH = 1.0  # seconds that descendants have to end after the process itself has

_with_lifeline: weakref.WeakSet[Process] = weakref.WeakSet()


def _drop_lifelines_in_child() -> None:
    """Close what a fork has copied; else a forked child would keep clusters alive that are not its own."""
    for process in list(_with_lifeline):
        process.close_lifeline()


os.register_at_fork(after_in_child=_drop_lifelines_in_child)


class Process:
    """A program that runs in a session of its own: the terminal's Ctrl-C does not reach it."""

    def __init__(
        self,
        pid: int,
        created: float,
        log: Path,
        popen: subprocess.Popen[bytes] | None = None,
        mpiexec: bool = False,
    ) -> None:
        self.pid = pid
        self.created = created
        self.log = log
        self.asked_to_stop = False
        self._mpiexec = mpiexec  # which leaves files behind when it is killed
        self._popen = popen
        self._log_file: IO[bytes] | None = None  # kept open: the log can be read when its folder is gone
        self._log_lock = threading.Lock()  # one thread may close the log while another reads it

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        log: Path | None,
        environ: Mapping[str, str],
        lifeline: bool = False,
        append: bool = False,
        mpiexec: bool = False,
        told: bytes = b"",
    ) -> Self:
        """Start `argv`, which writes to `log`, a new file or (`append`) at its end; to where we do if None.

        Its standard input begins with `told`, which must not be long, and goes on until we end if it has a
        `lifeline`.

        Raises
        ------
        LaunchError
            If the program cannot be run.
        """
        new = 0 if append else os.O_TRUNC
        log_file = None
        if log is not None:
            descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | new, 0o600)
            log_file = os.fdopen(descriptor, "rb")
        try:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if lifeline or told else subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
            )
        except OSError as error:
            if log_file is not None:
                log_file.close()
            raise LaunchError(f"cannot run {argv[0]}: {error.strerror or error}") from error
        created = _create_time(popen.pid) or time.time()
        process = cls(popen.pid, created, log or Path(os.devnull), popen, mpiexec)
        process._log_file = log_file
        if lifeline:
            _with_lifeline.add(process)
        if told:
            process._tell(told, lifeline)
        return process

    def _tell(self, told: bytes, more: bool) -> None:
        assert self._popen is not None and self._popen.stdin is not None
        try:
            self._popen.stdin.write(told)
            self._popen.stdin.flush()
        except BrokenPipeError:
            return  # it has ended, and its log says why
        if not more:
            self._popen.stdin.close()

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Attach to the process that `to_dict` described, perhaps in another program."""
        return cls(
            int(record["pid"]),
            float(record["created"]),
            Path(record["log"]),
            mpiexec=bool(record.get("mpiexec")),
        )

    @classmethod
    def this(cls) -> Process:
        """Return the process that runs this very program."""
        return cls(os.getpid(), _create_time(os.getpid()) or time.time(), Path(os.devnull))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` needs."""
        return {
            "pid": self.pid,
            "created": self.created,
            "log": str(self.log),
            **({"mpiexec": True} if self._mpiexec else {}),
        }

    @property
    def name(self) -> str:
        return f"process {self.pid}"

    @property
    def running(self) -> bool:
        if self._popen is not None:
            # While another thread waits for it, poll() does not yet tell that it has ended.
            return self._popen.poll() is None and _create_time(self.pid) is not None
        created = _create_time(self.pid)
        # Another process may have got the pid of one that ended long ago.
        return created is not None and abs(created - self.created) < 2.0

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs and when somebody else started it."""
        if self._popen is None:
            return None
        return self._popen.poll() if self.running else self._popen.wait()

    def describe_end(self) -> str:
        """Return how it ended, in words."""
        code = self.exit_code
        if code is None:
            return "is running" if self.running else "ended"
        if code < 0:
            return f"was killed by {_signal_name(-code)}"
        return f"ended with exit code {code}"

    def where(self) -> str:
        """Return its name: it runs here."""
        return self.name

    def what_it_waits_for(self) -> str:
        """Return nothing: a process has no queue to wait in."""
        return ""

    def why_never(self) -> str:
        """Return nothing: it has begun."""
        return ""

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of the log."""
        try:
            content = self._end_of_log(1 << 16)
        except FileNotFoundError:
            return ""
        return "\n".join(content.decode(errors="replace").splitlines()[-lines:])

    def _end_of_log(self, size: int) -> bytes:
        with self._log_lock:
            if self._log_file is None:
                return self.log.read_bytes()[-size:]
            descriptor = self._log_file.fileno()
            return os.pread(descriptor, size, max(0, os.fstat(descriptor).st_size - size))

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; False when `timeout` seconds did not suffice."""
        deadline = time.monotonic() + timeout
        pause = 0.002
        while self.running:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return True

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended` from a thread when the process has ended. Only for one that was started here."""
        popen = self._popen
        if popen is None:
            raise ValueError("only a process that was started here can be watched")

        def wait() -> None:
            popen.wait()
            ended()

        threading.Thread(target=wait, name=f"watch-{self.pid}", daemon=True).start()

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process itself, if it still runs."""
        if not self.running:
            return
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            return  # it ended in between

    @property
    def has_lifeline(self) -> bool:
        """Whether it sees the end of its standard input when we close the lifeline."""
        return self._popen is not None and self._popen.stdin is not None and not self._popen.stdin.closed

    def close_lifeline(self) -> None:
        """Let the process see the end of its standard input."""
        if self._popen is not None and self._popen.stdin is not None:
            self._popen.stdin.close()

    def stop(self, grace: float) -> None:
        """End it: SIGTERM, after `grace` seconds SIGKILL, and SIGKILL for all that is left of its session."""
        self.asked_to_stop = True
        family = self._family()
        self.send_signal(signal.SIGTERM)
        self.wait(grace)
        # mpiexec's own helpers end after it, and tidy up: Hydra's proxy has a file in /tmp to remove.
        deadline = time.monotonic() + AFTERMATH
        while any(map(_alive, family)) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.finish(family)

    def kill(self) -> None:
        """End it and its whole session at once."""
        self.asked_to_stop = True
        self.finish()

    def finish(self, family: Sequence[psutil.Process] = ()) -> None:
        """Kill what is left of its session and of `family`, and let go of log and lifeline."""
        deadline = time.monotonic() + 5.0
        while True:
            left = [one for one in {*family, *self._family()} if _alive(one)]
            if not left or time.monotonic() > deadline:
                break
            for one in left:
                _kill(one)
            self.wait(0.02)  # not psutil's wait, which would take the exit code away from Popen
        if self._popen is not None:
            self._popen.wait(5.0)
        self.close_lifeline()
        if self._mpiexec:
            sweep(self.pid, self.created)

    def close(self) -> None:
        """Let go of the log; the process is not touched."""
        with self._log_lock:
            if self._log_file is not None:
                self._log_file.close()
                self._log_file = None

    def _family(self) -> list[psutil.Process]:
        """Return the process, its descendants and its session (ranks have process groups of their own)."""
        members: set[psutil.Process] = set()
        if self.running:
            try:
                leader = psutil.Process(self.pid)
                members = {leader, *leader.children(recursive=True)}
            except psutil.NoSuchProcess:
                pass  # it ended in between; its session is still looked for
        elif self._popen is None:
            return []  # the number may be another's session by now
        for pid in psutil.pids():
            try:
                if os.getsid(pid) == self.pid:
                    members.add(psutil.Process(pid))
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue  # it ended since the list was made
        return list(members)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return  # it ended in between


def _create_time(pid: int) -> float | None:
    """Return when the process started; None when it has ended, collected by its parent or not."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
