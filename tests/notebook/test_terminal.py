"""A terminal's IPython: output, Ctrl-C."""

from __future__ import annotations

import re

import pytest

from notebook.pages import spoken

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]


def said(terminal, word: str) -> bool:
    """Whether all engines have said so; the cell itself, which has the word in it, does not count."""
    by = [engines for engines, line in spoken(terminal.shown()) if line == word]
    return {engine for engines in by for engine in engines} == {0, 1, 2, 3}


def test_cells_run_and_show_what_they_print(terminal):
    assert terminal.run("1 + 1").endswith(": 2")
    assert terminal.run("for i in range(2):\n    print('line', i)\n") == "line 0\nline 1"


def test_ctrl_c_ends_a_blocking_execute(terminal):
    terminal.start(
        "ar = view.execute('print(\"executing\")\\nimport time; time.sleep(600)', silent=False)\n"
        "with ar.stream_output():\n"
        "    ipp.client.interrupting.get(ar)"
    )
    terminal.until(lambda: said(terminal, "executing"))
    terminal.press("c")
    assert "KeyboardInterrupt" in terminal.finish()
    assert terminal.run("view.apply_sync(lambda: 5)").endswith("[5, 5, 5, 5]")


def test_px_in_colours(terminal):
    shown = terminal.run("%px print('\\x1b[31mscarlet\\x1b[0m and plain')")
    assert spoken(shown) == [((0, 1, 2, 3), "scarlet and plain")]
    assert terminal.colours("scarlet") == {"red"}
    assert terminal.colours("plain") == {"default"}


def test_ctrl_c_in_a_cell(terminal):
    terminal.start("%%px\nimport time\nprint('in the cell')\ntime.sleep(600)\n")
    terminal.until(lambda: said(terminal, "in the cell"))
    terminal.press("c")
    shown = terminal.finish()
    assert "Received Keyboard Interrupt. Sending signal SIGINT to engines..." in shown
    assert shown.count("time.sleep(600)") == 1, "one traceback for all"
    assert re.search(r"\[[0-3, -]+:execute\] ranks? [0-3, -]+ on ", shown)
    assert spoken(terminal.run("%px print('on', sum(range(4)))")) == [((0, 1, 2, 3), "on 6")]


def test_errors_are_shown_once(terminal):
    shown = terminal.run("%px 1 / 0")
    assert shown.count("----> 1 1 / 0") == 1
    assert terminal.colours("ZeroDivisionError") != {"default"}


def test_lines_that_overwrite_themselves(terminal):
    """Each engine's in a place of its own; what has been overwritten is not seen."""
    shown = terminal.run(
        "%%px\nimport time\nfor i in range(20):\n    print(f'\\rrank {mpi_rank} at {i}', end='')\n"
        "    time.sleep(0.02)\nprint()\n"
    )
    lines = sorted(line.split("] ")[-1] for line in shown.split("\n") if "rank" in line)
    assert lines == [f"rank {rank} at 19" for rank in range(4)]


def test_ctrl_c_in_a_loop_over_imap(terminal):
    """The bar is left whole, and does not come again among what is shown later."""
    terminal.run("def slow(x):\n    import time\n    time.sleep(0.1)\n")
    terminal.start(
        "for value in rc.load_balanced_view().imap(slow, range(5000), progress=True):\n    pass\n"
    )
    terminal.until(lambda: re.search(r"^slow:.* [1-9]\d*/5000 ", terminal.shown(), re.MULTILINE))
    terminal.press("c")
    lines = terminal.finish().split("\n")
    assert [line.startswith("slow: ") for line in lines[:2]] == [True, False]
    assert re.search(r"\](\^C?)?$", lines[0]) and set(lines[1]) == {"-"}, "a rule comes above the traceback"
    assert lines[-1].startswith("KeyboardInterrupt")
    assert not any("slow: " in line for line in lines[1:])
    shown = terminal.run("%px print('on')")
    assert spoken(shown) == [((0, 1, 2, 3), "on")] and "slow" not in shown
