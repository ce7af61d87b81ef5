"""The stop button in a blocking ``%%px``: engines end, what was interrupted is shown, all goes on at once."""

from __future__ import annotations

import re
import time

import pytest
from helpers import wait_until

pytestmark = pytest.mark.mpi

WORK = {
    "sleep": "import time\nsay()\ntime.sleep(600)",
    "loop": "say()\nwhile True: pass",
    "numpy": "import numpy as np\nx = np.ones(1000)\nsay()\nwhile True: x = x * 1.0",
    "barrier": "say()\nif mpi_rank == 0:\n    while True: pass\nMPI.COMM_WORLD.Barrier()",
    "receive": "say()\nMPI.COMM_WORLD.recv(source=(mpi_rank + 1) % mpi_size)",
    "shell": "say()\n!sleep 600",
    "capture": "say()\nx = !sleep 600",
    "subprocess": "import subprocess\nsay()\nsubprocess.run(['sleep', '600'])",
    "await": "import asyncio\nsay()\nawait asyncio.sleep(600)",
    "lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nsay()\nlock.acquire()",
    "magic": "say()\n%time __import__('time').sleep(600)",
    "one": "import time\nsay()\nif mpi_rank == 2: time.sleep(600)",
}


@pytest.fixture
def stopped(kernel):
    """Returns the page of a cell that was stopped when all of it had begun."""
    kernel.do("%%px\nfrom mpi4py import MPI\ndef say():\n    print('begun on', mpi_rank, flush=True)")

    def stop(code: str, options: str = "", wanted: int = 4):
        cell = kernel.start(f"%%px {options}\n{code}")
        cell.until(lambda page: page.read().count("begun on") >= wanted)
        kernel.interrupt()
        return cell.finish(30)

    return stop


def usable(kernel) -> None:
    """Kernel and engines do what they are told, at once."""
    began = time.monotonic()
    page = kernel.do("%px print('sum is', MPI.COMM_WORLD.allreduce(mpi_rank))")
    assert page.read().count("sum is 6") in (1, 4)
    assert time.monotonic() - began < 5, "a busy machine takes its time, but not that long"


@pytest.mark.parametrize("kind", WORK)
def test_stop_button(kernel, stopped, kind):
    page = stopped(WORK[kind])
    assert page.error is None, page.read()
    assert "Received Keyboard Interrupt. Sending signal SIGINT to engines..." in page.stderr
    # IPython ends what ``x = !command`` runs by itself, says ^C, and goes on.
    assert ("^C" if kind == "capture" else "KeyboardInterrupt") in page.read()
    usable(kernel)


def test_what_cells_say_when_they_are_interrupted(kernel, stopped):
    page = stopped(
        "import time\n"
        "try:\n"
        "    say()\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    for i in range(1000): print('cleaning', mpi_rank, i)"
    )
    assert page.error is None
    text = page.read()
    assert all(text.count(f"cleaning {rank} {i}\n") == 1 for rank in range(4) for i in range(1000))
    usable(kernel)


def test_a_flood_is_stopped(kernel, stopped):
    page = stopped("say()\ni = 0\nwhile True:\n    i += 1\n    print('line', mpi_rank, i)")
    assert page.error is None
    for rank, last in enumerate(kernel.value("view['i']")):
        lines = re.findall(rf"line {rank} (\d+)\n", page.read())
        assert [int(one) for one in lines[:last]] == list(range(1, len(lines) + 1))
        assert len(lines) in (last - 1, last)
    usable(kernel)


def test_without_streaming_output_is_shown_first(kernel, tmp_path):
    mark = str(tmp_path / "mark")
    cell = kernel.start(
        f"%%px --no-stream\nimport time\nprint('said', mpi_rank)\nopen({mark!r} + str(mpi_rank), 'w')\n"
        "time.sleep(600)"
    )
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 4)
    kernel.interrupt()
    page = cell.finish()
    assert page.error is None
    text = page.read()
    assert [text.count(f"said {rank}") for rank in range(4)] == [1] * 4
    assert text.index("said") < text.index("KeyboardInterrupt")
    usable(kernel)


def test_stop_button_beside_a_progress_bar(kernel, stopped):
    page = stopped("say()\nif mpi_rank:\n    while True: pass", "--progress-after 0")
    assert page.error is None
    assert "Sending signal SIGINT" in page.stderr
    usable(kernel)


def test_engines_that_do_not_end_are_named(kernel, go):
    """A second press of the button stops the waiting."""
    cell = kernel.start(
        "%%px\n"
        "import os, signal, time\n"
        "from mpi4py import MPI\n"
        "old = signal.signal(signal.SIGINT, signal.SIG_IGN) if mpi_rank in (1, 2) else None\n"
        "print('begun on', mpi_rank)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "signal.signal(signal.SIGINT, old)\n"
        "print('ended at last')"
    )
    cell.until(lambda page: page.read().count("begun on") == 4)
    kernel.interrupt()
    cell.until(lambda page: re.search(r"\b3:execute\]", page.read()) and re.search(r"\[0\b", page.read()))
    kernel.interrupt()
    page = cell.finish(10)
    assert "engines 1-2" in page.read() and "%pxwhere" in page.read()
    assert re.search(r"engines 1-2 .* cell line 5: while", kernel.do("%pxwhere").read())
    go.touch()
    assert "ended at last" in kernel.run("%pxresult").read()
    usable(kernel)


def test_no_signal_at_all(kernel, go):
    cell = kernel.start(
        "%%px --signal-on-interrupt 0\n"
        "import os, time\n"
        "print('begun on', mpi_rank)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "print('done on', mpi_rank)"
    )
    cell.until(lambda page: page.read().count("begun on") == 4)
    kernel.interrupt()
    page = cell.finish(10)
    assert page.error is None
    assert "done on" not in page.read()
    go.touch()
    assert kernel.do("%pxresult").read().count("done on") == 4
    usable(kernel)


def test_what_runs_already_goes_on(kernel, rc, go):
    """A cell that waits behind another is taken back; the other was not what the user waited for."""
    kernel.do(
        "%%px --noblock -o first\n"
        "import os, time\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "first = 'ended'"
    )
    cell = kernel.start("%%px\nsecond = 'begun'")
    assert wait_until(lambda: all(rc.queue_status()[engine]["queue"] == 2 for engine in range(4)))
    kernel.interrupt()
    page = cell.finish(10)
    assert page.error is None
    assert "Sending signal SIGINT" in page.stderr
    go.touch()
    kernel.do("first.get(30)")
    assert kernel.value("view['first']") == ["ended"] * 4
    assert kernel.value("view.apply_sync(lambda: 'second' in globals())") == [False] * 4
    usable(kernel)


@pytest.mark.parametrize(
    "call",
    [
        "view.apply_sync(long)",
        "view.map_sync(long, range(4))",
        "rc.load_balanced_view().map_sync(long, range(4))",
        "view.apply_async(long).get()",
        "view.apply_async(long).wait_interactive()",
        "list(rc.load_balanced_view().imap(long, range(4)))",
    ],
)
def test_other_blocking_calls_raise(kernel, tmp_path, call):
    mark = str(tmp_path / "mark")
    kernel.do(
        "@ipp.interactive\n"
        "def long(*args):\n"
        "    import time\n"
        f"    open({mark!r} + str(mpi_rank), 'w').close()\n"
        "    time.sleep(600)"
    )
    cell = kernel.start(call)
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 4)
    kernel.interrupt()
    assert cell.finish(10).error == "KeyboardInterrupt: "
    kernel.do("rc.abort()\nrc.interrupt()\nrc.wait(timeout=30)")
    usable(kernel)


def test_stopped_at_any_moment(kernel):
    """Wherever in our code it comes, the cell ends, and the next one runs on all engines."""
    page = kernel.do(
        """
import os, random, signal, threading
%px import time
run = get_ipython().run_cell_magic
moments = random.Random(5)
for number in range(40):
    timer = threading.Timer(moments.random() * 0.08, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        run("px", "", "print('begun')\\ntime.sleep(0.03)\\nprint('ended')")
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:
        timer.join()  # it came too late
    run("px", "", f"assert mpi_rank in range(4)\\nreached = {number}")
    assert view["reached"] == [number] * 4
print("through")
"""
    )
    assert page.stdout.endswith("through\n")
    usable(kernel)
