"""The report, for people and for programs."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, Any

from mpiparallel import __version__
from mpiparallel.doctor.finding import Finding

WIDEST = 100
NAME_WIDTH = 15
_SIGNS = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skip": "-"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_INDENT = " " * (2 + 4 + 2 + NAME_WIDTH + 1)


def heading(profile: str) -> str:
    """Return the first line."""
    where = f"{socket.gethostname()} ({platform.system()} {platform.release()})"
    return f"mpiparallel {__version__} on {where}" + (
        f", profile {profile}" if profile not in ("", "default") else ""
    )


def lines(finding: Finding, width: int) -> list[tuple[str, str]]:
    """Return the lines of one finding, each with what it is: its status, ``"text"``, ``"remedy"``."""
    first, *more = finding.words.split("\n")
    body = _wrapped(first, width, _INDENT, _INDENT)
    for line in more:
        body += _wrapped(line, width, _INDENT + "| ", _INDENT + "| ")
    head = f"  {_SIGNS[finding.status]:<4}  {finding.name:<{NAME_WIDTH}} "
    if len(head) > len(_INDENT):
        found = [(finding.status, head.rstrip()), *(("text", line) for line in body)]
    else:
        found = [(finding.status, head + body[0][len(_INDENT) :]), *(("text", line) for line in body[1:])]
    if finding.remedy:
        remedy = _wrapped(finding.remedy, width, _INDENT + "-> ", _INDENT + "   ")
        found += [("remedy", line) for line in remedy]
    return found


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, max(width, len(_INDENT) + 20), initial_indent=first, subsequent_indent=others,
        break_long_words=False, break_on_hyphens=False,
    ) or [first.rstrip()]  # fmt: skip


def summary(findings: Sequence[Finding]) -> str:
    """Return the last line."""
    failed = sum(one.status == "fail" for one in findings)
    warned = sum(one.status == "warn" for one in findings)
    if not failed and not warned:
        return "All is well."
    parts = [_count(failed, "problem")] if failed else []
    parts += [_count(warned, "warning")] if warned else []
    return f"{' and '.join(parts)}: what to do stands behind the arrows."


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


class Printer:
    """Prints a report as it comes; on a terminal in colours, and with what is being checked below it."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.console: Any = None
        if self.stream.isatty():
            from rich.console import Console

            self.console = Console(file=self.stream, highlight=False)
            self.width = min(self.console.width, WIDEST)
            self._status = self.console.status("")
            self._status.start()
        else:
            self.width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)

    def print(self, text: str, style: str = "") -> None:
        """Print a line."""
        if self.console is None:
            print(text, file=self.stream, flush=True)
        else:
            self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def begins(self, name: str) -> None:
        """Say what is being checked, to who may wait for it."""
        if self.console is not None:
            self._status.update(f"{name} ...")

    def __enter__(self) -> Printer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.console is not None:
            self._status.stop()

    def finding(self, finding: Finding) -> None:
        """Print one finding."""
        for what, line in lines(finding, self.width):
            if self.console is None or what == "text":
                self.print(line)
            elif what == "remedy":
                self.print(line, "bold")
            else:
                self._head(what, line)

    def _head(self, status: str, line: str) -> None:
        from rich.text import Text

        text = Text(line)
        text.stylize(_STYLES[status], 0, 6)
        text.stylize("dim" if status == "skip" else "bold", 8, len(_INDENT) - 1)
        self.console.print(text, soft_wrap=True)


def as_json(findings: Sequence[Finding], profile: str, seconds: float) -> str:
    """Return the report for programs."""
    return json.dumps(
        {
            "ok": not any(one.status == "fail" for one in findings),
            "mpiparallel": __version__,
            "host": socket.gethostname(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "profile": profile,
            "seconds": round(seconds, 1),
            "checks": [
                {
                    "name": one.name, "status": one.status, "words": one.words, "remedy": one.remedy,
                    "seconds": one.seconds, "facts": dict(one.facts),
                }
                for one in findings
            ],
        },
        indent=2, default=str,
    )  # fmt: skip
