"""Everything that a cell may hold works on an engine, and says so where it cannot."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from helpers import wait_until

import mpiparallel as ipp

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(180)]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(rc):
    """Run a cell on the first engine; return its AsyncResult, which is done."""

    def run(code):
        result = rc[0].execute(textwrap.dedent(code), silent=False)
        result.get(timeout=120)
        return result

    return run


@pytest.fixture
def fail(rc):
    """Run a cell that fails on the first engine; return the error and its traceback without colours."""

    def fail(code):
        result = rc[0].execute(textwrap.dedent(code), silent=False)
        with pytest.raises(ipp.RemoteError) as caught:
            result.get(timeout=120)
        fail.result = result
        return caught.value, re.sub(r"\x1b\[[0-9;]*m", "", caught.value.traceback)

    return fail


def text_of(result):
    return result.get().data.get("text/plain")


def size_of_png(data):
    """Return width and height of a picture, which has to be one."""
    raw = base64.b64decode(data)
    assert raw.startswith(PNG)
    return struct.unpack(">II", raw[16:24])


class TestIPython:
    def test_results_are_remembered(self, run):
        first = run("6 * 7")
        number = first.get().execution_count
        assert text_of(run("_ + 1")) == "43"
        assert text_of(run(f"Out[{number}], In[{number}]")) == "(42, '6 * 7')"
        assert text_of(run("1 + 1;")) is None
        assert text_of(run("1\n2\n3")) == "3"
        assert run("x = 5").get().execution_count == number + 5

    def test_await_and_async_generators(self, run):
        run("""
            import asyncio
            async def count(n):
                for i in range(n):
                    await asyncio.sleep(0)
                    yield i
            task = asyncio.ensure_future(asyncio.sleep(0.01, 7))
        """)
        assert text_of(run("[i async for i in count(3)]")) == "[0, 1, 2]"
        assert run("async for i in count(3):\n    print(i)").stdout == "0\n1\n2\n"
        assert text_of(run("await asyncio.gather(task, asyncio.sleep(0, 8))")) == "[7, 8]"
        assert text_of(run("asyncio.run(asyncio.sleep(0, 3))")) == "3"

    def test_shell_commands(self, run, tmp_path):
        result = run("n = 5\n!echo $n {n * 2}; echo trouble >&2; exit 3")
        assert (result.stdout, result.stderr) == ("5 10\n", "trouble\n")
        assert text_of(run("_exit_code")) == "3"
        assert text_of(run("lines = !echo a; echo b\nlines")) == "['a', 'b']"
        assert run("%%bash\necho one; echo two >&2").stderr == "two\n"
        assert run("def show(name):\n    !echo {name.upper()}\nshow('local')").stdout == "LOCAL\n"
        assert run("!cat").stdout == ""  # there is nothing to read
        run(f"here = %pwd\n%cd {tmp_path}")
        try:
            assert run("!pwd").stdout == f"{tmp_path}\n"
        finally:
            run("%cd {here}")

    def test_output_of_a_command_comes_while_it_runs(self, rc, tmp_path):
        gate = tmp_path / "gate"
        for cell in ("!echo begun; {}; echo ended", "%%bash\necho begun; {}; echo ended"):
            wait = f"while [ ! -e {gate} ]; do sleep 0.01; done"
            result = rc[0].execute(cell.format(wait), silent=False)
            assert wait_until(lambda result=result: result.stdout == "begun\n", 60)
            assert not result.done()
            gate.touch()
            result.get(timeout=60)
            assert result.stdout == "begun\nended\n"
            gate.unlink()

    def test_magics(self, run, tmp_path):
        path = tmp_path / "program.py"
        assert "Writing" in run(f"%%writefile {path}\nprint(__name__)\nresult = 11").stdout
        assert run(f"%run {path}").stdout == "__main__\n"
        assert text_of(run("result")) == "11"
        assert "per loop" in run("%timeit -n 2 -r 2 pass").stdout
        assert "Wall time" in run("%%time\nsum(range(1000))").stdout
        assert text_of(run("%env HOME")) == repr(os.environ["HOME"])
        run("%%capture captured\nprint('quiet')")
        assert text_of(run("captured.stdout")) == r"'quiet\n'"
        assert "function calls" in run("%prun -l 3 sum([1])").stdout
        assert run(f"%load {path}").stdout.endswith("result = 11\n\n")

    def test_help_is_output(self, run):
        assert "Return the number of items" in run("len?").stdout
        source = run("import textwrap\ntextwrap.dedent??")
        assert "def" in source.stdout and len(source.stdout.splitlines()) > 30
        assert "Quick Reference Card" in run("%quickref").stdout

    def test_the_namespace_after_reset(self, run):
        run("x = 1")
        assert run("%who").stdout.split() == ["x"]
        run("%reset -f")
        assert text_of(run("comm.size, engine_id, mpi_rank, mpi_size, MPI.__name__")) == (
            "(1, 0, 0, 4, 'mpi4py.MPI')"
        )
        assert run("%who").stdout == "Interactive namespace is empty.\n"

    def test_threads_that_print_later(self, run):
        result = run("""
            import threading
            go_on = threading.Event()
            thread = threading.Thread(target=lambda: (go_on.wait(60), print("late")))
            thread.start()
            threading.Timer(0.3, go_on.set).start()
        """)
        assert wait_until(lambda: result.stdout == "late\n", 30)


class TestDisplays:
    def test_every_kind(self, run):
        result = run("""
            from IPython.display import HTML, JSON, SVG, Javascript, Latex, Markdown
            display(HTML("<b>1</b>"), Latex("$x$"), Markdown("# y"))
            display(SVG("<svg/>"), JSON({"a": 1}), Javascript("2"))
            display({"image/png": b"raw"}, raw=True)
        """)
        shown = [output["data"] for output in result.outputs]
        kinds = ["text/html", "text/latex", "text/markdown", "image/svg+xml", "application/json"]
        for data, kind in zip(shown, [*kinds, "application/javascript", "image/png"], strict=True):
            assert kind in data
        assert shown[4]["application/json"] == {"a": 1}
        assert base64.b64decode(shown[6]["image/png"]) == b"raw"

    def test_updates_and_clearing(self, run):
        result = run("handle = display('one', display_id=True)\nhandle.update('two')")
        assert [output["data"]["text/plain"] for output in result.outputs] == ["'two'"]
        code = "from IPython.display import clear_output\ndisplay(1); clear_output(); display(2)"
        assert [output["data"]["text/plain"] for output in run(code).outputs] == ["2"]

    def test_frames(self, run):
        data = run("import pandas\npandas.DataFrame({'a': [1, 2]})").get().data
        assert "<table" in data["text/html"] and data["text/plain"].split() == ["a", "0", "1", "1", "2"]

    def test_widgets_are_shown_as_text(self, run):
        result = run("import ipywidgets\ndisplay(ipywidgets.IntSlider(3))\nipywidgets.IntSlider(4)")
        assert result.outputs[0]["data"] == {"text/plain": "IntSlider(value=3)"}
        assert result.get().data == {"text/plain": "IntSlider(value=4)"}

    @pytest.mark.parametrize("inline", [True, False], ids=["inline", "as it is"])
    def test_figures(self, run, inline):
        result = run(f"""
            {"%matplotlib inline" if inline else ""}
            import matplotlib.pyplot as plt
            plt.plot([1, 2])
            plt.show()
            print("between")
            plt.plot([3, 4]);
        """)
        assert result.stdout == "between\n"
        assert len(result.outputs) == 2  # by show(), and at the end of the cell
        for output in result.outputs:
            width, height = size_of_png(output["data"]["image/png"])
            assert width > 200 and height > 200
        data = run("figure, axes = plt.subplots(figsize=(2, 1))\nplt.close(figure)\nfigure").get().data
        assert size_of_png(data["image/png"])[0] > 100

    def test_a_repr_that_fails_is_told(self, run):
        result = run("""
            class Thing:
                def _repr_html_(self):
                    raise ValueError("no HTML today")
            Thing()
        """)
        assert "Thing at" in text_of(result)
        assert "no HTML today" in result.stderr


class TestErrors:
    def test_tracebacks_point_at_the_cell(self, fail):
        error, traceback = fail("def broken():\n    return 1 / 0\nbroken()")
        assert error.ename == "ZeroDivisionError"
        assert "---> 2     return 1 / 0" in traceback.replace("----", "---")
        assert "mpiparallel" not in traceback and "\x1b[" in error.traceback
        assert fail.result.stderr == ""

    @pytest.mark.parametrize(
        ("code", "name"),
        [
            ("def (", "SyntaxError"),
            ("  x = 1\n y = 2", "IndentationError"),
            ("%nosuchmagic", "UsageError"),
            ("%timeit -z", "UsageError"),
            ("%%bash\nexit 3", "CalledProcessError"),
            ("%%time\n1 / 0", "ZeroDivisionError"),
            ("%%capture\n1 / 0", "ZeroDivisionError"),
            ("exit", "SystemExit"),
            ("import sys; sys.exit(3)", "SystemExit"),
            ("raise BaseException('base')", "BaseException"),
            ("def again(): again()\nagain()", "RecursionError"),
        ],
    )
    def test_is_told_once_and_the_next_cell_runs(self, fail, run, code, name):
        error, traceback = fail(code)
        assert error.ename == name and name in traceback
        assert name not in fail.result.stderr + fail.result.stdout
        assert text_of(run("2")) == "2"

    def test_groups_of_errors(self, fail, run):
        if text_of(run("hasattr(__builtins__, 'ExceptionGroup')")) == "False":
            pytest.skip("this Python has none")
        error, traceback = fail("raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])")
        assert error.ename == "ExceptionGroup"
        assert "ValueError: a" in traceback and "KeyError: 'b'" in traceback
        assert fail.result.stderr == ""

    def test_errors_of_a_file_are_the_cells(self, fail, run, tmp_path):
        path = tmp_path / "failing.py"
        path.write_text("x = 1\nx / 0\n")
        error, traceback = fail(f"%run {path}")
        assert error.ename == "ZeroDivisionError" and "x / 0" in traceback
        path.write_text("import sys\nsys.exit(0)\n")
        run(f"%run {path}")

    @pytest.mark.parametrize(
        "code", ["input('name? ')", "import getpass; getpass.getpass()"], ids=["input", "getpass"]
    )
    def test_nobody_can_answer(self, fail, code):
        error, _ = fail(code)
        assert error.ename == "RuntimeError" and "view['answer']" in error.evalue
        assert fail.result.stdout == ""

    @pytest.mark.parametrize(
        "code",
        [
            "%debug", "%%debug\nx = 1", "%pdb on", "breakpoint()", "import pdb; pdb.set_trace()",
            "from IPython import embed; embed()",
        ],
    )  # fmt: skip
    def test_no_debugger(self, fail, run, code):
        error, _ = fail(code)
        assert "call it in your own session" in error.evalue
        assert text_of(run("get_ipython().__class__.__name__")) == "'EngineShell'"

    def test_nobody_can_answer_functions(self, rc):
        with pytest.raises(ipp.RemoteError, match="nobody can answer"):
            rc[0].apply_sync(input)


class TestInterrupts:
    def interrupt(self, rc, result):
        """Interrupt the first engine until it has ended; return the error."""
        deadline = time.monotonic() + 60
        while not result.done() and time.monotonic() < deadline:
            rc.send_signal(signal.SIGINT, targets=0, block=True)
            result.wait(0.5)
        with pytest.raises(ipp.RemoteError) as caught:
            result.get(timeout=1)
        return caught.value

    def test_a_cell_that_awaits_does_not_go_on(self, rc, run):
        result = rc[0].execute(
            "import asyncio\nticks = 0\n"
            "while True:\n    ticks += 1; print('tick')\n    await asyncio.sleep(0.001)"
        )
        assert wait_until(lambda: "tick" in (result.stdout or ""), 60)
        assert self.interrupt(rc, result).ename == "KeyboardInterrupt"
        later = "before = ticks\nawait asyncio.sleep(0.1)\nticks == before"
        assert text_of(run(later)) == "True"

    @pytest.mark.parametrize("ignoring", [False, True], ids=["", "ignoring signals"])
    def test_a_command_ends_with_all_its_processes(self, rc, run, ignoring):
        trap = "trap '' INT TERM; " if ignoring else ""
        result = rc[0].execute(f"!{trap}echo $$; sleep 300 | cat; echo never")
        assert wait_until(lambda: (result.stdout or "").strip().isdigit(), 60)
        shell = psutil.Process(int(result.stdout))
        assert wait_until(lambda: len(shell.children()) == 2, 30)
        processes = [shell, *shell.children()]
        failure = self.interrupt(rc, result)
        assert failure.ename == "KeyboardInterrupt"
        assert "subprocess" not in failure.traceback, "which would be most of it"
        _, left = psutil.wait_procs(processes, timeout=20)
        assert not left
        assert text_of(run("1")) == "1"

    def test_a_script_ends(self, rc, run):
        result = rc[0].execute("%%bash\necho $$; sleep 300; echo never")
        assert wait_until(lambda: (result.stdout or "").strip().isdigit(), 60)
        shell = psutil.Process(int(result.stdout))
        processes = [shell, *shell.children()]
        assert self.interrupt(rc, result).ename in ("KeyboardInterrupt", "CalledProcessError")
        for process in processes[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # IPython ends the shell alone
        _, left = psutil.wait_procs(processes, timeout=20)
        assert not left
        assert text_of(run("1")) == "1"


def test_what_failed_long_ago_is_forgotten(rc):
    """IPython's tracebacks keep every text that they have shown, parsed."""

    @ipp.interactive
    def parsed():
        import gc

        gc.collect()
        return sum(type(one).__name__ in ("Source", "Module") for one in gc.get_objects())

    def fail(number):
        with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
            rc[0].execute(f"y = {number}\n1 / 0", block=True)

    for number in range(60):
        fail(number)
    before = rc[0].apply_sync(parsed)
    for number in range(60, 360):
        fail(number)
    assert rc[0].apply_sync(parsed) <= before + 40  # 10 of each at the most; it would be 600
    result = rc[0].execute("def f():\n    return undefined_name\nf()")
    with pytest.raises(ipp.RemoteError) as error:
        result.get(60)
    assert "return" in error.value.traceback  # texts are read again

def test_the_text_of_old_cells_is_let_go(rc):
    """Loops that send cells without end leave no trace."""
    rc[0].execute("import linecache\nfrom mpiparallel.engine import shell\nshell.MAX_SOURCES = 50").get(
        timeout=60
    )
    for i in range(120):
        rc[0].execute(f"x = {i}", block=True)
    count = "sum(name.startswith('<ipython-input') for name in linecache.cache)"
    try:
        assert rc[0][count] <= 50
        with pytest.raises(ipp.RemoteError) as caught:
            rc[0].execute("def f():\n    return 1 / 0\nf()").get(timeout=60)
        assert "return" in caught.value.traceback
    finally:
        rc[0].execute("shell.MAX_SOURCES = 10_000", block=True).get(timeout=60)


FIRST_CELL = """
import time
import cloudpickle, numpy
import mpiparallel.engine.executor
from mpiparallel.engine.namespace import UserModule
began = time.process_time()
from mpiparallel.engine.shell import make_shell
shell = make_shell(UserModule("__main__"), None, dict)
shell.run_cell("pass", silent=True)
print(time.process_time() - began)
"""


def test_the_first_cell_is_no_long_wait():
    """Four engines on two cores have half a second for it: that is a quarter of processor time for each."""
    times = [float(subprocess.check_output([sys.executable, "-c", FIRST_CELL], timeout=60)) for _ in range(3)]
    assert min(times) < 0.25, times
