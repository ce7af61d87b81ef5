"""Output of a request as it is streamed: folded, with errors, and not faster than it is shown."""

from __future__ import annotations

import sys
import threading

import pytest
from helpers import wait_until

from mpiparallel import error


def stream(result, fold=True):
    with result.stream_output(fold=fold):
        result.wait(20)


def test_what_all_say_is_shown_once(client, capsys):
    stream(client[:].execute("print('hello')\nprint('rank', engine_id)\nprint('end')"))
    assert capsys.readouterr().out == (
        "[stdout:0-3] hello\n"
        "[stdout:0] rank 0\n[stdout:1] rank 1\n[stdout:2] rank 2\n[stdout:3] rank 3\n"
        "[stdout:0-3] end\n"
    )


def test_the_switch(client, capsys, monkeypatch):
    stream(client[:2].execute("print('hello')"), fold=None)  # plain text
    assert capsys.readouterr().out.count("hello") == 2
    monkeypatch.setenv("MPIPARALLEL_FOLD", "1")
    from mpiparallel.config import Config

    client._config = Config.from_environment()
    result = client[:2].execute("print('hello')\n5", silent=False)
    stream(result, fold=None)
    assert capsys.readouterr().out == "[stdout:0-1] \nhello\n"
    result.display_outputs()
    assert capsys.readouterr().out == "[stdout:0-1] \nhello\nOut[0-1:1]: 5\n"
    result.display_outputs(groupby="engine")
    assert capsys.readouterr().out == "[stdout:0-1] \nhello\nOut[0-1:1]: 5\n"
    result.display_outputs(fold=False)
    assert capsys.readouterr().out.count("hello") == 2


def test_identical_displays_are_shown_once(client, capsys):
    code = "_output('display', content={'data': {'text/plain': 'picture'}, 'metadata': {}})\nx = 1"
    result = client[:].execute(code)
    stream(result)
    assert capsys.readouterr().out == "[output:0-3]\npicture\n"
    result.display_outputs(fold=True)
    assert capsys.readouterr().out == "[output:0-3]\npicture\n"


def test_output_before_an_unfinished_line_is_complete(client, capsys):
    result = client[:2].execute("_output('stdout', 'a\\nbegun')\n_go = True\nx = 1")
    stream(result)
    assert capsys.readouterr().out == "[stdout:0-1] \na\nbegun"


def test_errors_are_shown_by_the_stream(client, capsys):
    result = client[:].execute("print('before')\n1 / (engine_id - 2 if engine_id == 2 else 0)")
    stream(result)
    shown = capsys.readouterr()
    assert shown.out == "[stdout:0-3] \nbefore\n"
    assert shown.err.startswith("[0-3:execute] ranks 0-3 on here:\n")
    assert shown.err.count("ZeroDivisionError") == str(result.exception()._error(0).traceback).count(
        "ZeroDivisionError"
    )


def test_errors_of_one_engine_alone(client, capsys):
    stream(client[1].execute("1 / 0"))
    assert capsys.readouterr().err.startswith("[1:execute] rank 1 on here:\n")


def test_errors_among_results_are_not_shown(client, capsys):
    result = client[:].map_async(lambda x: 1 / x, [0, 1], return_exceptions=True)
    stream(result)
    assert capsys.readouterr().err == ""


def test_many_differing_errors_are_short(client, capsys):
    result = client.load_balanced_view().map_async(lambda x: [][x], range(60), chunksize=1)
    stream(result)
    shown = capsys.readouterr().err
    assert shown.count("Traceback") <= 4
    assert "IndexError: list index out of range (" in shown and " times)" in shown
    assert len(shown.splitlines()) < 120


def test_what_was_aborted_is_one_line(client, fake, capsys):
    fake.paused.set()
    results = [client[:].execute(code) for code in ("1 / 0", "print('never')")]
    fake.release(client)
    stream(results[0])
    capsys.readouterr()
    stream(results[1])
    if isinstance(results[1].exception(), error.TaskAborted):
        shown = capsys.readouterr().err
        assert shown.count("TaskAborted") == 1 and "[0-3:execute]" in shown


class Slow:
    """A screen that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.text = ""

    def write(self, text):
        assert self.go.wait(20)
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def test_credit_is_given_when_output_is_shown(client, fake, monkeypatch):
    slow = Slow()
    monkeypatch.setattr(sys, "stdout", slow)
    fake.paused.set()  # what comes before it is watched is not waited for
    result = client[0].execute("for i in range(10): _output('stdout', '%d\\n' % i)")
    with result.stream_output():
        fake.release(client)
        result.wait(20)
        assert result.stdout == "".join(f"{i}\n" for i in range(10))  # it has come
        assert not fake.consumed.get(0)
        slow.go.set()
    assert slow.text == result.stdout
    assert wait_until(lambda: fake.consumed.get(0) == len(slow.text))


def test_a_closed_screen_is_told_and_holds_nobody_up(client, monkeypatch):
    class Closed(Slow):
        def write(self, text):
            raise BrokenPipeError("nobody reads")

    result = client[0].execute("for i in range(10): _output('stdout', '%d\\n' % i)")
    with pytest.raises(BrokenPipeError), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        with result.stream_output():
            result.wait(20)
    assert result.stdout.count("\n") == 10
    assert result._tasks[0].watchers == ()


def test_a_ctrl_c_while_the_rest_is_shown_ends_that(client, monkeypatch):
    slow = Slow()
    monkeypatch.setattr(sys, "stdout", slow)
    result = client[0].execute("print('much')")
    interrupted = []

    def join(self, timeout=None):
        if self.name == "mpiparallel-output" and not interrupted:
            interrupted.append(self)
            raise KeyboardInterrupt
        return original(self, timeout)

    original = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt), result.stream_output():
        result.wait(20)
    slow.go.set()
    assert wait_until(lambda: not interrupted[0].is_alive())
