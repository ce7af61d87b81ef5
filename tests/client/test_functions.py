"""The decorators remote and parallel."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import mpiparallel as ipp
from mpiparallel import AsyncMapResult, ParallelFunction, RemoteFunction


def test_remote(view):
    @view.remote(block=True)
    def add(a, b: int = 2):
        """Add."""
        return a + b

    assert isinstance(add, RemoteFunction)
    assert add(1) == [3] * 4
    assert add(1, b=5) == [6] * 4
    assert add.__name__ == "add"
    assert add.__doc__ == "RemoteFunction wrapping:\nAdd."
    assert str(inspect.signature(add)) in ("(a, b: int = 2)", "(a, b: 'int' = 2)")
    assert "add" in repr(add)


def test_block_follows_the_view(view):
    twice = ipp.remote(view)(lambda x: 2 * x)
    assert twice(2).get(5) == [4] * 4
    view.block = True
    assert twice(2) == [4] * 4


def test_flags(client):
    twice = client[:].remote(block=True, targets=[1, 2])(lambda x: 2 * x)
    assert twice(2) == [4, 4]
    with pytest.raises(KeyError, match="invalid flag 'colour'"):
        client[:].remote(colour=1)(abs)(1)


def test_parallel_arrays(view):
    array = np.random.default_rng(1).random((64, 48))

    @view.parallel(block=True)
    def pmul(a, b):
        return a * b

    assert isinstance(pmul, ParallelFunction)
    np.testing.assert_array_equal(pmul(array, array), array * array)


@pytest.mark.parametrize("dist", ["b", "r"])
def test_parallel_lists(view, dist):
    @ipp.parallel(view, dist=dist, block=True)
    def square(part):
        return [x * x for x in part]

    assert square(range(11)) == [x * x for x in range(11)]
    assert square([3]) == [9]
    assert square([]) == []


@pytest.mark.parametrize("dist", ["b", "r"])
def test_parallel_map(view, dist):
    power = view.parallel(dist=dist)(pow)
    assert isinstance(power.map([1], [1]), AsyncMapResult)
    assert power.map(range(9), [2] * 12).get(5) == [x * x for x in range(9)]
    assert list(power.map(range(9), [2] * 12)) == [x * x for x in range(9)]


def test_lengths_must_agree(view):
    add = view.parallel(block=True)(lambda a, b: a)
    with pytest.raises(ValueError, match=r"equal length, but have \[2, 3\]"):
        add([1, 2], [1, 2, 3])
    with pytest.raises(TypeError, match="at least one sequence"):
        add()
    with pytest.raises(ValueError, match="dist='x'"):
        view.parallel(dist="x")(abs)


def test_unordered(view):
    f = view.parallel(ordered=False)(lambda part: part)
    assert sorted(f(list(range(8)))) == list(range(8))
