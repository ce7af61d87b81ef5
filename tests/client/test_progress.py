"""Progress bars: what they say, and that they do not get into the way of what is printed."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pexpect
import pyte
import pytest
from tqdm.std import TqdmDefaultWriteLock, tqdm

from mpiparallel.client import bars, progress
from mpiparallel.client.tally import Tally
from mpiparallel.config import noninteractive
from mpiparallel.error import RemoteError


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"MPIPARALLEL_NONINTERACTIVE": "1"}, True),
        ({"IPP_NONINTERACTIVE": "yes"}, True),
        ({"IPP_NONINTERACTIVE": "0"}, False),
        ({"MPIPARALLEL_NONINTERACTIVE": "0", "IPP_NONINTERACTIVE": "1"}, False),
        ({"MPIPARALLEL_NONINTERACTIVE": "", "IPP_NONINTERACTIVE": "1"}, True),
    ],
)
def test_nobody_looks_on(environ, wanted, monkeypatch):
    assert noninteractive(environ) is wanted
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert noninteractive() is wanted


PRINTS = """
import os
import sys
from tqdm import tqdm
from mpiparallel.client import progress
bar = tqdm(total=3, file=sys.stdout, mininterval=0, ncols=60)
for number in range(3):
    with progress.paused():
        print(f"line {number}")
    with progress.paused("begun"):
        print("begun", end="", flush=True)
    bar.update()
    with progress.paused():
        print(", ended", flush=True)
bar.close()
with progress.paused():
    print("the end")
"""


def test_nothing_tears_a_bar_in_a_terminal(screen_of):
    lines = screen_of(PRINTS)
    wanted = [word for number in range(3) for word in (f"line {number}", "begun, ended")]
    assert lines[:6] == wanted
    assert lines[6].startswith("100%|") and "3/3" in lines[6]
    assert lines[7] == "the end" and not any(lines[8:])


@pytest.fixture
def screen_of(tmp_path):
    """A function that runs a script in a terminal and returns the lines that are on its screen in the end."""

    def run(script, columns=80):
        path = tmp_path / "script.py"
        path.write_text(script)
        child = pexpect.spawn(
            sys.executable, [str(path)], dimensions=(40, columns), env={**os.environ, "TERM": "xterm"}
        )
        child.expect(pexpect.EOF, timeout=60)
        screen = pyte.Screen(columns, 40)
        pyte.ByteStream(screen).feed(child.before)
        return [line.rstrip() for line in screen.display]

    return run


def test_what_goes_to_a_file_is_left_alone(screen_of, tmp_path):
    lines = screen_of(
        PRINTS.replace("import sys\n", f"import sys\nsys.stdout = open('{tmp_path}/out', 'w')\n").replace(
            "tqdm(total=3, file=sys.stdout", "progress.make_bar(total=3"
        )
    )
    text = "".join(f"line {number}\nbegun, ended\n" for number in range(3)) + "the end\n"
    assert (tmp_path / "out").read_text() == text
    assert "3/3" in " ".join(lines)  # on stderr


@pytest.mark.parametrize("kind", [lambda: None, object, io.StringIO, "closed"])
def test_any_stdout_will_do(kind, monkeypatch, capsys):
    stdout = io.StringIO() if kind == "closed" else kind()
    if kind == "closed":
        stdout.close()
    monkeypatch.setattr(sys, "stdout", stdout)
    bar = progress.make_bar(total=1)
    bar.update()
    bar.close()
    assert "1/1" in capsys.readouterr().err


def test_no_bar_nothing_written(capsys):
    with progress.paused("text"):
        print("text", end="")
    assert capsys.readouterr().out == "text"


# ---------------------------------------------------------------- lines in a log


@pytest.fixture
def clock(monkeypatch):
    """The time of the bars, in seconds, as a list of one item."""
    now = [1000.0]
    monkeypatch.setattr(bars.time, "time", lambda: now[0])
    return now


def test_a_log_gets_few_lines(clock, capsys):
    bar = bars.LineBar(total=1000, desc="solve", unit="item")
    for number in range(3600):  # an hour, in which something is done every second, and nothing in the end
        clock[0] += 1
        bar.n = min(1000, number)
        bar.set_postfix_str("engine 0: 5", refresh=False)
        bar.refresh()
    bar.close()
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert 12 <= len(lines) <= 40
    assert all(line.startswith("solve: ") and line.endswith(", engine 0: 5") for line in lines)
    assert lines[-1].startswith("solve: 1000/1000 items in ")
    tenths = {int(re.match(r"solve: (\d+)/", line)[1]) // 100 for line in lines}
    assert tenths == set(range(11))


def test_a_short_job_is_one_line(clock, capsys):
    bar = bars.LineBar(total=10, desc="solve", unit="task")
    for _ in range(10):
        clock[0] += 0.09
        bar.update()
    bar.close()
    assert capsys.readouterr().err == "solve: 10/10 tasks in 00:00, 11.1 a second\n"


def test_nothing_is_said_twice(clock, capsys):
    bar = bars.LineBar(total=2, unit="engine")
    clock[0] += 5
    bar.update(2)
    bar.close()
    assert capsys.readouterr().err == "2/2 engines in 00:05\n"


def test_nobody_knows_how_many(clock, capsys):
    bar = bars.LineBar(desc="imap", unit="item")
    clock[0] += 30
    bar.update(6)
    bar.set_description("other")
    bar.set_postfix(found=3)
    bar.close()
    assert capsys.readouterr().err == (
        "imap: 6 items in 00:30, 0.2 a second\nother: 6 items in 00:30, 0.2 a second, found=3\n"
    )


def test_slow_work_and_times():
    assert bars.line("", 3, 10, "task", 60.0) == "3/10 tasks in 01:00, 20 s each, 02:20 left"
    assert bars.line("x", 0, 10, "task", 60.0) == "x: 0/10 tasks in 01:00"
    assert bars.clock(3725) == "1:02:05"


# ---------------------------------------------------------------- which bar, and who draws it


def test_where_nobody_looks_on_a_bar_is_silent(monkeypatch, capsys):
    monkeypatch.setenv("MPIPARALLEL_NONINTERACTIVE", "1")
    for bar in (bars.make_bar(total=3), bars.make_bar(total=3, file=sys.stderr)):
        bar.update(3)
        bar.close()
    assert capsys.readouterr() == ("", "")
    bars.make_bar(False, total=3).close()  # somebody asks for it by name
    assert "0/3" in capsys.readouterr().err


def test_a_bar_is_drawn_by_who_waits(capsys):
    tally = Tally()
    follower = progress.Follower(lambda: tally, 10, "work", "item", interval=0.02)
    condition = threading.Condition()
    assert follower.wait(condition, lambda: False, 0.05) is False

    def advance():
        tally.done = 10
        with condition:
            condition.notify_all()

    threading.Timer(0.1, advance).start()
    assert follower.wait(condition, lambda: tally.done == 10, 20) is True
    with ThreadPoolExecutor(1) as pool:  # another thread waits without drawing
        drawn = follower._drawn
        assert pool.submit(follower.wait, condition, lambda: False, 0.05).result() is False
        assert follower._drawn == drawn
    follower.close()
    assert capsys.readouterr().err.splitlines()[-1].startswith("work: 10/10 items in 00:00")


def test_a_bar_that_is_not_needed_is_not_shown(capsys):
    follower = progress.Follower(Tally, 10, "work", after=10)
    assert follower.wait(threading.Condition(), lambda: False, 0.05) is False
    follower.close()
    assert capsys.readouterr() == ("", "")


def test_looking_that_takes_long_becomes_rare():
    looks = []

    def count():
        looks.append(time.monotonic())
        time.sleep(0.05)
        return Tally()

    follower = progress.Follower(count, 10, "work", interval=0.01)
    follower.wait(threading.Condition(), lambda: False, 1.2)
    assert min(later - before for before, later in itertools.pairwise(looks)) >= 0.5
    follower.close()


def test_a_lock_that_is_never_given_back_does_not_keep_output(monkeypatch, capsys):
    class Lost(TqdmDefaultWriteLock):
        mp_lock, th_lock = multiprocessing.RLock(), threading.RLock()

    monkeypatch.setattr(bars, "PATIENCE", 0.2)
    monkeypatch.setattr(bars, "_patience", 0.2)
    lock = Lost()
    holder = threading.Thread(target=lock.acquire)  # and ends with it, as after a Ctrl-C
    holder.start()
    holder.join()
    began = time.monotonic()
    for _ in range(50):
        with bars._held(lock):
            print("shown")
    assert time.monotonic() - began < 5
    assert capsys.readouterr().out == "shown\n" * 50


def test_bars_stay_below_output(screen_of):
    lines = screen_of(
        "import sys\n"
        "from mpiparallel.client import bars, progress\n"
        "with bars.below_output():\n"
        "    bar = bars.make_bar(total=2, desc='work', ncols=60, dynamic_ncols=False)\n"
        "    bar.update(2)\n"
        "    bars.close(bar)\n"
        "    with progress.paused():\n"
        "        print('late output')\n"
        "print('next')\n"
    )
    assert lines[0] == "late output" and "2/2" in lines[1] and lines[2] == "next" and not any(lines[3:])


# ---------------------------------------------------------------- over results


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_parts_and_failures(fake, client, capsys):
    fake.paused.set()
    result = client[:].map_async(abs, [1, 2, 3, "no", 5, 6, 7, 8, 9])
    result.wait_interactive(interval=0.01, timeout=0.05)
    assert re.match(r"abs: 0/9 items in 00:00, waiting for engines 0-3$", last_line(capsys))
    fake.release(client)
    result.wait_interactive()
    # The part of an engine on which one item fails has no results at all.
    failed = next(size for size, task in zip(result._sizes, result._tasks, strict=True) if task.error())
    assert re.match(rf"abs: 9/9 items in 00:00, \S+ a second, {failed} failed: TypeError$", last_line(capsys))
    result = client[:].map_async(abs, [1, "no", 3, "no", 5], return_exceptions=True)
    result.wait_interactive()
    assert last_line(capsys).endswith("2 failed: TypeError")


def test_cells_have_no_rate(client, capsys):
    client[:].apply_async(abs, 1).wait_interactive()
    assert last_line(capsys) == "abs: 4/4 engines in 00:00"


def test_waiting_for_jobs_of_all_kinds(fake, client, capsys):
    fake.paused.set()
    others = [Future(), Future()]
    others[0].set_exception(KeyError("x"))
    jobs = [client[:].apply_async(abs, 1), client[0].apply_async(abs, 2).msg_ids[0], *others]
    assert client.wait_interactive(jobs, interval=0.01, timeout=0.1) is False
    assert last_line(capsys).startswith("wait: 1/7 tasks in 00:00") and capsys.readouterr().err == ""
    fake.release(client)
    threading.Timer(0.1, others[1].set_result, [None]).start()
    assert client.wait_interactive(jobs, interval=0.01, timeout=10) is True
    line = last_line(capsys)
    assert line.startswith("wait: 7/7 tasks in 00:00")
    assert line.endswith("1 failed: KeyError, engines 0: 2; 1-3: 1")


def test_maps_that_show_a_bar(client, capsys):
    view = client[:]
    assert view.map_sync(abs, [-1, -2], progress=True) == [1, 2]
    assert last_line(capsys).startswith("abs: 2/2 items in 00:00")
    values = view.imap(abs, range(-5, 0), progress=True)
    assert next(values) == 5
    values.close()
    assert last_line(capsys).startswith("abs: 1/5 items in 00:00")
    assert list(view.imap(abs, range(-5, 0), progress=True)) == [5, 4, 3, 2, 1]
    assert last_line(capsys).startswith("abs: 5/5 items in 00:00")
    assert view.map_sync(abs, [-1, -2]) == list(view.imap(abs, [1, 2])) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_what_is_said_about_a_failed_item_comes_below_the_bar(client, monkeypatch):
    """Its traceback keeps the iterator, but not the bar: later bars and lines are where they belong."""
    monkeypatch.setattr(sys, "stdout", screen := io.StringIO())
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    values = client.load_balanced_view().imap(abs, [-1, "x", -3], progress=True)
    assert next(values) == 1
    with pytest.raises(RemoteError) as raised:
        next(values)
    assert screen.getvalue().endswith("\n") and " 2/3 " in screen.getvalue().splitlines()[-1]
    assert raised.traceback and not tqdm._instances
    values.bar.write("who goes on has another")
    assert "\rwho goes on has another\n" in screen.getvalue()
    assert list(values) == [3] and not tqdm._instances


def test_lines_of_the_users_own_in_a_log(client, capsys):
    values = client.load_balanced_view().imap(abs, [-1, -2], progress=True)
    for value in values:
        values.bar.write(f"got {value}")
    written = capsys.readouterr()
    assert written.out == "got 1\ngot 2\n" and "2/2" in written.err


PRESSED = """
import os
import sys
from mpiparallel.client import progress
bar = progress.make_bar(total=3, desc="work")
for text in ("interrupted", ""):
    bar.update()
    bar.refresh()
    os.write(1, b"^C")  # as the terminal does
    if text:
        with progress.paused():
            print(text)
bar.close()
print("the end")
"""


def test_a_pressed_key_tears_no_bar(screen_of):
    lines = screen_of(PRESSED)
    assert lines[0] == "interrupted"
    assert lines[1].startswith("work:  67%|") and " 2/3 " in lines[1] and lines[1].endswith("]^C")
    assert lines[2] == "the end" and not any(lines[3:])


@pytest.mark.parametrize("look", [0, 3, "last"])
def test_a_ctrl_c_that_comes_while_a_bar_is_drawn_is_not_lost(look):
    """What is raised in the callback of a weak reference is swallowed, and tqdm has many of these."""

    class Nothing:
        pass

    def count():
        if len(looks) == (3 if look == "last" else look):
            gone = Nothing()
            watched = weakref.ref(gone, lambda _: signal.raise_signal(signal.SIGINT))
            del gone
            assert watched() is None
        looks.append(time.monotonic())
        return Tally()

    looks = []
    follower = progress.Follower(count, 10, "work", interval=0.01)
    with pytest.raises(KeyboardInterrupt):
        if look == "last":
            while len(looks) < 3:
                follower.shown()
                follower.tick()
            follower.close()
        else:
            follower.wait(threading.Condition(), lambda: False, 20)
    assert len(looks) == (4 if look == "last" else look + 1)
    follower.close()
