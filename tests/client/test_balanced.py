"""Load-balanced views: flags, apply, what they refuse; with a controller inside the test process."""

from __future__ import annotations

import math
import threading
import time

import numpy
import pytest

import mpiparallel as ipp
from mpiparallel import Dependency, LoadBalancedView, error
from mpiparallel.client import balancedmap
from mpiparallel.wire.messages import Balance, Needs


@pytest.fixture
def lview(client):
    return client.load_balanced_view()


def test_a_call_runs_once(fake, client, lview):
    assert isinstance(lview, LoadBalancedView) and len(lview) == 4
    assert lview.apply_sync(pow, 2, 5) == 32
    result = lview.apply(divmod, 7, 2)
    assert result.get(10) == (3, 1) and result.engine_id in range(4)
    assert lview.history == [*client.history] and len(lview.history) == 2
    with lview.temp_flags(block=True):
        assert lview.apply(dict, f=1, self=2) == {"f": 1, "self": 2}


def test_flags_are_sent(fake, client, lview):
    first = lview.apply_async(abs, -1)
    with lview.temp_flags(
        retries=3, timeout=5, after="other-1_0", follow=first.msg_ids, label="mine", targets=[1, 2]
    ):
        lview.apply_async(abs, -1).wait(10)
    header = fake.headers(Balance)[-1]
    assert (header.retries, header.timeout, header.label, header.targets) == (3, 5.0, "mine", [1, 2])
    assert (header.after, header.follow) == (Needs(["other-1_0"]), Needs(first.msg_ids))
    assert header.ranks == 1
    lview.apply_sync(abs, -1)
    header = fake.headers(Balance)[-1]
    assert (header.retries, header.timeout, header.label, header.targets) == (0, None, "", [])
    assert (header.after, header.follow) == (None, None)


@pytest.mark.parametrize(
    ("flags", "problem", "text"),
    [
        ({"retries": 1.5}, TypeError, "retries"),
        ({"retries": "3"}, TypeError, "retries"),
        ({"retries": -1}, ValueError, "retries"),
        ({"ranks": 0}, ValueError, "ranks"),
        ({"timeout": "soon"}, TypeError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": math.nan}, ValueError, "timeout"),
        ({"after": 5}, ValueError, "dependency"),
        ({"follow": [b"1"]}, ValueError, "dependency"),
        ({"after": [""]}, ValueError, "msg_id"),
        ({"follow": "x" * 201}, ValueError, "msg_id"),
        ({"retries": 1 << 40}, ValueError, "retries"),
        ({"ranks": 1 << 70}, ValueError, "ranks"),
        ({"speed": 1}, KeyError, "speed"),
    ],
)
def test_flags_are_checked(lview, flags, problem, text):
    with pytest.raises(problem, match=text):
        lview.set_flags(**flags)
    with pytest.raises(problem, match=text):
        lview.client.load_balanced_view(**flags)


@pytest.mark.parametrize("name", ["push", "pull", "scatter", "gather", "execute", "run"])
def test_what_needs_an_engine_is_refused(lview, name):
    with pytest.raises(AttributeError, match=rf"Use a direct view, client\[:\].{name}"):
        getattr(lview, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lview.nonsense  # noqa: B018


def test_no_engines(fake, client):
    lview = client.load_balanced_view()
    for engine in range(4):
        fake.call(fake.remove_engine, engine)
    assert client.wait_for_engines(0, timeout=5) is None
    with client._connection.changed:
        client._connection.changed.wait_for(lambda: not client.ids, 10)
    with pytest.raises(error.NoEnginesRegistered):
        client.load_balanced_view()
    for call in (lambda: lview.apply(abs, 1), lambda: lview.map(abs, [1]), lambda: lview.imap(abs, [1])):
        with pytest.raises(error.NoEnginesRegistered):
            call()


def test_what_the_hub_could_not_read_is_refused_here(client, lview):
    for view in (lview, client[:]):
        with view.temp_flags(label=5), pytest.raises(TypeError, match="a label is a string, not 5"):
            view.apply_async(abs, -1)
    with pytest.raises(TypeError, match="label"):
        lview.map_async(abs, [1], label=b"x")
    with pytest.raises(ValueError, match="label"):
        lview.map_async(abs, [1], label="x" * ((1 << 20) + 1))
    with pytest.raises(ValueError, match="cannot be sent"):
        client.db_query({5: "x"})
    with pytest.raises(ValueError, match="cannot be sent"):
        client.db_query({"engine_id": 1 << 80})
    with lview.temp_flags(timeout=numpy.float64(5)):
        assert lview.apply_sync(abs, -1) == 1  # and the connection has lived through all this


def test_what_means_all_of_a_map_waits_until_it_is_sent(fake, monkeypatch, lview):
    monkeypatch.setattr(balancedmap, "WINDOW", 40)
    monkeypatch.setattr(balancedmap, "BATCH", 32)
    balance = LoadBalancedView._balance

    def late(self, *args, **options):
        tasks = balance(self, *args, **options)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.02)  # sent, and the map does not know its tasks yet
        return tasks

    monkeypatch.setattr(LoadBalancedView, "_balance", late)
    fake.paused.set()
    result = lview.map_async(abs, range(400))
    assert len(result.msg_ids) < 400
    fake.release(lview.client)
    joined = ipp.AsyncResult.join(result, lview.apply_async(abs, -1))
    assert joined.get(60) == [*([number] for number in range(400)), 1]
    for waits in (lview, lview.client):
        result = lview.map_async(abs, range(400))
        assert waits.wait(timeout=60) and result.done()
    result = lview.map_async(abs, range(400))
    assert len(lview.client.get_result(result).get(60)) == 400
    parts = lview.map_async(abs, range(400)).split()
    assert [part.get(60) for part in parts] == [[number] for number in range(400)]
    result = lview.map_async(abs, range(400))
    with lview.temp_flags(after=result):
        assert len(lview.after) == 400
    assert result.get(60) == list(range(400))
    with pytest.raises(ValueError, match="at most"):
        Dependency(f"task{number}" for number in range((1 << 20) + 1))


def test_results_by_engine_are_waited_for(lview):
    result = lview.apply_async(abs, -1)
    assert result.get_dict() == {result.engine_id: 1}


def test_decorators(client, lview):
    @lview.remote(block=True)
    def double(x):
        return 2 * x

    @lview.parallel(block=True)
    def total(xs):
        return [sum(xs)]

    assert double(4) == 8
    assert sum(total(list(range(10)))) == 45 and len(total(list(range(10)))) == 4
    assert double.__name__ == "double"

    @lview.parallel(block=True)
    def square(x):
        return x * x

    assert square.map(range(7)) == [0, 1, 4, 9, 16, 25, 36]


def test_abort(fake, client, lview):
    fake.paused.set()
    results = [lview.apply_async(abs, i) for i in range(3)]
    lview.abort(results[1])
    fake.call(lambda: None)
    with pytest.raises(error.TaskAborted):
        results[1].get(10)
    fake.release(client)
    assert [results[0].get(10), results[2].get(10)] == [0, 2]


def test_a_gang_returns_the_values_of_all(client):
    lview = client.load_balanced_view(ranks=2)
    result = lview.apply_async(pow, 2, 3)
    assert result.get(10) == [8, 8] and len(result.engine_id) == 2


def test_errors_arrive_as_remote_errors(lview):
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError") as caught:
        lview.apply_sync(divmod, 1, 0)
    assert caught.value.ename == "ZeroDivisionError"


def test_an_unknown_task_cannot_be_waited_for(lview):
    with lview.temp_flags(after="nobody_1"), pytest.raises(ipp.InvalidDependency):
        lview.apply_sync(abs, 1)


# ---------------------------------------------------------------- Dependency


def test_dependency_names_tasks(lview):
    results = [lview.apply_async(abs, i) for i in range(2)]
    ids = [result.msg_ids[0] for result in results]
    assert Dependency(results) == set(ids) == Dependency(ids) == Dependency([results[0], ids[1]])
    assert Dependency(ids[0]) == {ids[0]} and Dependency() == set()
    assert Dependency(ids, all=False, failure=True).as_dict() == {
        "dependencies": sorted(ids), "all": False, "success": True, "failure": True
    }  # fmt: skip
    for wrong in (7, [7], None):
        with pytest.raises(TypeError):
            Dependency(wrong)
    with pytest.raises(ValueError):
        Dependency(ids, success=False, failure=False)


@pytest.mark.parametrize("of_all", [True, False])
@pytest.mark.parametrize(("success", "failure"), [(True, False), (False, True), (True, True)])
def test_dependency_holds_or_never_can(of_all, success, failure):
    """Compared with the definition, over all ways in which two tasks can stand."""
    wanted = Dependency(["a", "b"], all=of_all, success=success, failure=failure)
    combine = all if of_all else any
    counts = {"ok": success, "failed": failure, "open": False}
    hopes = {"ok": success, "failed": failure, "open": True}
    for a in counts:
        for b in counts:
            states = {"a": a, "b": b}
            completed = {name for name, state in states.items() if state == "ok"}
            failed = {name for name, state in states.items() if state == "failed"}
            assert wanted.check(completed, failed) == combine([counts[a], counts[b]])
            assert wanted.unreachable(completed, failed) != combine([hopes[a], hopes[b]])
    assert Dependency([]).check(set()) and not Dependency([]).unreachable(set())


def test_what_has_ended_well_here_is_not_waited_for(fake, client, lview):
    done = lview.apply_async(abs, -5)
    assert done.get() == 5
    with lview.temp_flags(after=done):
        lview.apply_sync(abs, -6)
    assert fake.headers(Balance)[-1].after is None
    with lview.temp_flags(after=[*done.msg_ids, "other-1_0"]):
        lview.apply_async(abs, -6)
    client.wait(timeout=5)
    assert fake.headers(Balance)[-1].after.tasks == ["other-1_0"]
    with lview.temp_flags(after=ipp.Dependency(done, success=False, failure=True)):
        lview.apply_async(abs, -6)
    client.wait(timeout=5)
    assert fake.headers(Balance)[-1].after.tasks == done.msg_ids
