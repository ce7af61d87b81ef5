"""A look at other processes: at work, holding the GIL, stopped, gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest
from helpers import wait_until

from mpiparallel import peek
from mpiparallel.peek import Line

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and memfd")

Start = Callable[..., "subprocess.Popen[bytes]"]

HOLDS_THE_GIL = """
    import ctypes
    read, _ = os.pipe()
    def inner():
        ctypes.PyDLL(None).read(read, ctypes.create_string_buffer(1), 1)
    def outer():
        inner()
    outer()
"""
WAITS = """
    def outer():
        os.read(os.pipe()[0], 1)
    outer()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that run some code after they have said that they are ready."""
    processes = []

    def run(code: str, offer: bool = True) -> subprocess.Popen[bytes]:
        begin = "import os\nfrom mpiparallel import peek\n" + ("peek.offer()\n" if offer else "")
        script = begin + "print('ready', flush=True)\n" + textwrap.dedent(code)
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def functions(seen: peek.Peek) -> list[str]:
    return [line.function for line in seen.stack]


def look_until(pid: int, wanted: list[str]) -> peek.Peek:
    """Look until the process has got where it is to be."""
    seen = peek.Peek()

    def there() -> bool:
        nonlocal seen
        seen = peek.look(pid, timeout=5.0)
        return functions(seen) == wanted

    assert wait_until(there), seen
    return seen


class TestLook:
    def test_at_one_that_holds_the_gil(self, start: Start) -> None:
        process = start(HOLDS_THE_GIL)
        seen = look_until(process.pid, ["<module>", "outer", "inner"])
        assert seen.stack[-1] == Line("<string>", 9, "inner")
        assert seen.detail == ""
        assert process.poll() is None

    def test_many_times_without_leaving_anything(self, start: Start) -> None:
        process = start(HOLDS_THE_GIL)
        look_until(process.pid, ["<module>", "outer", "inner"])
        for _ in range(50):
            assert functions(peek.look(process.pid, timeout=5.0)) == ["<module>", "outer", "inner"]
        (name,) = _offers(process.pid)
        assert os.stat(name).st_size == 0

    def test_two_lookers_take_turns(self, start: Start) -> None:
        process = start(WAITS)
        look_until(process.pid, ["<module>", "outer"])
        with peek.Look(process.pid) as first, peek.Look(process.pid) as second:
            assert first.poll() is None
            assert second.poll() is None  # has not got the lock
            assert wait_until(lambda: first.poll() is not None)
            assert second.poll() is None
            assert functions(first.give_up()) == ["<module>", "outer"]
            first.close()
            assert wait_until(lambda: second.poll() is not None)
            assert functions(second.give_up()) == ["<module>", "outer"]

    def test_with_threads_that_block_every_signal(self, start: Start) -> None:
        process = start(
            """
            import signal, threading
            def block():
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
                started.set()
                threading.Event().wait()
            started = threading.Event()
            threading.Thread(target=block, daemon=True).start()
            started.wait()
            print("now", flush=True)
            def main():
                os.read(os.pipe()[0], 1)
            main()
            """
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        look_until(process.pid, ["<module>", "main"])

    def test_at_one_whose_main_thread_blocks_the_signal(self, start: Start) -> None:
        process = start(
            """
            import signal, threading
            signal.pthread_sigmask(signal.SIG_BLOCK, [peek.SIGNAL])
            os.read(os.pipe()[0], 1)
            """
        )

        def blocked() -> bool:
            return bool(peek._threads_that_block(process.pid))

        assert wait_until(blocked)
        seen = peek.look(process.pid, timeout=0.05)
        assert (seen.stack, seen.detail) == ([], "its stack could not be seen in time")

    def test_at_one_that_offers_nothing(self, start: Start) -> None:
        process = start(WAITS, offer=False)
        assert peek.look(process.pid) == peek.Peek(detail="it does not offer its stack")
        assert process.poll() is None, "the signal has killed it"

    def test_at_one_that_does_not_handle_the_signal_any_more(self, start: Start) -> None:
        process = start(
            """
            import signal
            signal.signal(peek.SIGNAL, signal.SIG_DFL)
            print("now", flush=True)
            os.read(os.pipe()[0], 1)
            """
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        assert peek.look(process.pid).detail == "it does not offer its stack"
        assert process.poll() is None

    def test_at_one_that_is_stopped(self, start: Start) -> None:
        process = start(WAITS)
        process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: peek.is_stopped(process.pid))
        assert peek.look(process.pid).detail == "it was stopped by a signal (SIGSTOP)"
        process.send_signal(signal.SIGCONT)
        look_until(process.pid, ["<module>", "outer"])
        assert not peek.is_stopped(process.pid)

    def test_at_one_that_has_ended(self, start: Start) -> None:
        process = start(WAITS)
        process.kill()
        assert wait_until(lambda: peek.state(process.pid) == "it has ended")
        process.wait()
        assert peek.look(process.pid).detail == "it is gone"
        assert not peek.is_stopped(process.pid)

    def test_at_one_that_ends_meanwhile(self, start: Start) -> None:
        process = start(WAITS)
        with peek.Look(process.pid) as eyes:
            process.kill()
            process.wait()
            assert eyes.poll() == peek.Peek(detail="it is gone")

    @pytest.mark.skipif(not shutil.which("gdb") and not shutil.which("eu-stack"), reason="needs a debugger")
    def test_at_c_functions(self, start: Start) -> None:
        process = start(HOLDS_THE_GIL)
        look_until(process.pid, ["<module>", "outer", "inner"])
        native = peek.look(process.pid, native=True).native
        assert "read" in native[-1]
        assert any("Py" in name for name in native)
        assert process.poll() is None

    def test_no_debugger_no_c_functions(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        process = start(WAITS)
        monkeypatch.setenv("PATH", "/nowhere")
        assert peek.native_stack(process.pid) == []


def _offers(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    names = [f"{folder}/{name}" for name in os.listdir(folder)]
    return [name for name in names if peek.NAME in os.readlink(name)]


class TestOffer:
    def test_twice_is_once(self, start: Start) -> None:
        process = start("peek.offer()\nprint('again', flush=True)\nos.read(os.pipe()[0], 1)")
        assert process.stdout is not None
        assert process.stdout.readline() == b"again\n"
        assert len(_offers(process.pid)) == 1

    def test_where_there_are_no_means(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "memfd_create")
        assert peek.offer() is False


DUMPS = {
    "two threads": (
        'Thread 0x00007fdc17da16c0 (most recent call first):\n  File "/lib/threading.py", line 982 in run\n\n'
        "Current thread 0x00007fdc18a1eb80 (most recent call first):\n"
        '  File "<ipython-input-1-2>", line 9 in hang\n  File "/a b/t.py", line 11 in <module>\n',
        [Line("/a b/t.py", 11, "<module>"), Line("<ipython-input-1-2>", 9, "hang")],
    ),
    "named threads": (
        'Thread 0x7fdc17da16c0 [Thread-1 (run)] (most recent call first):\n  File "x.py", line 1 in run\n\n'
        'Current thread 0x7fdc18a1eb80 [python] (most recent call first):\n  File "t.py", line 2 in f\n\n'
        "Current thread's C stack trace (most recent call first):\n"
        '  Binary file "/lib/libc.so", at read+0x1\n',
        [Line("t.py", 2, "f")],
    ),
    "one thread": ('Stack (most recent call first):\n  File "t.py", line 2 in f\n', [Line("t.py", 2, "f")]),
    "escapes": (
        'Stack (most recent call first):\n  File "/h\\xe4/\\u03c0.py", line ??? in \\xfcb\n',
        [Line("/hä/π.py", 0, "üb")],
    ),
    "no frames": ("Current thread 0x1 (most recent call first):\n  <no Python frame>\n", []),
    "cut": (
        'Stack (most recent call first):\n  File "t.py", line 2 in f\n  File "u.p',
        [Line("t.py", 2, "f")],
    ),
    "nothing": ("", []),
}


@pytest.mark.parametrize("name", DUMPS)
def test_parsing(name: str) -> None:
    text, wanted = DUMPS[name]
    assert peek.parse(text) == wanted


def test_parsing_of_what_debuggers_say() -> None:
    gdb = (
        "[Thread debugging using libthread_db enabled]\n"
        "#0  __GI___libc_read (nbytes=1, buf=0x7f) at ../read.c:26\n"
        "#1  0x00007f28d0076f7a in ?? () from /lib/libffi.so.8\n"
        "#2  0x000055f751051081 in std::vector<int>::at (this=0x0) at v.h:1\n[Inferior 1 detached]\n"
    )
    assert peek.parse_native(gdb) == ["std::vector<int>::at", "__GI___libc_read"]
    assert peek.parse_native("PID 7 - process\nTID 7:\n#0  0x00007f28 read\n#1  0x000055f7 main\n") == [
        "main",
        "read",
    ]
