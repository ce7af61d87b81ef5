"""A look at the stack of another process of this user on this host, even of one that holds the GIL.

A process that may be looked at calls `offer` once: from then on a signal makes Python's `faulthandler` write
the stacks of all its threads into a file in memory (``memfd_create``). That handler is C code and needs no
GIL. Another process calls `look`, which finds the file among ``/proc/PID/fd``, sends the signal and reads
what is written. The file is opened for appending, so that a looker may empty it; lookers take turns by a lock
on it. On systems without these means nothing is offered and nothing seen.

The signal ends a system call such as ``nanosleep`` early when C code called it and does not try again;
Python's own calls and those that the kernel restarts (``read``, ``wait``, ``futex``) go on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, NamedTuple

NAME = "mpiparallel-stacks"
SIGNAL = getattr(signal, "SIGRTMIN", 0) + 5  # of those that nothing else uses
ENOUGH = 1 << 20  # bytes of output that are read
NATIVE_WITHIN = 3.0  # seconds that a debugger may take

_offered: IO[bytes] | None = None  # open for the life of the process


class Line(NamedTuple):
    """A place in a program."""

    file: str
    line: int
    function: str


@dataclass
class Peek:
    """What was seen of a process.

    `stack` has the frames of Python's main thread, `native` the C functions of the process's, each the
    outermost first. `detail` says what else is known of its state, or why nothing was seen.
    """

    stack: list[Line] = field(default_factory=list)
    native: list[str] = field(default_factory=list)
    detail: str = ""


def offer() -> bool:
    """Let other processes of this user look at this one's stacks; return whether that is possible here.

    To be called on the main thread.
    """
    global _offered
    if _offered is None and hasattr(os, "memfd_create") and hasattr(signal, "SIGRTMIN"):
        descriptor = os.memfd_create(NAME)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        _offered = open(descriptor, "ab", buffering=0)  # noqa: SIM115
        faulthandler.register(SIGNAL, file=_offered, all_threads=True, chain=False)
    return _offered is not None


def look(pid: int, timeout: float = 0.5, native: bool = False) -> Peek:
    """Return what process `pid` is doing. Takes at most `timeout`, and with `native` 3 s more."""
    with Look(pid) as eyes:
        deadline = time.monotonic() + timeout
        while (seen := eyes.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        seen = seen or eyes.give_up()
    if native:
        seen.native = native_stack(pid)
    return seen


class Look:
    """A look under way, for those who cannot wait: `poll` until it returns something, then `close`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._file = -1
        self._sent = False
        self._blocking: frozenset[str] = frozenset()
        self._answer: Peek | None = None
        trouble = state(pid)
        if not trouble:
            try:
                self._file = _open_offer(pid)
            except OSError as error:
                trouble = f"its stack cannot be read: {error.strerror}"
            else:
                if self._file < 0:
                    trouble = "it does not offer its stack"
        if trouble:
            self._answer = Peek(detail=trouble)

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def poll(self) -> Peek | None:
        """Go on; return what was seen when that is complete."""
        if self._answer is None:
            try:
                if self._sent:
                    self._read()
                elif self._lock():
                    self._ask()
            except (ProcessLookupError, FileNotFoundError):
                self._answer = Peek(detail="it is gone")
        return self._answer

    def give_up(self) -> Peek:
        """Return what was seen so far."""
        if self._answer is None:
            text = os.pread(self._file, ENOUGH, 0).decode(errors="replace") if self._sent else ""
            stack = parse(text)
            trouble = "" if stack else "its stack could not be seen in time"
            self._answer = Peek(stack, detail=state(self._pid) or trouble)
        return self._answer

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # another process is looking
        return True

    def _ask(self) -> None:
        os.ftruncate(self._file, 0)
        # The ZeroMQ and MPI libraries have threads which block all signals.
        self._blocking = _threads_that_block(self._pid)
        os.kill(self._pid, SIGNAL)
        self._sent = True

    def _read(self) -> None:
        """Take the output once its writer has left the signal's handler: until then it blocks the signal."""
        if os.fstat(self._file).st_size == 0 or _has_signal(_status(self._pid), "ShdPnd"):
            return
        if not _threads_that_block(self._pid) <= self._blocking:
            return
        text = os.pread(self._file, ENOUGH, 0).decode(errors="replace")
        os.ftruncate(self._file, 0)
        self._answer = Peek(parse(text))


def _open_offer(pid: int) -> int:
    """Open the file that a process offers; -1 when there is none, or the signal would not be handled."""
    try:
        if not _has_signal(_status(pid), "SigCgt"):
            return -1
        folder = f"/proc/{pid}/fd"
        for name in os.listdir(folder):
            if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{NAME} "):
                return os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    return -1


def _status(path: int | str) -> str:
    with open(f"/proc/{path}/status") as file:
        return file.read()


def _has_signal(status: str, mask: str) -> bool:
    found = re.search(rf"^{mask}:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> (SIGNAL - 1) & 1)


def _threads_that_block(pid: int) -> frozenset[str]:
    blocking = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            if _has_signal(_status(f"{pid}/task/{thread}"), "SigBlk"):
                blocking.add(thread)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has ended
    return frozenset(blocking)


# ---------------------------------------------------------------- what faulthandler writes

_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def parse(text: str) -> list[Line]:
    """Return the frames of the main thread in the output of `faulthandler`, the outermost first.

    Threads are told newest first, so that the main thread comes last.
    """
    frames: list[Line] = []
    reading = False
    for line in text.splitlines():
        if line.endswith("(most recent call first):"):
            reading = "C stack trace" not in line
            if reading:
                frames = []
        elif reading and (found := _FRAME.match(line)):
            number = int(found[2]) if found[2].isdigit() else 0
            frames.append(Line(_unescape(found[1]), number, _unescape(found[3])))
    return frames[::-1]


def _unescape(text: str) -> str:
    """Undo what `faulthandler` does to characters that are not ASCII."""
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2] or found[3], 16)), text)


# ---------------------------------------------------------------- C functions

_DEBUGGERS = {
    "gdb": ["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "bt", "-p"],
    "eu-stack": ["-1", "-p"],
}
_FUNCTION = re.compile(r"^#\d+\s+(?:0x[0-9a-f]+\s+(?:in\s+)?)?([^\s(]+)", re.MULTILINE)


class NativeLook:
    """A look at the C functions of a process, by a debugger if there is one: `poll`, then `close`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._until = time.monotonic() + NATIVE_WITHIN
        self._process: subprocess.Popen[bytes] | None = None
        for name, arguments in _DEBUGGERS.items():
            program = shutil.which(name)
            if program is not None:
                # Into a file: a pipe that is not emptied would hold the debugger, and it the process.
                self._said = tempfile.TemporaryFile()  # noqa: SIM115
                self._process = subprocess.Popen(
                    [program, *arguments, str(pid)],
                    stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                return

    def __enter__(self) -> NativeLook:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def poll(self) -> list[str] | None:
        """Return the functions, the outermost first; [] when they cannot be seen, None when not yet."""
        if self._process is None:
            return []
        if self._process.poll() is None:
            return None if time.monotonic() < self._until else []
        self._said.seek(0)
        return parse_native(self._said.read(ENOUGH).decode(errors="replace"))

    def close(self) -> None:
        """Let go of the process: when a debugger is killed, what it has stopped goes on."""
        if self._process is not None:
            ended = self._process.poll() is not None
            self._process.kill()
            self._process.wait()
            self._said.close()
            self._process = None
            if not ended:
                # A debugger that is killed may leave it stopped.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGCONT)


def native_stack(pid: int) -> list[str]:
    """Return the C functions that a process is in, the outermost first; [] where no debugger can tell."""
    with NativeLook(pid) as eyes:
        while (functions := eyes.poll()) is None:
            time.sleep(0.01)
    return functions


def parse_native(text: str) -> list[str]:
    """Return the functions in a debugger's listing, the outermost first."""
    return [name for name in _FUNCTION.findall(text)[::-1] if name != "??"]


# ---------------------------------------------------------------- the state of a process

_STATES = {
    "T": "it was stopped by a signal (SIGSTOP)",
    "t": "a debugger holds it",
    "D": "it waits for a disk or network file system and cannot be interrupted",
    "Z": "it has ended",
    "X": "it has ended",
}


def _letter(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal."""
    return _letter(pid) == "T"


def state(pid: int) -> str:
    """Return what keeps a process from doing anything at all, in a few words; "" when nothing does."""
    letter = _letter(pid)
    if not letter:
        return "it is gone" if os.path.isdir("/proc/self") else ""
    return _STATES.get(letter, "")
