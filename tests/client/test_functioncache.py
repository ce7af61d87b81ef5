"""A function that is kept pickled is pickled anew when anything about it has changed."""

from __future__ import annotations

import gc
import math
import os.path
import sys
import types
import weakref

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiparallel.client import functioncache
from mpiparallel.wire import objects


def fresh(f):
    return objects.copied(objects.dumps(f))


def make(source="def f(x=1):\n    return helper(x) + a + math.pi\n", name="__main__", **names):
    """A function as if it had been typed at a prompt."""
    space = {"__name__": name, "__builtins__": __builtins__, **names}
    exec(compile(source, "<prompt>", "exec", dont_inherit=True), space)
    return space["f"], space


def is_kept(f):
    return functioncache.dumps(f) is functioncache.dumps(f)


def helper(x):
    return x


@pytest.mark.parametrize("f", [pow, math.sin, os.path.join, functioncache.dumps])
def test_what_travels_by_name_is_kept(f):
    assert is_kept(f)
    assert functioncache.dumps(f) == fresh(f)
    assert functioncache.dumps(f).digest == objects.digest(fresh(f))


def test_simple_functions_are_kept():
    f, _ = make(a=2, math=math, helper=math.sin)
    assert is_kept(f)
    assert functioncache.dumps(f) == fresh(f)
    recursive, _ = make("def f(x):\n    return f(x - 1) if x else 0\n")
    assert is_kept(recursive)
    annotated, _ = make("def f(x: int) -> 'float':\n    return x\n")
    assert is_kept(annotated)


@pytest.mark.parametrize(
    "make_function",
    [
        lambda: make(a=[1], math=math, helper=math.sin)[0],  # a global that may change
        lambda: make(a=1, math=math, helper=make()[0])[0],  # ... that travels by value itself
        lambda: make("def f(x=[]):\n    return x\n")[0],
        lambda: make("def f(*, x=1):\n    return x\n")[0],
        lambda: make("def g(y):\n    return lambda: y\nf = g(3)\n")[0],
        lambda: make("def f(x: [1]):\n    return x\n")[0],
        lambda: make("def f():\n    pass\nf.mark = 1\n")[0],
        lambda: make(a=types.ModuleType("made_here"), math=math, helper=math.sin)[0],
        lambda: [].append,
    ],
)
def test_others_are_not(make_function):
    f = make_function()
    assert not is_kept(f)
    assert functioncache.dumps(f) == fresh(f)


def replace_code(f, space):
    f.__code__ = make("def f(x=1):\n    return a\n")[0].__code__


CHANGES = {
    "a name": lambda f, space: space.update(a=space.get("a", 0) + 1),
    "no name": lambda f, space: space.pop("a", None),
    "a list": lambda f, space: space.update(helper=[]),
    "what the list holds": lambda f, space: isinstance(space["helper"], list) and space["helper"].append(1),
    "a function by name": lambda f, space: space.update(helper=math.cos),
    "a function by value": lambda f, space: space.update(helper=make("def f(x): return x")[0]),
    "a module": lambda f, space: space.update(math=os),
    "itself": lambda f, space: space.update(helper=f),
    "code": replace_code,
    "defaults": lambda f, space: setattr(f, "__defaults__", ((f.__defaults__ or (0,))[0] + 1,)),
    "keywords": lambda f, space: setattr(f, "__kwdefaults__", {"y": 1}),
    "no keywords": lambda f, space: setattr(f, "__kwdefaults__", None),
    "an attribute": lambda f, space: f.__dict__.update(mark=len(f.__dict__)),
    "no attribute": lambda f, space: f.__dict__.clear(),
    "an annotation": lambda f, space: f.__annotations__.update(
        x=int if "x" not in f.__annotations__ else str
    ),
    "an annotation that may change": lambda f, space: f.__annotations__.update(x=[1]),
    "no annotation": lambda f, space: f.__annotations__.clear(),
    "a doc": lambda f, space: setattr(f, "__doc__", (f.__doc__ or "") + "!"),
    "its name": lambda f, space: setattr(f, "__name__", f.__name__ + "_"),
    "its full name": lambda f, space: setattr(f, "__qualname__", f.__qualname__ + "_"),
    "its module": lambda f, space: setattr(f, "__module__", None if f.__module__ else "__main__"),
    "the module's name": lambda f, space: space.update(__name__=space["__name__"] + "x"),
    "its file": lambda f, space: space.update(__file__=space.get("__file__", "") + "x"),
}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=8))
def test_every_change_is_seen(changes):
    f, space = make(a=1, math=math, helper=math.sin)
    for change in [None, *changes]:
        if change is not None:
            CHANGES[change](f, space)
        kept = functioncache.dumps(f)
        assert kept == fresh(f), change
        assert functioncache.dumps(f) == kept


def test_a_name_that_means_another_function():
    module = types.ModuleType("client_test_module")
    f, _ = make("def f():\n    return 1\n", name=module.__name__)
    module.f = f
    sys.modules[module.__name__] = module
    try:
        by_name = functioncache.dumps(f)
        assert is_kept(f)
        module.f = None
        assert functioncache.dumps(f) == fresh(f) != by_name
        module.f = f
        assert functioncache.dumps(f) == by_name
        cloudpickle.register_pickle_by_value(module)
        assert functioncache.dumps(f) == fresh(f) != by_name
        cloudpickle.unregister_pickle_by_value(module)
    finally:
        del sys.modules[module.__name__]
    assert functioncache.dumps(f) == fresh(f) != by_name


def test_a_submodule_that_is_imported_later():
    package, sub = types.ModuleType("client_test_package"), types.ModuleType("client_test_package.sub")
    package.__path__, package.__package__ = [], package.__name__
    sys.modules[package.__name__] = package
    try:
        f, _ = make("def f():\n    return package.sub\n", package=package)
        before = functioncache.dumps(f)
        sys.modules[sub.__name__] = sub
        assert functioncache.dumps(f) == fresh(f) != before
    finally:
        sys.modules.pop(package.__name__)
        sys.modules.pop(sub.__name__, None)


def test_functions_are_forgotten():
    f, space = make("def f(x):\n    return f(x - 1) if x else 0\n")
    functioncache.dumps(f)
    reference = weakref.ref(f)
    space.clear()
    del f
    gc.collect()
    assert reference() is None
