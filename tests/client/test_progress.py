"""Progress bars: what they say, and that they do not get into the way of what is printed."""

from __future__ import annotations

import os
import sys

import pexpect
import pyte
import pytest

from mpiparallel.client import progress
from mpiparallel.config import noninteractive


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"MPIPARALLEL_NONINTERACTIVE": "1"}, True),
        ({"IPP_NONINTERACTIVE": "yes"}, True),
        ({"IPP_NONINTERACTIVE": "0"}, False),
        ({"MPIPARALLEL_NONINTERACTIVE": "0", "IPP_NONINTERACTIVE": "1"}, False),
        ({"MPIPARALLEL_NONINTERACTIVE": "", "IPP_NONINTERACTIVE": "1"}, True),
    ],
)
def test_nobody_looks_on(environ, wanted, monkeypatch):
    assert noninteractive(environ) is wanted
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert noninteractive() is wanted


PRINTS = """
import os
import sys
from tqdm import tqdm
from mpiparallel.client import progress
bar = tqdm(total=3, file=sys.stdout, mininterval=0, ncols=60)
for number in range(3):
    with progress.paused():
        print(f"line {number}")
    with progress.paused("begun"):
        print("begun", end="", flush=True)
    bar.update()
    with progress.paused():
        print(", ended", flush=True)
bar.close()
with progress.paused():
    print("the end")
"""


def test_nothing_tears_a_bar_in_a_terminal(screen_of):
    lines = screen_of(PRINTS)
    wanted = [word for number in range(3) for word in (f"line {number}", "begun, ended")]
    assert lines[:6] == wanted
    assert lines[6].startswith("100%|") and "3/3" in lines[6]
    assert lines[7] == "the end" and not any(lines[8:])


@pytest.fixture
def screen_of(tmp_path):
    """A function that runs a script in a terminal and returns the lines that are on its screen in the end."""

    def run(script, columns=80):
        path = tmp_path / "script.py"
        path.write_text(script)
        child = pexpect.spawn(
            sys.executable, [str(path)], dimensions=(40, columns), env={**os.environ, "TERM": "xterm"}
        )
        child.expect(pexpect.EOF, timeout=60)
        screen = pyte.Screen(columns, 40)
        pyte.ByteStream(screen).feed(child.before)
        return [line.rstrip() for line in screen.display]

    return run


def test_no_bar_nothing_written(capsys):
    with progress.paused("text"):
        print("text", end="")
    assert capsys.readouterr().out == "text"
