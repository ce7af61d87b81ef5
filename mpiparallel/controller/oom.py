"""Whether the kernel killed a process for want of memory.

Two sources, where they can be read: the kernel's log names the process, and the counter of the control group
that it was in (``memory.events`` of version 2, ``memory.oom_control`` of version 1) has grown since the
process was first looked at. The group is noted while the process lives: its name goes with it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_KILLED = re.compile(rb"Killed process (\d+) ")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
RECORD = 8192  # the kernel's longest
MAX_KILLED = 10_000


class Group(NamedTuple):
    """The file with the counter of a process's control group, and what it said."""

    path: Path
    kills: int


class Kills:
    """What the kernel says.

    Parameters
    ----------
    groups, log : Path
        Where control groups and the kernel's log are.
    """

    def __init__(self, groups: Path = Path("/sys/fs/cgroup"), log: Path = Path("/dev/kmsg")) -> None:
        self._groups = groups
        self._named: dict[int, None] = {}  # pids in the kernel's log, the newest last
        self._explained: dict[Path, int] = {}  # deaths that a group's counter was the reason for
        self._log = _open_at_end(log)

    def close(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def group(self, pid: int) -> Group | None:
        """Return the memory control group of a process that lives; None when there is none to be read."""
        try:
            with open(f"/proc/{pid}/cgroup") as file:
                lines = file.read().splitlines()
        except OSError:
            return None
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                counter = self._groups / "memory" / path.lstrip("/") / "memory.oom_control"
            elif not controllers:
                counter = self._groups / path.lstrip("/") / "memory.events"
            else:
                continue
            kills = _count(counter)
            if kills is not None:
                return Group(counter, kills)
        return None

    def killed(self, pid: int, group: Group | None) -> bool:
        """Return whether a process that was killed by SIGKILL was killed for want of memory.

        Each count of a group explains one death: the others may have been killed by somebody else.
        """
        self._read_log()
        counted = group is not None and self._explain(group)
        return counted or pid in self._named

    def _explain(self, group: Group) -> bool:
        """Return whether the counter has grown by more than the deaths it was the reason for: this is one."""
        explained = max(self._explained.get(group.path, 0), group.kills)
        now = _count(group.path)
        if now is None or now <= explained:
            return False
        self._explained[group.path] = explained + 1
        return True

    def _read_log(self) -> None:
        while self._log >= 0:
            try:
                record = os.read(self._log, RECORD)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # records were overwritten before they were read
            except OSError:
                self.close()
                return
            if not record:
                return
            if found := _KILLED.search(record):
                self._named[int(found[1])] = None
                if len(self._named) > MAX_KILLED:
                    del self._named[next(iter(self._named))]


def _open_at_end(log: Path) -> int:
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1  # not for us
    os.lseek(descriptor, 0, os.SEEK_END)
    return descriptor


def _count(path: Path) -> int | None:
    try:
        found = _COUNT.search(path.read_text())
    except OSError:
        return None  # the group went with its last process, or is not ours to read
    return int(found[1]) if found else None
