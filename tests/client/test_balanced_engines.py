"""Load-balanced work on real engines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest
from helpers import wait_until

import mpiparallel as ipp

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]


@ipp.interactive
def which(*_):
    """Return the engine that runs this."""
    return engine_id  # noqa: F821


@ipp.interactive
def busy_which(*_):
    """Work for some milliseconds, and return the engine that runs this."""
    import time

    end = time.perf_counter() + 0.005
    while time.perf_counter() < end:
        pass
    return engine_id  # noqa: F821


@pytest.fixture
def lview(rc):
    return rc.load_balanced_view()


def test_apply_and_metadata(rc, lview):
    result = lview.apply_async(os.getpid)
    assert result.get(20) in rc[:].apply_sync(os.getpid)
    assert result.engine_id in rc.ids and result.status == "ok" and result.started <= result.completed
    with lview.temp_flags(label="mine", targets=[2]):
        result = lview.apply_async(os.getpid)
        result.get(20)
    assert (result.engine_id, result.label) == (2, "mine")


def test_output_of_tasks(lview):
    def speak(x):
        print("item", x)
        return x

    result = lview.map_async(speak, range(4))
    assert result.get(20) == [0, 1, 2, 3]
    assert result.stdout == [f"item {x}\n" for x in range(4)]


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_map(lview, chunksize):
    assert lview.map_sync(pow, range(500), [2] * 600, chunksize=chunksize) == [x * x for x in range(500)]
    assert lview.map_sync(lambda row: row.sum(), numpy.ones((20, 3)), chunksize=chunksize) == [3.0] * 20


def test_a_map_longer_than_the_window(rc, lview):
    began = time.perf_counter()
    result = lview.map_async(abs, range(25_000))
    seen = []
    for value in itertools.islice(result, 100):
        seen.append(value)
    assert seen == list(range(100))
    assert result.get(90) == list(range(25_000)) and result.progress == len(result) == 25_000
    assert set(result.engine_id) == set(rc.ids)
    assert 0 < result.wall_time <= time.perf_counter() - began
    assert result.serial_time >= 0


def test_uneven_tasks_are_shared_out(lview):
    seconds = [0.4] + [0.02] * 30
    result = lview.map_async(time.sleep, seconds)
    result.get(30)
    engines = result.engine_id
    assert engines.count(engines[0]) < 20  # whoever had the long one left others to the rest
    assert len(set(engines)) >= 2


def test_output_is_streamed_with_the_engine_that_prints(lview, capsys):
    @ipp.interactive
    def speak(number):
        import time

        print(f"engine {engine_id}", flush=True)  # noqa: F821
        time.sleep(0.1)
        return engine_id  # noqa: F821

    result = lview.map_async(speak, range(4))
    with result.stream_output():
        engines = result.get(30)
    shown = capsys.readouterr().out
    for engine in set(engines):
        assert f"[stdout:{engine}] \nengine {engine}\n" in shown
    assert "[stdout:-1]" not in shown


def test_errors_and_return_exceptions(lview):
    def invert(x):
        return 1 / x

    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        lview.apply_sync(invert, 0)
    with pytest.raises(ipp.CompositeError, match="ZeroDivisionError"):
        lview.map_sync(invert, [1, 0, 2])
    values = lview.map_sync(invert, [1, 0, 2], return_exceptions=True)
    assert values[::2] == [1, 0.5] and values[1].ename == "ZeroDivisionError"


def test_retries_go_to_other_engines(rc, lview, tmp_path):
    @ipp.interactive
    def fail_three_times(folder):
        import os

        open(os.path.join(folder, str(engine_id)), "x").close()  # noqa: F821 - fails where it has been
        if len(os.listdir(folder)) < 4:
            raise RuntimeError("not here")
        return engine_id  # noqa: F821

    with lview.temp_flags(retries=3):
        result = lview.apply_async(fail_three_times, str(tmp_path))
    assert result.get(20) == result.engine_id
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]
    other = tmp_path / "other"
    other.mkdir()
    with lview.temp_flags(retries=1), pytest.raises(ipp.RemoteError, match="not here"):
        lview.apply_sync(fail_three_times, str(other))
    assert len(os.listdir(other)) == 2


def test_timeout(rc, lview):
    with lview.temp_flags(targets=[1]):
        busy = lview.apply_async(lambda: time.sleep(2.5))  # unknown as yet, so that nothing is sent after it
        assert wait_until(lambda: lview.queue_status()[1]["tasks"])
        waiting = lview.apply_async(abs, 1)
        assert wait_until(lambda: lview.queue_status()["unassigned"] == 1)
        assert lview.queue_status(verbose=True)["unassigned"] == waiting.msg_ids
        with lview.temp_flags(timeout=0.3), pytest.raises(ipp.TaskTimeout) as caught:
            lview.apply_async(abs, 1).get(20)
    assert isinstance(caught.value, ipp.RemoteError) and caught.value.ename == "TaskTimeout"
    busy.get(20)


def test_after_and_follow(rc, lview):
    first = lview.apply_async(time.sleep, 0.3)
    with lview.temp_flags(after=first):
        after = lview.apply_async(abs, -1)
    with lview.temp_flags(follow=[first]):
        follow = lview.map_async(which, range(6))
    assert after.get(20) == 1 and after.started >= first.completed
    assert follow.get(20) == [first.engine_id] * 6
    failed = lview.apply_async(divmod, 1, 0)
    with lview.temp_flags(after=failed), pytest.raises(ipp.ImpossibleDependency):
        lview.apply_async(abs, -1).get(20)
    with lview.temp_flags(after=ipp.Dependency([failed, first], all=False)):
        assert lview.apply_async(abs, -1).get(20) == 1
    with lview.temp_flags(after=ipp.Dependency([failed], success=False, failure=True)):
        assert lview.apply_async(abs, -1).get(20) == 1
    with lview.temp_flags(after="nobody_3"), pytest.raises(ipp.InvalidDependency):
        lview.apply_async(abs, -1).get(20)
    direct = rc[3].apply_async(time.sleep, 0.1)
    with lview.temp_flags(follow=direct):
        assert lview.apply_async(which).get(20) == 3


def test_depend_and_require(rc, lview):
    rc[2].push({"has_data": True}, block=True)

    @ipp.interactive
    def here():
        return "has_data" in globals()

    use = ipp.depend(here)(which)
    assert [lview.apply_async(use).get(20) for _ in range(6)] == [2] * 6
    assert lview.map_sync(use, range(5)) == [2] * 5

    def helper(x):
        return 2 * x

    @ipp.require("json", helper, base=40)
    @ipp.interactive
    def work():
        return json.dumps([helper(1), base])  # noqa: F821

    assert lview.apply_sync(work) == "[2, 40]"

    @ipp.require("a_module_that_does_not_exist")
    def impossible():
        return 1

    with pytest.raises(ipp.UnmetDependency):
        lview.apply_async(impossible).get(20)


def test_abort(rc, lview):
    with lview.temp_flags(targets=[0]):
        results = [lview.apply_async(time.sleep, 0.5) for _ in range(4)]
    lview.abort(results[2:])
    for result in results[2:]:
        with pytest.raises(ipp.TaskAborted):
            result.get(20)
    assert [result.get(20) for result in results[:2]] == [None, None]


def test_imap_over_an_infinite_generator(rc, lview):
    drawn = []

    def numbers():
        for number in itertools.count():
            drawn.append(number)
            yield number

    values = lview.imap(pow, numbers(), itertools.repeat(2))
    assert list(itertools.islice(values, 300)) == [x * x for x in range(300)]
    assert len(drawn) < 300 + 4 * 64 * 16
    values.close()
    assert wait_until(lambda: not rc.outstanding)
    # An engine that is free at once gets the next task, too: so these take a while.
    engines = itertools.islice(lview.imap(busy_which, itertools.count(), ordered=False), 200)
    assert set(engines) == set(rc.ids)


def test_progress_bar(lview, capsys):
    result = lview.map_async(time.sleep, [0.05] * 8)
    result.wait_interactive(interval=0.05, timeout=20)
    assert "8/8" in capsys.readouterr().err


def test_executors(rc):
    with rc.executor() as executor:
        futures = [executor.submit(pow, x, 2) for x in range(50)]
        done = concurrent.futures.as_completed(futures, 20)
        assert sorted(future.result() for future in done) == [x * x for x in range(50)]
        assert list(executor.map(pow, range(20), itertools.repeat(2))) == [x * x for x in range(20)]

        async def main():
            return await asyncio.gather(*[asyncio.wrap_future(executor.submit(abs, -x)) for x in range(5)])

        assert asyncio.run(main()) == list(range(5))
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    assert rc[:].apply_sync(abs, -1) == [1] * 4


def test_cancel(rc, tmp_path):
    def work(path):
        open(path, "x").close()
        time.sleep(0.6)

    executor = rc.executor([1])
    futures = [executor.submit(work, str(tmp_path / str(number))) for number in range(4)]
    assert wait_until((tmp_path / "0").exists)
    began = time.monotonic()
    assert futures[3].cancel() and futures[2].cancel()
    assert time.monotonic() - began < 0.6
    assert futures[2].cancelled() and not futures[0].cancel()
    assert futures[0].result(10) is None and futures[1].result(10) is None
    executor.shutdown()


def test_ctrl_c_in_a_map(cluster, rc, tmp_path):
    """KeyboardInterrupt is raised, and what has not begun never does."""
    script = tmp_path / "map.py"
    script.write_text(
        "import os, sys, time\n"
        "import mpiparallel as ipp\n"
        "rc = ipp.Client(sys.argv[1])\n"
        "def work(x):\n"
        "    import time\n"
        "    open(f'{sys_folder}/{x}', 'x').close()\n"
        "    time.sleep(0.2)\n"
        "rc[:].push({'sys_folder': sys.argv[2]}, block=True)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    rc.load_balanced_view().map_sync(work, range(400))\n"
        "except KeyboardInterrupt:\n"
        "    rc.wait(timeout=10)\n"
        "    print('interrupted', len(rc.outstanding), flush=True)\n"
    )
    begun = tmp_path / "begun"
    begun.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(cluster.connection_file), str(begun)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: len(os.listdir(begun)) >= 4, 30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "interrupted 0" in out, (out, err)
    assert len(os.listdir(begun)) < 100


def test_joblib(rc, lview):
    joblib = pytest.importorskip("joblib")
    lview.register_joblib_backend()
    with joblib.parallel_config("mpiparallel"):
        pids = joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(20))
        assert set(pids) <= set(rc[:].apply_sync(os.getpid)) and len(set(pids)) > 1
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(divmod)(1, x) for x in range(3))


def test_several_threads_share_a_view(lview):
    values = {}

    def work(number):
        values[number] = lview.map_sync(pow, range(100), [number] * 100)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert values == {number: [x**number for x in range(100)] for number in range(4)}
