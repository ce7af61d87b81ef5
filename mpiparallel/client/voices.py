"""What one engine says: lines of its streams, and displays between them. Used by `folding`."""

from __future__ import annotations

from collections import deque
from typing import Any

STREAMS = ("stdout", "stderr")


class Lane:
    """What one engine has written to one stream since it last displayed something."""

    __slots__ = ("at", "lines", "marks", "moving", "partial", "returns", "since")

    def __init__(self) -> None:
        self.lines: list[str] = []  # without their ends
        self.at = 0  # how many of them are gone
        self.marks: deque[list[Any]] = deque()  # how many came at which time
        self.partial = ""  # a line without its end
        self.since = 0.0
        self.moving = False  # whether `partial` overwrites itself
        self.returns = False  # whether there were lines that did; they are marked by a carriage return

    def __len__(self) -> int:
        return len(self.lines) - self.at

    def feed(self, text: str, now: float, live: bool) -> int:
        """Take text and return by how many characters there is more of it now."""
        head, newline, tail = text.rpartition("\n")
        overwrites = live and (self.moving or "\r" in text)
        size = -len(self.partial)
        if newline:
            lines = (self.partial + head).split("\n")
            if overwrites:
                self.returns = True
                lines = ["\r" + visible(line) if "\r" in line else line for line in lines]
                size += sum(map(len, lines)) + len(lines)
            self.lines += lines
            self.marks.append([len(lines), now])
            self.partial, self.since, self.moving = tail, now, False
        else:
            if not self.partial:
                self.since = now
            self.partial += tail
        if not overwrites:
            return len(text)
        if "\r" in self.partial:
            before, _, last = self.partial.rpartition("\r")
            self.partial, self.moving = f"{visible(before)}\r{last}", True
        return size + len(self.partial)

    def take(self, count: int) -> list[str]:
        lines = self.lines[self.at : self.at + count]
        self.at += count
        while count:
            step = min(count, self.marks[0][0])
            self.marks[0][0] -= step
            count -= step
            if not self.marks[0][0]:
                self.marks.popleft()
        if self.at == len(self.lines) or self.at > 4096:
            del self.lines[: self.at]
            self.at = 0
        return lines

    def due(self, now: float, hold: float) -> int:
        """Return how many lines have waited for so long."""
        count = 0
        for number, when in self.marks:
            if when + hold > now:
                break
            count += number
        return count


class Item:
    """A display, or whatever else is not text."""

    __slots__ = ("key", "kind", "since", "value")

    def __init__(self, kind: str, key: Any, value: Any, since: float) -> None:
        self.kind, self.key, self.value, self.since = kind, (kind, key), value, since


class Voice:
    """One engine: text, then perhaps an item, then text ..."""

    __slots__ = ("ended", "open", "queue", "size")

    def __init__(self) -> None:
        self.queue: deque[dict[str, Lane] | Item] = deque()
        self.open = dict.fromkeys(STREAMS, 0)  # which block has shown the beginning of the line
        self.ended = False
        self.size = 0

    def lane(self, kind: str) -> Lane | None:
        first = self.queue[0] if self.queue else None
        return first.get(kind) if isinstance(first, dict) else None

    @property
    def closed(self) -> bool:
        """Whether nothing can be added to what it says now."""
        return self.ended or len(self.queue) > 1 or (bool(self.queue) and isinstance(self.queue[0], Item))

    def trim(self) -> None:
        """Go on to what follows text that is all shown."""
        while self.queue and isinstance(self.queue[0], dict):
            if any(len(lane) or lane.partial for lane in self.queue[0].values()):
                return
            self.queue.popleft()

    def deadline(self, hold: float, display_hold: float) -> float | None:
        """Return the time at which something has waited for long enough; None if nothing waits."""
        if not self.queue:
            return None
        first = self.queue[0]
        if isinstance(first, Item):
            return first.since + display_hold
        times = [lane.marks[0][1] for lane in first.values() if lane.marks]
        times += [lane.since for lane in first.values() if lane.partial and not lane.moving]
        return min(times) + hold if times else None


def visible(line: str) -> str:
    """Return what is seen of a line in which carriage returns go back to its beginning."""
    seen = ""
    for part in line.split("\r"):
        seen = part + seen[len(part) :]
    return seen
