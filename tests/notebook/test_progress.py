"""Progress bars over real work: a widget in a kernel, text in a terminal."""

from __future__ import annotations

import re

import pytest

from notebook.conftest import CONNECT

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]

WORK = """
def work(n, seconds=0.02):
    import time
    time.sleep(seconds)
    if n % 10 == 3:
        raise ValueError(n)
    return n

def gated(n, path):
    import os, time
    while n < 0 and not os.path.exists(path):
        time.sleep(0.05)
    return n

lview = rc.load_balanced_view()
"""


@pytest.fixture
def gate(tmp_path):
    """A file without which ``gated`` does not get on with numbers below zero."""
    path = tmp_path / "open"
    yield path
    path.touch()


VIEW = "application/vnd.jupyter.widget-view+json"


def bars(page):
    """Return what the bars of a cell have shown last: the left text, the bar, the right text."""
    states = {}
    for message in page.messages:
        content = message["content"]
        if message["header"]["msg_type"] in ("comm_open", "comm_msg"):
            states.setdefault(content["comm_id"], {}).update(content["data"].get("state", {}))
    found = []
    for message in page.messages:
        if message["header"]["msg_type"] == "display_data" and VIEW in message["content"]["data"]:
            box = states[message["content"]["data"][VIEW]["model_id"]]
            left, bar, right = (states[child.removeprefix("IPY_MODEL_")] for child in box["children"])
            found.append((left["value"].replace("\u2007", " "), bar, right["value"].replace("\u2007", " ")))
    return found


def test_a_widget_follows_a_map(kernel, gate):
    kernel.do(WORK)
    cell = kernel.start(f"lview.map_async(gated, [*range(199), -1], ['{gate}'] * 200).wait_interactive()")
    page = cell.until(lambda page: page.bundles() and "199/200" in bars(page)[0][2])
    assert bars(page)[0][0].startswith("gated: 100%") and bars(page)[0][1]["value"] == 199
    gate.touch()
    page = cell.finish()
    assert page.error is None and page.text() == ""
    [(left, bar, right)] = bars(page)
    assert left.startswith("gated: 100%")
    assert (bar["value"], bar["max"], bar["bar_style"]) == (200, 200, "success")
    assert re.search(r"200/200 \[\d\d:\d\d&lt;00:00, .*item/s, engines 0", right), right
    # What is stored with the notebook is not the widget, which would not work there, but how it looked.
    [bundle] = page.bundles()
    assert VIEW not in bundle
    assert bundle["text/plain"].startswith("gated: 100%") and "200/200" in bundle["text/plain"]
    assert "width:100.0%" in bundle["text/html"] and right in bundle["text/html"].replace("\u2007", " ")
    closed = {one["content"]["comm_id"] for one in page.messages if one["header"]["msg_type"] == "comm_close"}
    assert len(closed) == 4


def test_a_widget_tells_of_failures(kernel):
    kernel.do(WORK)
    [(_, bar, right)] = bars(kernel.run("lview.map_async(work, range(40), chunksize=2).wait_interactive()"))
    assert (bar["value"], bar["bar_style"]) == (40, "danger")
    assert "40/40" in right and "8 failed: ValueError" in right  # four chunks of two
    code = "lview.map_async(work, range(40), return_exceptions=True).wait_interactive()"
    [(_, bar, right)] = bars(kernel.do(code))
    assert (bar["value"], bar["bar_style"]) == (40, "danger")
    assert "4 failed: ValueError" in right
    code = "view.map_async(work, range(40), return_exceptions=True).wait_interactive()"
    [(_, bar, right)] = bars(kernel.do(code))
    assert (bar["value"], "4 failed: ValueError" in right) == (40, True)


def test_imap_counts_what_is_taken(kernel):
    kernel.do(WORK)
    page = kernel.do(
        "values = lview.imap(work, iter(int, 1), progress=True, total=100)\n"
        "for number, value in enumerate(values, 1):\n"
        "    if number == 60: break\n"
        "values.bar.set_description('broken off')\n"
        "values.close()\n"
    )
    [(left, bar, _)] = bars(page)
    assert "broken off" in left
    assert (bar["value"], bar["max"], bar["bar_style"]) == (60, 100, "danger")
    page = kernel.do("print(sum(lview.imap(work, (0 for _ in range(7)), progress=True, total=100)))")
    [(_, bar, _)] = bars(page)
    assert page.stdout == "0\n"
    assert (bar["value"], bar["max"], bar["bar_style"]) == (7, 7, "success")
    page = kernel.do("print(list(view.imap(work, range(3), progress=True)))")
    [(_, bar, _)] = bars(page)
    assert page.stdout == "[0, 1, 2]\n" and bar["value"] == 3


def test_long_maps_show_a_bar_by_themselves(kernel):
    kernel.do(WORK)
    assert kernel.do("lview.map_sync(work, [1] * 8)").bundles() != []  # its value
    assert bars(kernel.do("_ = lview.map_sync(work, [1] * 8)")) == []
    for view in ("lview", "view"):
        cell = kernel.start(f"_ = {view}.map_sync(work, [1] * 16, [0.8] * 16)")
        page = cell.until(lambda page: page.bundles() and bars(page)[0][2])
        assert bars(page)[0][1]["max"] == 16
        page = cell.finish()
        assert page.error is None
        assert page.bundles() == [{"text/html": "", "text/plain": ""}]  # gone, as nobody asked for it
    assert bars(kernel.do("_ = lview.map_sync(work, [1] * 16, [0.8] * 16, progress=False)")) == []


def test_parts_that_are_waited_for(kernel, gate):
    kernel.do(WORK + "view.scatter('number', [0, 0, -1, -1], flatten=True)\nview['gated'] = gated")
    cell = kernel.start(
        f"ar = view.execute('gated(number, \\'{gate}\\')')\n"
        "ar.wait_interactive()\n"
        "view.apply_async(time.sleep, 0).wait_interactive()"
    )
    cell.until(lambda page: page.bundles() and "2/4 engines" in bars(page)[0][2])
    assert "waiting for engines 2-3" in bars(cell.page)[0][2]
    gate.touch()
    page = cell.finish()
    assert page.error is None
    for (left, bar, right), name in zip(bars(page), ("execute", "sleep"), strict=True):
        assert left.startswith(name) and bar["value"] == 4
        assert "4/4 engines" in right and "waiting" not in right


def test_the_stop_button_leaves_the_bar_where_it_was(kernel, gate):
    kernel.do(WORK)
    numbers = "[*range(12), -1, -1, -1, -1]"
    cell = kernel.start(f"ar = lview.map_async(gated, {numbers}, ['{gate}'] * 16); ar.wait_interactive()")
    cell.until(lambda page: page.bundles() and "12/16" in bars(page)[0][2])
    kernel.interrupt()
    page = cell.finish()
    assert page.error == "KeyboardInterrupt: "
    [(_, bar, _)] = bars(page)
    assert bar["value"] == 12 and bar["bar_style"] == "danger"
    gate.touch()
    assert kernel.do(f"print(ar.get() == {numbers})").stdout == "True\n"


def test_engines_on_their_way(kernel):
    page = kernel.do(
        "rc.wait_for_engines(4)\n"
        "try: rc.wait_for_engines(5, timeout=1)\n"
        "except TimeoutError as error: print(error)\n"
    )
    [(left, bar, right)] = bars(page)
    assert page.stdout == "5 engines not ready in 1 seconds. Currently ready: 4\n"
    assert left == " 80%" and (bar["value"], bar["max"], bar["bar_style"]) == (4, 5, "danger")
    assert "4/5 engines" in right


def test_nobody_looks_on(make_kernel, cluster):
    quiet = make_kernel(IPP_NONINTERACTIVE="1")
    quiet.do(CONNECT.format(file=cluster.connection_file) + WORK)
    try:
        page = quiet.do(
            "lview.map_async(work, [1] * 20).wait_interactive()\n"
            "_ = lview.map_sync(work, [1] * 16, [0.8] * 16)\n"
            "for value in lview.imap(work, [1] * 5, progress=True): pass\n"
            "_ = rc.wait_interactive()\n"
        )
        assert page.outputs == []
        [shown] = bars(quiet.do("lview.map_async(work, [1] * 20).wait_interactive(widget=True)"))
        assert shown[1]["value"] == 20
    finally:
        quiet.do("rc.close()")


# ---------------------------------------------------------------- terminals


def test_a_bar_in_a_terminal(terminal):
    terminal.run(WORK)
    shown = terminal.run("lview.map_async(work, range(40), chunksize=2).wait_interactive()")
    [line] = shown.split("\n")
    assert re.match(r"work: 100%\|█+\| 40/40 \[\d\d:\d\d<00:00, +[\d.]+item/s, 8 failed: ValueError, ", line)
    shown = terminal.run("_ = lview.map_sync(work, [1] * 16, [0.8] * 16)")
    assert shown == ""  # it was there for a while
    assert re.search(r"work: +\d+%\|.*/16 \[\d\d:\d\d", terminal.raw)
    shown = terminal.run("ar = [view.apply_async(work, 1) for _ in range(3)]; rc.wait_interactive()")
    assert "wait: 100%" in shown and "12/12" in shown and "engines 0-3: 3 each" in shown


def test_ctrl_c_beside_a_bar(terminal, gate):
    terminal.run(WORK)
    terminal.start(f"ar = lview.map_async(gated, [0, 1, -1, -1], ['{gate}'] * 4); ar.wait_interactive()")
    terminal.until("| 2/4 [")
    terminal.press("c")
    assert "KeyboardInterrupt" in terminal.finish()
    gate.touch()
    assert terminal.run("ar.get()").endswith("[0, 1, -1, -1]")


def test_what_is_printed_beside_a_bar(terminal, gate):
    terminal.run(WORK)
    terminal.run(
        "from mpiparallel.client import progress\n"
        "import threading\n"
        "def say():\n"
        "    for number in range(5):\n"
        "        time.sleep(0.2)\n"
        "        with progress.paused('begun'):\n"
        "            print('begun', end='', flush=True)\n"
        "        time.sleep(0.2)\n"
        "        with progress.paused():\n"
        "            print(', ended', number, flush=True)\n"
        "    open(path, 'w').close()\n"
        f"path = '{gate}'\n"
    )
    shown = terminal.run(
        "thread = threading.Thread(target=say); thread.start()\n"
        "view.apply_async(gated, -1, path).wait_interactive(); thread.join()"
    )
    lines = shown.split("\n")
    assert lines[:5] == [f"begun, ended {number}" for number in range(5)]
    assert re.match(r"gated: 100%\|█+\| 4/4 engines \[\d\d:\d\d\]$", lines[5]), lines[5]
    assert len(lines) == 6


def test_a_cell_with_bars_of_its_own(terminal):
    terminal.run("rc.activate()")
    shown = terminal.run(
        "%%px\n"
        "import sys, time\n"
        "for number in range(30):\n"
        "    print(f'\\rstep {number}', end='', flush=True)\n"
        "    time.sleep(0.1)\n"
        "print('\\nended')\n"
    )
    # The own line of the cell was overwritten in its place; ours stands below all that was said.
    lines = shown.split("\n")
    said = {line for line in lines[:-1] if not re.fullmatch(r"\[stdout:[\d, -]+\] ?", line)}
    assert said == {"step 29", "ended"}, shown
    assert re.match(r"%px: 100%\|█+\| 4/4 engines \[\d\d:\d\d\]$", lines[-1]), shown
    assert re.search(r"%px: +0%\|.*waiting for engines 0-3\]", terminal.raw)
