"""``%%px`` in a notebook: what engines print, display, return and raise is there, once, in its cell."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter

import pytest

from notebook.pages import spoken

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]


def test_each_engines_output_is_there_once(kernel):
    page = kernel.do(
        "%%px\n"
        "import sys\n"
        "for i in range(50):\n"
        "    print('out', mpi_rank, i)\n"
        "    print('err', mpi_rank, i, file=sys.stderr)"
    )
    for name in ("out", "err"):
        found = Counter(
            re.findall(rf"{name} (\d) (\d+)\n", page.text("stdout" if name == "out" else "stderr"))
        )
        assert found == {(str(rank), str(i)): 1 for rank in range(4) for i in range(50)}
    # In order, for each engine.
    for rank in range(4):
        numbers = [int(one) for one in re.findall(rf"out {rank} (\d+)\n", page.stdout)]
        assert numbers == list(range(50))
    again = kernel.do("%pxresult")
    assert Counter(re.findall(r"out \d \d+\n", again.stdout)) == Counter(
        re.findall(r"out \d \d+\n", page.stdout)
    )
    assert kernel.stray == []


def test_labels(kernel):
    page = kernel.do("%%px\nprint('alike')\n'result'")
    assert spoken(page.stdout) == [((0, 1, 2, 3), "alike")]
    [result] = page.bundles()
    assert re.fullmatch(r"Out\[0-3:[\d, -]+\]: 'result'", result["text/plain"])
    page = kernel.do("%px print('mine is', mpi_rank)")
    assert sorted(spoken(page.stdout)) == [((rank,), f"mine is {rank}") for rank in range(4)]
    page = kernel.do("%%px -t 2\nprint('one')")
    assert [line for _, line in spoken(page.stdout)] == ["one"]


DISPLAYS = {
    "text/html": "<b>rank {rank}</b>",
    "text/latex": "$rank^{rank}$",
    "text/markdown": "**rank {rank}**",
    "image/svg+xml": "<svg><text>rank {rank}</text></svg>",
    "application/javascript": "rank({rank})",
    "application/json": {"rank": "{rank}"},
    "application/x-of-our-own": "rank {rank}",
}


def test_displays_of_every_kind(kernel):
    page = kernel.do(
        "%%px\n"
        f"for kind, data in {DISPLAYS!r}.items():\n"
        "    data = {'rank': str(mpi_rank)} if data == {'rank': '{rank}'} else data.format(rank=mpi_rank)\n"
        "    display({kind: data, 'text/plain': kind}, raw=True, metadata={kind: {'rank': mpi_rank}})"
    )
    for kind, data in DISPLAYS.items():
        wanted = [
            {"rank": str(rank)} if isinstance(data, dict) else data.replace("{rank}", str(rank))
            for rank in range(4)
        ]
        found = page.mime(kind)
        assert sorted(found, key=str) == sorted(wanted, key=str), kind
    metadata = [
        output["metadata"].get("text/html")
        for output in page.outputs
        if "text/html" in output.get("data", {})
    ]
    assert sorted(one["rank"] for one in metadata) == [0, 1, 2, 3]


def test_equal_displays_are_shown_once(kernel):
    page = kernel.do("%%px\nfrom IPython.display import HTML, Math\ndisplay(HTML('<i>all</i>'))\nMath('x^2')")
    assert page.mime("text/html") == ["<i>all</i>"]
    assert page.mime("text/latex") == ["$\\displaystyle x^2$"], page.read()
    assert "0-3" in page.read()


def test_figures_are_pictures_of_what_they_show(kernel):
    from PIL import Image

    page = kernel.do(
        "%%px\n"
        "%matplotlib inline\n"
        "import matplotlib.pyplot as plt\n"
        "colours = ['red', 'lime', 'blue', 'black']\n"
        "plt.figure(figsize=(1, 1), facecolor=colours[mpi_rank])\n"
        "plt.axis('off')\n"
        "plt.show()"
    )
    images = [
        Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in page.mime("image/png")
    ]
    corners = sorted(image.getpixel((2, 2)) for image in images)
    assert corners == sorted([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)])


def test_update_display_changes_the_engines_own(kernel):
    page = kernel.do(
        "%%px\n"
        "handle = display(f'rank {mpi_rank}: first', display_id='same-on-all')\n"
        "for i in range(5):\n"
        "    handle.update(f'rank {mpi_rank}: update {i}')\n"
        "print('done', mpi_rank)"
    )
    assert sorted(page.mime("text/plain")) == [f"'rank {rank}: update 4'" for rank in range(4)]
    assert len(re.findall(r"done \d", page.stdout)) == 4
    assert page.stdout.count("[output:") == 4  # one for each display, however often it is updated


def test_what_was_updated_is_there_when_it_is_shown_at_the_end(kernel):
    cell = "handle = display('first', display_id=True)\nhandle.update(f'rank {mpi_rank} is done')"
    expected = [f"'rank {rank} is done'" for rank in range(4)]
    assert sorted(kernel.do(f"%%px --no-stream\n{cell}").mime("text/plain")) == expected
    kernel.do(f"%%px\n{cell}")
    again = kernel.do("%pxresult")
    assert sorted(again.mime("text/plain")) == expected
    assert again.stdout.count("[output:") == 4
    later = kernel.do("%%px --no-stream\nhandle.update('in its place')")
    assert later.stdout == ""


def test_clear_output_is_the_engines_own(kernel):
    page = kernel.do(
        "%%px\n"
        "from IPython.display import clear_output\n"
        "print('kept' if mpi_rank else 'cleared')\n"
        "if mpi_rank == 0: clear_output(); print('after')"
    )
    text = page.read()
    assert "after" in text
    assert "kept" in text


def test_tracebacks_are_shown_once_and_the_error_ends_the_cell(kernel):
    page = kernel.run(
        "%%px\nprint('before', mpi_rank)\ndef broken(x):\n    return 1 / x\nbroken(mpi_rank - mpi_rank)"
    )
    text = page.read()
    assert page.error is not None
    assert len(re.findall(r"before \d", page.stdout)) == 4
    assert text.count("----> 3     return 1 / x") == 1, text
    # What comes later than the others is a line more.
    assert 1 <= text.count("ZeroDivisionError: division by zero") <= 4
    assert re.search(r"\[[0-3, -]+:execute\] ranks? [0-3, -]+ on \S+", text)
    raw = "".join(part for output in page.of("stream") for part in output["parts"])
    assert "\x1b[" in raw + "".join(line for one in page.of("error") for line in one["traceback"])


def test_different_errors_stay_apart(kernel):
    page = kernel.run("%%px\nraise [ValueError, KeyError, TypeError, OSError][mpi_rank](f'of {mpi_rank}')")
    text = page.read()
    for name in ("ValueError: of 0", "KeyError: 'of 1'", "TypeError: of 2", "OSError: of 3"):
        assert text.count(name) == 1, text
    assert page.error is not None


def test_nothing_is_lost_or_doubled_when_a_cell_fails_without_streaming(kernel):
    page = kernel.run(
        "%%px --no-stream\nprint('said', mpi_rank)\nif mpi_rank == 1: raise ValueError('why')\nmpi_rank"
    )
    text = page.read()
    assert Counter(re.findall(r"said \d", text)) == {f"said {rank}": 1 for rank in range(4)}
    assert text.count("ValueError: why") == 1
    assert text.index("said") < text.index("ValueError")
    for rank in (0, 2, 3):
        assert len(re.findall(rf"Out\[[^]]*:\d+\]: {rank}\b", text)) == 1


def test_cells_are_ipython(kernel):
    page = kernel.do(
        "%%px -t 0\n"
        "import asyncio\n"
        "async def later():\n"
        "    await asyncio.sleep(0.01)\n"
        "    return 'awaited'\n"
        "print(await later())\n"
        "words = !echo one two\n"
        "print(words)\n"
        "!echo from the shell\n"
        "%env HOME\n"
    )
    assert [line for _, line in spoken(page.stdout)][:3] == ["awaited", "['one two']", "from the shell"]


def test_progress_lines_go_back(kernel):
    page = kernel.do("%%px -t 0\nfor i in range(101):\n    print(f'\\r{i} %', end='')\nprint()")
    lines = [line for line in page.read().splitlines() if "%" in line]
    assert lines == ["100 %"]


def test_colours_survive(kernel):
    page = kernel.do("%px print('\\x1b[31mred\\x1b[0m')")
    assert spoken(page.stdout) == [((0, 1, 2, 3), "\x1b[31mred\x1b[0m")]


def test_autopx(kernel):
    assert "enabled" in kernel.do("%autopx").stdout
    page = kernel.do("here = mpi_rank * 2\nprint('on', mpi_rank)\nhere")
    assert len(re.findall(r"on \d", page.stdout)) == 4
    assert Counter(re.findall(r"Out\[\d:\d+\]: (\d)", page.read())) == {str(2 * rank): 1 for rank in range(4)}
    failed = kernel.run("1 / 0")
    assert failed.error is not None
    # Once in full; who says the same much later has a line.
    assert failed.read().count("Traceback (most recent call last)") == 1
    assert "disabled" in kernel.do("%autopx").stdout
    assert kernel.value("'here' in globals()") is False
    assert kernel.value("view['here']") == [0, 2, 4, 6]


def test_noblock_and_its_result(kernel, go):
    page = kernel.do(
        "%%px --noblock -o pending\n"
        "import os, time\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "print('at last', mpi_rank)"
    )
    assert "at last" not in page.read()
    assert kernel.value("pending.ready()") is False
    go.touch()
    page = kernel.do("%pxresult")
    assert Counter(re.findall(r"at last \d", page.read())) == {f"at last {rank}": 1 for rank in range(4)}
    assert kernel.value("pending.successful()") is True


def test_two_clients_with_magics_of_their_own(kernel, cluster):
    kernel.do(
        f"other = ipp.Client({str(cluster.connection_file)!r})\n"
        "two = other[1:3]\n"
        "two.block = True\n"
        "two.activate('_two')"
    )
    page = kernel.do("%px_two print('only', mpi_rank)")
    assert sorted(re.findall(r"only \d", page.stdout)) == ["only 1", "only 2"], page.read()
    page = kernel.do("%px print('all', mpi_rank)")
    assert sorted(re.findall(r"all \d", page.stdout)) == [f"all {rank}" for rank in range(4)]
    kernel.do("other.close()")
    page = kernel.do("%px print('all', mpi_rank)")
    assert sorted(re.findall(r"all \d", page.stdout)) == [f"all {rank}" for rank in range(4)]
    failed = kernel.run("%px_two print('closed')")
    assert "clos" in failed.read()


def test_cells_queued_at_once_run_in_order(kernel):
    """As by "Run all": the outputs are each in their cell."""
    cells = [kernel.start(f"%%px\nprint('cell {number} on', mpi_rank)") for number in range(10)]
    for number, cell in enumerate(cells):
        page = cell.finish()
        assert sorted(re.findall(r"cell \d on \d", page.read())) == [
            f"cell {number} on {r}" for r in range(4)
        ]


def test_threads_of_engines_print_into_the_cell_that_runs(kernel, go):
    kernel.do(
        "%%px -t 0\n"
        "import os, threading, time\n"
        "def late():\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "    print('from a thread')\n"
        "thread = threading.Thread(target=late); thread.start()"
    )
    cell = kernel.start("%%px -t 0\nprint('waiting')\nthread.join()\nprint('joined')")
    cell.until("waiting")
    go.touch()
    assert [line for _, line in spoken(cell.finish().stdout)] == ["waiting", "from a thread", "joined"]
