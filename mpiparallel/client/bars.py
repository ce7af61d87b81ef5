"""The bars themselves: a widget in a notebook, text in a terminal, and a few lines in a log.

What they show is `progress`'s business. All have the methods of tqdm's that are used there.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.interrupting import deferred
from mpiparallel.config import noninteractive

LINE_EVERY = 10.0  # seconds between lines in a log, at first
LINE_SOON = 1.0  # ... at least, also when another tenth is done
SPARE = 3  # columns to the right of a bar, where the terminal shows a ^C: in the next line it would tear all
PATIENCE = 1.0  # seconds that who prints waits for who draws

_patience = PATIENCE  # at this moment
_kept = threading.local()


def make_bar(widget: bool | None = None, **options: Any) -> Any:
    """Return a progress bar with the interface of tqdm's.

    It is a widget in a notebook (where ipywidgets is installed), text in a terminal, and elsewhere a line of
    text now and then, on stderr. Where nobody looks on (``MPIPARALLEL_NONINTERACTIVE``), it is silent.

    Parameters
    ----------
    widget
        True or False to have one or not; None: where there is a notebook.
    **options
        For tqdm.
    """
    if widget is None and noninteractive():
        return LineBar(quiet=True, **options)
    shell = get_ipython()
    in_kernel = getattr(shell, "kernel", None) is not None
    if in_kernel if widget is None else widget:
        bar = _make_widget(options)
        if bar is not None:
            return bar
    terminal = next(filter(_is_terminal, (sys.stdout, sys.stderr)), None)
    if terminal is None and not in_kernel:
        return LineBar(**options)
    from tqdm import tqdm

    # A front end without widgets can go back to the start of a line as a terminal does.
    if terminal is None or "ncols" in options:
        return tqdm(**{"file": terminal or sys.stdout, **options})
    columns, _ = _room(terminal)
    bar = tqdm(**{"file": terminal, "ncols": columns, **options})
    bar.dynamic_ncols = _room  # from now on: terminals are resized
    return bar


def _room(terminal: Any) -> tuple[int, int]:
    """Return how many columns and lines of a terminal there are for bars."""
    try:
        columns, lines = os.get_terminal_size(terminal.fileno())
    except (AttributeError, OSError, ValueError):  # it only says that it is a terminal
        columns, lines = shutil.get_terminal_size()
    return max(1, columns - SPARE), max(1, lines)


def _is_terminal(file: Any) -> bool:
    """Whether a stream, which may be anything that users put in the place of stdout, is a terminal."""
    isatty = getattr(file, "isatty", None)
    return isatty is not None and not getattr(file, "closed", False) and bool(isatty())


def _obeys(file: Any) -> bool:
    """Whether a stream is a terminal that can move its cursor and clear a line."""
    return _is_terminal(file) and os.environ.get("TERM", "dumb") != "dumb"


def _make_widget(options: dict[str, Any]) -> Any:
    """Return a bar which is a widget, or None without ipywidgets."""
    try:
        import ipywidgets  # noqa: F401
        from IPython.display import display
        from tqdm.notebook import tqdm
    except ImportError:
        return None

    class WidgetBar(tqdm):
        """A widget while it moves, and then a picture of it.

        A stored notebook, or a page made of it, has no widgets that still work: they would say that their
        model was not found, or show nothing.
        """

        def __init__(self, **options: Any) -> None:
            super().__init__(**options, display=False)
            self._shown = display(self.container, display_id=True)

        def close(self) -> None:
            if self.disable:
                return
            super().close()
            if self._shown is not None:
                left, bar, right = self.container.children
                html = still(left.value, bar.value, bar.max, right.value, bar.bar_style) if self.leave else ""
                text = repr(self.container) if self.leave else ""
                self._shown.update({"text/html": html, "text/plain": text}, raw=True)
                for widget in (self.container, *self.container.children):
                    widget.close()

    return WidgetBar(**options)


_COLOURS = {"success": "#4caf50", "danger": "#f44336"}
_STILL = (
    '<div style="display:flex; align-items:center; gap:8px; font-family:monospace; font-size:12px">'
    '<span style="white-space:pre">{left}</span>'
    '<span style="flex:0 1 20em; height:14px; background:rgba(128,128,128,0.25)">'
    '<span style="display:block; height:100%; width:{part:.1f}%; background:{colour}"></span></span>'
    "<span>{right}</span></div>"
)


def still(left: str, value: float, total: float, right: str, style: str) -> str:
    """Return HTML that looks like a bar and does not move; `left` and `right` are HTML."""
    part = 100 * value / total if total else 0.0
    return _STILL.format(left=left, right=right, part=part, colour=_COLOURS.get(style, "#2196f3"))


def mark_as_failed(bar: Any) -> None:
    """Give a bar the colour of failure, for good."""
    if getattr(bar, "gui", False):
        bar.disp(bar_style="danger", check_delay=False)
    else:
        bar.colour = "red"


def set_total(bar: Any, total: int) -> None:
    """Tell a bar how many items there are after all."""
    bar.total = total
    if getattr(bar, "gui", False) and total:
        bar.container.children[1].max = total


class LineBar:
    """A bar for a log: a line when another tenth is done, and ever more rarely while nothing changes.

    Parameters
    ----------
    total
        How many items there are; None: nobody knows.
    desc, unit
        What is counted, and one of them.
    initial
        How many are done.
    file
        Where the lines go; by default stderr, so that they do not get among a program's results.
    quiet
        Write nothing.
    """

    gui = False

    def __init__(
        self,
        total: int | None = None,
        desc: str = "",
        unit: str = "it",
        initial: int = 0,
        file: TextIO | None = None,
        quiet: bool = False,
        **_: Any,
    ) -> None:
        self.total, self.desc, self.unit, self.n = total, desc, unit, initial
        self.colour: str | None = None
        self.disable = False
        self.start_t = time.time()
        self._initial, self._postfix = initial, ""
        self._file, self._quiet = file, quiet
        self._last_time = self.start_t
        self._last_tenth = self._tenth()
        self._said: tuple[Any, ...] = ()

    def update(self, n: int = 1) -> None:
        """Count `n` more."""
        self.n += n
        self.refresh()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Set what stands at the end of the line."""
        self._postfix = s
        if refresh:
            self.refresh()

    def set_postfix(self, refresh: bool = True, **words: Any) -> None:
        """Set what stands at the end of the line, by names and values."""
        self.set_postfix_str(", ".join(f"{name}={value}" for name, value in words.items()), refresh)

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        """Set what is counted."""
        self.desc = desc or ""

    def refresh(self) -> None:
        """Write a line, if it is time for one."""
        now = time.time()
        since = now - self._last_time
        pause = max(LINE_EVERY, 0.3 * (self._last_time - self.start_t))
        if since >= pause or (since >= LINE_SOON and self._tenth() > self._last_tenth):
            self._write(now)

    @staticmethod
    def write(s: str, file: TextIO | None = None, end: str = "\n") -> None:
        """Print a line of the caller's, on stdout, where other bars do so without being torn."""
        print(s, file=file, end=end)

    def close(self) -> None:
        """Write the last line."""
        if not self.disable:
            self.disable = True
            if self._said != self._state():
                self._write(time.time())

    def _state(self) -> tuple[Any, ...]:
        return self.desc, self.n, self.total, self._postfix

    def _tenth(self) -> int:
        return 10 * self.n // self.total if self.total else 0

    def _write(self, now: float) -> None:
        self._last_time, self._last_tenth, self._said = now, self._tenth(), self._state()
        if not self._quiet:
            said = line(
                self.desc, self.n, self.total, self.unit, now - self.start_t, self._initial, self._postfix
            )
            print(said, file=self._file or sys.stderr, flush=True)


def line(
    desc: str, n: int, total: int | None, unit: str, seconds: float, initial: int = 0, postfix: str = ""
) -> str:
    """Return what a bar says, as a line of text.

    >>> line("solve", 30, 120, "task", 15.0, postfix="1 failed")
    'solve: 30/120 tasks in 00:15, 2 a second, 00:45 left, 1 failed'
    """
    words = [f"{n}" + ("" if total is None else f"/{total}") + f" {unit}s in {clock(seconds)}"]
    rate = (n - initial) / seconds if seconds > 0 else 0.0
    if rate and unit != "engine":  # engines that run one cell end together
        words.append(f"{rate:.3g} a second" if rate >= 0.1 else f"{1 / rate:.3g} s each")
        if total is not None and n < total:
            words.append(f"{clock((total - n) / rate)} left")
    if postfix:
        words.append(postfix)
    return (f"{desc}: " if desc else "") + ", ".join(words)


def clock(seconds: float) -> str:
    """Return a length of time.

    >>> clock(15), clock(3725)
    ('00:15', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


@contextmanager
def paused(unfinished: str = "") -> Iterator[None]:
    """Hide this process's text bars while the caller prints; do nothing where there are none.

    Only one thread at a time is inside. Bars that the user has made with tqdm are hidden as well.

    Parameters
    ----------
    unfinished
        What stands on the last line of the screen afterwards, if that line is not finished: bars are drawn
        below it, and the next who prints goes on behind it, where the terminal can do that.
    """
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if tqdm is None or not tqdm._instances:
        yield
        return
    with deferred(), _held(tqdm.get_lock()):
        bars = [bar for bar in tqdm._instances if _is_on_screen(bar)]
        for bar in bars:
            bar.clear(nolock=True)
            if _obeys(bar.fp):
                bar.fp.write("\x1b[K")  # what the terminal itself has written behind it
        _line.go_back(bars)
        try:
            yield
        finally:
            bars = [bar for bar in tqdm._instances if _is_on_screen(bar)]
            _line.leave(unfinished, bars)
            for bar in bars:
                bar.refresh(nolock=True)


@contextmanager
def _held(lock: Any) -> Iterator[None]:
    """Hold tqdm's lock; go on without it where somebody never gives it back.

    A Ctrl-C while tqdm draws leaves it locked for ever. Output must be seen all the same.
    """
    global _patience
    with ExitStack() as stack:
        for one in getattr(lock, "locks", None) or [lock]:
            if one.acquire(timeout=_patience):
                stack.callback(one.release)
                _patience = PATIENCE
            else:
                _patience = 0.0
        yield


def draw(bar: Any) -> None:
    """Show a bar as it is now. Other than its own ``refresh``, this gives the lock back after a Ctrl-C."""
    if isinstance(bar, LineBar):
        bar.refresh()
    else:
        with bar.get_lock():
            bar.refresh(nolock=True)


@contextmanager
def below_output() -> Iterator[None]:
    """Keep this thread's bars on the screen until the end of the context, when all output has been shown.

    What comes last is printed above them then, and lines that overwrite themselves are where they were.
    """
    outer, _kept.bars = getattr(_kept, "bars", None), []
    try:
        yield
    finally:
        bars, _kept.bars = _kept.bars, outer
        with deferred():
            for bar in bars:
                close(bar)


def close(bar: Any) -> None:
    """Close a bar, now or at the end of `below_output`."""
    kept = getattr(_kept, "bars", None)
    if kept is None or bar.gui:
        bar.close()
    else:
        kept.append(bar)


def _is_on_screen(bar: Any) -> bool:
    """Whether a bar of tqdm's is drawn with text where others print, too."""
    if getattr(bar, "disable", True) or bar.gui or not hasattr(bar, "last_print_t"):
        return False  # closed, a widget, or not drawn yet
    return bool(bar.fp == sys.stdout or bar.fp == sys.stderr)


class _Line:
    """The unfinished line above the bars, if there is one."""

    def __init__(self) -> None:
        self._bars: set[int] = set()  # that were drawn below it
        self._column = 0

    def leave(self, text: str, bars: list[Any]) -> None:
        """Go to the next line, for `bars`, if `text` stands on this one."""
        self._bars = set()
        if not text or not bars:
            return
        from tqdm.utils import disp_len

        file = bars[0].fp  # not stdout, which may be a file while the bars are on a terminal's stderr
        file.write("\n")
        file.flush()
        width = shutil.get_terminal_size().columns
        self._column = disp_len(text.rsplit("\n", 1)[-1].rsplit("\r", 1)[-1]) % max(1, width)
        if self._column and _obeys(file):
            self._bars = set(map(id, bars))

    def go_back(self, bars: list[Any]) -> None:
        """Go to the end of the line, if all is still where it was."""
        if self._bars and self._bars == set(map(id, bars)):
            bars[0].fp.write(f"\x1b[A\x1b[{self._column}C")
            bars[0].fp.flush()
        self._bars = set()


_line = _Line()
