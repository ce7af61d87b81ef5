"""At the prompt: Ctrl-C, and errors as IPython shows them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import mpiparallel as ipp


def fail():
    return 1 // 0


@pytest.mark.parametrize(
    "call", ["apply", "map", "execute", "gather", "pull", "wait", "iterate", "interactive"]
)
def test_ctrl_c_in_a_blocking_call_is_the_users(fake, client, call):
    fake.paused.set()
    view = client[:]
    calls = {
        "apply": lambda: view.apply_sync(int),
        "map": lambda: view.map_sync(abs, [1, 2]),
        "execute": lambda: view.execute("1", block=True),
        "gather": lambda: view.gather("engine_id", block=True),
        "pull": lambda: view["engine_id"],
        "wait": lambda: client.wait(view.apply_async(int)),
        "iterate": lambda: list(view.apply_async(int)),
        "interactive": lambda: view.apply_async(int).wait_interactive(widget=False),
    }
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        calls[call]()
    timer.join()
    fake.release(client)
    assert view.apply_sync(abs, -1) == [1] * 4


@pytest.fixture
def shell(client):
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.user_ns.update(view=client[:], one=client[0], fail=fail)
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_ipython_shows_the_engines_traceback(shell, capsys):
    shell.run_cell("one.apply_sync(fail)")
    shown = capsys.readouterr().out
    assert "[0:apply]" in shown
    assert "1 // 0" in shown and "ZeroDivisionError" in shown
    assert "asyncresult.py" not in shown


def test_ipython_shows_every_engines_traceback(shell, capsys):
    shell.run_cell("view.apply_sync(fail)")
    shown = capsys.readouterr().out
    assert "[0-3:apply] ranks 0-3 on here:" in shown
    assert shown.count("return 1 // 0") == 1


def test_ipython_shows_replies(shell, capsys):
    shell.run_cell("one.execute('6 * 7', silent=False, block=True).get()")
    assert "Out[0:1]: 42" in capsys.readouterr().out


def test_displays_are_shown_again(shell, client):
    published = []
    shell.display_pub.publish = lambda data, metadata=None, **options: published.append((data, metadata))
    content = {"data": {"text/plain": "figure", "image/png": "abc"}, "metadata": {}}
    client[:2].execute(f"_output('display', content={content!r})\nx = 1", block=True).display_outputs()
    assert published == [(content["data"], {"engine": 0}), (content["data"], {"engine": 1})]


def test_remote_errors_know_their_engine(client):
    with pytest.raises(ipp.RemoteError) as caught:
        client[1].apply_sync(fail)
    assert caught.value.engine_info == {
        "engine_id": 1, "method": "apply", "engine_uuid": "world-1", "host": "here", "rank": 1,
    }  # fmt: skip
    assert caught.value.render_traceback()[0] == "[1:apply] rank 1 on here:"
