"""A real terminal with IPython in it; its screen is what a person would see."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

PATIENCE = 60.0
COLUMNS, LINES = 120, 50


class Terminal:
    """IPython in a terminal of its own.

    Parameters
    ----------
    folder
        Where it keeps files; it works there, too.
    **environment
        Variables for it, besides those of this process.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self._screen = pyte.HistoryScreen(COLUMNS, LINES, history=100_000)
        self._stream = pyte.Stream(self._screen)
        self.raw = ""  # everything that was written to the terminal
        self._number = "0"  # of the prompt at which the last cell was entered
        variables = {
            **os.environ,
            "IPYTHONDIR": str(folder / "ipython"),
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "TERM": "xterm-256color",
            **environment,
        }
        options = ["--no-banner", "--no-confirm-exit", "--HistoryManager.enabled=False"]
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", *options],
            env=variables,  # type: ignore[arg-type]
            cwd=str(folder),
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        self.until(self.ready)

    @property
    def pid(self) -> int:
        return self._child.pid

    def shown(self) -> str:
        """All lines, those that have gone up included, as a person sees them."""
        past = ["".join(line[x].data for x in range(COLUMNS)) for line in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*past, *self._screen.display]).rstrip()

    def ready(self) -> bool:
        """Whether IPython waits for a line."""
        return re.fullmatch(r"In \[\d+\]:", self.shown().rsplit("\n", 1)[-1].strip()) is not None

    def colours(self, text: str) -> set[str]:
        """The colours of letters of the last line on the screen that has `text` in it."""
        for number in reversed(range(LINES)):
            start = self._screen.display[number].find(text)
            if start >= 0:
                line = self._screen.buffer[number]
                return {line[start + index].fg for index in range(len(text))}
        raise AssertionError(f"{text!r} is not on the screen:\n{self.shown()}")

    def until(self, seen: str | Callable[[], object], timeout: float = PATIENCE) -> str:
        """Wait until a text is shown, or until a condition holds; return all that is shown."""
        text = seen
        condition = (lambda: text in self.shown()) if isinstance(text, str) else seen
        deadline = time.monotonic() + timeout
        while not condition():  # type: ignore[operator]
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise TimeoutError(f"no {seen!r} in time; shown by now:\n{self.shown()[-4000:]}")
        return self.shown()

    def _read(self, timeout: float) -> bool:
        try:
            text = self._child.read_nonblocking(1 << 16, timeout=timeout)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return False
        self.raw += text
        self._stream.feed(text)
        return True

    def start(self, code: str) -> None:
        """Enter a line or a cell, and do not wait for its end."""
        self._number = self._prompt()
        # As a paste, lest the editor indents or completes; escape and return run it however it ends.
        self._child.send(f"\x1b[200~{code}\x1b[201~\x1b\r")
        self.until(lambda: not self.ready() or self._prompt() != self._number)

    def finish(self, timeout: float = PATIENCE) -> str:
        """Wait for the next prompt; return what was shown since `start`."""
        self.until(lambda: self.ready() and self._prompt() != self._number, timeout)
        lines = self.shown().rsplit(f"In [{self._number}]:", 1)[-1].split("\n")[1:-1]
        while lines and lines[0].lstrip().startswith("...:"):  # the cell's own lines
            lines.pop(0)
        return "\n".join(lines).strip("\n")

    def run(self, code: str, timeout: float = PATIENCE) -> str:
        """Enter a line or a cell and wait for its end; return what it has shown."""
        self.start(code)
        return self.finish(timeout)

    def press(self, key: str) -> None:
        """Press control and a key."""
        self._child.sendcontrol(key)

    def _prompt(self) -> str:
        return re.findall(r"In \[(\d+)\]:", self.shown())[-1]

    def close(self) -> None:
        self._child.close(force=True)
