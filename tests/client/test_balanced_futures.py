"""Executors, and joblib's backend; with a controller inside the test process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading

import pytest
from helpers import wait_until

import mpiparallel as ipp
from mpiparallel.client.executor import ViewExecutor
from mpiparallel.wire import objects
from mpiparallel.wire.calls import run_captured


@pytest.fixture
def executor(client):
    with client.executor() as executor:
        yield executor


def test_it_is_an_executor(client, executor):
    assert isinstance(executor, concurrent.futures.Executor) and isinstance(executor, ViewExecutor)
    assert executor._max_workers == 4
    futures = [executor.submit(pow, n, 2) for n in range(10)]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    assert [future.result(10) for future in futures] == [n * n for n in range(10)]
    done = concurrent.futures.as_completed(futures, 10)
    assert {future.result() for future in done} == {n * n for n in range(10)}
    assert concurrent.futures.wait(futures, 10).not_done == set()
    assert executor.submit(dict, self=1, fn=2).result(10) == {"self": 1, "fn": 2}
    assert list(executor.map(pow, range(5), itertools.repeat(3))) == [0, 1, 8, 27, 64]
    with pytest.warns(UserWarning, match="timeout"):
        assert list(executor.map(abs, [1], timeout=5)) == [1]


def test_errors(executor):
    future = executor.submit(divmod, 1, 0)
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        future.result(10)
    assert future.exception().ename == "ZeroDivisionError"


def test_await(executor):
    async def main():
        wrapped = asyncio.wrap_future(executor.submit(abs, -1))
        return await wrapped, await executor.submit(abs, -2)

    assert asyncio.run(main()) == (1, 2)


def test_callbacks(executor):
    came = threading.Event()
    executor.submit(abs, -1).add_done_callback(lambda future: came.set())
    assert came.wait(10)


def test_cancel_takes_a_call_out_of_the_queue(fake, client, executor):
    fake.paused.set()
    first, second = executor.submit(abs, -1), executor.submit(abs, -2)
    called = []
    second.add_done_callback(called.append)
    assert not second.cancelled() and second.cancel() and second.cancel()
    assert second.cancelled() and second.done() and called == [second]
    with pytest.raises(concurrent.futures.CancelledError):
        second.result()
    with pytest.raises(concurrent.futures.CancelledError):
        second.exception()
    with pytest.raises(TimeoutError):
        first.result(0.01)
    fake.release(client)
    assert first.result(10) == 1 and not first.cancel()
    assert concurrent.futures.wait([first, second], 10).not_done == set()
    assert [task for _, header, _, task in fake.queue] == []


def test_what_runs_cannot_be_cancelled(fake, client, executor):
    fake.holding.update(range(4))
    future = executor.submit(abs, -1)
    assert wait_until(lambda: fake.held)
    assert not future.cancel() and not future.done()
    fake.holding.clear()
    fake.call(fake._interrupt, next(iter(fake.held)))
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        future.result(10)


def test_shutdown(fake, client):
    executor = client.load_balanced_view().executor
    assert client.load_balanced_view().executor is not executor
    fake.paused.set()
    future = executor.submit(abs, -1)
    executor.shutdown(wait=False)
    for call in (lambda: executor.submit(abs, 1), lambda: executor.map(abs, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            call()
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()
    fake.paused.clear()
    assert client[:].apply_sync(abs, -1) == [1, 1, 1, 1]  # the engines are there


def test_executor_of_a_direct_view(client):
    view = client[:2]
    assert view.executor is view.executor
    assert view.executor.submit(abs, -1).result(10) == [1, 1]
    assert list(view.executor.map(abs, [-1, -2, -3])) == [1, 2, 3]


# ---------------------------------------------------------------- joblib

joblib = pytest.importorskip("joblib")


@pytest.fixture
def backend(client):
    backends = dict(joblib.parallel.BACKENDS)
    client.load_balanced_view().register_joblib_backend()
    yield
    joblib.parallel.BACKENDS.clear()
    joblib.parallel.BACKENDS.update(backends)


class Unhappy(Exception):
    """An exception with an argument that it wants back."""

    def __init__(self, number: int) -> None:
        super().__init__(f"unhappy with {number}")
        self.number = number

    def __reduce__(self):
        return Unhappy, (self.number,)


def fail_on_three(x):
    if x == 3:
        raise Unhappy(x)
    return x


def inner(x):
    return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(x, n) for n in range(3)))


@pytest.mark.parametrize("name", ["ipyparallel", "mpiparallel"])
def test_joblib(backend, name):
    with joblib.parallel_config(name):
        assert joblib.effective_n_jobs() == 4 and joblib.effective_n_jobs(2) == 2
        assert joblib.effective_n_jobs(-2) == 3 and joblib.effective_n_jobs(100) == 4
        assert joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(50)) == [n * n for n in range(50)]
        with pytest.raises(ValueError, match="n_jobs"):
            joblib.effective_n_jobs(0)


def test_joblib_nested(backend):
    with joblib.parallel_config("ipyparallel"):
        assert joblib.Parallel()(joblib.delayed(inner)(x) for x in range(4)) == [1, 3, 7, 13]


def test_joblib_errors_are_the_very_exceptions(fake, client, backend):
    with joblib.parallel_config("ipyparallel"), pytest.raises(Unhappy, match="unhappy with 3") as caught:
        joblib.Parallel(batch_size=1)(joblib.delayed(fail_on_three)(x) for x in range(50))
    assert caught.value.number == 3 and "fail_on_three" in caught.value.__cause__.traceback
    assert wait_until(lambda: not client.outstanding)


def test_joblib_draws_jobs_outside_of_the_thread_that_receives(client, backend):
    view = client[:]

    def jobs():
        for x in range(30):
            assert view.apply_sync(abs, -x) == [x] * 4  # this would never come
            yield joblib.delayed(abs)(-x)

    with joblib.parallel_config("ipyparallel"):
        assert joblib.Parallel(pre_dispatch=4)(jobs()) == list(range(30))


def test_joblib_generator(backend):
    with joblib.parallel_config("ipyparallel"):
        values = joblib.Parallel(return_as="generator")(joblib.delayed(abs)(-x) for x in range(9))
        assert list(values) == list(range(9))


def test_captured_errors():
    def value(call):
        return objects.loads(objects.dumps(run_captured(call))).value()

    assert value(lambda: 5) == 5
    with pytest.raises(Unhappy, match="unhappy with 3"):
        value(lambda: fail_on_three(3))

    class Odd(Exception):
        def __reduce__(self):
            raise RuntimeError("not to be pickled")

    def odd():
        raise Odd("strange")

    with pytest.raises(Odd, match="strange"):
        run_captured(odd)
