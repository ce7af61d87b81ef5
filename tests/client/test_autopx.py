"""Which lines of a cell are for engines, without engines."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from mpiparallel.client.autopx import AutoPx, transform

SUFFIXES = {"", "_two"}


def changed(cell: str, active: str | None = None) -> list[tuple[str, str]]:
    """Return the parts of a cell: what is for whom."""
    parts = []
    here = ""
    for line in transform(cell.splitlines(keepends=True), active, SUFFIXES):
        if line.startswith("get_ipython().run_cell_magic('px"):
            if here.strip():
                parts.append(("here", here.lstrip("\n")))
            here = ""
            shell = Mock()
            exec(line, {"get_ipython": lambda shell=shell: shell})
            name, options, text = shell.run_cell_magic.call_args.args
            assert options == ""
            parts.append((name, text))
        else:
            here += line
    if here.strip():
        parts.append(("here", here.lstrip("\n")))
    return parts


def test_off():
    lines = ["a = 1\n", "%time b\n"]
    assert transform(lines, None, SUFFIXES) is lines
    assert changed("%%autopx_is_no_cell_magic\na\n") == [("here", "%%autopx_is_no_cell_magic\na\n")]


def test_on():
    assert changed("a = 1\nb\n", "") == [("px", "a = 1\nb\n")]
    assert changed("a = 'it''s'", "") == [("px", "a = 'it''s'")]
    assert changed("a\n", "_two") == [("px_two", "a\n")]
    assert changed("\n  \n", "") == []
    assert changed("a = (\n", "") == [("px", "a = (\n")]
    assert changed("'''\n%autopx\n", "") == [("px", "'''\n%autopx\n")]


def test_cells_with_magics():
    assert changed("%%time\na\n", "") == [("px", "%%time\na\n")]
    assert changed("%%bash\n%autopx\n", "") == [("px", "%%bash\n%autopx\n")]
    assert changed("%%bash\n%autopx\n") == [("here", "%%bash\n%autopx\n")]
    assert changed("%%px -a\na\n", "") == [("here", "%%px -a\na\n")]
    assert changed("%%px_two -a\na\n", "") == [("here", "%%px_two -a\na\n")]
    assert changed("%matplotlib inline\nplot()\n", "") == [("px", "%matplotlib inline\nplot()\n")]
    assert changed("!ls\n", "") == [("px", "!ls\n")]


def test_switching():
    assert changed("%autopx\n", "") == [("here", "%autopx\n")]
    assert changed("%autopx") == [("here", "%autopx")]
    assert changed("x = 1\n%autopx\na = x\n%autopx  \ny = 2\n") == [
        ("here", "x = 1\n%autopx\n"), ("px", "a = x\n"), ("here", "%autopx  \ny = 2\n")
    ]  # fmt: skip
    assert changed("a\n%autopx\nx\n", "") == [("px", "a\n"), ("here", "%autopx\nx\n")]
    assert changed("%autopx\na\n%autopx_two\nb\n%autopx_two\nc\n") == [
        ("here", "%autopx\n"), ("px", "a\n"), ("here", "%autopx_two\n"), ("px_two", "b\n"),
        ("here", "%autopx_two\nc\n"),
    ]  # fmt: skip


def test_only_statements_switch():
    text = "a = '''\n%autopx\n'''\nb = (1\n%autopx\n)\n"
    assert changed(text, "") == [("px", text)]
    assert changed(text) == [("here", text)]
    inner = "if a:\n    %autopx\nb\n"
    assert changed(inner, "") == [("px", inner)]
    assert changed("if a:\n    b\n%autopx\nc\n", "") == [("px", "if a:\n    b\n"), ("here", "%autopx\nc\n")]
    other = "%autopx_three\n"
    assert changed(other, "") == [("px", other)]


def test_parallel_magics_are_for_this_side():
    assert changed("a\n%pxresult -e\nb\n", "") == [("px", "a\n"), ("here", "%pxresult -e\n"), ("px", "b\n")]
    assert changed("%px_two a\n%result\n%pxwhere\n%pxconfig -b", "") == [
        ("here", "%px_two a\n%result\n%pxwhere\n%pxconfig -b")
    ]


def test_what_runs_here_keeps_its_line_numbers():
    lines = transform(["a\n", "b\n", "%autopx\n", "c\n"], "", SUFFIXES)
    assert len(lines) == 4 and lines[2:] == ["%autopx\n", "c\n"]


def test_whether_a_cell_is_complete_does_not_change():
    manager = TransformerManager()
    switch = AutoPx(shell=None)
    switch.suffixes, switch.active = SUFFIXES, ""
    manager.cleanup_transforms.append(switch)
    assert manager.check_complete("a = 1")[0] == "complete"
    assert manager.check_complete("for i in x:")[0] == "incomplete"
    assert manager.transform_cell("a = 1\n") == "get_ipython().run_cell_magic('px', '', 'a = 1\\n')\n"
    switch.active = None
    assert manager.transform_cell("a = 1\n") == "a = 1\n"


LINES = ["%autopx\n", "%autopx_two\n", "%px a\n", "x = 1\n", "'''\n", "(\n", "  y\n", "\n"]


@given(
    st.lists(st.sampled_from(LINES)),
    st.sampled_from([None, "", "_two"]),
)
def test_nothing_is_lost(lines, active):
    """What runs here and what is sent, together, is the cell."""
    parts = changed("".join(lines), active)
    assert [line for _, part in parts for line in part.splitlines() if line.strip()] == [
        line.rstrip("\n") for line in lines if line.strip()
    ]


@pytest.mark.parametrize("active", [None, "", "_two"])
def test_no_lines(active):
    assert transform([], active, SUFFIXES) == []
