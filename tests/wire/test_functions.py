"""Functions and classes as frames, and the namespace in which they run where they arrive."""

from __future__ import annotations

import functools
import math
import operator
import pickle
import subprocess
import sys
import textwrap

import pytest

from mpiparallel.wire.objects import MainNamespace, digest, dumps, loads
from mpiparallel.wire.references import Reference, interactive


def typed(source: str) -> dict:
    """Return the names that `source` makes when it is typed at a prompt, that is, in ``__main__``."""
    names = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(source), "<prompt>", "exec"), names)
    return names


@pytest.fixture
def engine():
    return MainNamespace({"__name__": "__main__"})


def sent(value, engine=None):
    return loads([bytes(frame) for frame in dumps(value)], engine)


# ---------------------------------------------------------------- functions by value


def test_functions_with_everything(engine):
    here = typed(
        """
        def outer(n):
            count = 0
            def inner(a, /, b, *rest, c: int = 3, d, **more) -> float:
                "documented"
                nonlocal count
                count += n
                return a, b, rest, c, d, more, count
            inner.tag = [1]
            return inner
        made = outer(5)
        """
    )
    inner = sent(here["made"], engine)
    assert inner(1, 2, 9, d=4, e=5) == (1, 2, (9,), 3, 4, {"e": 5}, 5)
    assert inner(1, 2, d=4)[-1] == 10
    assert here["made"](1, 2, d=4)[-1] == 5  # the sender's count is the sender's
    assert (inner.__doc__, inner.__name__, inner.tag) == ("documented", "inner", [1])
    assert inner.__kwdefaults__ == {"c": 3} and set(inner.__annotations__) == {"c", "return"}


def test_recursion_and_mutual_recursion(engine):
    here = typed(
        """
        def factorial(n): return n * factorial(n - 1) if n else 1
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def maker():
            def walk(n): return [n, *walk(n - 1)] if n else []
            return walk
        """
    )
    assert sent(here["factorial"], engine)(20) == math.factorial(20)
    assert sent(here["even"], engine)(11) is False
    assert sent(here["maker"](), engine)(3) == [3, 2, 1]


def test_lambdas_partials_and_methods(engine):
    here = typed(
        """
        import functools
        scale = 3
        times = lambda x: x * scale
        part = functools.partial(times, 5)
        class A:
            def __init__(self, v): self.v = v
            def get(self, k): return self.v + k
            @classmethod
            def make(cls, v): return cls(v)
            @staticmethod
            def twice(x): return 2 * x
            @property
            def double(self): return self.v * 2
        a = A(7)
        def generator(n):
            yield from range(n)
        async def coroutine(): return 1
        """
    )
    assert sent(here["times"], engine)(2) == 6
    assert sent(here["part"], engine)() == 15
    assert sent(here["a"].get, engine)(1) == 8
    assert sent(here["A"].make, engine)(2).double == 4
    assert sent(here["A"].twice, engine)(4) == 8
    assert list(sent(here["generator"], engine)(3)) == [0, 1, 2]
    with pytest.raises(StopIteration, match="1"):
        sent(here["coroutine"], engine)().send(None)
    assert sent(operator.itemgetter(1), engine)("ab") == "b"
    assert sent(functools.partial(math.pow, 2), engine)(3) == 8.0
    assert sent(math.sin, engine) is math.sin and sent(len, engine) is len


def test_importable_functions_travel_by_name(engine):
    assert sent(textwrap.dedent, engine) is textwrap.dedent
    assert "dedent" not in engine.names


def test_modules_used_by_a_function_come_along(engine):
    here = typed("import os.path as p, numpy as np\ndef f(): return p.join('a', 'b'), float(np.e)")
    assert sent(here["f"], engine)() == ("a/b", math.e)
    assert sent(math, engine) is math


def test_without_a_namespace_a_function_keeps_its_own_globals():
    here = typed("k = 2\ndef f(): return k")
    f = sent(here["f"])
    here["k"] = 3
    assert f() == 2 and f.__globals__ is not here


# ---------------------------------------------------------------- classes, seen from another process

SENDER = """
import base64, collections, dataclasses, enum, json, sys, typing, abc
from mpiparallel.wire.objects import dumps

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass(frozen=True, order=True)
class Point:
    x: int
    y: float = 0.5
    tags: list = dataclasses.field(default_factory=list)
    def norm(self): return self.x + self.y + OFFSET

OFFSET = 100

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    __slots__ = ("a",)
    def __init__(self, a): self.a = a
    def area(self): return self.a ** 2
    def again(self): return super().__repr__()[:5], type(self)(self.a)

Pair = collections.namedtuple("Pair", "left right")
class Typed(typing.NamedTuple):
    n: int

class Odd(ValueError):
    pass

def work(colour): return Colour.BLUE if colour is Colour.RED else None
value = {"c": Colour.RED, "p": Point(1), "s": Square(3), "pair": Pair(1, 2), "t": Typed(4), "odd": Odd("x"),
         "classes": [Colour, Point], "work": work}
json.dump([base64.b64encode(f).decode() for f in dumps(value)], sys.stdout)
"""


def test_classes_of_main_travel_by_value(engine, tmp_path):
    import base64
    import json

    (tmp_path / "sender.py").write_text(SENDER)
    done = subprocess.run(
        [sys.executable, tmp_path / "sender.py"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    got = loads([base64.b64decode(frame) for frame in json.loads(done.stdout)], engine)
    colour, point = got["classes"]
    assert got["c"] is colour.RED and colour(2) is colour.BLUE
    assert got["work"](got["c"]) is colour.BLUE
    assert got["p"] == point(1) and got["p"].norm() == 101.5 and point(1) < point(2)
    assert got["s"].area() == 9 and got["s"].again()[1].a == 3
    assert type(got["s"]).__mro__[1].__abstractmethods__ == {"area"}
    assert got["pair"].right == 2 and got["t"].n == 4
    assert isinstance(got["odd"], ValueError) and type(got["odd"]).__name__ == "Odd"
    assert engine.names["OFFSET"] == 100


def test_a_class_sent_twice_is_one_class():
    here = typed("class A: pass\na = A()")
    assert type(sent(here["a"])) is here["A"]  # back at its sender it is what it was
    assert type(sent(here["a"])) is type(sent(here["a"]))


# ---------------------------------------------------------------- the namespace


def test_globals_are_the_namespace_itself(engine):
    here = typed("def f():\n    global seen\n    seen = 1\n    return missing")
    f = sent(here["f"], engine)
    with pytest.raises(NameError):
        f()
    assert engine.names["seen"] == 1
    engine.names["missing"] = "now here"
    assert f() == "now here"
    assert f.__globals__ is engine.names


def test_a_name_of_the_engine_wins(engine):
    here = typed("a = 'client'\ndef f(): return a")
    engine.names["a"] = "engine"
    assert sent(here["f"], engine)() == "engine"


def test_a_name_the_engine_lacks_comes_along_and_is_refreshed(engine):
    here = typed("a = 1\ndef f(): return a")
    assert sent(here["f"], engine)() == 1
    here["a"] = 2
    assert sent(here["f"], engine)() == 2


def test_a_supplied_name_that_the_user_then_sets_is_the_engines(engine):
    here = typed("a = 1\ndef f(): return a")
    sent(here["f"], engine)
    engine.names["a"] = "set on the engine"
    here["a"] = 2
    assert sent(here["f"], engine)() == "set on the engine"
    del engine.names["a"]
    assert sent(here["f"], engine)() == 2


def test_a_redefined_helper_is_refreshed(engine):
    here = typed("def helper(): return 1\ndef f(): return helper()")
    assert sent(here["f"], engine)() == 1
    exec("def helper(): return 2", here)
    assert sent(here["f"], engine)() == 2


def test_the_record_says_what_a_load_asked_for(engine):
    here = typed("a = 1\ndef f(): return a\ndef g(): return f() + b\nb = 2")
    engine.record.clear()
    sent(here["g"], engine)
    assert set(engine.record) == {"f", "a", "b"}


def test_clear_forgets_what_was_supplied(engine):
    here = typed("a = 1\ndef f(): return a")
    sent(here["f"], engine)
    engine.clear()
    here["a"] = 2
    assert sent(here["f"], engine)() == 1  # whatever is there after a clear is the engine's own


def test_functions_inside_data_and_closures_use_the_namespace_too(engine):
    here = typed(
        """
        def add(n):
            def adder(x): return x + n + base
            return adder
        fs = [add(1), {'k': add(2)}]
        """
    )
    engine.names["base"] = 100
    first, second = sent(here["fs"], engine)
    assert (first(1), second["k"](1)) == (102, 103)


def test_functions_of_other_modules_by_value_do_not_touch_the_namespace(engine):
    names = {"__name__": "not_importable", "z": 3}
    exec("def f():\n    global z\n    z += 1\n    return z", names)
    f = sent(names["f"], engine)
    assert (f(), f()) == (4, 5)
    assert "z" not in engine.names and names["z"] == 3


def test_interactive_makes_any_function_use_the_namespace(engine):
    @interactive
    def f(x):
        return x + somewhere  # noqa: F821

    engine.names["somewhere"] = 2
    got = sent(f, engine)
    assert got(1) == 3 and got.__globals__ is engine.names and got.__name__ == "f"
    wrapped = sent(interactive(textwrap.dedent), engine)
    assert wrapped.__globals__ is engine.names


def test_references_compare_by_name():
    assert sent(Reference("a[0]")) == Reference("a[0]") != Reference("b")
    assert len({Reference("a"), Reference("a")}) == 1
    with pytest.raises(TypeError, match="illegal name for a Reference: 3"):
        Reference(3)


# ---------------------------------------------------------------- digests


def test_digests_are_stable_and_follow_what_a_function_means():
    source = "import math\nk = {'a': 1}\nclass C: pass\ndef f(y={3}): return math.pi * k['a'], {1, 2}, C"
    here = typed(source)
    names = {digest(dumps(here["f"])) for _ in range(20)}
    assert len(names) == 1
    here["k"]["a"] = 2
    changed = digest(dumps(here["f"]))
    assert changed not in names
    here["f"].__defaults__ = ({4},)
    assert digest(dumps(here["f"])) not in {*names, changed}


def test_digests_are_the_same_in_every_process(tmp_path):
    (tmp_path / "one.py").write_text(
        "from mpiparallel.wire.objects import digest, dumps\n"
        "words = ('a', 'b')\n"
        "def f(x): return [len(w) for w in words if w in ('k', 'l', 'm')]\n"
        "print(digest(dumps(f)).hex())\n"
    )
    run = [
        subprocess.run([sys.executable, tmp_path / "one.py"], capture_output=True, text=True)
        for _ in range(3)
    ]
    assert len({process.stdout for process in run}) == 1 and run[0].stdout


def test_a_function_that_cannot_travel_says_so():
    lock = __import__("threading").Lock()
    with pytest.raises((TypeError, pickle.PicklingError), match="lock"):
        dumps(lambda: lock)
