"""The client with a real controller and real engines: what only they can show.

Functions are defined inside the tests, so that they travel by value: engines cannot import this file.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time

import numpy as np
import pandas as pd
import pytest

import mpiparallel as ipp
from mpiparallel import Reference, error

pytestmark = pytest.mark.mpi


def test_calls(rc):
    view = rc[:]
    pids = view.apply_sync(os.getpid)
    assert len(set(pids)) == len(rc) and os.getpid() not in pids
    assert rc[0].apply_sync(lambda **names: names, f=1, self=2) == {"f": 1, "self": 2}
    assert view.apply_sync(Reference("lambda: mpi_rank")) == rc.ids
    assert view.map_sync(lambda a, b: a * b, range(1, 10), range(2, 11)) == [2, 6, 12, 20, 30, 42, 56, 72, 90]


def test_collectives_between_engines(rc):
    @ipp.interactive  # with the engine's namespace as its globals, as if it had been typed at a prompt
    def total(x):
        return comm.allreduce(x)  # noqa: F821

    assert rc[:].apply_sync(total, Reference("mpi_rank")) == [sum(range(len(rc)))] * len(rc)


def test_data(rc):
    view = rc[:]
    view.block = True
    view["a"] = {"k": [1, 2]}
    view["a['k'][0]"] = 9
    assert view["a['k']"] == [[9, 2]] * len(rc)
    array = np.random.default_rng(1).random(300_000)
    frame = pd.DataFrame({"x": range(11), "y": list("abcdefghijk")})
    for dist in ("b", "r"):
        view.scatter("s", array, dist=dist)
        np.testing.assert_array_equal(view.gather("s", dist=dist), array)
        view.scatter("f", frame, dist=dist)
        assert view.gather("f", dist=dist).equals(frame)
        view.scatter("t", range(16), dist=dist)
        assert view.gather("t", dist=dist) == list(range(16))
    received = rc[0].pull("s", block=True)
    received[0] = 1  # what arrives is writeable
    assert view.apply_sync(lambda a: a.flags.writeable, array) == [True] * len(rc)


def test_cells(rc):
    result = rc[:].execute("print('hi', mpi_rank)\nmpi_rank * 2", silent=False, block=True)
    assert result.stdout == [f"hi {rank}\n" for rank in rc.ids]
    assert [reply.data["text/plain"] for reply in result.get()] == [str(2 * rank) for rank in rc.ids]
    assert all("mpi_rank * 2" in text for text in result.execute_input)
    silent = rc[0].execute("5", block=True).get()
    assert silent.execute_result is None and repr(silent).endswith(": >")


def test_displays(rc):
    code = "from IPython.display import display, HTML\ndisplay(HTML('<b>x</b>'))"
    [output] = rc[0].execute(code, block=True).outputs
    assert output["data"]["text/html"] == "<b>x</b>"


def test_errors(rc):
    with pytest.raises(ipp.RemoteError, match=r"\[0:apply\] ZeroDivisionError") as single:
        rc[0].apply_sync(lambda: 1 // 0)
    assert single.value.engine_info["rank"] == 0 and "1 // 0" in single.value.traceback
    with pytest.raises(ipp.CompositeError) as several:
        rc[:].execute("1/0", block=True)
    assert [info["engine_id"] for *_, info in several.value.elist] == rc.ids
    with pytest.raises(ipp.RemoteError, match="NameError"):
        rc[0].apply_sync(lambda x: x, Reference("nothing"))


def test_an_error_aborts_what_is_queued(rc, tmp_path):
    view, gate = rc[0], tmp_path / "gate"
    first = view.execute(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n1/0")
    second, third = view.execute("b = 2"), view.apply_async(int)
    rc[1].apply_sync(int)  # rank 0 hands out in order: engine 0 has the three by now
    gate.touch()
    with pytest.raises(ipp.RemoteError):
        first.get(10)
    for aborted in (second, third):
        with pytest.raises(error.TaskAborted):
            aborted.get(10)
    assert view.apply_sync(int) == 0


def test_abort(rc):
    view = rc[:]
    running, queued = view.apply_async(time.sleep, 0.5), view.apply_async(time.sleep, 0.5)
    queued.abort()
    with pytest.raises(error.TaskAborted):
        queued.get(10)
    assert running.get(10) == [None] * len(rc)


def test_signals(rc):
    running = rc[0].apply_async(time.sleep, 30)
    rc[0].queue_status()
    while running.started is None and not running.done():
        rc.send_signal("SIGINT", targets=0, block=True)  # harmless until it runs
        running.wait(0.2)
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        running.get(10)
    assert rc[:].apply_sync(int) == [0] * len(rc)


def test_references_require_imports(rc):
    view = rc[:]
    use_math = ipp.require("math")(ipp.interactive(lambda: math.floor(1.5)))  # noqa: F821
    assert view.apply_sync(use_math) == [1] * len(rc)
    with pytest.raises(ipp.CompositeError, match="UnmetDependency"):
        view.apply_sync(ipp.depend(lambda: False)(int))
    with view.sync_imports(quiet=True):
        import colorsys  # noqa: F401
        from xml.dom import minidom  # noqa: F401
    assert view["colorsys.__name__"] == ["colorsys"] * len(rc)
    assert view["minidom.__name__"] == ["xml.dom.minidom"] * len(rc)


def test_output_while_it_runs(rc, capsys):
    result = rc[:].execute("import time\nfor i in range(3): print(i); time.sleep(0.1)")
    with result.stream_output():
        result.get(20)
    streamed = capsys.readouterr().out
    assert [streamed.count(f"{i}\n") for i in range(3)] == [len(rc)] * 3
    assert result.stdout == ["0\n1\n2\n"] * len(rc)


def test_much_output_is_complete(rc):
    code = "for i in range(40000): print('%09d' % i)"
    result = rc[0].execute(code, block=True)
    assert result.stdout == "".join(f"{i:09d}\n" for i in range(40000))


def test_large_functions(rc):
    table = bytes(range(256)) * 100

    def lookup(i):
        return table[i]

    assert [rc[:].apply_sync(lookup, i) for i in range(3)] == [[i] * len(rc) for i in range(3)]
    assert rc[:].map_sync(lookup, range(100)) == list(range(100))


def test_threads_and_tasks_share_a_client(rc):
    found = {}

    def work(number):
        view = rc[:]
        found[number] = [view.apply_sync(lambda i=i: (number, i)) for i in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: [[(number, i)] * len(rc) for i in range(20)] for number in range(3)}

    async def main():
        return await asyncio.gather(*[rc[:].apply_async(abs, -i) for i in range(10)])

    assert asyncio.run(main()) == [[i] * len(rc) for i in range(10)]


def test_status(rc):
    result = rc[:].apply_async(int)
    result.get(10)
    status = rc.queue_status()
    assert all(status[engine]["queue"] == 0 and status[engine]["completed"] > 0 for engine in rc.ids)
    assert rc.result_status(result)["completed"] == result.msg_ids
    rc.purge_results(result)
    rc.purge_everything()
    with pytest.raises(KeyError):
        rc.result_status(["nobody-1_0"])


def test_clear(rc):
    rc[:].push({"a": 1}, block=True)
    rc.clear(block=True)
    with pytest.raises(ipp.RemoteError, match="NameError"):
        rc[0]["a"]
    assert rc[:]["mpi_rank"] == rc.ids
