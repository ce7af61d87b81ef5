"""The calls of an IPython Parallel tutorial give what it shows, in a script and at an IPython prompt.

Each cell is what a person types; where something is shown after it, this stands below as its expected text.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pexpect
import pytest
from helpers import processes_of, wait_until

pytestmark = [pytest.mark.mpi, pytest.mark.anympi, pytest.mark.timeout(240)]

PRODUCTS = [2, 6, 12, 20, 30, 42, 56, 72, 90]
CELLS: list[tuple[str, str | None]] = [
    ("import mpiparallel as ipp", None),
    ('rc = ipp.Client(profile="default")', None),
    ("rc.ids", "[0, 1, 2, 3]"),
    # views
    ("rc[0]", "<DirectView 0>"),
    ("rc[0,1,2,3]", "<DirectView [0, 1, 2, 3]>"),
    ("rc[0:2]", "<DirectView [0, 1]>"),
    ("rc[2:4]", "<DirectView [2, 3]>"),
    ("rc[::2]", "<DirectView [0, 2]>"),
    ("rc[1::2]", "<DirectView [1, 3]>"),
    ("dview = rc[:]", None),
    ("dview", "<DirectView [0, 1, 2, 3]>"),
    # functions
    ("rc.block = True", None),
    ("def mul(a, b):\n    return a*b\n", None),
    (
        'def summary():\n    """ info about this process"""\n'
        "    import os\n    import socket\n    import sys\n"
        "    return {'cwd': os.getcwd(), 'Python': sys.version,\n"
        "            'hostname': socket.gethostname(), 'pid': os.getpid()}\n",
        None,
    ),
    ("mul(5, 6)", "30"),
    ("sorted(summary())", "['Python', 'cwd', 'hostname', 'pid']"),
    ("rc[0].apply(mul, 5 ,6)", "30"),
    ("rc[0].apply(summary)", None),
    ("d = _", None),
    ("import os", None),
    ("sorted(d), d['pid'] != os.getpid()", "(['Python', 'cwd', 'hostname', 'pid'], True)"),
    ("rc[:].apply(mul, 5, 6)", "[30, 30, 30, 30]"),
    ("len(set(one['pid'] for one in rc[:].apply(summary)))", "4"),
    ("list(map(mul, range(1,10), range(2,11)))", str(PRODUCTS)),
    ("list(dview.map(mul, range(1,10), range(2,11)))", str(PRODUCTS)),
    # objects
    ("dview.block = True", None),
    ("_ = dview.push(dict(a=1.032, b=3453))", None),
    ("dview.pull('a')", str([1.032] * 4)),
    ("dview.pull('b', targets=0)", "3453"),
    ("dview.pull(('a', 'b'))", str([[1.032, 3453]] * 4)),
    ("ar = dview.pull('a', block=False)", None),
    ("ar.get()", str([1.032] * 4)),
    ("type(ar).__name__", "'AsyncResult'"),
    # scatter and gather
    ("dview.scatter('a',range(16))", None),
    ("dview['a']", "[range(0, 4), range(4, 8), range(8, 12), range(12, 16)]"),
    ("dview.gather('a')", str(list(range(16)))),
    ("dview.block = False", None),
    ("_ = dview.scatter('a',range(32))", None),
    ("dview.gather('a').get()", str(list(range(32)))),
    # decorators
    ("@dview.remote(block=True)\ndef getpid():\n    import os\n    return os.getpid()\n", None),
    ("len(set(getpid())), os.getpid() in getpid()", "(4, False)"),
    ("import numpy as np", None),
    ("A = np.random.random((64,48))", None),
    ("@dview.parallel(block=True)\ndef pmul(A,B):\n    return A*B\n", None),
    ("C_local = A*A", None),
    ("C_remote = pmul(A,A)", None),
    ("bool((C_local == C_remote).all()), C_remote.shape", "(True, (64, 48))"),
    # imports
    ("with rc[:].sync_imports():\n    import numpy.linalg\n", None),
    ("rc[:].apply(lambda: numpy.linalg.__name__)", str(["numpy.linalg"] * 4)),
    ("rc.close()", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def environ(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment of a person who has just typed ``mpiparallel start -n 4 --daemonize``."""
    home = tmp_path_factory.mktemp("tutorial")
    values = {**os.environ, "MPIPARALLEL_STATE": str(home / "state"), "IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "mpiparallel.cli"]
    for words in (["start", "-n", "4", "--daemonize"], ["stop"]):
        done = subprocess.run([*command, *words], env=values, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        if words == ["stop"]:
            break
        yield values
    assert wait_until(lambda: not processes_of(home / "state")), processes_of(home / "state")


def as_script() -> str:
    """Return the session as a program which prints what a prompt would show, one line per cell."""
    lines = []
    for number, (source, _) in enumerate(CELLS):
        if isinstance(ast.parse(source).body[-1], ast.Expr):
            source = f"_ = {source}\nprint('cell', {number}, repr(_))"
        lines.append(source)
    return "\n".join(lines)


def test_in_a_script(environ, tmp_path):
    (tmp_path / "tutorial.py").write_text(as_script())
    done = subprocess.run(
        [sys.executable, tmp_path / "tutorial.py"], env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    shown = dict(re.findall(r"^cell (\d+) (.*)$", done.stdout, re.MULTILINE))
    for number, (source, expected) in enumerate(CELLS):
        if expected is not None:
            assert shown[str(number)] == expected, source
    assert "importing numpy.linalg on engine(s)" in done.stdout
    assert done.stderr == ""


class Prompt:
    """A person at an IPython prompt in a terminal."""

    def __init__(self, environ: dict[str, str]) -> None:
        arguments = [
            "-m",
            "IPython",
            "--simple-prompt",
            "--no-banner",
            "--colors=NoColor",
            "--no-confirm-exit",
        ]
        self.terminal = pexpect.spawn(
            sys.executable,
            arguments,
            env=environ,
            encoding="utf-8",
            echo=False,
            timeout=60,
            dimensions=(50, 200),
        )
        self.terminal.expect(r"In \[\d+\]: ")

    def type(self, source: str) -> str:
        """Type one cell and return what appeared before the next prompt."""
        for line in source.split("\n"):
            self.terminal.sendline(line)
            self.terminal.expect(r"(In \[\d+\]|   \.\.\.): ")
            shown = self.terminal.before
        return shown

    def close(self) -> int | None:
        self.terminal.sendline("exit")
        self.terminal.expect(pexpect.EOF)
        self.terminal.close()
        return self.terminal.exitstatus


def test_in_ipython(environ):
    prompt = Prompt(environ)
    printed = ""
    for source, expected in CELLS:
        shown = prompt.type(source)
        printed += shown
        assert "Traceback" not in shown, f"{source}\n{shown}"
        if expected is not None:  # long values are shown on several lines
            found = re.search(r"Out\[\d+\]:(.*)", shown, re.DOTALL)
            assert found, f"{source}\n{shown}"
            if expected.startswith("<"):  # at a prompt objects of ours say more than by their repr
                assert found[1].split()[0] == f"{expected[1:].split()[0]}:", f"{source}\n{shown}"
                continue
            assert "".join(found[1].split()) == "".join(expected.split()), f"{source}\n{shown}"
    assert "importing numpy.linalg on engine(s)" in printed
    assert prompt.close() == 0


def test_an_error_in_ipython_shows_the_engines_traceback(environ):
    prompt = Prompt(environ)
    prompt.type("import mpiparallel as ipp")
    prompt.type("rc = ipp.Client()")
    prompt.type("def divide(a, b):\n    return a / b\n")
    shown = prompt.type("rc[1].apply_sync(divide, 1, 0)")
    assert "[1:apply]" in shown and "ZeroDivisionError: division by zero" in shown
    assert "return a / b" in shown or "in divide" in shown
    assert "asyncresult.py" not in shown  # our own frames are of no interest
    shown = prompt.type("rc[:].apply_sync(divide, 1, 0)")
    assert "[0-3:apply]" in shown
    assert prompt.type("rc.ids").strip().endswith("[0, 1, 2, 3]")
    prompt.type("rc.close()")
    assert prompt.close() == 0
