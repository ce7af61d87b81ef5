"""The cache of functions, without MPI."""

from __future__ import annotations

import threading

import pytest

from mpiparallel.engine import functions
from mpiparallel.engine.functions import FunctionCache
from mpiparallel.error import TaskTimeout
from mpiparallel.wire import objects


def packed(value):
    frames = objects.dumps(lambda: value)
    return objects.digest(frames), frames


def never():
    raise AssertionError("asked for a function that was there")


@pytest.fixture
def cache():
    return FunctionCache(objects.MainNamespace({}))


def test_a_function_is_loaded_once(cache):
    digest, frames = packed(1)
    first = cache.get(digest, frames, never)
    assert first() == 1
    assert cache.get(digest, [], never) is first


def test_the_client_is_asked_for_what_is_missing(cache):
    digest, frames = packed(2)
    threading.Timer(0.05, cache.supply, (digest, frames)).start()
    asked = []
    assert cache.get(digest, [], lambda: asked.append(1))() == 2
    assert asked == [1]


def test_a_client_that_no_longer_has_it(cache):
    digest, _ = packed(3)
    with pytest.raises(TaskTimeout, match="no longer has it"):
        cache.get(digest, [], lambda: cache.supply(digest, []))


def test_a_client_that_does_not_answer(cache, monkeypatch):
    monkeypatch.setattr(functions, "PATIENCE", 0.01)
    with pytest.raises(TaskTimeout, match="did not send"):
        cache.get(packed(4)[0], [], lambda: None)


@pytest.mark.parametrize(("limit", "value"), [("MAX_FUNCTIONS", 3), ("MAX_BYTES", 2000)])
def test_the_oldest_go_first(cache, monkeypatch, limit, value):
    monkeypatch.setattr(functions, limit, value)
    every = [packed(i) for i in range(20)]
    for digest, frames in every:
        cache.get(digest, frames, never)
    assert cache.get(every[-1][0], [], never)() == 19
    with pytest.raises(TaskTimeout):
        cache.get(every[0][0], [], lambda: cache.supply(every[0][0], []))


def test_names_that_a_cached_function_brought_are_put_back():
    namespace: dict = {}
    cache = FunctionCache(objects.MainNamespace(namespace))
    source: dict = {"__name__": "__main__", "helper": 5}
    exec("def f():\n    return helper", source)
    frames = objects.dumps(source["f"])
    digest = objects.digest(frames)
    assert cache.get(digest, frames, never)() == 5
    del namespace["helper"]
    assert cache.get(digest, [], never)() == 5
