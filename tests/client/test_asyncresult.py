"""AsyncResult and AsyncMapResult: waiting, results, errors, what they tell."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from datetime import datetime, timezone

import pytest

import mpiparallel as ipp
from mpiparallel import AsyncMapResult, AsyncResult, error


def fail(x=0):
    return 1 // x


# ---------------------------------------------------------------- waiting


def test_pending_then_done(fake, client):
    fake.paused.set()
    result = client[:].apply_async(abs, -3)
    assert repr(result) == "<AsyncResult(abs): pending>"
    assert not result.ready() and not result.done() and result.running()
    assert result.wait(0) is False
    for wait in (lambda: result.get(0.01), lambda: result.result(0.01), lambda: result.exception(0.01)):
        with pytest.raises(TimeoutError, match="Result not ready"):
            wait()
    with pytest.raises(RuntimeError, match="not done"):
        result.successful()
    for name in ("serial_time", "wall_time"):
        with pytest.raises(TimeoutError):
            getattr(result, name)
    with pytest.raises(TimeoutError):
        result[0]
    assert result.progress == 0 and result.elapsed >= 0
    assert not result.cancel()
    fake.release(client)
    assert result.wait() is True
    assert result.wait_for_output() is True
    assert result.get() == result.result() == result.r == [3] * 4
    assert result.exception() is None and result.successful() and result.ready()
    assert repr(result) == "<AsyncResult(abs): finished>"
    with pytest.raises(RuntimeError, match="already done"):
        result.abort()


def test_wait_for_some(fake, client):
    fake.paused.set()
    result = client[:].apply_async(int)
    done, pending = result.wait(0, return_when=ipp.FIRST_COMPLETED)
    assert (len(done), len(pending)) == (0, 4)
    fake.release(client)
    done, pending = result.wait(5, return_when=ipp.ALL_COMPLETED)
    assert (len(done), len(pending)) == (4, 0)
    assert all(isinstance(child, AsyncResult) and child.get() == 0 for child in done)
    single = client[0].apply_async(int)
    assert single.wait(5, return_when=ipp.FIRST_EXCEPTION) == ({single}, set())
    with pytest.raises(ValueError, match="FIRST_COMPLETED"):
        result.wait(0, return_when="soon")


def test_first_exception(fake, client):
    def on_one():
        return 1 // (engine_id - 1)  # noqa: F821

    with pytest.raises(ipp.CompositeError):
        client[:].apply_async(ipp.interactive(on_one)).get(5, return_when=ipp.FIRST_EXCEPTION)
    with pytest.warns(UserWarning, match="FIRST_COMPLETED"):
        assert client[0].apply_async(int).get(5, return_when=ipp.FIRST_COMPLETED) == 0


def test_futures_and_callbacks(client):
    results = [client[0].apply_async(abs, i) for i in range(5)]
    assert concurrent.futures.wait(results, timeout=5).not_done == set()
    assert sorted(future.result() for future in concurrent.futures.as_completed(results)) == list(range(5))
    called = []
    results[0].add_done_callback(called.append)
    assert called == [results[0]]


def test_a_callback_that_would_wait_for_ever_says_so(fake, client):
    problems = []

    def callback(result):
        try:
            client[0].apply_sync(int)
        except RuntimeError as problem:
            problems.append(str(problem))

    fake.paused.set()
    result = client[0].apply_async(int)
    result.add_done_callback(callback)
    fake.release(client)
    result.get(5)
    client[1].apply_sync(int)
    assert "callback" in problems[0]


def test_callbacks_may_submit(fake, client):
    later = []
    fake.paused.set()
    result = client[0].apply_async(int)
    result.add_done_callback(lambda _: later.append(client[1].apply_async(abs, -2)))
    fake.release(client)
    result.get(5)
    client[2].apply_sync(int)
    assert later[0].get(5) == 2


def test_await(client):
    async def main():
        one = await client[0].apply_async(abs, -1)
        several = await asyncio.gather(*[client[:].apply_async(abs, i) for i in range(3)])
        with pytest.raises(ipp.RemoteError):
            await client[0].apply_async(fail)
        return one, several

    assert asyncio.run(main()) == (1, [[0] * 4, [1] * 4, [2] * 4])


def test_await_with_a_timeout(fake, client):
    fake.paused.set()
    result = client[0].apply_async(int)

    async def main():
        await asyncio.wait_for(result, 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    fake.release(client)
    assert result.get(5) == 0


def test_jobs_of_all_kinds_can_be_waited_for(fake, client):
    fake.paused.set()
    result = client[0].apply_async(int)
    other: concurrent.futures.Future = concurrent.futures.Future()
    for jobs in (result, 0, result.msg_ids, result.msg_ids[0], [result, 0], [other, result], other):
        assert client.wait(jobs, timeout=0.01) is False
    fake.release(client)
    other.set_result(None)
    for jobs in (result, 0, result.msg_ids, [result, [0]], [other, result], None):
        assert client.wait(jobs, timeout=5) is True
    with pytest.raises(TypeError, match="a job is"):
        client.wait(1.5)


# ---------------------------------------------------------------- errors


def test_a_single_error(client):
    result = client[0].apply_async(fail)
    with pytest.raises(ipp.RemoteError) as caught:
        result.get(5)
    problem = caught.value
    assert not isinstance(problem, ipp.CompositeError)
    assert (problem.ename, problem.evalue) == ("ZeroDivisionError", "integer division or modulo by zero")
    assert problem.engine_info["engine_id"] == 0
    assert problem.engine_info["method"] == "apply"
    assert str(problem) == "[0:apply] ZeroDivisionError: integer division or modulo by zero"
    assert "fail" in problem.traceback
    assert repr(result) == "<AsyncResult(fail): failed>"
    assert not result.successful()
    assert isinstance(result.exception(), ipp.RemoteError)
    assert isinstance(result.get(return_exceptions=True), ipp.RemoteError)
    assert result.error.ename == "ZeroDivisionError"
    assert result.status == "error"


def test_several_errors(client):
    result = client[:].apply_async(fail)
    with pytest.raises(ipp.CompositeError, match="one or more exceptions raised in: fail") as caught:
        result.get(5)
    assert [info["engine_id"] for *_, info in caught.value.elist] == [0, 1, 2, 3]
    assert all(isinstance(value, ipp.RemoteError) for value in result.get(return_exceptions=True))
    assert isinstance(result.exception(), ipp.CompositeError)
    with pytest.raises(ipp.CompositeError):
        result[0]
    with pytest.raises(ipp.CompositeError):
        list(result)


def test_an_execute_error(client):
    with pytest.raises(ipp.RemoteError, match=r"\[0:execute\] ZeroDivisionError"):
        client[0].execute("1/0", block=True)


def test_an_execute_error_aborts_what_is_queued(fake, client):
    fake.paused.set()
    view = client[0]
    first, second, third = view.execute("1/0"), view.execute("b = 2"), view.apply_async(int)
    other = client[1].apply_async(int)
    fake.release(client)
    with pytest.raises(ipp.RemoteError):
        first.get(5)
    for aborted in (second, third):
        with pytest.raises(error.TaskAborted, match=aborted.msg_ids[0]) as caught:
            aborted.get(5)
        assert type(caught.value) is error.TaskAborted
        assert aborted.status == "aborted"
    assert other.get(5) == 0


def test_aborted_and_failed_together(fake, client):
    fake.paused.set()
    result = client[:2].apply_async(fail)
    client.abort([result.msg_ids[0]])
    fake.release(client)
    with pytest.raises(ipp.CompositeError) as caught:
        result.get(5)
    assert [ename for ename, *_ in caught.value.elist] == ["TaskAborted", "ZeroDivisionError"]


def test_an_engine_that_dies(fake, client):
    fake.paused.set()
    result = client[:].apply_async(int)
    fake.call(fake.remove_engine, 2)
    fake.release(client)
    with pytest.raises(ipp.CompositeError) as caught:
        result.get(5)
    [(ename, evalue, _, info)] = caught.value.elist
    assert (ename, info["engine_id"]) == ("EngineError", 2)
    assert evalue == f"Engine 2 died while running task {result.msg_ids[2]}: it was killed"
    assert result.get(return_exceptions=True)[3] == 0


class Unreadable:
    def __reduce__(self):
        return fail, ()


def test_a_result_that_cannot_be_unpickled(client):
    result = client[0].apply_async(Unreadable)
    text = r"\[0:apply\] ZeroDivisionError: .*while unpickling the result of"
    with pytest.raises(ipp.RemoteError, match=text) as caught:
        result.get(5)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_exception_as_a_value_is_a_value(client):
    assert isinstance(client[0].apply_sync(ValueError, "x"), ValueError)
    assert [str(value) for value in client[:].apply_sync(ValueError, "x")] == ["x"] * 4


# ---------------------------------------------------------------- what it tells


def test_by_engine(client):
    assert client[:2].apply_async(abs, -1).get_dict() == {0: 1, 1: 1}
    assert client[1].apply_async(abs, -1).result_dict == {1: 1}
    twice = AsyncResult.join(client[0].apply_async(int), client[0].apply_async(int))
    with pytest.raises(ValueError, match="2 jobs ran on engine #0"):
        twice.get_dict()


def test_split_and_join(client):
    result = client[:].apply_async(abs, -1)
    parts = result.split()
    assert [part.get(5) for part in parts] == [1] * 4
    assert [part.engine_id for part in parts] == [0, 1, 2, 3]
    joined = AsyncResult.join(*parts, client[0].apply_async(abs, -2))
    assert joined.get(5) == [1, 1, 1, 1, 2]
    assert len(joined) == 5
    with pytest.raises(ValueError, match="at least one"):
        AsyncResult.join()


def test_iteration_and_indexing(client):
    result = client[:].apply_async(abs, -1)
    assert list(result) == [1] * 4
    assert result[0] == 1 and result[1:3] == [1, 1] and result[-1] == 1
    assert len(result) == result.progress == 4
    single = client[0].apply_async(int)
    with pytest.raises(TypeError, match="not iterable"):
        iter(single)
    with pytest.raises(TypeError, match="Invalid key type"):
        result[1.5]


def test_metadata(fake, client):
    fake.paused.set()
    before = datetime.now(timezone.utc)
    result = client[:].apply_async(int)
    single = client[2].apply_async(int)
    assert result.engine_id == [0, 1, 2, 3]
    assert result.started == [None] * 4
    assert single.engine_uuid == "world-2"
    assert single.metadata.msg_id == single.msg_ids[0]
    held = single.metadata
    fake.release(client)
    client.wait(timeout=5)
    assert held.status == "ok"
    assert result.status == ["ok"] * 4
    assert before <= single.submitted <= single.started <= single.completed <= datetime.now(timezone.utc)
    assert single["received"].tzinfo is timezone.utc
    assert "engine_id" in dir(single)
    with pytest.raises(AttributeError, match="no_such"):
        _ = single.no_such
    with pytest.raises(KeyError):
        _ = single["no_such"]
    with pytest.raises(KeyError):
        held["no_such"] = 1
    with pytest.raises(AttributeError):
        held.no_such = 1
    assert client.metadata[single.msg_ids[0]] == held
    assert client.results[single.msg_ids[0]] == 0
    assert client.metadata["nobody"].status is None
    with pytest.raises(KeyError, match="nobody"):
        client.results["nobody"]


def test_times(client):
    result = client[:].apply_async(time.sleep, 0.02)
    result.get(5)
    assert result.serial_time >= 0.08
    assert result.wall_time >= 0.08  # the fake engines run one after another
    assert result.wall_time == result.elapsed
    assert result.timedelta(result.submitted, result.received) == pytest.approx(result.wall_time, abs=1e-3)
    single = client[0].apply_async(int)
    single.get(5)
    assert single.timedelta(single.started, single.completed) >= 0


def test_progress_bars(fake, client, capsys):
    fake.paused.set()
    result = client[:].map_async(abs, range(10))
    result.wait_interactive(interval=0.01, timeout=0.05, widget=False)
    assert "0/10" in capsys.readouterr().err
    fake.release(client)
    result.wait_interactive(widget=False)
    assert "10/10" in capsys.readouterr().err
    result.wait_interactive(widget=False, return_when=ipp.FIRST_EXCEPTION)
    assert client.wait_interactive() is True


# ---------------------------------------------------------------- maps


def test_a_map_result(fake, client):
    fake.paused.set()
    result = client[:].map_async(abs, range(-10, 0))
    assert isinstance(result, AsyncMapResult)
    assert (len(result), result.progress, result.ordered) == (10, 0, True)
    fake.release(client)
    assert list(result) == list(range(10, 0, -1))
    assert result.progress == 10
    assert repr(result) == "<AsyncMapResult(abs): finished>"


def test_map_items_come_while_others_run(fake, client):
    result = client[:].map_async(abs, range(8))
    iterator = iter(result)
    assert next(iterator) == 0
    assert list(iterator) == list(range(1, 8))


def test_unordered_iteration(client):
    result = client[:].map_async(abs, range(8))
    result.ordered = False
    assert sorted(result) == list(range(8))


def test_map_errors_while_iterating(client):
    result = client[:].map_async(fail, [1, 1, 0, 1])
    got = []
    with pytest.raises(ipp.RemoteError):
        for value in result:
            got.append(value)
    assert got in ([1, 1], [])


def test_dead_engines_in_a_map_that_returns_exceptions(fake, client):
    fake.paused.set()
    result = client[:].map_async(abs, range(8), return_exceptions=True)
    fake.call(fake.remove_engine, 1)
    fake.release(client)
    values = result.get(5)
    assert [getattr(value, "ename", value) for value in values] == [
        0,
        1,
        "EngineError",
        "EngineError",
        4,
        5,
        6,
        7,
    ]
    assert [getattr(value, "ename", value) for value in result] == [
        0,
        1,
        "EngineError",
        "EngineError",
        4,
        5,
        6,
        7,
    ]
