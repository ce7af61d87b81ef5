"""References, and functions with a condition, as they behave on an engine."""

from __future__ import annotations

import sys
import types

import pytest

from mpiparallel.error import UnmetDependency
from mpiparallel.wire.objects import dumps, loads
from mpiparallel.wire.references import Reference, depend, dependent, require, resolve


def f(x, y=1):
    return x + y


def holds(answer):
    return answer


@pytest.mark.parametrize(
    "value, resolved",
    [
        (Reference("a"), [1, 2]),
        (Reference("a[1] + 1"), 3),
        ([Reference("a[0]"), "a"], [1, "a"]),
        ((0, Reference("a[0]")), (0, 1)),
        ({"k": Reference("a[0]")}, {"k": 1}),
        ([[Reference("a")]], [[Reference("a")]]),  # two containers deep: left alone
        ("a", "a"),
        ([], []),
    ],
    ids=repr,
)
def test_resolve(value, resolved):
    assert resolve(value, {"a": [1, 2]}) == resolved


def test_resolve_leaves_other_containers_as_they_are():
    value = [1, 2]
    assert resolve(value, {}) is value
    with pytest.raises(NameError, match="nowhere"):
        resolve(Reference("nowhere"), {})


def test_depend():
    wrapped = depend(holds, True)(f)
    assert isinstance(wrapped, dependent) and wrapped.__name__ == "f"
    assert wrapped(1, y=2) == 3
    assert depend(holds, None)(f)(1) == 2  # only False counts
    with pytest.raises(UnmetDependency, match="holds does not hold"):
        depend(holds, answer=False)(f)(1)
    assert loads(dumps(wrapped))(1) == 2


def test_require_imports_and_defines(monkeypatch):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert require("json.decoder", types, f, gravity=9.81)(lambda: 5)() == 5
    assert main.json.decoder and main.types is types and main.f is f and main.gravity == 9.81
    with pytest.raises(UnmetDependency, match="no_such_module"):
        require("no_such_module")(f)(1)


@pytest.mark.parametrize("wrong", [3, [f], {"a": 1}])
def test_require_refuses_other_positional_objects(wrong):
    with pytest.raises(TypeError, match="pass an object by keyword"):
        require(wrong)
