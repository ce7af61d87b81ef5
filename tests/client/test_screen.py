"""How blocks look on a terminal, in a notebook and in plain text."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mpiparallel.client import places, rows, screen
from mpiparallel.client.folding import Block, Row
from mpiparallel.client.screen import Screen

EVERYBODY = (0, 1, 2, 3)


def said(engines: tuple[int, ...], text: str, kind: str = "stdout", **more: Any) -> Block:
    return Block(kind, engines, text, **more)


def displayed(engines: tuple[int, ...], text: str, **more: Any) -> Block:
    return Block("display", engines, "", [{"data": {"text/plain": text}, **more} for _ in engines])


@pytest.fixture
def shown(monkeypatch):
    """What a notebook is told to display: data and options."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def publish(data, metadata, **options):
        calls.append((data["text/plain"], options))

    for module in (screen, places, rows):
        monkeypatch.setattr(module, "publish", publish)
    monkeypatch.setattr(places, "get_ipython", lambda: object())
    return calls


def page(calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return what is seen of displays in the end."""
    seen: dict[Any, str] = {}
    for number, (text, options) in enumerate(calls):
        name = options.get("transient", {}).get("display_id", number)
        assert options.get("update", False) == (name in seen)
        seen[name] = text
    return list(seen.values())


def test_labels_stand_where_the_speaker_changes(capsys):
    one = Screen(labelled=True, place="plain")
    one.write([said(EVERYBODY, "a\n"), said(EVERYBODY, "b\n"), said((1,), "begun"), said((2,), "c\n")])
    one.write([said((1,), " ended\n", continues=True)])
    assert capsys.readouterr().out == (
        "[stdout:0-3] \na\nb\n[stdout:1] \nbegun\n[stdout:2] \nc\n[stdout:1] \n ended\n"
    )


def test_an_unfinished_line_goes_on(capsys):
    one = Screen(labelled=True, place="plain")
    for text, continues in (("begun", False), (" ended\n", True), ("x", False)):
        one.write([said((1,), text, continues=continues)])
    one.write([said((1,), "y\n")])  # another line
    assert capsys.readouterr().out == "[stdout:1] \nbegun ended\nx\ny\n"


def test_a_line_that_is_never_finished_is_ended_on_a_terminal(capsys):
    for place, end in (("terminal", "\n"), ("plain", ""), ("notebook", "")):
        one = Screen(labelled=True, place=place)
        one.write([said((0, 1), "no newline")])
        one.close()
        assert capsys.readouterr().out == f"[stdout:0-1] \nno newline{end}"


def test_single_lines_stand_beside_their_labels(capsys):
    one = Screen(labelled=True, compact=True, place="plain")
    one.write([said((0,), "rank 0\n"), said((1,), "rank 1\n")])
    one.write([said((2,), "alone\n")])  # more of it may come, perhaps a table
    one.write([said((2,), "again\n"), said((0, 1), "two\nlines\n")])
    assert capsys.readouterr().out == (
        "[stdout:0] rank 0\n[stdout:1] rank 1\n[stdout:2] \nalone\nagain\n[stdout:0-1] \ntwo\nlines\n"
    )


def test_one_engine_has_no_labels_and_keeps_carriage_returns(capsys):
    one = Screen(labelled=False, place="terminal")
    one.write([said((0,), "\r10%"), said((0,), "\r20%")])
    assert capsys.readouterr().out == "\r10%\r20%"


def test_colours_do_not_run_into_labels(capsys):
    one = Screen(labelled=True, place="terminal")
    one.write([said((0,), "\x1b[31mred\n"), said((1,), "plain\n"), said((0,), "still red\x1b[0m\n")])
    one.close()
    assert capsys.readouterr().out == (
        "[stdout:0] \n\x1b[31mred\n\x1b[0m[stdout:1] \nplain\n[stdout:0] \n\x1b[31mstill red\x1b[0m\n"
    )


def test_plain_text_has_tracebacks_without_colour(capsys):
    Screen(labelled=True, place="plain").errors(["\x1b[31mZeroDivisionError\x1b[0m"])
    Screen(labelled=True, place="terminal").errors(["\x1b[31mKeyError\x1b[0m"])
    assert capsys.readouterr().err == "ZeroDivisionError\n\x1b[31mKeyError\x1b[0m\n"


def test_rows_are_replaced_on_a_terminal(capsys, monkeypatch):
    pyte = pytest.importorskip("pyte")
    monkeypatch.setenv("TERM", "xterm")
    one = Screen(labelled=True, place="terminal")
    assert one.live
    one.write([said((0,), "before\n"), said((1,), "begun")], [Row("stderr", (0, 1), "10%")])
    one.write([], [Row("stderr", (0,), "20%"), Row("stderr", (1,), "30%" * 100)])
    one.write([said((2,), "between\n")], [Row("stderr", (0,), "90%")])
    one.write([said((0,), "100%\n", "stderr", overwrote=True)])
    written = capsys.readouterr()
    seen = pyte.Screen(80, 20)
    # What went to stderr was written after all that is here.
    pyte.Stream(seen).feed((written.out + written.err).replace("\n", "\r\n"))
    lines = [line.rstrip() for line in seen.display if line.strip()]
    assert lines == [
        "[stdout:0]", "before", "[stdout:1]", "begun", "[stdout:2]", "between", "[stderr:0]", "100%",
    ]  # fmt: skip


def test_many_rows_and_wide_ones_fit_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "10")
    lines = rows.fitting([f"\x1b[31m{number} {'x' * 50}" for number in range(30)])
    assert len(lines) == 5 and lines[-1] == "... 26 more"
    assert all(len(line) < 20 for line in lines)
    assert rows.fitting(["\x1b[31mred"]) == ["\x1b[31mred\x1b[0m"]


def test_rows_have_a_display_of_their_own_in_a_notebook(shown, capsys):
    one = Screen(labelled=True, place="notebook")
    one.write([], [Row("stderr", (0, 1), "10%")])
    one.write([], [Row("stderr", (0,), "100%"), Row("stderr", (1,), "20%")])
    one.write([said((0,), "100%\n", "stderr", overwrote=True)], [Row("stderr", (1,), "50%")])
    assert page(shown) == ["[stderr:0] 100%\n[stderr:1] 50%"]
    one.write([said((1,), "100%\n", "stderr", overwrote=True), said((0, 1), "end\n")])
    assert page(shown) == ["[stderr:0-1] 100%"]
    assert capsys.readouterr() == ("[stdout:0-1] \nend\n", "")
    one.write([], [Row("stderr", (0,), "1%")])  # below what was printed meanwhile
    assert page(shown) == ["[stderr:0-1] 100%", "[stderr:0] 1%"]


def test_who_displays_the_same_later_joins_in_a_notebook(shown):
    one = Screen(labelled=True, compact=True, n_engines=4, place="notebook")
    one.write([displayed((1,), "picture")])
    one.write([displayed((0, 3), "picture")])
    assert page(shown) == ["[output:0-1, 3]", "picture"]
    one.write([displayed((1,), "picture")])  # its second one
    assert page(shown)[2:] == ["[output:1]", "picture"]
    one.write([said((2,), "before it\n"), displayed((2,), "picture")])  # not above its own text
    assert page(shown)[4:] == ["[output:2]", "picture"]


def test_updates_go_to_the_displays_of_their_engines(shown):
    def state(engines: tuple[int, ...], text: str, update: bool = True) -> Block:
        return displayed(engines, text, transient={"display_id": "state"}, update=update)

    one = Screen(labelled=True, place="notebook")
    one.write([state((0, 1, 2), "waiting", False), state((3,), "odd", False)])
    one.write([state((0, 1, 2), "ready")])
    assert page(shown) == ["ready", "odd"]
    one.write([state((0, 1), "further")])  # they part
    one.write([state((0, 1), "done"), state((3,), "even"), state((2,), "late")])
    assert page(shown) == ["ready", "even", "done", "late"]


def test_updates_have_no_labels_of_their_own(shown, capsys):
    def state(engine: int, text: str, update: bool = True) -> Block:
        return displayed((engine,), text, transient={"display_id": "loss"}, update=update)

    one = Screen(labelled=True, place="notebook")
    one.write([state(0, "begun", False), state(1, "begun too", False), said((0,), "line\n")])
    labels = capsys.readouterr().out
    assert labels == "[output:0]\n[output:1]\n[stdout:0] \nline\n"
    for step in range(3):
        one.write([state(0, f"at {step}"), state(1, f"also at {step}"), said((0,), "line\n")])
    assert page(shown) == ["at 2", "also at 2"]
    assert capsys.readouterr().out == "line\n" * 3
    one.write([displayed((0, 1), "end", transient={"display_id": "loss"}, update=True)])  # both say the same
    assert page(shown) == ["end", "end"]
    one.write([state(2, "late", False)])
    assert capsys.readouterr().out == "[output:2]\n"


def test_an_engine_clears_what_it_has_shown_itself(shown, capsys, monkeypatch):
    monkeypatch.setattr(screen, "_clear_notebook", lambda wait: sys.stdout.write(f"<clear {wait}>"))
    one = Screen(labelled=True, place="notebook")
    one.write([said((0, 1), "both\n"), said((0,), "mine\n")])
    one.write([Block("clear_output", (0,), "", [{"wait": True}])])
    assert capsys.readouterr().out == "[stdout:0-1] \nboth\n[stdout:0] \nmine\n"
    one.write([said((0,), "new\n")])
    assert capsys.readouterr().out == "<clear True>[stdout:1] \nboth\n[stdout:0] \nnew\n"
    one.write([Block("clear_output", (0, 1), "", [{"wait": False}] * 2)])
    assert capsys.readouterr().out == "<clear True>"


@pytest.mark.parametrize("in_server", [True, False])
def test_a_jupyter_server_gets_no_more_than_it_passes_on(monkeypatch, in_server):
    if in_server:
        monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    else:
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    now, written = [0.0], []

    def sleep(seconds):
        now[0] += seconds

    pace = screen.Pace(clock=lambda: now[0])
    for _ in range(100):
        pace.wait(200_000, sleep)
        written.append((now[0], 200_000))
    windows = [sum(size for when, size in written if start <= when < start + 3) for start, _ in written]
    assert (max(windows) <= 3e6) == in_server
    assert (now[0] == 0) == (not in_server)
