"""%px and its kin, in a shell in this process: which client they use, what they say, Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from helpers import wait_until
from IPython.core.error import UsageError

import mpiparallel as ipp
from client.shells import magics_of, plain, shell_running
from client.test_interrupting import ctrl_c_when, main_thread_waits
from mpiparallel.client import magics
from mpiparallel.wire.messages import Abort


@pytest.fixture
def shell():
    with shell_running() as shell:
        yield shell


@pytest.fixture
def px(shell, client):
    """The magics of a view of all engines."""
    client.activate()
    return magics_of(shell)


def run(shell, cell):
    """Run a cell of the user's; raise its error."""
    shell.run_cell(cell).raise_error()


# ---------------------------------------------------------------- whose magics


def test_the_first_client_activates(shell, connect):
    assert shell.find_line_magic("px") is None
    first = connect()
    assert magics_of(shell).view.client is first
    assert magics_of(shell).view.block and magics_of(shell).view.targets == "all"
    second = connect()
    assert magics_of(shell).view.client is first
    second[:2].activate()
    assert magics_of(shell).view.client is second


def test_the_next_client_takes_over_when_that_one_is_closed(shell, connect):
    first = connect()
    magics_of(shell).verbose = True
    kept = magics_of(shell)
    first.close()
    second = connect()
    assert magics_of(shell) is kept and kept.view.client is second
    shell.run_line_magic("px", "x = 1")
    assert second[:]["x"] == [1] * 4


def test_load_ext(shell, connect, capsys):
    shell.run_cell("%load_ext mpiparallel")
    for magic in ("%px 1", "%%px\n1", "%pxconfig -b", "%pxwhere", "%autopx"):
        with pytest.raises(UsageError, match=r"need a Client: make one by mpiparallel.Client\(\)"):
            run(shell, magic)
    client = connect()
    assert magics_of(shell).view.client is client
    kept = magics_of(shell)
    ipp.load_ipython_extension(shell)
    assert magics_of(shell) is kept
    client.activate(suffix="_two")
    shell.run_line_magic("autopx", "")
    shell.run_line_magic("unload_ext", "mpiparallel")
    for name in ("px", "pxresult", "result", "pxconfig", "pxwhere", "autopx", "px_two", "autopx_two"):
        assert shell.find_line_magic(name) is None
    assert shell.find_cell_magic("px") is None
    run(shell, "here = 5")
    assert shell.user_ns["here"] == 5
    shell.run_cell("%load_ext mpiparallel")
    assert magics_of(shell).view.client is client and magics_of(shell).view.block
    shell.run_cell("%reload_ext mpiparallel")  # as %load_ext advises who calls it twice
    assert magics_of(shell).view.client is client
    client.close()
    shell.run_cell("%reload_ext mpiparallel")
    assert magics_of(shell).view is None


def test_a_suffix_makes_magics_of_its_own(shell, client):
    one, two = client[:1], client.activate([2, 3], "_two")
    one.activate()
    assert magics_of(shell, "_two").view is two and two.block
    run(shell, "%px a = 1")
    run(shell, "%%px_two\na = 2")
    assert client[[0, 2, 3]]["a"] == [1, 2, 2]
    for name in ("pxresult_two", "pxconfig_two", "pxwhere_two", "autopx_two"):
        assert shell.find_line_magic(name) is not None
    assert shell.find_line_magic("result_two") is None
    with pytest.raises(ValueError, match="px two would not be a name"):
        client.activate(suffix=" two")


def test_another_packages_px_is_replaced(shell, connect):
    shell.register_magic_function(lambda line: None, "line", "px")
    client = connect()
    assert magics_of(shell).view.client is client


def test_old_views_are_not_held_on_to(shell, client):
    before = len(shell.configurables)
    for _ in range(3):
        client.activate()
    assert len(shell.configurables) == before


# ---------------------------------------------------------------- running cells


def test_px(shell, px, client, capsys):
    shell.user_ns.update(x="here", y=1)
    assert shell.run_line_magic("px", "x = 'there'") is None
    assert shell.run_line_magic("px", "z = f'{x} $y {1 + 1}'") is None
    assert client[:]["z"] == ["there $y 2"] * 4
    assert shell.user_ns["x"] == "here"
    capsys.readouterr()
    run(shell, "%px engine_id * 2")
    assert [f"Out[{engine}:3]: {engine * 2}" in capsys.readouterr().out for engine in range(1)] == [True]


def test_options_are_expanded_and_cells_are_not(shell, px, client):
    shell.user_ns.update(name="kept", x="here")
    run(shell, "%%px -o {name}\nx = 'there'\ny = f'{x}'")
    assert client[:]["y"] == ["there"] * 4
    assert isinstance(shell.user_ns["kept"], ipp.AsyncResult)


def test_what_verbose_says(shell, px, client, capsys):
    view = px.view
    for line, cell, words in [
        ("--verbose", "1", "Parallel execution on engine(s): all"),
        ("--verbose --noblock", "1", "Async parallel execution on engine(s): all"),
        ("--verbose -t 0:2", "1", "Parallel execution on engine(s): [0, 1]"),
        ("--verbose -t 3", "1", "Parallel execution on engine(s): 3"),
    ]:
        shell.run_cell_magic("px", line, cell)
        assert capsys.readouterr().out.splitlines()[0] == words
    shell.run_cell_magic("px", "", "x = 1")
    assert capsys.readouterr().out == ""
    shell.run_line_magic("pxconfig", "--verbose --noblock")
    shell.run_line_magic("px", "x = 1")
    assert capsys.readouterr().out == "Async parallel execution on engine(s): all\n"
    shell.run_cell_magic("px", "--no-verbose --block", "x = 1")
    assert capsys.readouterr().out == ""
    assert view.targets == "all" and view.block is False


def test_long_lists_of_targets_are_shortened(shell, fake, client, capsys):
    for number in range(4, 12):
        fake.call(fake.add_engine, number)
    assert wait_until(lambda: len(client) == 12)
    client[:].activate()
    shell.run_cell_magic("px", "--verbose -b", "x = 1")
    assert "engine(s): [0, 1, 2, 3, ..., 8, 9, 10, 11]\n" in capsys.readouterr().out


def test_options_of_a_cell_do_not_stay(shell, px, client):
    px.view.targets = [0, 1]
    for cell in ("x = 1", "1/0"):
        try:
            shell.run_cell_magic("px", "--targets all --noblock", cell).get(10)
        except ipp.RemoteError:
            assert cell == "1/0"
    assert px.view.targets == [0, 1] and px.view.block is True
    assert px.last_result.engine_id == [0, 1, 2, 3]


def test_a_client_that_is_gone(shell, px, client, capsys):
    client.close()
    for magic in ("%px 1", "%%px\n1", "%pxconfig -b", "%pxwhere", "%autopx"):
        with pytest.raises(UsageError, match=r"need a Client, and theirs is gone \(Connections have been cl"):
            run(shell, magic)


def test_a_client_that_is_gone_beside_another(shell, px, client, connect):
    shell.user_ns["rc2"] = connect()
    client.close()
    with pytest.raises(UsageError, match=r"; rc2\.activate\(\) has them use one that is open$"):
        run(shell, "%px 1")
    run(shell, "rc2.activate()")
    run(shell, "%px a = 1")


def test_pxwhere_errors_are_told_shortly(shell, px, capsys):
    assert isinstance(shell.run_cell("%pxwhere -t 9").error_in_exec, IndexError)
    assert plain(capsys.readouterr().out) == "IndexError: No such engine: 9\n"


def test_pxconfig_shows_what_it_has_set(shell, px, capsys):
    shell.run_line_magic("pxconfig", "")
    settings = "--targets all --block --stream --no-verbose --progress-after 2 --signal-on-interrupt SIGINT"
    assert capsys.readouterr().out == f"{settings}\n"
    settings = "--targets [0, 2] --noblock --no-stream --no-fold --verbose"
    settings += " --progress-after 0.5 --signal-on-interrupt 9"
    shell.run_line_magic("pxconfig", settings)
    shell.run_line_magic("pxconfig", "")
    assert capsys.readouterr().out == f"{settings}\n"


def test_pxconfig(shell, client):
    view = client.activate(-1, "_tst")
    assert view.targets == 3
    for text, targets in [(":", [0, 1, 2, 3]), ("::2", [0, 2]), ("1::2", [1, 3]), ("1", 1), ("all", "all")]:
        shell.run_line_magic("pxconfig_tst", f"-t {text}")
        assert view.targets == targets
    shell.run_line_magic("pxconfig_tst", "--noblock --no-stream --progress-after 5 --signal-on-interrupt 9")
    settings = magics_of(shell, "_tst")
    assert view.block is False and settings.stream_output is False
    assert settings.progress_after_seconds == 5 and settings.signal_on_interrupt == "9"
    shell.run_line_magic("pxconfig_tst", "--block --stream --fold")
    assert view.block is True and settings.stream_output is True and settings.fold is True
    assert settings.progress_after_seconds == 5 and view.targets == "all"


def test_noblock(shell, px, fake):
    fake.paused.set()
    result = shell.run_cell_magic("px", "--noblock", "5")
    assert isinstance(result, ipp.AsyncResult) and not result.done()
    assert repr(result) == "<AsyncResult(%px): pending>"
    assert px.last_result is result
    fake.paused.clear()
    assert [reply.data["text/plain"] for reply in result.get(10)] == ["5"] * 4


def test_pxresult(shell, px, client, capsys):
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("pxresult", "")
    assert str(caught.value) == "%pxresult recalls last %px result, which has not yet been used."
    shell.run_cell_magic("px", "--noblock -t 2", "print('hello')\n40 + 2")
    for magic in ("pxresult", "result"):
        capsys.readouterr()
        shell.run_line_magic(magic, "")
        out = capsys.readouterr().out
        assert out.count("hello") == 1 and out.count("Out[2:1]: 42") == 1
    capsys.readouterr()
    shell.run_line_magic("pxresult", "--out again")
    assert capsys.readouterr().out == ""
    assert shell.user_ns["again"] is px.last_result


def test_pxresult_groups(shell, px, capsys):
    shell.run_cell_magic("px", "--noblock --targets :2", "print('hello')\n1")
    for options, words in [
        ("", ["hello", "hello", "Out", "Out"]),
        ("-e", ["hello", "Out", "hello", "Out"]),
        ("--group-outputs=engine", ["hello", "Out", "hello", "Out"]),
        ("-r", ["hello", "hello", "Out", "Out"]),
    ]:
        capsys.readouterr()
        shell.run_line_magic("pxresult", f"{options} --no-fold")
        lines = [line for line in plain(capsys.readouterr().out).splitlines() if not line.startswith("[")]
        assert [line.partition("[")[0] for line in lines] == words


def test_errors_are_shown_once(shell, px, capsys):
    for options, kind, text in [
        ("", ipp.AlreadyDisplayedError, "4 errors"),
        ("-t 2", ipp.AlreadyDisplayedError, "1 error"),
        ("--no-stream", ipp.CompositeError, "one or more exceptions raised in: %px"),
    ]:
        outcome = shell.run_cell(f"%%px {options}\nraise ValueError('bad')")
        shown = capsys.readouterr()
        assert type(outcome.error_in_exec) is kind
        assert str(outcome.error_in_exec).splitlines()[0] == text
        shown = plain(shown.out + shown.err)
        assert shown.count("ValueError: bad") == 1 and "magics.py" not in shown
        assert "[2:execute]" in shown or "[0-3:execute]" in shown


def test_errors_without_engines_are_told_shortly(shell, px, fake, capsys):
    assert isinstance(shell.run_cell("%%px -t 9\n1").error_in_exec, IndexError)
    assert plain(capsys.readouterr().out) == "IndexError: No such engine: 9\n"
    for number in range(4):
        fake.call(fake.remove_engine, number)
    assert wait_until(lambda: not px.view.client.ids)
    assert isinstance(shell.run_cell("%px 1").error_in_exec, ipp.NoEnginesRegistered)
    assert plain(capsys.readouterr().out) == (
        "NoEnginesRegistered: This operation requires engines. Try client.wait_for_engines(n) to wait for "
        "engines to register.\n"
    )


@pytest.mark.parametrize("options", ["--no-stream", "--stream"])
def test_nothing_is_lost_when_a_cell_fails(shell, px, capsys, options):
    cell = "print('before')\nif engine_id == 1: raise ValueError('bad')\n_ = 0\n7"
    with pytest.raises(ipp.RemoteError):
        shell.run_cell_magic("px", f"{options} --no-fold", cell)
    out = capsys.readouterr().out
    assert out.count("before") == 4
    assert [f"Out[{engine}:1]: 7" in out for engine in range(4)] == [True, False, True, True]
    with pytest.raises(ipp.RemoteError, match="bad"):
        shell.run_line_magic("pxresult", "--no-fold")
    assert capsys.readouterr().out.count("before") == 4


def test_what_is_queued_behind_a_failure_is_not_run(shell, px, client, fake, capsys):
    px.view.block = False
    fake.paused.set()
    shell.run_line_magic("px", "x = 1")
    failed = shell.run_line_magic("px", "1/0")
    behind = shell.run_line_magic("px", "x = 2")
    fake.release(client)
    with pytest.raises(ipp.CompositeError, match="ZeroDivisionError"):
        failed.get(10)
    with pytest.raises(ipp.TaskAborted):
        behind.get(10)
    assert client[:]["x"] == [1] * 4
    assert isinstance(shell.run_cell("%pxresult").error_in_exec, ipp.TaskAborted)
    assert "magics.py" not in capsys.readouterr().out


def test_no_streaming_where_nobody_looks(shell, px, connect, monkeypatch):
    assert px._streams
    monkeypatch.setenv("MPIPARALLEL_NONINTERACTIVE", "1")
    connect().activate()
    assert not magics_of(shell)._streams
    shell.run_line_magic("pxconfig", "--stream")
    assert magics_of(shell)._streams


@pytest.mark.parametrize(
    ("line", "bars"),
    [("", 0), ("--progress-after 0", 1), ("--progress-after 0.05", 1), ("--progress-after -1", 0)],
)
def test_progress_after(shell, px, fake, line, bars, monkeypatch):
    shown = []

    def wait(result):
        shown.append(result)
        fake.paused.clear()

    monkeypatch.setattr(ipp.AsyncResult, "wait_interactive", wait)
    fake.paused.set()
    timer = threading.Timer(0.5, fake.paused.clear)
    timer.start()
    shell.run_cell_magic("px", line, "x = 1")
    timer.join()
    assert len(shown) == bars


# ---------------------------------------------------------------- here, too


def test_local(shell, px, client, capsys):
    run(shell, "%%px --local\nx = 5\nprint('hello')")
    assert shell.user_ns["x"] == 5 and client[:]["x"] == [5] * 4
    assert capsys.readouterr().out.startswith("hello\n")
    run(shell, "%%px --local --noblock\nx = 6")
    assert shell.user_ns["x"] == 6
    assert px.last_result.get(10) and client[:]["x"] == [6] * 4


def test_local_runs_while_the_engines_do(shell, px, client, fake):
    fake.paused.set()
    shell.user_ns["release"] = fake.paused.clear
    client[:].push({"release": None}, block=False)
    run(shell, "%%px --local\nif release: release()\nx = 1")
    assert client[:]["x"] == [1] * 4


def test_local_errors(shell, px, client, capsys):
    shell.user_ns["there"] = False
    client[:].push({"there": True}, block=True)
    outcome = shell.run_cell("%%px --local\nassert there\nx = 1")
    shown = plain(capsys.readouterr().out)
    assert isinstance(outcome.error_in_exec, ipp.AlreadyDisplayedError)
    assert shown.count("AssertionError") == shown.count("assert there\n") + 1 == 2
    assert client[:]["x"] == [1] * 4  # the engines have done their part


# ---------------------------------------------------------------- Ctrl-C


def test_ctrl_c_ends_the_cell_on_its_engines(shell, px, client, fake, capsys):
    fake.holding = {0, 1, 3}
    thread = ctrl_c_when(lambda: len(fake.held) == 3 and main_thread_waits())
    began = time.monotonic()
    assert shell.run_cell_magic("px", "", "x = 1") is None
    thread.join()
    assert time.monotonic() - began < 5
    assert fake.signals == [([0, 1, 3], signal.SIGINT)]
    shown = capsys.readouterr()
    assert "Received Keyboard Interrupt. Sending signal SIGINT to engines...\n" in shown.err
    assert "engines 0-1, 3: interrupted; engine 2: finished\n" in shown.err
    assert shown.out.count("last words") >= 1
    fake.call(fake.holding.clear)
    assert shell.run_cell_magic("px", "", "x = 2") is None
    assert client[:]["x"] == [2] * 4


@pytest.mark.parametrize(("name", "number"), [("2", 2), ("SIGTERM", 15), ("SIGKILL", 9), ("9", 9)])
def test_which_signal(shell, px, fake, capsys, name, number):
    fake.holding = {2}
    thread = ctrl_c_when(lambda: len(fake.held) == 1 and main_thread_waits())
    shell.run_cell_magic("px", f"--signal-on-interrupt {name} --no-stream", "x = 1")
    thread.join()
    assert fake.signals == [([2], number)]
    shown = capsys.readouterr()
    assert f"Received Keyboard Interrupt. Sending signal {name} to engines...\n" in shown.err
    assert "KeyboardInterrupt" in shown.err  # the engine's error, which no stream has shown
    assert shown.out.count("last words") == 1


def test_no_signal(shell, px, client, fake, capsys):
    shell.run_line_magic("pxconfig", "--signal-on-interrupt 0")
    fake.holding = {0, 1, 2, 3}
    thread = ctrl_c_when(lambda: len(fake.held) == 4 and main_thread_waits())
    assert shell.run_cell_magic("px", "", "x = 1") is None
    thread.join()
    assert fake.signals == [] and not fake.headers(Abort)
    err = capsys.readouterr().err
    assert "Received Keyboard Interrupt. Sending signal 0 to engines...\n" in err
    assert "engines 0-3: at work still. %pxresult waits for the output.\n" in err
    assert not px.last_result.done()
    client.interrupt()
    assert px.last_result.wait(10)


def test_what_has_not_begun_never_does(shell, px, connect, fake, capsys):
    fake.holding = {0}
    others = connect()[0].apply_async(int)
    assert wait_until(lambda: set(fake.held) == {0})
    thread = ctrl_c_when(main_thread_waits)
    shell.run_cell_magic("px", "-t 0", "x = 1")
    thread.join()
    assert fake.signals == [] and not others.done()
    assert "engine 0: not begun\n" in capsys.readouterr().err
    fake.call(fake._interrupt, 0)


def test_engines_that_do_not_end_are_named(shell, px, client, fake, capsys, monkeypatch):
    monkeypatch.setattr(magics, "PATIENCE", 0.5)
    fake.holding, fake.deaf = {0, 1, 2}, {1, 2}
    thread = ctrl_c_when(lambda: len(fake.held) == 3 and main_thread_waits())
    shell.run_cell("%px x = 1")
    thread.join()
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == (
        "engines 1-2: not ended by signal SIGINT. %pxwhere shows what they do, %pxresult waits for them, "
        "client.restart_engines() ends them in any case."
    )
    assert "running" in str(shell.run_line_magic("pxwhere", ""))
    fake.call(fake.deaf.clear)
    client.interrupt()
    assert px.last_result.wait(10)


def test_a_second_ctrl_c_ends_the_waiting(shell, px, client, fake):
    fake.holding, fake.deaf = {0}, {0}
    first = ctrl_c_when(lambda: len(fake.held) == 1 and main_thread_waits())
    second = ctrl_c_when(lambda: fake.signals and main_thread_waits())
    began = time.monotonic()
    with pytest.raises(ipp.EngineError, match="engine 0: not ended by signal SIGINT"):
        shell.run_cell_magic("px", "", "x = 1")
    first.join()
    second.join()
    assert time.monotonic() - began < magics.PATIENCE / 2
    assert wait_until(lambda: fake.signals == [([0], 2)] * 2)
    fake.call(fake.deaf.clear)
    client.interrupt()
    assert px.last_result.wait(10)


def test_ctrl_c_in_the_local_part_ends_the_engines_too(shell, px, fake, capsys):
    fake.holding = {0, 1, 2, 3}
    thread = ctrl_c_when(lambda: len(fake.held) == 4 and "working" in shell.user_ns)
    with pytest.raises(ipp.AlreadyDisplayedError):
        shell.run_cell_magic("px", "--local", "working = True\nfor i in range(10**10): pass")
    thread.join()
    assert fake.signals == [([0, 1, 2, 3], signal.SIGINT)]
    assert "engines 0-3: interrupted\n" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["execute", "stream_output"])
def test_ctrl_c_before_the_waiting_begins(shell, px, fake, capsys, monkeypatch, where):
    """It is not lost, and what was sent is not left running."""
    owner = type(px.view) if where == "execute" else ipp.AsyncResult
    usual = getattr(owner, where)

    def slow(*args, **options):
        made = usual(*args, **options)
        assert wait_until(lambda: len(fake.held) == 4)
        signal.raise_signal(signal.SIGINT)
        return made

    monkeypatch.setattr(owner, where, slow)
    fake.holding = {0, 1, 2, 3}
    assert shell.run_cell_magic("px", "", "x = 1") is None
    assert fake.signals == [([0, 1, 2, 3], signal.SIGINT)]
    assert "engines 0-3: interrupted\n" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_a_cell_is_sent_that_is_not_waited_for(shell, px, fake, monkeypatch):
    usual = type(px.view).execute

    def slow(*args, **options):
        made = usual(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return made

    monkeypatch.setattr(type(px.view), "execute", slow)
    with pytest.raises(KeyboardInterrupt):
        shell.run_cell_magic("px", "--noblock", "x = 1")
    assert px.last_result.wait(10) and fake.signals == []


def test_ctrl_c_while_output_is_shown(shell, px, fake, capsys, monkeypatch):
    """The showing ends, and the output is there for the asking."""

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ipp.AsyncResult, "display_outputs", interrupted)
        assert shell.run_cell_magic("px", "--no-stream", "print('hello')") is None
    shown = capsys.readouterr()
    assert "Not all output was shown: %pxresult shows it.\n" in shown.err and "hello" not in shown.out
    shell.run_line_magic("pxresult", "--no-fold")
    assert capsys.readouterr().out.count("hello") == 4


def test_ctrl_c_in_pxresult_is_the_users(shell, px, client, fake):
    fake.holding = {0}
    shell.run_cell_magic("px", "--noblock", "x = 1")
    thread = ctrl_c_when(lambda: len(fake.held) == 1 and main_thread_waits())
    with pytest.raises(KeyboardInterrupt):
        shell.run_line_magic("pxresult", "")
    thread.join()
    assert fake.signals == [] and not px.last_result.done()
    client.interrupt()
    assert px.last_result.wait(10)


# ---------------------------------------------------------------- autopx


def test_autopx(shell, px, client, capsys):
    run(shell, "%autopx")
    run(shell, "a = 5\nb = engine_id")
    run(shell, "a = a + 1\n%px a = a + 1\n%pxresult")
    run(shell, "%autopx")
    run(shell, "b = 0")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "%autopx enabled" and lines[-1] == "%autopx disabled"
    assert client[:]["a"] == [7] * 4 and client[:]["b"] == [0, 1, 2, 3]
    assert "a" not in shell.user_ns and shell.user_ns["b"] == 0


def test_autopx_within_a_cell(shell, px, client):
    run(shell, "x = 1\n%autopx\nx = 2\n%autopx\ny = x")
    assert shell.user_ns["y"] == 1 and client[:]["x"] == [2] * 4
    run(shell, "y = 3\n%autopx\ny = 4")
    run(shell, "z = y\n%autopx\nz = 0")
    assert shell.user_ns["y"] == 3 and shell.user_ns["z"] == 0 and client[:]["z"] == [4] * 4


def test_local_cells_run_here_all_the_same(shell, px, client):
    run(shell, "%autopx")
    run(shell, "%%px --local\nx = 5")
    run(shell, "y = 6")
    assert shell.user_ns["x"] == 5 and client[:]["x"] == [5] * 4
    assert "y" not in shell.user_ns and client[:]["y"] == [6] * 4


def test_autopx_errors_end_a_cell(shell, px, client, capsys):
    run(shell, "%autopx")
    with pytest.raises(ipp.RemoteError):
        run(shell, "1/0\n%autopx\nx = 1")
    assert "x" not in shell.user_ns
    run(shell, "%autopx")
    run(shell, "x = 1")
    assert shell.user_ns["x"] == 1


def test_autopx_without_waiting(shell, px, client, fake, capsys):
    shell.run_line_magic("pxconfig", "--noblock")
    run(shell, "%autopx")
    run(shell, "a = 5\nb = 10\nc = 0")
    fake.paused.set()
    failed = shell.run_cell("b / c").result
    run(shell, "b = b * 2")
    run(shell, "%autopx")
    assert "ZeroDivisionError" not in capsys.readouterr().out
    fake.release(client)
    with pytest.raises(ipp.TaskAborted):
        px.last_result.get(10)
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        failed.get(10)
    assert client[:]["b"] == [10] * 4


def test_autopx_of_another_view(shell, px, client):
    client[:2].activate("_two")
    run(shell, "%autopx")
    run(shell, "a = 1")
    run(shell, "%autopx_two")
    magics_of(shell, "_two").view.block = True
    run(shell, "a = 2")
    run(shell, "%autopx_two")
    run(shell, "a = 3")
    assert client[:]["a"] == [2, 2, 1, 1] and shell.user_ns["a"] == 3


def test_a_ctrl_c_while_pxresult_waits_is_told_shortly(shell, px, fake, monkeypatch, capsys):
    fake.paused.set()
    run(shell, "%%px --noblock\n1")

    def wait(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(px.last_result, "wait", wait)
    capsys.readouterr()
    failure = shell.run_cell("%pxresult").error_in_exec
    assert isinstance(failure, KeyboardInterrupt)
    shown = plain(capsys.readouterr().out)
    assert shown == "KeyboardInterrupt: engines 0-3: at work still. client.interrupt() ends that.\n"
    assert fake.signals == []
