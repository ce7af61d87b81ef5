"""Everything that engines print arrives: from Python, from C, from children, from cells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from helpers import wait_until

import mpiparallel as ipp

pytestmark = pytest.mark.mpi


def test_every_way_to_write_keeps_its_order(rc):
    def write():
        import ctypes

        print("python")
        os.write(1, b"descriptor\n")
        os.system("echo child")
        ctypes.CDLL(None).puts(b"C")
        sys.stderr.write("trouble\n")
        print("last", end="")

    result = rc[:].apply_async(write)
    result.get(timeout=30)
    assert result.stdout == ["python\ndescriptor\nchild\nC\nlast"] * 4
    assert result.stderr == ["trouble\n"] * 4


def test_what_open_mpi_says_of_a_death_is_not_among_it(rc):
    def write():
        from mpiparallel.engine import datapub

        line = b"NBC_Progress: an error 75 was found during schedule 0x55b7f13fb660 at row-offset 186 - "
        line += b"aborting the schedule"
        datapub.output.finish()
        for part in (b"before\n", line + b"\n", b"\n", b"\nNBC_Progress: mine\n", line * 2 + b"\n\nafter\n"):
            os.write(2, part)
            datapub.output.finish()  # each is a piece of its own

    result = rc[:].apply_async(write)
    result.get(timeout=30)
    assert result.stderr == ["before\n\nNBC_Progress: mine\nafter\n"] * 4


def test_all_of_much_output_arrives_in_order(rc):
    def chatter(n):
        for i in range(n):
            print(i, "x" * 40)

    result = rc[:].apply_async(chatter, 40_000)
    result.get(timeout=60)
    expected = [f"{i} {'x' * 40}" for i in range(40_000)]
    for text in result.stdout:
        assert text.splitlines() == expected


def test_what_is_shown_is_not_kept(rc):
    """IPython keeps a copy of all that a cell has printed, where an engine runs for weeks."""
    view = rc[:]
    cell = "for i in range(%d): print(f'{i:09d}' * 20)\ndisplay(i)\n'x' * 1000"
    view.execute(cell % 10_000, silent=False, block=True)
    engines = [psutil.Process(pid) for pid in view.apply_sync(os.getpid)]
    before = [engine.memory_info().rss for engine in engines]
    chatter = view.execute(cell % 80_000, silent=False, block=True)
    growth = [engine.memory_info().rss - old for engine, old in zip(engines, before, strict=True)]
    assert max(growth) < 8e6 < 80_000 * 181 == len(chatter.stdout[3])


def test_output_comes_while_the_task_runs(rc):
    result = rc[0].apply_async(ipp.interactive(lambda: (print("begun"), __import__("time").sleep(60))))
    assert wait_until(lambda: "begun" in (result.stdout or ""), 10)
    assert not result.done()
    while not result.done():
        rc.send_signal(signal.SIGINT, block=True)
        result.wait(0.2)


def test_characters_that_fall_between_two_reads(rc):
    text = "aé漢𝄞" * 30_000
    result = rc[0].apply_async(print, text)
    result.get(timeout=30)
    assert result.stdout == text + "\n"


def test_bytes_that_are_no_text_do_not_hurt(rc):
    result = rc[0].apply_async(lambda: os.write(1, bytes(range(256))))
    assert result.get(timeout=30) == 256
    assert len(result.stdout) == 256


def test_a_cell_is_ipython(rc):
    code = textwrap.dedent("""
        import asyncio
        from IPython.display import HTML, display
        answer = await asyncio.sleep(0.01, 42)
        !echo from the shell
        %env MPIPARALLEL_TEST_CELL=1
        display(HTML("<b>bold</b>"))
        answer
    """)
    result = rc[:].execute(code, silent=False, block=True)
    replies = result.get(timeout=60)
    assert [reply.data["text/plain"] for reply in replies] == ["42"] * 4
    assert all("from the shell\n" in text for text in result.stdout)
    assert [outputs[0]["data"]["text/html"] for outputs in result.outputs] == ["<b>bold</b>"] * 4
    assert result.execute_input == [code] * 4


def test_a_silent_cell_shows_no_result_and_is_not_counted(rc):
    counted = rc[0].execute("1", silent=False, block=True).get(timeout=60)
    silent = rc[0].execute("2", silent=True, block=True)
    assert not silent.get(timeout=60).data
    again = rc[0].execute("3", silent=False, block=True).get(timeout=60)
    assert again.execution_count == counted.execution_count + 1


def test_a_cells_traceback_is_ipythons(rc):
    with pytest.raises(ipp.RemoteError) as caught:
        rc[0].execute("def broken():\n    return 1 / 0\nbroken()", block=True).get(timeout=60)
    assert caught.value.engine_info["method"] == "execute"
    plain = "".join(part.partition("m")[2] for part in ("m" + caught.value.traceback).split("\x1b["))
    assert "ZeroDivisionError" in plain and "return 1 / 0" in plain


def test_a_syntax_error_is_told(rc):
    with pytest.raises(ipp.RemoteError, match="SyntaxError"):
        rc[0].execute("def (", block=True).get(timeout=60)


def test_data_published_during_a_task(rc):
    def publish():
        import time

        from mpiparallel.engine.datapub import publish_data

        publish_data({"step": 1})
        publish_data({"step": 2, "field": [1.5]})
        time.sleep(60)

    result = rc[0].apply_async(publish)
    assert wait_until(lambda: result.data == {"step": 2, "field": [1.5]})
    assert not result.done()
    while not result.done():
        rc.send_signal(signal.SIGINT, block=True)
        result.wait(0.2)


def test_a_client_that_does_not_read_holds_the_printer_back_and_loses_nothing(rc, cluster, tmp_path):
    """The client is stopped; the engine must block, with bounded memory, and go on when the client does."""
    script = tmp_path / "reader.py"
    script.write_text(
        textwrap.dedent(f"""
        import mpiparallel as ipp
        rc = ipp.Client({str(cluster.connection_file)!r})
        def chatter():
            import os
            line = "y" * 99 + "\\n"
            for i in range(200_000):
                os.write(1, line.encode())
                if i == 1000:
                    open({str(tmp_path / "begun")!r}, "w").close()
        ar = rc[0].apply_async(chatter)
        print("submitted", flush=True)
        ar.get(timeout=100)
        print(len(ar.stdout), set(ar.stdout.splitlines()) == {{"y" * 99}}, flush=True)
        """)
    )
    engine = psutil.Process(rc[0].apply_sync(os.getpid))
    reader = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout.readline() == "submitted\n"
        assert wait_until((tmp_path / "begun").exists)
        reader.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: _blocked_in_write(engine), 20), "the engine went on printing to nobody"
        assert rc.queue_status()[0]["queue"] == 1, "it printed everything, to where?"
        before = engine.memory_info().rss
        reader.send_signal(signal.SIGCONT)
        assert reader.stdout.readline() == "20000000 True\n"
        assert engine.memory_info().rss < before + (64 << 20)
    finally:
        reader.send_signal(signal.SIGCONT)
        reader.kill()
        reader.wait()
        reader.stdout.close()


def _blocked_in_write(process: psutil.Process) -> bool:
    """Whether the process burns no more time than an idle engine does, for half a second."""
    used = sum(process.cpu_times()[:2])
    time.sleep(0.5)
    return sum(process.cpu_times()[:2]) - used < 0.1
