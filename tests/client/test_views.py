"""Direct views: targets, flags, calls, data."""

from __future__ import annotations

import builtins
import importlib
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from helpers import wait_until

import mpiparallel as ipp
from mpiparallel import AsyncMapResult, AsyncResult, BroadcastView, DirectView, Reference, error
from mpiparallel.wire.messages import Submit


def mul(a, b):
    return a * b


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("key", "targets"),
    [
        (0, 0), (-1, 3), (slice(None), [0, 1, 2, 3]), (slice(1, 3), [1, 2]), (slice(None, None, 2), [0, 2]),
        ([0], [0]), ((0, 1, 2, 3), [0, 1, 2, 3]), (range(2), [0, 1]), ([-1, 0], [3, 0]),
    ],
)  # fmt: skip
def test_indexing(client, key, targets):
    view = client[key]
    assert isinstance(view, DirectView)
    assert view.targets == targets
    single = isinstance(targets, int)
    assert view.apply_sync(Reference("lambda: engine_id")) == targets
    assert len(view) == (1 if single else len(targets))


def test_wrong_targets(client):
    for key in ("all", None, 1.5, True, {0}):
        with pytest.raises(TypeError):
            client[key]
    with pytest.raises(TypeError, match="whole number"):
        client[["a"]]
    for key in (4, -5, [0, 7]):
        with pytest.raises(IndexError, match="No such engine"):
            client[key]
    with pytest.raises(TypeError, match="'everyone'"):
        client.direct_view("everyone")
    with pytest.raises(ValueError, match="named twice"):
        client[[0, 0]]


def test_all_is_lazy_and_a_slice_is_frozen(fake, client):
    lazy, frozen = client.direct_view("all"), client[:]
    fake.call(fake.add_engine, 4)
    client.wait_for_engines(5, timeout=5)
    assert len(lazy.apply_sync(int)) == 5
    assert len(frozen.apply_sync(int)) == 4
    assert len(lazy) == 5


def test_an_engine_that_left_is_named_with_the_reason(fake, client):
    frozen = client[:]
    fake.call(fake.remove_engine, 2, "rank 2 was killed by signal 9")
    fake_synced(client)
    assert client.ids == [0, 1, 3]
    with pytest.raises(IndexError, match=r"left \(engine 2: .*signal 9\)\. Take a new one: client\[:\]"):
        frozen.apply_sync(int)
    with pytest.raises(IndexError, match="signal 9"):
        client[2]
    assert len(client.direct_view("all").apply_sync(int)) == 3
    fake.call(fake.add_engine, 2)  # started again under its old id
    client.wait_for_engines(4, timeout=5)
    assert frozen.apply_sync(int) == [0] * 4


def test_a_view_whose_engines_have_all_left(fake, client):
    frozen = client[:]
    for number in range(4):
        fake.call(fake.remove_engine, number, "mpiexec was killed" if number else "it was stopped")
    assert wait_until(lambda: not client.ids)
    with pytest.raises(IndexError, match=r"engine 0: it was stopped; engines 1-3: mpiexec was killed"):
        frozen.apply_sync(int)
    with pytest.raises(error.NoEnginesRegistered):
        client.direct_view("all").apply_sync(int)


def fake_synced(client):
    client.queue_status([0])  # what was sent before the answer has arrived


def test_no_engines(fake, connect):
    for engine in list(fake.engines):
        fake.call(fake.remove_engine, engine)
    rc = connect()
    assert rc.ids == []
    for use in (lambda: rc[:], lambda: rc[0], lambda: rc.direct_view(), lambda: rc.queue_status()):
        with pytest.raises(error.NoEnginesRegistered, match="wait_for_engines"):
            use()


def test_reprs(client):
    assert repr(client[0]) == "<DirectView 0>"
    assert repr(client[:]) == "<DirectView [0, 1, 2, 3]>"
    assert repr(client.direct_view()) == "<DirectView all>"
    client._connection.engines = {**client._connection.engines, 4: None}
    assert repr(client[:]) == "<DirectView [0, 1, 2, 3, ...]>"


def test_iterating(client):
    assert [view.targets for view in client] == [0, 1, 2, 3]
    assert len(client) == 4
    with pytest.raises(TypeError, match="not iterable"):
        iter(client[:])


# ---------------------------------------------------------------- flags


def test_flags(view):
    assert (view.block, view.track, view.label) == (False, False, None)
    assert view.set_flags(block=True, label="x") is view
    assert (view.block, view.label) == (True, "x")
    with pytest.raises(KeyError, match=r"invalid flag 'blok'.*targets, block, track, label"):
        view.set_flags(blok=True)
    with view.temp_flags(block=False, targets=[1]):
        assert (view.block, view.targets) == (False, [1])
    assert (view.block, view.targets) == (True, [0, 1, 2, 3])
    with pytest.raises(ZeroDivisionError), view.temp_flags(block=False):
        raise ZeroDivisionError
    assert view.block


def test_block_is_inherited(client):
    client.block = True
    assert client[0].apply(mul, 5, 6) == 30
    assert client[:].apply(mul, 5, 6) == [30] * 4
    client.block = False
    assert isinstance(client[0].apply(mul, 5, 6), AsyncResult)


def test_label(client):
    view = client[0]
    view.label = "mine"
    assert view.apply_async(int).label == "mine"
    assert view.execute("1", label="other").label == "other"
    assert view.map_async(int, [1], label="map").label == ["map"]


# ---------------------------------------------------------------- apply


def test_apply_takes_any_keyword(view):
    def show(**kwargs):
        return kwargs

    names = {"f": 1, "self": 2, "args": 3, "block": 4, "targets": 5, "func": 6}
    assert view.apply_sync(show, **names) == [names] * 4
    assert view.apply_async(show, **names).get(5) == [names] * 4


def test_apply_needs_a_function(view):
    with pytest.raises(TypeError, match="callable"):
        view.apply(5)


def test_references(client):
    view = client[:]
    view.push({"a": [5, 6], "f": mul}, block=True)
    assert view.apply_sync(mul, Reference("a[0]"), 2) == [10] * 4
    assert view.apply_sync(lambda x: x, [Reference("a"), 1]) == [[[5, 6], 1]] * 4
    assert view.apply_sync(lambda **k: k, k={"x": Reference("a[1]")}) == [{"k": {"x": 6}}] * 4
    assert view.apply_sync(Reference("f"), 3, 4) == [12] * 4
    assert view.map_sync(Reference("f"), [1, 2, 3], [4, 5, 6]) == [4, 10, 18]
    with pytest.raises(ipp.RemoteError) as caught:
        client[0].apply_sync(mul, Reference("nothing"), 1)
    assert caught.value.ename == "NameError"
    with pytest.raises(TypeError):
        Reference(5)


def test_prepickled_arguments(view):
    big = ipp.PrePickled(np.arange(1000))
    assert view.apply_sync(lambda a: int(a.sum()), big) == [499500] * 4


def test_require_and_depend(client):
    @ipp.require("math", mul, seven=7)
    def use():
        return math.floor(mul(seven, 1.5))  # noqa: F821

    assert client[0].apply_sync(ipp.interactive(lambda: 1)) == 1
    with pytest.raises(ipp.RemoteError) as caught:
        client[0].apply_sync(ipp.depend(lambda: False)(mul), 1, 2)
    assert caught.value.ename == "UnmetDependency"
    with pytest.raises(ipp.RemoteError, match="no_such_module"):
        client[0].apply_sync(ipp.require("no_such_module")(mul), 1, 2)
    assert use.__name__ == "use"


# ---------------------------------------------------------------- data


def test_push_pull(client):
    view = client[:]
    assert view.push({"a": 1.5, "b": "x"}, block=True) is None
    assert view.pull("a", block=True) == [1.5] * 4
    assert view.pull("b", targets=0, block=True) == "x"
    assert view.pull(("a", "b"), block=True) == [[1.5, "x"]] * 4
    assert view.pull(["a"], targets=[1], block=True) == [[1.5]]
    assert view.pull("a").get(5) == [1.5] * 4
    assert view.get("a * 2") == [3.0] * 4
    assert view.push({"c": 2}).get(5) == [None] * 4
    assert client[1].push({"c": 3}).get(5) is None
    assert view["c"] == [2, 3, 2, 2]


def test_names_are_expressions(client):
    view = client[:2]
    view.block = True
    view["d"] = {"k": [1, 2]}
    view["d['k'][0]"] = 9
    assert view["d['k']"] == [[9, 2]] * 2
    view.update({"e": 1})
    assert view["e"] == [1, 1]
    with pytest.raises(ipp.CompositeError, match="NameError"):
        view["missing"]


def test_wrong_data_is_refused(view):
    with pytest.raises(TypeError, match="dict, not list"):
        view.push([1])
    with pytest.raises(TypeError, match="keys must be text"):
        view.push({1: 2})
    for names in (5, [5], None):
        with pytest.raises(TypeError, match="text"):
            view.pull(names)
    with pytest.raises(TypeError, match="code must be text"):
        view.execute(5)
    with pytest.raises(TypeError, match="key must be text"):
        view.scatter(5, [1])


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize(
    "whole",
    [
        list(range(10)), tuple("abcde"), range(16), np.arange(12.0).reshape(6, 2), b"bytes", "text",
        np.arange(3), [], pd.DataFrame({"x": range(7)}), pd.Series(range(9)),
    ],
    ids=lambda whole: type(whole).__name__,
)  # fmt: skip
def test_scatter_gather(view, whole, dist):
    assert view.scatter("s", whole, dist=dist, block=True) is None
    back = view.gather("s", dist=dist, block=True)
    if isinstance(whole, (pd.DataFrame, pd.Series)):
        assert back.equals(whole)
    elif isinstance(whole, np.ndarray):
        np.testing.assert_array_equal(back, whole)
    else:
        assert back == (list(whole) if isinstance(whole, (tuple, range)) else whole)


def test_scatter_to_some(client):
    view = client[:]
    view.block = True
    view.scatter("a", range(16))
    assert view["a"] == [range(0, 4), range(4, 8), range(8, 12), range(12, 16)]
    view.scatter("b", [1, 2, 3, 4], flatten=True)
    assert view["b"] == [1, 2, 3, 4]
    assert view.gather("b") == [1, 2, 3, 4]
    view.scatter("c", [1, 2], flatten=True)
    assert view["c"] == [1, 2, [], []]
    view.scatter("d", [1, 2, 3], targets=[0, 2])
    assert view.pull("d", targets=[0, 2]) == [[1, 2], [3]]
    assert view.gather("d", targets=[2, 0]) == [3, 1, 2]
    assert client[1].scatter("e", [1, 2], block=True) is None
    assert client[1]["e"] == [1, 2]
    assert isinstance(view.gather("a", block=False), AsyncMapResult)
    assert view.scatter("a", [1], block=False).get(5) == [None] * 4


# ---------------------------------------------------------------- map


def test_map(view):
    assert view.map_sync(mul, range(1, 10), range(2, 11)) == [2, 6, 12, 20, 30, 42, 56, 72, 90]
    assert view.map_async(mul, [1, 2], [3, 4, 5]).get(5) == [3, 8]
    assert view.map(mul, (i for i in range(6)), iter([2] * 9), block=True) == [0, 2, 4, 6, 8, 10]
    assert view.map_sync(abs, []) == []
    assert view.map_async(abs, []).get(0) == []
    assert view.map_sync(abs, [-3]) == [3]
    assert view.map_sync(lambda x: float(x), np.arange(5)) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert list(view.imap(abs, range(-6, 0))) == [6, 5, 4, 3, 2, 1]


def test_map_uses_no_more_engines_than_items(fake, view):
    view.map_sync(abs, [1, 2])
    assert fake.headers(Submit)[-1].engines == [0, 1]


def test_map_is_used_wrongly(view):
    with pytest.raises(AssertionError, match="must have some sequences"):
        view.map(abs)
    with pytest.raises(TypeError, match="block"):
        view.map_sync(abs, [1], block=True)
    with pytest.raises(TypeError, match="block"):
        view.map_async(abs, [1], block=True)
    with pytest.warns(UserWarning, match="chunksize=3 is ignored"):
        assert view.map(abs, [-1], chunksize=3, block=True) == [1]


def test_map_errors(view):
    with pytest.raises(ipp.CompositeError) as caught:
        view.map_sync(lambda x: 1 // x, [1, 0, 1, 0])
    assert [info["engine_id"] for *_, info in caught.value.elist] == [1, 3]
    values = view.map_async(lambda x: 1 // x, [1, 0, 1, 0, 1], return_exceptions=True).get(5)
    assert [getattr(value, "ename", value) for value in values] == [1, "ZeroDivisionError"] * 2 + [1]


# ---------------------------------------------------------------- the rest


def test_run(view, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("ran = engine_id\nprint('hello')")
    result = view.run(script, block=True)
    assert result.stdout == ["hello\n"] * 4
    assert view["ran"] == [0, 1, 2, 3]
    with pytest.raises(FileNotFoundError):
        view.run(tmp_path / "none.py")


def test_clear(client):
    view = client[:]
    view.push({"a": 1}, block=True)
    assert view.clear(block=True) is None
    with pytest.raises(ipp.RemoteError):
        view["a"]
    assert client.clear([0]).get(5) == [None]


def test_history_and_outstanding(fake, client):
    one, other = client[:], client[0]
    fake.paused.set()
    first, second = one.apply_async(int), other.apply_async(int)
    assert one.history == first.msg_ids and other.history == second.msg_ids
    assert client.history == [*first.msg_ids, *second.msg_ids]
    assert one.outstanding == set(first.msg_ids)
    assert client.outstanding == {*first.msg_ids, *second.msg_ids}
    assert not one.wait(timeout=0.05)
    fake.release(client)
    assert one.wait(timeout=5)
    assert client.wait(timeout=5)
    assert not client.outstanding
    assert dict(one.results) == dict.fromkeys(first.msg_ids, 0)
    assert one.get_result().get(5) == 0
    assert one.get_result(slice(0, 2)).get(5) == [0, 0]


def test_abort(fake, client):
    fake.paused.set()
    view = client[:]
    first, second = view.apply_async(int), view.apply_async(int)
    second.abort()
    with pytest.raises(error.TaskAborted):
        second.get(5)
    view.abort(block=True)
    with pytest.raises(error.TaskAborted):
        first.get(5)


def test_broadcast_view(client):
    view = client.broadcast_view(is_coalescing=True)
    assert isinstance(view, BroadcastView) and view.targets == [0, 1, 2, 3]
    assert view.is_coalescing and view.set_flags(is_coalescing=False).is_coalescing is False
    assert view.apply_sync(Reference("lambda: engine_id")) == [0, 1, 2, 3]
    assert client.broadcast_view([1, 2]).map_sync(abs, [-1, -2, -3]) == [1, 2, 3]


def test_shortcuts(view):
    assert view.use_dill() is view.use_cloudpickle() is view.use_pickle() is None
    with pytest.warns(UserWarning, match="in IPython only"):
        assert view.activate() is view
    view.spin()
    assert view.queue_status(0) == {"queue": 0, "completed": 0, "tasks": 0}
    assert view.wait_interactive([]) is True


def test_sync_imports(view, capsys):
    main = sys.modules["__main__"].__dict__  # the fake engines' namespace, as far as imports go
    with view.sync_imports():
        import colorsys
        from xml.dom import minidom
    assert main.pop("colorsys") is colorsys
    assert main.pop("minidom") is minidom
    out = capsys.readouterr().out
    assert "importing colorsys on engine(s)" in out
    assert "importing minidom from xml.dom on engine(s)" in out
    with view.sync_imports(quiet=True):
        import colorsys
    assert not capsys.readouterr().out
    with view.importer:
        import colorsys
    assert main.pop("colorsys") is colorsys
    with pytest.raises(NotImplementedError, match="local=False"), view.sync_imports(local=False):
        pass


def test_sync_imports_restores_import_after_an_error(view):
    before = builtins.__import__
    with pytest.raises(ModuleNotFoundError), view.sync_imports(quiet=True):
        importlib.import_module("json")
        exec("import no_such_module", globals())
    assert builtins.__import__ is before


def test_flags_of_a_decorated_function_do_not_touch_the_view(client):
    view = client[:]
    seen = []
    twice = view.remote(block=True)(lambda x: 2 * x)

    def watch():
        for _ in range(50):
            seen.append(view.block)

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(20):
        assert twice(4) == [8] * 4
    thread.join()
    assert set(seen) == {False}
