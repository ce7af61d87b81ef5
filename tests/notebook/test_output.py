"""What engines print and display, in a notebook: all of it, once, in its cell, in order."""

from __future__ import annotations

import re
from collections import Counter

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]


def test_what_engines_print_is_there_once(kernel):
    page = kernel.do(
        "ar = view.execute('print(\"line of\", mpi_rank)', silent=False, block=False)\n"
        "with ar.stream_output():\n"
        "    ar.get()"
    )
    assert Counter(re.findall(r"line of \d", page.read())) == {f"line of {rank}": 1 for rank in range(4)}


def test_output_comes_while_the_cell_runs(kernel, go):
    cell = kernel.start(
        f"""
code = '''
import os, time
print("before", flush=True)
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
print("after")
'''
ar = view.execute(code, silent=False, block=False)
with ar.stream_output():
    ar.get()
"""
    )
    page = cell.until("before")
    assert "after" not in page.read()
    go.touch()
    assert "after" in cell.finish().read()
