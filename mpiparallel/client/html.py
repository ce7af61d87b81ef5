"""Cards as HTML. Everything that comes from elsewhere is escaped.

Colours are those of the page, light or dark, and a few that can be seen on both; styles stand in the tags, as
notebooks take style sheets out of outputs.
"""

from __future__ import annotations

import html

from mpiparallel.client.looks import Card, Squares

COLOURS = {"good": "#2e9d5b", "busy": "#c98500", "bad": "#d9534f", "off": "#8a8a8a"}
LINE = "rgba(128,128,128,.35)"
SOFT = "opacity:.7;"
MANY = 512  # squares in one card
SHORT = 24  # letters of a cell that stay in one line

_BOX = (
    f"display:inline-block;border:1px solid {LINE};border-radius:6px;padding:.5em .9em;margin:.2em 0;"
    "max-width:100%;box-sizing:border-box;line-height:1.45;text-align:left;overflow-x:auto;"
)
_CELL = "padding:.1em 1.2em .1em 0;text-align:left;vertical-align:top;border:none;background:transparent;"
_CODE = (
    "font-family:monospace;background:rgba(128,128,128,.15);color:inherit;padding:.05em .35em;"
    "border-radius:3px;white-space:pre;"
)
_SQUARE = (
    "display:inline-block;width:.7em;height:.7em;border-radius:2px;margin:0 2px 0 0;vertical-align:middle;"
)


def draw(card: Card) -> str:
    """Return a card as HTML."""
    parts = [_head(card), _facts(card), _table(card), _notes(card), _commands(card)]
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def _head(card: Card) -> str:
    dot = f'<span style="color:{COLOURS[card.mood]}">&#9679;</span>'
    title, state = html.escape(card.title), html.escape(card.state)
    return f'<div>{dot} <b>{title}</b> <span style="{SOFT}">{state}</span></div>'


def _facts(card: Card) -> str:
    if not card.facts:
        return ""
    rows = "".join(
        _row([f'<span style="{SOFT}">{html.escape(name)}</span>', html.escape(value)])
        for name, value in card.facts
    )
    return _whole_table(rows)


def _table(card: Card) -> str:
    columns, rows = card.table()
    if not rows:
        return ""
    squares = sum(len(cell.moods) for row in rows for cell in row if isinstance(cell, Squares))
    head = _row([f'<span style="{SOFT}">{html.escape(name)}</span>' for name in columns])
    return _whole_table(
        head + "".join(_row([_cell(cell, squares <= MANY) for cell in row]) for row in rows),
        f"border-top:1px solid {LINE};padding-top:.2em;",
    )


def _cell(cell: str | Squares, drawn: bool) -> str:
    if not isinstance(cell, Squares):
        wraps = "normal" if len(cell) > SHORT else "nowrap"
        return f'<span style="white-space:{wraps}">{html.escape(cell)}</span>'
    if not drawn:
        return ""
    squares = "".join(
        f'<span title="{html.escape(says)}" style="{_SQUARE}background:{COLOURS[mood]}"></span>'
        for mood, says in cell.moods
    )
    style = "display:inline-block;max-width:calc(16*(.7em + 2px));line-height:1.3;"
    return f'<span style="{style}">{squares}</span>'


def _notes(card: Card) -> str:
    colour = COLOURS["bad" if card.mood == "bad" else "busy"]
    style = f"border-left:3px solid {colour};padding-left:.6em;margin:.3em 0;overflow-wrap:anywhere;"
    return "".join(f'<div style="{style}">{html.escape(note)}</div>' for note in card.shown_notes())


def _commands(card: Card) -> str:
    if not card.commands:
        return ""
    rows = "".join(
        _row(
            [
                f'<span style="{SOFT}">{"next" if not number else ""}</span>',
                f'<code style="{_CODE}">{html.escape(code)}</code>',
                f'<span style="{SOFT}">{html.escape(why)}</span>',
            ]
        )
        for number, (code, why) in enumerate(card.commands)
    )
    return _whole_table(rows, f"border-top:1px solid {LINE};padding-top:.2em;")


def _row(cells: list[str]) -> str:
    inner = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    return f'<tr style="background:transparent;border:none;">{inner}</tr>'


def _whole_table(rows: str, around: str = "") -> str:
    style = "border:none;border-collapse:collapse;margin:.2em 0;font-size:inherit;color:inherit;"
    table = f'<table style="{style}">'
    return f'<div style="{around}">{table}{rows}</table></div>'
