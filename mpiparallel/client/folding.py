"""Make one block of what several engines say in the same way, whatever the order in which it arrives.

Pure: time is told, nothing is printed. Every engine's text comes out complete, in order and once. A line
waits for at most `hold` seconds for engines that may be about to say the same, and not at all when all of
them have said what they say next. Lines of one engine that nobody shares stay together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from mpiparallel.client.voices import STREAMS, Item, Lane, Voice, visible

HOLD = 0.2  # seconds for a line
DISPLAY_HOLD = 0.5  # seconds for anything else: pictures are not made at the same speed everywhere
EVER = float("inf")
LIMIT = 64 << 10  # characters of one engine that may wait; of more, lines are not compared one by one


class Block(NamedTuple):
    """What some engines have said: text of a stream, or another thing as it was given."""

    kind: str
    engines: tuple[int, ...]
    text: str = ""
    value: Any = None  # what each of them has put
    continues: bool = False  # whether it goes on with a line that was shown in part
    overwrote: bool = False  # whether it is the end of a line that was a `Row`


class Row(NamedTuple):
    """A line that is still being overwritten, as it looks now."""

    kind: str
    engines: tuple[int, ...]
    text: str


class _Group(NamedTuple):
    engines: list[int]
    since: float
    partial: bool


class Folder:
    """Takes what engines say, piece by piece, and gives it back in blocks.

    Parameters
    ----------
    members
        The engines that are expected to say something.
    fold
        Whether engines that say the same share a block; otherwise only lines are kept whole.
    live
        Whether lines that overwrite themselves with carriage returns are made into what is seen of them.
    others
        Whether engines that are not members may join.
    hold, display_hold
        Seconds that text, or a display, waits for engines that may say the same.
    """

    def __init__(
        self,
        members: Iterable[int] = (),
        fold: bool = True,
        live: bool = False,
        others: bool = False,
        hold: float = HOLD,
        display_hold: float = DISPLAY_HOLD,
    ) -> None:
        self._voices = {engine: Voice() for engine in sorted(members)}
        self._fold, self._live, self._others, self._hold = fold, live, others, hold
        self._display_hold = display_hold
        self._shown = 0  # blocks with unfinished lines
        self._unique = 0

    # ------------------------------------------------------------ what comes

    def feed(self, engine: int, kind: str, text: str, now: float) -> None:
        """Take text of a stream."""
        if not text:
            return
        voice = self._voice(engine)
        if not voice.queue or isinstance(voice.queue[-1], Item):
            voice.queue.append({})
        segment = voice.queue[-1]
        assert isinstance(segment, dict)
        voice.size += segment.setdefault(kind, Lane()).feed(text, now, self._live)

    def put(self, engine: int, kind: str, key: Any, value: Any, now: float) -> None:
        """Take something else; of several engines it is the same if `key` is, unless that is None."""
        if key is None or not self._fold:
            self._unique += 1
            key = (self._unique,)
        self._voice(engine).queue.append(Item(kind, key, value, now))
        self._voices[engine].trim()

    def end(self, engine: int) -> None:
        """Note that an engine will say no more."""
        self._voice(engine).ended = True

    def _voice(self, engine: int) -> Voice:
        if engine not in self._voices:
            self._voices[engine] = Voice()
            self._voices = dict(sorted(self._voices.items()))
        return self._voices[engine]

    # ------------------------------------------------------------ what goes

    def take(self, now: float, everything: bool = False) -> list[Block]:
        """Return what need not wait any longer; or `everything`."""
        blocks: list[Block] = []
        while True:
            count = len(blocks)
            for kind in STREAMS:
                self._settle(kind, now, everything, blocks)
            self._settle_items(now, everything, blocks)
            if len(blocks) == count:
                return blocks

    def deadline(self) -> float | None:
        """Return the time at which there will be something to take, if nothing comes before."""
        times = [voice.deadline(self._hold, self._display_hold) for voice in self._voices.values()]
        return min((time for time in times if time is not None), default=None)

    def rows(self) -> list[Row]:
        """Return the lines that are being overwritten."""
        rows: dict[tuple[str, str], list[int]] = {}
        for engine, voice in self._voices.items():
            for kind in STREAMS:
                lane = voice.lane(kind)
                if lane is None:
                    continue
                if len(lane) and lane.lines[lane.at].startswith("\r"):  # it has ended, and waits
                    rows.setdefault((kind, lane.lines[lane.at][1:]), []).append(engine)
                elif lane.moving and not len(lane):
                    rows.setdefault((kind, visible(lane.partial)), []).append(engine)
        return [Row(kind, tuple(engines), text) for (kind, text), engines in rows.items()]

    # ------------------------------------------------------------ text

    def _settle(self, kind: str, now: float, everything: bool, blocks: list[Block]) -> None:
        """Append blocks of all text of one stream that is due."""
        pending: dict[int, set[str]] | None = None
        counts: Counter[str] = Counter()
        hurried: set[int] = set()
        while True:
            groups, complete, in_step = self._heads(kind, now, everything)
            if not groups:
                return
            if complete and len(groups) == 1:
                ((key, group),) = groups.items()
                self._emit(kind, key[1], group, in_step, EVER, counts, blocks)
                continue
            if pending is None and len(self._voices) > 1 and self._fold:
                pending = self._pending(kind)
                for lines in pending.values():
                    counts.update(lines)
            emitted, hurry = False, set()
            wanted: list[tuple[float, list[int], Any, _Group]] = []
            for key, group in sorted(groups.items(), key=lambda one: one[1].engines[0]):
                expired = everything or group.since + self._hold <= now
                if not (complete or expired or hurried.intersection(group.engines) or not self._fold):
                    continue
                line = key[1]
                alone = pending is None or group.partial or counts[line] <= len(group.engines)
                if not alone and not self._is_flood(group):
                    assert pending is not None
                    behind = [e for e in pending if e not in group.engines and line in pending[e]]
                    if behind:
                        wanted.append((group.since, group.engines, key, group))
                        hurry.update(behind)
                        continue
                self._emit(kind, line, group, in_step, EVER if everything else now, counts, blocks)
                emitted = True
            if emitted:
                continue
            if hurry - hurried:
                hurried |= hurry
                continue
            if not wanted:
                return
            _, _, key, group = min(wanted, key=lambda one: one[:2])
            self._emit(kind, key[1], group, 1, -EVER, counts, blocks)

    def _heads(
        self, kind: str, now: float, everything: bool
    ) -> tuple[dict[tuple[Any, ...], _Group], bool, int]:
        """Return who says what next, whether all do, and how many lines all have that may say more."""
        groups: dict[tuple[Any, ...], _Group] = {}
        complete = not self._others
        in_step = 1 << 60
        for engine, voice in self._voices.items():
            lane = voice.lane(kind)
            key: tuple[Any, ...] | None = None
            since = now
            if lane is not None and len(lane):
                key, since = (voice.open[kind], lane.lines[lane.at]), lane.marks[0][1]
                if voice.size > LIMIT:
                    since = -EVER
                if not voice.closed:
                    in_step = min(in_step, len(lane))
            else:
                if lane is not None and lane.partial:
                    since = lane.since
                    over = voice.size > LIMIT
                    since = -EVER if over else since
                    if voice.closed or everything or over or (since + self._hold <= now and not lane.moving):
                        key = (voice.open[kind], lane.partial, True)
                if not voice.closed:
                    complete, in_step = False, 0
            if key is None:
                continue
            if not self._fold:
                key = (*key, engine)
            group = groups.get(key)
            if group is None:
                partial = not (lane is not None and len(lane))
                groups[key] = _Group([engine], since, partial)
            else:
                group.engines.append(engine)
                if since < group.since:
                    groups[key] = group._replace(since=since)
        return groups, complete, in_step

    def _pending(self, kind: str) -> dict[int, set[str]]:
        """Return the lines of each engine that wait."""
        return {
            engine: set(islice(lane.lines, lane.at, None))
            for engine, voice in self._voices.items()
            if (lane := voice.lane(kind)) is not None and len(lane)
        }

    def _emit(
        self, kind: str, line: str, group: _Group, in_step: int, now: float,
        counts: Counter[str], blocks: list[Block],
    ) -> None:  # fmt: skip
        """Append a block of a group: its head, and what follows that is theirs alone.

        Of that no more than all engines have said (`in_step`) and what has waited for long enough `now`.
        """
        voices = [self._voices[engine] for engine in group.engines]
        lanes = [voice.queue[0][kind] for voice in voices]  # type: ignore[index]
        continues = voices[0].open[kind] != 0
        if group.partial:
            self._shown += 1
            for voice, lane in zip(voices, lanes, strict=True):
                voice.open[kind] = self._shown
                lane.partial, lane.moving = "", False
                self._gone(voice, len(line))
            overwrote = self._live and "\r" in line
            if overwrote:
                line, continues = visible(line), False
            if line:
                blocks.append(Block(kind, tuple(group.engines), line, None, continues, overwrote))
            return
        first = lanes[0]
        flood = self._is_flood(group)
        count = min(map(len, lanes))
        if self._fold:
            known = max(lane.due(now, self._hold) for lane in lanes)
            if flood:
                known = count
            count = max(1, min(count, max(in_step, known)))
        if len(lanes) > 1:
            count = _common(lanes, count)
        lines = first.lines[first.at : first.at + count]
        if first.returns:
            # A line that went back to its beginning is a block of its own.
            ends = (number for number, other in enumerate(lines) if other.startswith("\r"))
            end = next(ends, count)
            count = end or 1
        if counts and not flood:
            alone = len(lanes)
            for number, other in enumerate(lines):
                if number and counts[other] > alone:
                    count = number
                    break
        for lane in lanes:
            lines = lane.take(count)
        lines.append("")
        text = "\n".join(lines)
        for voice in voices:
            voice.open[kind] = 0
            self._gone(voice, len(text))
        overwrote = self._live and text.startswith("\r")
        if overwrote:
            text, continues = text[1:], False
        blocks.append(Block(kind, tuple(group.engines), text, None, continues, overwrote))

    def _is_flood(self, group: _Group) -> bool:
        return any(self._voices[engine].size > LIMIT for engine in group.engines)

    @staticmethod
    def _gone(voice: Voice, size: int) -> None:
        voice.size = max(0, voice.size - size)
        voice.trim()

    # ------------------------------------------------------------ everything else

    def _settle_items(self, now: float, everything: bool, blocks: list[Block]) -> None:
        while True:
            groups: dict[Any, _Group] = {}
            complete = not self._others
            for engine, voice in self._voices.items():
                first = voice.queue[0] if voice.queue else None
                if not isinstance(first, Item):
                    complete = complete and voice.ended and not voice.queue
                    continue
                group = groups.get(first.key) or _Group([], first.since, False)
                group.engines.append(engine)
                groups[first.key] = group._replace(since=min(first.since, group.since))
            ready = [
                (key, group)
                for key, group in groups.items()
                if complete or everything or not self._fold or group.since + self._display_hold <= now
            ]
            if not ready:
                return
            free = [one for one in ready if not self._comes(*one)] or ready[:1]
            for _, group in free:
                items = [self._voices[engine].queue.popleft() for engine in group.engines]
                assert isinstance(items[0], Item)
                values = [item.value for item in items if isinstance(item, Item)]
                blocks.append(Block(items[0].kind, tuple(group.engines), "", values))
            if not complete:
                return  # text that came behind them may be due

    def _comes(self, key: Any, group: _Group) -> bool:
        """Whether another engine has the same behind what it says now."""
        return any(
            isinstance(later, Item) and later.key == key
            for engine, voice in self._voices.items()
            if engine not in group.engines
            for later in voice.queue
        )


def _common(lanes: list[Lane], count: int) -> int:
    """Return how many of the next `count` lines are the same in all lanes."""
    first = lanes[0]
    lines = first.lines[first.at : first.at + count]
    for lane in lanes[1:]:
        others = lane.lines[lane.at : lane.at + count]
        if lines[:count] != others:
            count = next(i for i, pair in enumerate(zip(lines, others, strict=False)) if pair[0] != pair[1])
    return count
