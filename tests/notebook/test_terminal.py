"""A terminal's IPython: output, Ctrl-C."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.mpi


def test_cells_run_and_show_what_they_print(terminal):
    assert terminal.run("1 + 1").endswith(": 2")
    assert terminal.run("for i in range(2):\n    print('line', i)\n") == "line 0\nline 1"


def test_ctrl_c_ends_a_blocking_execute(terminal):
    terminal.start(
        "ar = view.execute('print(\"begun\")\\nimport time\\ntime.sleep(600)', silent=False, block=False)\n"
        "with ar.stream_output():\n"
        "    ipp.client.interrupting.get(ar)"
    )
    terminal.until("begun")
    terminal.press("c")
    assert "KeyboardInterrupt" in terminal.finish()
    assert terminal.run("view.apply_sync(lambda: 5)").endswith("[5, 5, 5, 5]")
