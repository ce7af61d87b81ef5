"""%px and its kin on real engines, in a shell in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import wait_until

import mpiparallel as ipp
from client.shells import magics_of, plain, shell_running

pytestmark = [pytest.mark.mpi, pytest.mark.anympi, pytest.mark.timeout(120)]


@pytest.fixture
def shell():
    with shell_running() as shell:
        yield shell


@pytest.fixture
def px(shell, rc):
    rc.activate()
    return magics_of(shell)


def run(shell, cell):
    """Run a cell of the user's; raise its error."""
    shell.run_cell(cell).raise_error()


@contextmanager
def ctrl_c_when(rc, inside: dict[str, int]) -> Iterator[None]:
    """Send SIGINT to this process when so many engines as `inside` says are at lines with these words."""
    seen: list[Any] = []

    def all_are() -> bool:
        lines = [place.stack[-1].text for place in rc.where() if place.stack]
        return Counter(word for line in lines for word in inside if word in line) == inside

    def wait() -> None:
        seen.append(wait_until(all_are, 30) or rc.where())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert seen == [True], seen


def test_a_session(shell, px, rc, capsys):
    run(shell, "%px import os")
    run(shell, "%px print(f'process {os.getpid()}')")
    run(shell, "%%px\na = engine_id\na * 2")
    out = plain(capsys.readouterr().out)
    for engine, pid in enumerate(rc[:].apply_sync(os.getpid)):
        assert out.count(f"process {pid}\n") == 1
        assert f"[stdout:{engine}]" in out
        assert f"{engine * 2}\n" in out
    assert rc[:]["a"] == [0, 1, 2, 3]


def test_ipython_on_the_engines(shell, px, rc, capfd):
    cell = "%time x = 5\n!echo from the shell\nimport asyncio\nawait asyncio.sleep(0, 7)"
    run(shell, f"%%px --targets 0\n{cell}")
    out = capfd.readouterr().out
    assert "Wall time" in out and "from the shell" in out and ": 7" in out
    run(shell, "%%px -t 1\n%%bash\necho $((6 * 7))")
    assert "42\n" in capfd.readouterr().out


def test_targets(shell, px, rc):
    shell.user_ns["odd"] = [1, 3]
    run(shell, "%px x = 0")
    for targets in ("0:2", "[0, 2]", "-1:", "3", "odd", "::2, 3", "'1:'", "all"):
        run(shell, f"%%px --target {targets}\nx = x + 1")
    assert rc[:]["x"] == [4, 4, 4, 6]
    with pytest.raises(IndexError, match="No such engine: 9"):
        run(shell, "%%px -t 9\nx = 1")


def test_a_cell_is_one_step_of_all_ranks(shell, px, rc, capsys):
    run(shell, "%%px --no-fold\nprint('sum', comm.allreduce(mpi_rank))")
    assert capsys.readouterr().out.count("sum 6\n") == 4


def test_errors_are_the_engines(shell, px, rc, capsys):
    run(shell, "%px def work(x): return 1 / x")
    failed = shell.run_cell("%%px\nprint('before')\nwork(engine_id)").error_in_exec
    shown = capsys.readouterr()
    text = plain(shown.out + shown.err)
    assert isinstance(failed, ipp.RemoteError)
    assert text.count("before") >= 1
    assert text.count("division by zero") == 1  # once, and with the engine's own lines
    assert "def work(x): return 1 / x" in text
    assert "magics.py" not in text and "asyncresult.py" not in text
    assert "0.5" in text  # engine 2 has a result nevertheless


def test_an_error_aborts_what_is_queued_behind_it_there(shell, px, rc):
    run(shell, "%pxconfig --noblock -t -1")
    run(shell, "%px b = 10; c = 0; import time")
    shell.run_cell("%px time.sleep(0.3)")
    failed = shell.run_cell("%px b / c").result
    behind = shell.run_cell("%px b = b * 2").result
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        failed.get(30)
    with pytest.raises(ipp.TaskAborted):
        behind.get(30)
    assert rc[3]["b"] == 10


def test_local(shell, px, rc, capsys):
    run(shell, "%%px --local\nimport math\ny = math.floor(2.5)")
    assert shell.user_ns["y"] == 2 and rc[:]["y"] == [2] * 4


def test_noblock_and_pxresult(shell, px, rc, capsys):
    result = shell.run_cell("%%px --noblock -o kept\nimport time\ntime.sleep(0.5)\nprint('hello')\n5").result
    assert isinstance(result, ipp.AsyncResult) and not result.done()
    assert shell.user_ns["kept"] is result
    capsys.readouterr()
    run(shell, "%pxresult --no-fold")
    out = plain(capsys.readouterr().out)
    assert out.count("hello\n") == 4 and out.count(": 5\n") == 4


def test_groups(shell, px, rc, capsys):
    cell = "from IPython.display import display\nprint('text')\ndisplay('one')\ndisplay('two')\n7"
    for options, words in [
        ("--group-outputs=type", "text text one two one two 7 7"),
        ("-r", "text text one one two two 7 7"),
        ("-e", "text one two 7 text one two 7"),
    ]:
        capsys.readouterr()
        run(shell, f"%%px -t 0:2 --no-stream --no-fold {options}\n{cell}")
        out = plain(capsys.readouterr().out)
        found = [line.rpartition(" ")[2].strip("'") for line in out.splitlines() if not line.startswith("[")]
        assert " ".join(found) == words


def test_autopx(shell, px, rc, capsys):
    run(shell, "%autopx")
    run(shell, "a = 5\nb = engine_id\nc = 0")
    run(shell, "b *= 2")
    capsys.readouterr()
    run(shell, "%time b + 1000")
    assert "Wall time" in capsys.readouterr().out
    run(shell, "b + 1000")
    out = plain(capsys.readouterr().out)
    assert all(f": {1000 + 2 * engine}\n" in out for engine in range(4))
    assert isinstance(shell.run_cell("a / c").error_in_exec, ipp.RemoteError)
    run(shell, "%autopx")
    run(shell, "local = 1")
    assert shell.user_ns["local"] == 1 and "a" not in shell.user_ns
    assert rc[:]["b"] == [0, 2, 4, 6]
    assert all("local" not in names for names in rc[:].apply_sync(lambda: list(globals())))


CELLS = {
    "sleep": ("import time\nprint('begin')\ntime.sleep(60)\nprint('end')", {"sleep(60)": 4}),
    "loop": ("print('begin')\nwhile True: pass\nprint('end')", {"while": 4}),
    # One does not wait in MPI, or it would be a deadlock.
    "barrier": (
        "print('begin')\nwhile mpi_rank == 2: pass\ncomm.barrier()\nprint('end')",
        {"while": 1, "barrier": 3},
    ),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("options", ["", "--no-stream"])
def test_ctrl_c(shell, px, rc, capsys, kind, options):
    cell, inside = CELLS[kind]
    began = time.monotonic()
    with ctrl_c_when(rc, inside):
        run(shell, f"%%px {options}\n{cell}")
    assert time.monotonic() - began < 30
    shown = capsys.readouterr()
    assert "Received Keyboard Interrupt. Sending signal SIGINT to engines...\n" in shown.err
    assert "engines 0-3: interrupted\n" in shown.err
    assert "begin" in shown.out and "end" not in shown.out
    run(shell, "%px x = comm.allreduce(1)")
    assert rc[:]["x"] == [4] * 4


def test_pxwhere(shell, px, rc):
    cell = "import time\ndef wait():\n    time.sleep(60)\nif mpi_rank == 2:\n    wait()\ncomm.barrier()"
    result = shell.run_cell(f"%%px --noblock\n{cell}").result
    inside = "     2 -> 3      time.sleep(60)", "0-1, 3 -> 6  comm.barrier()"
    pictures = []

    def shown() -> bool:
        pictures.append(str(shell.run_line_magic("pxwhere", "")))
        return all(line in pictures[-1].splitlines() for line in inside)

    assert wait_until(shown, 30), pictures[-1]
    assert "blocked" in pictures[-1] and "engines 0-1, 3" in pictures[-1]
    only = str(shell.run_line_magic("pxwhere", "-t 2"))
    assert "2 -> 3      time.sleep(60)" in only and "0-1" not in only.split("\n\n")[1]
    rc.interrupt()
    assert result.wait(30)
    assert str(shell.run_line_magic("pxwhere", "")) == "engines 0-3  idle"


def test_engines_that_take_no_notice(shell, px, rc, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("mpiparallel.client.magics.PATIENCE", 5.0)
    go = tmp_path / "go"
    cell = (
        "import os, time\n"
        f"while mpi_rank == 1 and not os.path.exists({str(go)!r}):\n"
        "    try:\n"
        "        time.sleep(0.2)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "time.sleep(60) if mpi_rank != 1 else None"
    )
    try:
        with pytest.raises(ipp.EngineError) as left, ctrl_c_when(rc, {"time.sleep": 4}):
            run(shell, f"%%px\n{cell}")
        assert str(left.value).startswith("engine 1: not ended by signal SIGINT. %pxwhere shows")
        where = str(shell.run_line_magic("pxwhere", "-t 1"))
        assert "engine 1" in where and "line 4" in where
    finally:
        go.touch()
    assert px.last_result.wait(30)
    run(shell, "%px x = comm.allreduce(1)")
    assert rc[:]["x"] == [4] * 4


def test_sigkill(shell, px, rc, capsys):
    """The last resort. What is left of the world depends on the MPI."""
    with ctrl_c_when(rc, {"while": 1}):
        run(shell, "%%px --signal-on-interrupt SIGKILL -t 3\nwhile True: pass")
    err = capsys.readouterr().err
    assert "Sending signal SIGKILL to engines...\n" in err
    assert "engine 3: EngineError\n" in err
    assert wait_until(lambda: 3 not in rc.ids)
