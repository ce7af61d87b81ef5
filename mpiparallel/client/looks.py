"""How objects show themselves: a `Card` of plain data, its plain text, and what objects need to have one.

`cards` says what is on the card of a client, a view, a result; `html` draws cards for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mpiparallel.client.executereply import get_ipython

Mood = Literal["good", "busy", "bad", "off"]

LONGEST = 160  # characters of a note that are shown
NOTES = 5  # notes that are shown
ROWS = 40  # rows of a table that are shown


@dataclass(frozen=True)
class Squares:
    """A cell of a table with one square for each engine: its mood, and what to say of it. Not in text."""

    moods: Sequence[tuple[Mood, str]]


@dataclass(frozen=True)
class Card:
    """What there is to say of an object.

    Attributes
    ----------
    title, state, mood
        What it is, and how it is, in words and by colour.
    facts
        Names and what they are.
    columns, rows
        A table; a column without entries is not shown.
    notes
        What a person should know: errors, warnings.
    commands
        What to type next, each with what it does.
    """

    title: str
    state: str
    mood: Mood = "good"
    facts: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str | Squares]] = ()
    notes: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()

    def shown_notes(self) -> list[str]:
        """Return the notes as they are shown: the first ones, in one line each."""
        shown = [one_line(note) for note in self.notes[:NOTES]]
        more = len(self.notes) - NOTES
        return [*shown, f"... {more} more"] if more > 0 else shown

    def table(self) -> tuple[list[str], list[list[str | Squares]]]:
        """Return columns and rows, without columns in which nothing is, and the first of very many rows."""
        filled = [
            number for number in range(len(self.columns)) if any(row[number] != "" for row in self.rows)
        ]
        rows = [[row[number] for number in filled] for row in self.rows[:ROWS]]
        if len(self.rows) > ROWS:
            rows.append([f"... {len(self.rows) - ROWS} more", *[""] * (len(filled) - 1)])
        return [self.columns[number] for number in filled], rows


class Shown:
    """What shows itself as a card: in several lines at IPython's prompt, as HTML in a notebook."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" in vars(cls):
            # IPython takes what is in the same class as the __repr__, before what is inherited.
            cls._repr_pretty_ = Shown._repr_pretty_  # type: ignore[method-assign]

    def _card(self) -> Card:
        """Return what there is to say of this object."""
        raise NotImplementedError(f"{type(self).__name__} has no card")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Among others, in a list say, an object is one line.
        inside = len(getattr(printer, "stack", ())) > 1
        if cycle or inside:
            printer.text(repr(self))
            return
        for number, line in enumerate(text(self._card()).splitlines()):
            if number:
                printer.break_()
            printer.text(line)

    def _repr_html_(self) -> str:
        from mpiparallel.client import html

        return html.draw(self._card())


def text(card: Card) -> str:
    """Return a card as plain text.

    >>> print(text(Card("Client", "closed", commands=[("rc = ipp.Client()", "a new one")])))
    Client: closed
      next: rc = ipp.Client()  a new one
    """
    lines = [f"{card.title}: {card.state}"]
    wide = max((len(name) for name, _ in card.facts), default=0)
    lines += [f"  {name:<{wide}}  {value}" for name, value in card.facts]
    columns, rows = card.table()
    plain = [number for number in range(len(columns)) if not any(_drawn(row[number]) for row in rows)]
    if rows and plain:
        cells = [[columns[number] for number in plain]]
        cells += [[str(row[number]) for number in plain] for row in rows]
        widths = [max(len(row[number]) for row in cells) for number in range(len(plain))]
        lines += [
            "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
    lines += [f"  ! {note}" for note in card.shown_notes()]
    wide = max((len(code) for code, _ in card.commands), default=0)
    for number, (code, why) in enumerate(card.commands):
        lines.append(f"  {'next:' if not number else '     '} {code:<{wide}}  {why}".rstrip())
    return "\n".join(lines)


def _drawn(cell: str | Squares) -> bool:
    return isinstance(cell, Squares)


def one_line(said: str, longest: int = LONGEST) -> str:
    """Return text as one line that is not too long; what a terminal would take as an order is gone."""
    line = "".join(letter if letter.isprintable() else " " for letter in " ".join(said.split()))
    return line if len(line) <= longest else line[: longest - 3] + "..."


def some(number: int, what: str, none: str = "no") -> str:
    """Return how many there are of something: ``1 engine``, ``no engines``."""
    return f"{number or none} {what}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(0.0123), duration(75), duration(7300)
    ('12 ms', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 0.001:
        return "less than 1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def mpi_name(said: str) -> str:
    """Return name and version of an MPI library, from all that it says of itself.

    >>> mpi_name("Open MPI v5.0.11, package: Open MPI root@there Distribution, ident: 5.0.11")
    'Open MPI 5.0.11'
    >>> mpi_name("MPICH Version: 4.3.0 MPICH Release date: Mon Feb  3")
    'MPICH 4.3.0'
    """
    words = said.split(",")[0].replace("Version:", "").replace("Library", "").split()
    for number, word in enumerate(words):
        bare = word.removeprefix("v")
        if bare[:1].isdigit():
            return " ".join([*words[:number], bare])
    return one_line(" ".join(words), 40)


def name_of(thing: object, otherwise: str) -> str:
    """Return the name that the user has given to an object at IPython's prompt, or `otherwise`."""
    shell = get_ipython()
    namespace: Mapping[str, Any] = getattr(shell, "user_ns", None) or {}
    for name, value in list(namespace.items()):
        if value is thing and name.isidentifier() and not name.startswith("_"):
            return name
    return otherwise


def has_magic(name: str = "px") -> bool:
    """Whether IPython is there and has this line magic."""
    manager = getattr(get_ipython(), "magics_manager", None)
    return manager is not None and name in manager.magics.get("line", ())


def shell_command(words: Iterable[str]) -> str:
    """Return a command as it is typed here: with an exclamation mark at IPython's prompt."""
    return ("!" if get_ipython() is not None else "") + " ".join(words)
