"""`Connection.balance`: tasks for which the hub chooses the engines."""

from __future__ import annotations

import gc

import msgspec
import pytest
from helpers import wait_until

from mpiparallel import error
from mpiparallel.client.view_base import dump_function
from mpiparallel.wire import objects
from mpiparallel.wire.messages import (
    NOBODY,
    Abort,
    Balance,
    Consumed,
    EngineInfo,
    Failure,
    Lacks,
    Needs,
    Notice,
    Output,
    Refused,
    Result,
    Supply,
)
from mpiparallel.wire.references import interactive


def balance(client, f, arguments, **options):
    parts = [objects.dumps((args, {})) for args in arguments]
    return client._connection.balance("apply", parts, function=dump_function(f), **options)


def values(tasks, timeout=10):
    assert wait_until(lambda: all(task.done for task in tasks), timeout)
    for task in tasks:
        if task.error() is not None:
            raise task.error()
    return [task.value() for task in tasks]


def test_tasks_go_where_the_hub_likes(fake, client):
    tasks = balance(client, pow, [(i, 2) for i in range(10)], label="squares")
    assert [task.msg_id for task in tasks] == [f"{tasks[0].request.id}_{i}" for i in range(10)]
    assert values(tasks) == [i * i for i in range(10)]
    assert {task.engine for task in tasks} == {0, 1, 2, 3}
    assert tasks[1].metadata.engine_id == tasks[1].engine
    assert tasks[1].metadata.engine_uuid == f"world-{tasks[1].engine}"
    assert tasks[1].metadata.label == "squares"
    assert tasks[1].metadata.status == "ok"
    [header] = fake.headers(Balance)
    assert (header.verb, header.ranks, header.label) == ("apply", 1, "squares")


def test_more_tasks_of_a_request(fake, client):
    first = balance(client, pow, [(2, 1), (2, 2)])
    more = balance(client, pow, [(2, 3)], request=first[0].request, first=2)
    assert values(first + more) == [2, 4, 8]
    assert more[0].msg_id == f"{first[0].request.id}_2"
    one, two = fake.headers(Balance)
    assert (one.request, one.first) == (two.request, 0)
    assert two.first == 2
    assert (one.function_frames > 0, two.function_frames) == (True, 0)


def test_before_a_task_is_placed_nobody_has_it(fake, client):
    fake.paused.set()
    [task] = balance(client, pow, [(2, 3)], after=Needs([]), follow=Needs([]))
    assert (task.engine, task.metadata.engine_id, task.metadata.engine_uuid) == (NOBODY, None, None)
    assert (task.metadata.after, task.metadata.follow) == ([], [])
    assert client.outstanding == {task.msg_id}
    fake.release(client)
    assert values([task]) == [8]
    assert not client.outstanding


def test_the_hub_is_sent_a_function_once(fake, client):
    for i in range(5):
        assert values(balance(client, pow, [(i, 2)])) == [i * i]
    assert [header.function_frames > 0 for header in fake.headers(Balance)] == [True] + [False] * 4


def test_a_hub_that_has_forgotten_a_function_is_supplied(fake, client):
    assert values(balance(client, pow, [(3, 2)])) == [9]
    fake.call(fake.functions.clear)
    assert values(balance(client, pow, [(4, 2)])) == [16]
    assert [supply.engine for supply in fake.headers(Supply)] == [NOBODY]


def test_a_gang_gives_a_value_for_each_rank(fake, client):
    def me():
        return engine_id  # noqa: F821

    me = interactive(me)
    [task] = balance(client, me, [()], ranks=3)
    [value] = values([task])
    assert value == [0, 1, 2]
    assert task.metadata.engine_id == [0, 1, 2]
    assert task.metadata.engine_uuid == ["world-0", "world-1", "world-2"]
    assert task.metadata.completed >= task.metadata.started


def test_a_gang_that_fails_names_the_cause_first(fake, client):
    fake.paused.set()
    [task] = balance(client, int, [()], ranks=3)
    waiting = Failure("PeerFailed", "rank 2 failed: ZeroDivisionError: oh; this rank was in comm.Barrier")
    parts = [
        Result(task.msg_id, 0, "error", failure=waiting),
        Result(task.msg_id, 1, "ok"),
        Result(task.msg_id, 2, "error", failure=Failure("ZeroDivisionError", "oh", "Traceback")),
    ]
    for part in parts[:2]:
        fake.call(fake.tell_all, part)
    client.queue_status()
    assert not task.done
    fake.call(fake.tell_all, parts[2])
    with pytest.raises(error.CompositeError) as raised:
        values([task])
    assert [entry[0] for entry in raised.value.elist] == ["ZeroDivisionError", "PeerFailed"]
    assert raised.value.elist[0][3]["engine_id"] == 2
    assert task.metadata.error.ename == "ZeroDivisionError"
    assert task.metadata.engine_id == [0, 1, 2]


def test_a_gang_too_large_for_the_world_ends_at_once(client):
    [task] = balance(client, int, [()], ranks=9)
    with pytest.raises(error.ImpossibleDependency, match="9 engines wanted") as raised:
        values([task])
    assert isinstance(raised.value, error.RemoteError)
    assert task.metadata.engine_id is None


@pytest.mark.parametrize(
    "name", ["TaskTimeout", "ImpossibleDependency", "InvalidDependency", "UnmetDependency", "EngineError"]
)
def test_what_the_hub_says_has_its_class(fake, client, name):
    fake.paused.set()
    [task] = balance(client, int, [()])
    failure = Failure(name, "it could not be")
    fake.call(fake.tell_all, Result(task.msg_id, NOBODY, "error", failure=failure))
    with pytest.raises(error.RemoteError, match=rf"\[Engine Exception\] {name}: it could not be") as raised:
        values([task])
    assert raised.value.ename == name
    assert isinstance(raised.value, getattr(error, name)) == (name != "EngineError")
    assert "RemoteError" in repr(raised.value)


def test_retries_and_an_unknown_dependency(fake, client):
    def once():
        if engine_id == 0:  # noqa: F821
            raise ValueError("not here")
        return engine_id  # noqa: F821

    once = interactive(once)
    assert values(balance(client, once, [()], retries=1, targets=[0])) == [1]
    with pytest.raises(error.InvalidDependency, match="no task never-1_0"):
        values(balance(client, int, [()], after=Needs(["never-1_0"])))


def test_queued_tasks_are_aborted_by_number(fake, client):
    fake.paused.set()
    tasks = balance(client, int, [(str(i),) for i in range(4)])
    client._connection.abort(tasks[1:3])
    fake.release(client)
    assert wait_until(lambda: all(task.done for task in tasks))
    assert [task.status for task in tasks] == ["ok", "aborted", "aborted", "ok"]
    assert fake.headers(Abort) == [Abort(tasks[0].request.id, [1, 2])]
    assert isinstance(tasks[1].error(), error.TaskAborted)
    assert tasks[1].metadata.engine_id is None


def test_a_refused_request_fails_all_its_tasks(fake, client):
    fake.paused.set()
    refused, fine = balance(client, int, [(), ()]), balance(client, int, [()])
    fake.call(fake.tell_all, Refused("too many", refused[0].request.id))
    with pytest.raises(error.ConnectionRefused, match="too many"):
        values(refused)
    fake.release(client)
    assert values(fine) == [0]


def test_output_and_notices_reach_the_task(fake, client, caplog):
    fake.paused.set()
    [task] = balance(client, int, [()])
    fake.call(fake.tell_all, Output(task.msg_id, client._connection.name, 2, "stdout", "hello\n", 6))
    fake.call(fake.tell_all, Notice(client._connection.name, task.msg_id, "it waits"))
    fake.call(fake.tell_all, Notice(client._connection.name, task.msg_id, "it waits"))
    client.queue_status()
    assert task.metadata.stdout == "hello\n"
    assert task.request.notices == ["it waits"]
    assert caplog.text.count("it waits") == 1


def test_output_that_comes_again_is_taken_once_and_has_its_credit_back(fake, client):
    fake.paused.set()
    [task] = balance(client, int, [()])

    def say(text, number, engine=2):
        name = client._connection.name
        fake.call(fake.tell_all, Output(task.msg_id, name, engine, "stdout", text, 6, number))

    for text, number in (("one ", 4), ("two ", 5), ("one ", 4), ("two ", 5), ("three ", 6), ("three ", 6)):
        say(text, number)
    say("another engine ", 1, engine=3)
    say("not counted ", 0)
    say("not counted", 0)
    client.queue_status()
    assert task.metadata.stdout == "one two three another engine not counted not counted"
    assert wait_until(lambda: sum(one.size for one in fake.headers(Consumed)) == 9 * 6)


def test_results_are_acknowledged_by_number(fake, client):
    values(balance(client, int, [()] * 20))
    client[:].apply_sync(int)
    fake.call(fake.tell_all, Result("nobody-1", 0, "ok"))
    assert wait_until(lambda: sum(fake.taken.values()) == 25)


def test_a_gangs_results_are_acknowledged_together(fake, client):
    """Who has received only some may lose the connection, and needs them all again then."""
    fake.paused.set()
    [task] = balance(client, int, [()], ranks=3)
    fake.call(fake.tell_all, Result("nobody-1", 0, "ok"))
    for engine in (0, 1):
        fake.call(fake.tell_all, Result(task.msg_id, engine, "ok"))
        client.queue_status()
    assert wait_until(lambda: sum(fake.taken.values()) >= 1)
    client.queue_status()
    taken = sum(fake.taken.values())
    assert taken == 1
    fake.call(fake.tell_all, Result(task.msg_id, 2, "ok"))
    assert wait_until(lambda: sum(fake.taken.values()) == 4)
    assert values([task]) == [[None] * 3]


def test_closing_fails_what_is_pending(fake, connect):
    rc = connect()
    fake.paused.set()
    tasks = balance(rc, int, [(), ()])
    rc.close()
    with pytest.raises(error.EngineError, match="Connections have been closed"):
        values(tasks)


def test_balanced_tasks_leave_nothing_behind(fake, client):
    values(balance(client, int, [()] * 100))
    gc.collect()
    connection = client._connection
    assert not connection.balanced
    assert len(connection.tasks) == 0


def test_an_engine_that_came_later_is_known(fake, client):
    fake.call(fake.add_engine, 7)
    [task] = balance(client, int, [()], targets=[7])
    values([task])
    assert task.metadata.engine_uuid == EngineInfo(7, "world", 7, 8, "", 0).uuid


def test_a_function_that_nobody_has_any_more(fake, client):
    fake.call(fake.lacking.__setitem__, b"gone", [])
    fake.call(fake.tell_all, Lacks(client._connection.name, NOBODY, b"gone"))
    client.queue_status()
    assert fake.functions[b"gone"] == []


def test_messages_say_what_was_asked_for(fake, client):
    needs = Needs([], all=False, success=False, failure=True)
    options = {"ranks": 2, "retries": 3, "timeout": 1.5, "after": needs, "follow": needs, "targets": [1, 2]}
    values(balance(client, int, [()], **options))
    [header] = fake.headers(Balance)
    assert {name: msgspec.to_builtins(header)[1:] and getattr(header, name) for name in options} == options
