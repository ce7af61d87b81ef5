"""Draw what many engines are doing in few lines: a tree of their stacks, folded over the engines.

Called by `where`. Engines that do the same at the same place share a line; a frame that leads to several such
places stands above them once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mpiparallel.ranges import engines as engines_text
from mpiparallel.ranges import ranges
from mpiparallel.wire.waits import Frame

if TYPE_CHECKING:
    from mpiparallel.client.where import EnginePlace

BRANCHES = 8  # lines below one frame; those with the fewest engines are summed up
FRAMES = 3  # of a chain that are shown: the first and the last ones
TEXT = 60  # characters of a line of code
STATE = 80  # ... of what a line's engines do, up to which columns are kept
STEP = "  "
CELL = "cell"  # stands for the file of a cell
_CELLS = ("<ipython-input", "<cell")
_NOT_THE_USERS = re.compile(r"^<frozen |/(?:mpiparallel|IPython)/|/runpy\.py$")


def draw(places: Sequence[EnginePlace]) -> str:
    """Return the picture of `places`."""
    if not places:
        return "no engines"
    rows = _rows(_branches([_of_user(place) for place in places], 0), 0)
    engines = max(len(who) for who, _, _ in rows)
    states = min(STATE, max(len(state) if location else 0 for _, state, location in rows))
    lines = []
    for who, state, location in rows:
        words = [who.ljust(engines)]
        if state:
            words.append(state.ljust(states) if location else state)
        lines.append(STEP.join([*words, location]).rstrip())
    return "\n".join(lines)


def _of_user(place: EnginePlace) -> EnginePlace:
    """Return `place` with the frames of user code alone; an engine that another process looked at has all."""
    if place.state != "stuck":
        return place
    frames = [
        msgspec.structs.replace(frame, file=CELL) if frame.file.startswith(_CELLS) else frame
        for frame in place.stack
        if not _NOT_THE_USERS.search(frame.file)
    ]
    return msgspec.structs.replace(place, stack=frames)


def _branches(places: Sequence[EnginePlace], depth: int) -> list[list[EnginePlace]]:
    """Group places by their frame at `depth` or, where their stacks end, by what they do; the first first."""
    groups: dict[object, list[EnginePlace]] = {}
    for place in places:
        ends = len(place.stack) <= depth
        groups.setdefault((ends, _doing(place) if ends else _spot(place.stack[depth])), []).append(place)
    return sorted(groups.values(), key=lambda group: min(place.engine for place in group))


def _rows(groups: list[list[EnginePlace]], depth: int, indent: str = "") -> list[tuple[str, str, str]]:
    """Return engines, state and location of each line, for groups whose stacks differ from `depth` on."""
    rows: list[tuple[str, str, str]] = []
    shown, rest = _largest(groups)
    for group in shown:
        frames = []
        inner = [group]
        below = depth
        while len(inner) == 1 and len(inner[0][0].stack) > below:
            frames.append(inner[0][0].stack[below])
            below += 1
            inner = _branches(group, below)
        who = indent + engines_text(place.engine for place in group)
        if len(inner) == 1:
            rows.append((who, _state(group), _chain(frames)))
        else:
            rows.append((who, "", _chain(frames)))
            rows += _rows(inner, below, indent + STEP)
    if rest:
        others = [place for group in rest for place in group]
        states = sorted({place.state for place in others})
        who = indent + engines_text(place.engine for place in others)
        rows.append((who, "/".join(states), f"at {len(rest)} other places"))
    return rows


def _largest(
    groups: list[list[EnginePlace]],
) -> tuple[list[list[EnginePlace]], list[list[EnginePlace]]]:
    """Return the groups to show, in their order, and the others. One that is not well is always shown."""
    if len(groups) <= BRANCHES:
        return groups, []
    weights = [(group[0].state in ("stuck", "gone"), len(group)) for group in groups]
    chosen = set(sorted(range(len(groups)), key=lambda i: weights[i], reverse=True)[: BRANCHES - 1])
    shown = [group for i, group in enumerate(groups) if i in chosen]
    return shown, [group for i, group in enumerate(groups) if i not in chosen]


def _spot(frame: Frame) -> tuple[str, int, str]:
    return frame.file, frame.line, frame.function


def _doing(place: EnginePlace) -> tuple[object, ...]:
    """Return what places on one line have in common, beside their stacks."""
    if place.state == "blocked" and place.wait is not None:
        wait = place.wait
        kinds = tuple(sorted({(part.kind, part.signature) for part in wait.parts}))
        return place.state, wait.call, tuple(sorted(wait.names.items())), kinds
    if place.state in ("stuck", "gone"):
        return place.state, place.detail, tuple(place.native[-1:])
    return (place.state,)


def _state(group: list[EnginePlace]) -> str:
    """Return what the engines of one line are doing."""
    place = group[0]
    if place.state == "blocked" and place.wait is not None:
        waits = [one.wait.seconds for one in group if one.wait is not None]
        return f"blocked {_duration(waits)} in {place.wait.call}{_with_whom(group)}"
    if place.state in ("running", "blocked"):
        return f"{place.state} {_duration([one.seconds for one in group])}"
    text: str = place.state
    if place.state == "stuck":
        text += f" {_duration([one.seconds for one in group])}"
    if place.detail:
        text += f": {place.detail}"
    if place.native:
        text += f"; native: {' > '.join(place.native[-FRAMES:])}"
    return text


def _with_whom(group: list[EnginePlace]) -> str:
    """Return communicators, peers and tags of a wait, in brackets."""
    parts = [part for place in group if place.wait is not None for part in place.wait.parts]
    names = sorted({name for place in group if place.wait is not None for name in place.wait.names.values()})
    peers = sorted({engine for place in group for engine in place.waits_for})
    kinds = {part.kind for part in parts}
    words = [", ".join(names)] if names else []
    if peers:
        preposition = "from" if kinds == {"receive"} else "to" if kinds == {"send"} else "with"
        words.append(f"{preposition} {engines_text(peers)}")
    elif kinds == {"receive"}:
        words.append("from any engine")
    tags = sorted({part.tag for part in parts if part.kind in ("receive", "send") and part.tag >= 0})
    if tags:
        words.append(f"tag{'s' * (len(tags) > 1)} {ranges(tags)}")
    return f" ({', '.join(words)})" if words else ""


def _duration(seconds: Sequence[float]) -> str:
    low, high = min(seconds), max(seconds)
    if high - low <= max(0.5, 0.1 * high):
        return f"{high:.1f} s"
    return f"{low:.1f}-{high:.1f} s"


def _chain(frames: Sequence[Frame]) -> str:
    """Return frames, the outermost first, on one line."""
    words = [_frame(frame) for frame in frames]
    if len(words) > FRAMES:
        words[1 : 1 - FRAMES] = ["..."]
    return " > ".join(words)


def _frame(frame: Frame) -> str:
    where = f"{os.path.basename(frame.file)}:{frame.line} in {frame.function}"
    if frame.file == CELL:
        where = f"cell line {frame.line}"
        if frame.function != "<module>":
            where += f" in {frame.function}"
    text = frame.text if len(frame.text) <= TEXT else frame.text[: TEXT - 3] + "..."
    return f"{where}: {text}" if text else where
