"""%px and its kin where cells are run in other ways than in a script: in a kernel, and in a terminal."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]


def test_the_first_client_of_a_kernel_activates(kernel):
    kernel.do("%px x = engine_id * 2")
    assert kernel.value("view['x']") == [0, 2, 4, 6]
    page = kernel.do("%%px --targets 1:3\nprint('hello from', engine_id)\nx + 100")
    assert [page.stdout.count(f"hello from {engine}\n") for engine in range(4)] == [0, 1, 1, 0]
    assert "Out[1:" in page.read() and ": 102" in page.read() and ": 104" in page.read()


def test_a_failure_ends_what_runs_on(kernel):
    """The notebook's other cells are not run: the reply is an error, with one short line."""
    cell = kernel.start("%px 1 / 0")
    page = cell.finish()
    assert cell.reply["status"] == "error" and cell.reply["ename"] == "AlreadyDisplayedError"
    assert page.traceback == "4 errors"
    # Engines that fail later have a line, and no other traceback.
    assert page.read().count("----> 1 1 / 0") == 1


def test_autopx_in_a_kernel(kernel):
    assert kernel.do("%autopx").stdout == "%autopx enabled\n"
    kernel.do("a = engine_id\nimport asyncio\nawait asyncio.sleep(0)")
    assert kernel.value("'a' in globals()") is False
    page = kernel.do("print('value', a)")
    assert [page.stdout.count(f"value {engine}\n") for engine in range(4)] == [1] * 4
    assert kernel.run("1 / a").traceback == "1 error"
    kernel.run("peeked = 5", store_history=False)  # as variable inspectors do
    assert kernel.value("peeked") == 5
    assert kernel.do("b = 1\n%autopx\nc = 2").stdout == "%autopx disabled\n"
    assert kernel.value("c") == 2
    assert kernel.value("'b' in globals()") is False
    assert kernel.value("view['a']") == [0, 1, 2, 3]


def test_local_in_a_kernel(kernel):
    page = kernel.do("%%px --local\nimport os\nprint('process', os.getpid())")
    pids = kernel.value("[os.getpid(), *view.apply_sync(os.getpid)]")
    assert [page.stdout.count(f"process {pid}\n") for pid in pids] == [1] * 5
    page = kernel.run("%%px --local\nimport asyncio\nawait asyncio.sleep(0)\nawaited = 1")
    assert page.stderr.startswith("UsageError: --local: in a kernel, a cell with await cannot run")
    assert kernel.value("view.apply_sync(lambda: 'awaited' in globals())") == [False] * 4


def test_autopx_in_a_terminal(terminal):
    assert terminal.run("%autopx") == "%autopx enabled"
    terminal.run("a = engine_id\nb = a * 2")
    shown = terminal.run("for i in range(2):\n    print('line', i, 'of', b)\n")
    assert [shown.count(f"line {i} of {2 * engine}") for i in range(2) for engine in range(4)] == [1] * 8
    assert terminal.run("%autopx") == "%autopx disabled"
    assert terminal.run("view['b']").endswith("[0, 2, 4, 6]")
    assert terminal.run("'b' in globals()").endswith("False")
