"""Read log files while others, perhaps on other hosts, write to them.

``mpiparallel logs`` and ``mpiparallel submit --follow`` call this.
"""

from __future__ import annotations

import codecs
from pathlib import Path

_AT_ONCE = 1 << 20  # bytes
_BLOCK = 1 << 16


class Tail:
    """One file that grows, or that is not there yet.

    It is opened anew at each look, so that a network file system shows what other hosts have written.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0  # bytes
        self._start_anew()

    def _start_anew(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def skip_to_last(self, lines: int) -> None:
        """Let the next `read` begin with the last `lines` lines of what is there now."""
        self._read = start_of_last(self.path, lines)
        self._start_anew()

    def read(self) -> str:
        """Return what is new, a megabyte at most; empty when nothing is."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._read:  # somebody has begun it anew
                    self._read = 0
                    self._start_anew()
                file.seek(self._read)
                content = file.read(_AT_ONCE)
        except FileNotFoundError:
            return ""
        self._read += len(content)
        return self._decode(content)


def start_of_last(path: Path, lines: int) -> int:
    """Return where the last `lines` lines of a file begin, in bytes; 0 when there is no such file."""
    if lines <= 0:
        return path.stat().st_size if path.exists() else 0
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            if position == 0:
                return 0
            file.seek(position - 1)
            wanted = lines + (file.read(1) == b"\n")  # the end of the last line begins no other
            while position > 0:
                size = min(_BLOCK, position)
                position -= size
                file.seek(position)
                block = file.read(size)
                found = block.count(b"\n")
                if found < wanted:
                    wanted -= found
                    continue
                at = len(block)
                for _ in range(wanted):
                    at = block.rindex(b"\n", 0, at)
                return position + at + 1
            return 0
    except FileNotFoundError:
        return 0
