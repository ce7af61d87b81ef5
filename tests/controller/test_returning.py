"""Worlds in batch jobs, as the hub sees them: warnings, ends, and worlds that come back."""

from __future__ import annotations

import pytest

from mpiparallel.wire.messages import (
    EnginesChanged,
    Goodbye,
    Hello,
    HelloWorld,
    JobEnds,
    Refused,
    Result,
    WelcomeWorld,
)

from .driver import Driver

JOB = "slurm:75"
ENDED = "job 75 reached its time limit of 00:01:00"


@pytest.fixture
def hub() -> Driver:
    return Driver()


def end(hub: Driver, world: str, reason: str = "job 75 was requeued", returns: bool = True) -> None:
    hub._deliver(hub.hub.job_ended(world, reason, hub.now, returns))


def welcome(hub: Driver, peer: str) -> WelcomeWorld:
    return next(one for one in hub.heard(peer) if isinstance(one, WelcomeWorld))


def again(hub: Driver, name: str, size: int = 2, restarts: int = 1, **fields: object) -> WelcomeWorld:
    """Let the ranks of a job that runs again say hello, under a name that they have made up."""
    hello = HelloWorld(
        "v", name, ["h"] * size, list(range(size)), job=JOB, restarts=restarts, **fields  # type: ignore[arg-type]
    )  # fmt: skip
    hub.say(name, hello)
    return welcome(hub, name)


# ---------------------------------------------------------------- warnings


def test_people_are_warned_and_who_comes_later_too(hub: Driver) -> None:
    hub.world(2, job=JOB)
    client = hub.client()
    hub.say("w", JobEnds(300.0))
    assert hub.heard(client) == [], "that a job has a limit is no news"
    assert hub.hub.state.worlds["w"].ends_at == 300.0
    hub.now = 240.0
    hub.say("w", JobEnds(60.0, "job 75 reaches its time limit"))
    assert hub.heard(client) == [JobEnds(60.0, "job 75 reaches its time limit", [0, 1])]
    hub.now = 250.0
    hub.say("late", Hello("v", "late", "h", 1))
    told = [one for one in hub.heard("late") if isinstance(one, JobEnds)]
    assert told == [JobEnds(50.0, "job 75 reaches its time limit", [0, 1])]


def test_a_warning_names_the_engines_that_are_there(hub: Driver) -> None:
    hub.world(1, "v")
    hub.world(2, job=JOB, survives=True)
    client = hub.client()
    hub.die("w", [2])
    hub.say("w", JobEnds(60.0, "job 75 reaches its time limit", [0, 7]))
    told = [one for one in hub.heard(client) if isinstance(one, JobEnds)]
    assert [one.engines for one in told] == [[1]]


def test_a_client_cannot_announce_ends(hub: Driver) -> None:
    client = hub.client()
    hub.say(client, JobEnds(1.0, "nonsense"))
    assert isinstance(hub.heard(client)[0], Refused)


# ---------------------------------------------------------------- ends


def test_tasks_fail_with_the_words_of_the_batch_system(hub: Driver) -> None:
    hub.world(2, job=JOB)
    client = hub.client()
    hub.submit(client, 1, [0, 1], b"x")
    end(hub, "w", ENDED, returns=False)
    heard = hub.heard(client)
    failures = [one.failure.evalue for one in heard if isinstance(one, Result) and one.failure]
    assert len(failures) == 2
    assert all(ENDED in text for text in failures)
    assert EnginesChanged(removed=[0, 1], reason=ENDED) in heard
    assert not hub.hub.state.returning


def test_a_world_that_is_cut_off_can_be_told_of(hub: Driver) -> None:
    hub.world(2, job=JOB)
    client = hub.client()
    hub.cut("w")
    end(hub, "w", ENDED, returns=False)
    assert EnginesChanged(removed=[0, 1], reason=ENDED) in hub.heard(client)


def test_a_world_that_is_gone_already_is_passed_over(hub: Driver) -> None:
    end(hub, "w")
    assert not hub.hub.state.returning


# ---------------------------------------------------------------- coming back


def test_a_requeued_world_comes_back_with_its_name_and_its_ids(hub: Driver) -> None:
    hub.world(3, "v")
    hub.world(2, job=JOB, engine_set="s")
    client = hub.client()
    end(hub, "w")
    [change] = [one for one in hub.heard(client) if isinstance(one, EnginesChanged)]
    assert change.reason == (
        "job 75 was requeued; when the job runs again, they come back as engines 3-4"
    )
    hub.world(2, "other")  # takes the next ids meanwhile
    came = again(hub, "made up", engine_set="s")
    assert (came.name, came.engines) == ("w", [3, 4])
    assert hub.hub.state.worlds["w"].hello.restarts == 1
    [change] = [one for one in hub.heard(client) if isinstance(one, EnginesChanged) and one.added[0].id == 3]
    assert [one.world for one in change.added] == ["w", "w"]
    hub.submit(client, 1, [3], b"x")
    hub.answer("made up", "a-1", 3)
    assert not hub.hub.state.returning


def test_a_job_runs_again_before_its_end_was_noticed(hub: Driver) -> None:
    hub.world(2, job=JOB)
    client = hub.client()
    request = hub.submit(client, 1, [0], b"x")
    hub.cut("w")
    came = again(hub, "made up")
    assert (came.name, came.engines) == ("w", [0, 1])
    heard = hub.heard(client)
    assert [one.removed for one in heard if isinstance(one, EnginesChanged)] == [[0, 1], []]
    assert [one.request for one in heard if isinstance(one, Result)] == [request]


def test_several_worlds_of_one_job_come_back_in_order(hub: Driver) -> None:
    for name in ("a1", "a2"):
        hub.world(2, name, job=JOB)
    for name in ("a1", "a2"):
        end(hub, name)
    assert [(one.name, one.engines) for one in (again(hub, "n1"), again(hub, "n2"))] == [
        ("a1", [0, 1]),
        ("a2", [2, 3]),
    ]


@pytest.mark.parametrize(
    "fields", [{"size": 3}, {"engine_set": "another"}], ids=["of another size", "of another set"]
)
def test_another_world_of_the_job_is_new(hub: Driver, fields: dict[str, object]) -> None:
    hub.world(2, job=JOB)
    end(hub, "w")
    came = again(hub, "made up", **fields)  # type: ignore[arg-type]
    assert came.name == "made up"
    assert came.engines[0] == 2


def test_ids_that_somebody_else_has_taken_meanwhile_are_left_to_them(hub: Driver) -> None:
    hub.world(2, job=JOB)
    end(hub, "w")
    hub.world(1, "other", first=1)
    came = again(hub, "made up")
    assert (came.name, came.engines) == ("made up", [2, 3])


def test_a_world_that_was_restored_and_runs_again_keeps_its_place(hub: Driver) -> None:
    """The controller was in the same job: it comes back, too, and remembers the world that it had."""
    hub.world(2, job=JOB)
    old = hub.hub.state.worlds["w"]
    second = Driver()
    second.hub.restore([(type(old)("w", None, old.hello, 0.0, first=5), [])], 7, 0.0)
    came = again(second, "made up")
    assert (came.name, came.engines) == ("w", [5, 6])


def test_a_world_in_no_job_does_not_come_back(hub: Driver) -> None:
    hub.world(2)
    end(hub, "w")
    hub.world(2, "x")
    assert list(hub.hub.state.worlds["x"].numbers) == [2, 3]


def test_what_is_remembered_of_requeued_jobs_is_bounded(hub: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpiparallel.controller.returning.MAX_LOST", 10)
    for number in range(30):
        hub.world(1, f"w{number}", job=f"slurm:{number}")
        end(hub, f"w{number}")
    assert len(hub.hub.state.returning) == 10


def test_a_cluster_that_waits_for_its_job_is_not_idle(hub: Driver) -> None:
    hub.hub.state.idle_timeout = 60.0
    hub.world(2, job=JOB)
    end(hub, "w")
    for _ in range(100):
        hub.tick(1.0)
    assert not hub.hub.stopping
    again(hub, "made up")
    hub.say("made up", Goodbye())
    for _ in range(62):
        hub.tick(1.0)
    assert hub.hub.stopping
