"""Write what engines say where a person reads it: a terminal, a notebook, or plain text.

Labels, ``[stdout:0-3] ``, stand where the speaker changes. Called by `display`, which decides what is shown.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from mpiparallel.client import places, progress
from mpiparallel.client.executereply import get_ipython, publish
from mpiparallel.client.folding import Block, Row
from mpiparallel.client.rows import Area, fitting
from mpiparallel.client.voices import STREAMS
from mpiparallel.ranges import ranges
from mpiparallel.tracebacks import without_colour

MAX_LINE = 4096  # characters of an unfinished line that are remembered
PART = 1 << 18  # characters that are written at once
MAX_RECORD = 1 << 20  # characters of a cell's output that can be shown again when some of it is cleared

_STYLE = re.compile(r"\x1b\[([\d;]*)m")


def where() -> str:
    """Return where this process shows things: ``"notebook"``, ``"terminal"`` or ``"plain"``."""
    shell = get_ipython()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return "notebook"
    return "terminal" if sys.stdout is not None and sys.stdout.isatty() else "plain"


class Screen:
    """Where output of one request is shown.

    Parameters
    ----------
    labelled
        Whether there is more than one engine to tell apart.
    compact
        Whether engines share labels: single lines stand beside them, and displays that come late join them.
    n_engines
        How many engines may speak; 0: not known.
    place
        As `where` has it.
    """

    def __init__(
        self, labelled: bool, compact: bool = False, n_engines: int = 0, place: str | None = None
    ) -> None:
        self._n_engines = n_engines
        self._labelled, self._compact = labelled, compact
        self.place = place or where()
        self.live = labelled and self.place != "plain" and not self._is_dumb()
        self._speaker = ""
        self._beside = False  # whether labels stand on the line of what they label
        self._kind = "stdout"  # the stream that was written to last
        self._line = ""  # what stands on the last line, if it is not finished
        self._colours: dict[str, str] = {}  # that each speaker has switched on
        self._todo: list[tuple[str, Any]] = []
        self._rows: list[str] = []  # on a terminal
        self._area = Area()  # in a notebook
        self._record: list[Block] | None = [] if self.place == "notebook" and labelled else None
        self._recorded = 0
        self._labels = places.Labels() if self._record is not None and compact else None
        self._clearing: set[int] = set()  # engines whose next output takes the place of what they have shown

    def _is_dumb(self) -> bool:
        return self.place == "terminal" and os.environ.get("TERM", "dumb") == "dumb"

    # ------------------------------------------------------------ what is shown

    def write(self, blocks: Iterable[Block], rows: Sequence[Row] = ()) -> None:
        """Show blocks, and the lines that are being overwritten now."""
        blocks = list(blocks)
        beside = False  # whether the block before stands beside its label
        for number, block in enumerate(blocks):
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            beside = self._compact and _is_line(block) and (beside or _is_of_others(following, block))
            self._beside = beside
            self._take(block)
        self._finish(rows)

    def errors(self, lines: Sequence[str]) -> None:
        """Show lines about errors."""
        if self.place == "plain":
            lines = [without_colour(line) for line in lines]
        self._break_line()
        self._put("stderr", "".join(f"{line}\n" for line in lines))
        self._speaker = ""
        self._finish(())

    def result(self, show: Callable[[], None]) -> None:
        """Show the result of cells by calling `show`."""
        self._break_line()
        self._speaker = ""
        self._todo.append(("call", show))
        self._finish(())

    def close(self) -> None:
        """Leave nothing behind that would change what is printed next."""
        if self._labelled and self.place == "terminal":
            self._break_line()  # or results, and what the user prints, would stand behind it
        self._switch_off()
        self._finish(())

    # ------------------------------------------------------------ one block after the other

    def _take(self, block: Block) -> None:
        if block.kind == "clear_output":
            self._clear(block)
            return
        if self._clearing.intersection(block.engines):
            self._show_again(without=self._clearing)
        if self._record is not None:
            self._record.append(block)
            self._recorded += len(block.text) + (1000 if block.value is not None else 0)
            if self._recorded > MAX_RECORD:
                self._record = None
        self._show(block)

    def _show(self, block: Block) -> None:
        if self._labels is not None:
            update = self._labels.take(block)
            if update is not None:  # the same as what others have displayed before
                self._todo.append(("call", update))
                return
        if block.kind not in STREAMS:
            self._display(block)
        elif not (block.overwrote and self._area.keep(block)):
            self._text(block)

    def _text(self, block: Block) -> None:
        if not self._labelled:
            self._put(block.kind, block.text)
            return
        if (
            not self._introduce(f"[{block.kind}:{ranges(block.engines)}] ", block.kind)
            and not block.continues
        ):
            self._break_line()
        self._put(block.kind, block.text)
        if self.place != "plain" and ("\x1b[" in block.text or self._speaker in self._colours):
            self._note_colours(block.text)

    def _display(self, block: Block) -> None:
        content = block.value[0]
        engines = list(block.engines)
        metadata = {**(content.get("metadata") or {}), "engine": engines[0] if len(engines) == 1 else engines}

        def show(**options: Any) -> None:
            publish(content.get("data") or {}, metadata, **options)

        changes = places.in_place(block) if self.place == "notebook" else []
        if changes:  # their labels stand where they are
            self._todo += [("call", partial(show, **options)) for options in changes]
            return
        label = f"[output:{ranges(block.engines)}]"
        show_label = None
        if self._labels is not None and len(block.engines) != self._n_engines:
            show_label = self._labels.show(block, label)
        if show_label is None:
            self._introduce(label, "stdout")
        else:
            self._break_line()
            self._switch_off()
            self._speaker = label
            self._todo.append(("call", show_label))
        self._break_line()
        self._todo.append(("call", partial(show, **places.options(block))))

    def _introduce(self, speaker: str, kind: str) -> bool:
        """Say who speaks, if that was another; return whether it was."""
        if not self._labelled or speaker == self._speaker:
            return False
        self._break_line()
        self._switch_off()
        self._put(kind, speaker if self._beside else f"{speaker}\n")
        self._speaker = speaker
        self._put(kind, self._colours.get(speaker, ""))
        return True

    def _break_line(self) -> None:
        if self._line:
            self._put(self._kind, "\n")

    def _put(self, kind: str, text: str) -> None:
        if not text:
            return
        self._todo.append((kind, text))
        self._kind = kind
        _, newline, tail = text.rpartition("\n")
        self._line = (tail if newline else self._line + tail)[-MAX_LINE:]

    def _note_colours(self, text: str) -> None:
        """Keep the styles that a speaker has left switched on."""
        styles = [self._colours.pop(self._speaker, "")]
        for match in _STYLE.finditer(text):
            styles = [] if match[1] in ("", "0") else [*styles[-8:], match[0]]
        if any(styles):
            self._colours[self._speaker] = "".join(styles)[-256:]

    def _switch_off(self) -> None:
        if self._speaker in self._colours:
            self._todo.append((self._kind, "\x1b[0m"))

    # ------------------------------------------------------------ clearing

    def _clear(self, block: Block) -> None:
        if self.place != "notebook" or (self._labelled and self._record is None):
            if not self._labelled:
                self._todo.append(("call", _clear_terminal))
            return
        wait = any((content or {}).get("wait") for content in block.value)
        if not self._labelled:
            self._todo.append(("call", lambda: _clear_notebook(wait)))
            return
        self._clearing.update(block.engines)
        if not wait:
            self._show_again(without=self._clearing)

    def _show_again(self, without: set[int]) -> None:
        """Clear the cell's output, and show again what others than these engines have said."""
        record, self._record, self._clearing = self._record or [], [], set()
        self._recorded = 0
        self._labels = places.Labels() if self._compact else None
        self._todo.append(("call", lambda: _clear_notebook(True)))
        self._speaker, self._line = "", ""
        for block in record:
            engines = tuple(engine for engine in block.engines if engine not in without)
            if engines:
                values = block.value
                if values is not None:
                    pairs = zip(block.engines, values, strict=True)
                    values = [value for engine, value in pairs if engine in engines]
                self._take(block._replace(engines=engines, value=values))

    # ------------------------------------------------------------ writing

    def _finish(self, rows: Sequence[Row]) -> None:
        lines = [f"[{row.kind}:{ranges(row.engines)}] {row.text}" for row in rows]
        if self.place == "notebook":
            show = self._area.update(rows, lines, bool(self._todo))
            if show is not None:
                self._todo.append(("call", show))
            if self._area.done:
                self._area = Area()
        else:
            lines = fitting(lines)
            if lines and lines != self._rows:
                self._break_line()
        if not self._todo and (lines == self._rows or self.place == "notebook"):
            return
        todo, self._todo = self._todo, []
        with progress.paused("" if lines else self._line):  # rows end their lines
            if self._rows:
                sys.stdout.write(f"\x1b[{len(self._rows)}A\r\x1b[J")
                self._rows = []
            _write(todo)
            if lines and self.place == "terminal":
                if self._line:
                    sys.stdout.write("\n")
                    self._line, self._speaker = "", ""
                sys.stdout.write("".join(f"{line}\n" for line in lines))
                sys.stdout.flush()
                self._rows = lines


def _is_line(block: Block) -> bool:
    return block.kind in STREAMS and not block.continues and block.text.find("\n") == len(block.text) - 1


def _is_of_others(block: Block | None, other: Block) -> bool:
    return block is not None and block.kind in STREAMS and block.engines != other.engines


class Pace:
    """Holds text back that a Jupyter server would drop: by default it passes 3 MB in 3 s on, and no more."""

    RATE = 0.5e6  # characters in a second
    BURST = 1e6

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free, self._when = self.BURST, clock()

    def wait(self, size: int, sleep: Callable[[float], None] = time.sleep) -> None:
        """Return when so much may be written."""
        if "JPY_SESSION_NAME" not in os.environ:  # set by the server for the kernels of its notebooks
            return
        now = self._clock()
        self._free = min(self.BURST, self._free + (now - self._when) * self.RATE) - size
        self._when = now
        if self._free < 0:
            sleep(-self._free / self.RATE)


_pace = Pace()


def _write(todo: list[tuple[str, Any]]) -> None:
    """Write texts, joined where they go to one stream, and call what is between them."""
    file: Any = None
    parts: list[str] = []

    def flush() -> None:
        if file is None:
            return
        text = "".join(parts)
        parts.clear()
        for start in range(0, len(text), PART):
            _pace.wait(len(text[start : start + PART]))
            file.write(text[start : start + PART])
            file.flush()

    for kind, thing in todo:
        if kind == "call":
            flush()
            thing()
            continue
        target = sys.stderr if kind == "stderr" else sys.stdout
        if target is not file:
            flush()
            file = target
        parts.append(thing)
    flush()


def _clear_notebook(wait: bool) -> None:
    from IPython.display import clear_output

    clear_output(wait=wait)


def _clear_terminal() -> None:
    if get_ipython() is not None:
        _clear_notebook(False)
