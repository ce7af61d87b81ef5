"""How errors of engines are shown: causes first, identical ones once, with engines, ranks and hosts.

Pure functions of what a `CompositeError` holds: ``(ename, evalue, traceback, engine_info)`` for each error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mpiparallel.ranges import engines, ranges

Entry = tuple[str, str, str, "dict[str, Any] | None"]
HOSTS = 3  # that are named
ONE_LINE = 200  # characters

_CELL_LINE = re.compile(r"(?:Cell In *\[\d+\], line |<ipython-input[^>]*>[:\", line]+|<cell line: )(\d+)")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
# What differs between engines that failed in the same way: prompts, addresses, temporary files.
_OWN = re.compile(r"\bIn ?\[\d+\]|0x[0-9a-fA-F]+|/tmp/[^\s:\"',]*|<ipython-input-\d+-[0-9a-f]+>")
_CELL = re.compile(r"<ipython-input-\d+-[0-9a-f]+>")
# What the controller says of a task whose engine is gone, each with its own engine and task.
_LOST = re.compile(r"Engine \d+ (\w[\w ]*?) while running task [^\s:]+(?=:|$)|Task [^\s:]+ has failed(?=:)")


class Cause(NamedTuple):
    """What went wrong on `ids`, in the same way."""

    entry: Entry
    ids: list[Any]  # engines; [None] where there was none
    infos: list[dict[str, Any]]

    @property
    def label(self) -> str:
        """The engines, as in ``[0-62:execute]``."""
        info = self.infos[0]
        return engine_label(info if len(self.ids) == 1 else {**info, "engine_id": ranges(self.ids)})

    @property
    def place(self) -> str:
        """Their ranks and hosts: `` rank 3 on node1:``; nothing where these are not known."""
        if not all("rank" in info for info in self.infos):
            return ""
        names = ranges([info["rank"] for info in self.infos])
        hosts = list(dict.fromkeys(info.get("host", "?") for info in self.infos))
        where = ", ".join(hosts) if len(hosts) <= HOSTS else f"{len(hosts)} hosts"
        return f" rank{'s' * (len(self.ids) > 1)} {names} on {where}:"

    @property
    def evalue(self) -> str:
        """What the error says; nothing of an engine of its own when several have it."""
        return self.entry[1] if len(self.ids) == 1 else of_any(*self.entry[:2])

    @property
    def header(self) -> str:
        """What stands above the traceback."""
        return self.label + self.place

    def full(self) -> list[str]:
        """Return the lines of the traceback, below its header."""
        return [self.header, *(self.entry[2] or f"{self.entry[0]}: {self.evalue}").splitlines()]

    def short(self) -> str:
        """Return one line."""
        text = " ".join(f"{self.entry[0]}: {self.evalue}".split())
        return f"{self.label} {text if len(text) <= ONE_LINE else text[: ONE_LINE - 3] + '...'}"


def engine_label(info: dict[str, Any] | None) -> str:
    """Return who raised, and in what: ``[3:apply]``."""
    if not info or "engine_id" not in info:
        return "[Engine Exception]"
    return f"[{info['engine_id']}:{info.get('method', 'apply')}]"


def peer_failed(entry: Entry) -> tuple[int, str, str] | None:
    """Return rank, error and wait of an error that says that another rank has failed."""
    return parse_peer_failed(entry[1]) if entry[0] == "PeerFailed" else None


def parse_peer_failed(text: str) -> tuple[int, str, str] | None:
    """Return what the text of a `PeerFailed` is made of; None if it is of something else."""
    found = re.match(r"rank (\d+) failed: ", text)
    if found is None:
        return None
    error, waiting, place = text[found.end() :].rpartition("; this rank was ")
    return (int(found[1]), error, waiting[2:] + place) if waiting else (int(found[1]), place, "")


def sameness(entry: Entry) -> tuple[Any, ...]:
    """Return what is the same for errors that only differ by the engine."""
    ename, evalue, traceback, info = entry
    # Engines in a deadlock are each at their own place, and all places are in the text.
    lines = "" if ename == "DeadlockError" else _OWN.sub("*", _COLOUR.sub("", traceback))
    return ename, of_any(ename, evalue), of_any(ename, lines), (info or {}).get("method")


def of_any(ename: str, text: str) -> str:
    """Return what an error says of one engine, as it is true of all that failed in the same way."""
    if ename == "EngineError":
        return _LOST.sub(lambda found: f"the engine {found[1]}" if found[1] else "the task has failed", text)
    return _CELL.sub("the cell", text)


def arrange(elist: Iterable[Entry], known: Iterable[int] = ()) -> tuple[list[Cause], list[str]]:
    """Return what went wrong, causes of other failures first, and lines about engines that only waited.

    `known`: ranks whose errors have been shown before.
    """
    shown: dict[object, Cause] = {}
    waiting: dict[tuple[int, str, str], list[Any]] = {}
    for index, entry in enumerate(elist):
        info = entry[3] or {}
        engine = info.get("engine_id")
        peer = peer_failed(entry)
        if peer is not None and engine is not None:
            waiting.setdefault(peer, []).append(engine)
            continue
        same: object = index
        if engine is not None and not isinstance(engine, list):
            same = sameness(entry)
        cause = shown.setdefault(same, Cause(entry, [], []))
        if engine in cause.ids:  # two tasks of one engine
            cause = shown.setdefault((same, index), Cause(entry, [], []))
        cause.ids.append(engine)
        cause.infos.append(info)
    named = {rank for rank, _, _ in waiting}
    causes = sorted(shown.values(), key=lambda one: _after_others(one, named))
    return causes, [_waiting_text(*cause, ids, [*known, *_ranks(causes)]) for cause, ids in waiting.items()]


def summary(causes: Sequence[Cause], waiting: Sequence[str], limit: int) -> list[str]:
    """Return one line for each of the first causes, and those about who waited."""
    lines = []
    for cause in causes[:limit]:
        place, ename, evalue = "", cause.entry[0], cause.evalue
        if waiting and len(cause.ids) == 1:
            place = cause.place
            if place and (numbers := _CELL_LINE.findall(_COLOUR.sub("", cause.entry[2]))):
                evalue = f"{evalue} (cell line {numbers[-1]})"
        lines.append(f"{cause.label}{place} {ename}: {evalue}")
    if len(causes) > limit:
        lines.append(f".... {_count(causes[limit:])} more exceptions ...")
    return [*lines, *waiting]


def render(causes: Sequence[Cause], waiting: Sequence[str], limit: int) -> list[str]:
    """Return the tracebacks of the first causes, and the lines about who waited."""
    lines: list[str] = []
    for cause in causes[:limit]:
        lines += [*cause.full(), ""]
    if len(causes) > limit:
        lines.append(f"... {_count(causes[limit:])} more exceptions ...")
    return [*lines, *waiting]


def without_colour(text: str) -> str:
    """Return text as it is where there are no colours."""
    return _COLOUR.sub("", text)


def _after_others(cause: Cause, named: set[int]) -> tuple[bool, bool]:
    """Return what sorts causes: whom others name comes first, deaths before what they took with them."""
    lost = cause.entry[0] == "EngineError" and cause.entry[1].startswith("Task ")
    return not any(info.get("rank") in named for info in cause.infos), lost


def _count(causes: Iterable[Cause]) -> int:
    return sum(len(cause.ids) for cause in causes)


def _ranks(causes: Iterable[Cause]) -> list[Any]:
    return [info.get("rank") for cause in causes for info in cause.infos]


def _waiting_text(rank: int, error: str, waiting: str, ids: list[int], known: list[Any]) -> str:
    text = f"{engines(ids)} {'was' if len(ids) == 1 else 'were'} waiting for "
    text += "it" if known == [rank] else f"rank {rank}"
    if waiting:
        text += f" {waiting.removeprefix('this rank was ')}"
    return text if rank in known else f"{text}; rank {rank} failed: {error}"
