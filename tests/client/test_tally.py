"""What is counted for a progress bar, and the words beside it."""

from __future__ import annotations

import re
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpiparallel.client.tally import WIDTH, Tally, share
from mpiparallel.client.tasks import Request, Task
from mpiparallel.error import RemoteError
from mpiparallel.wire.fields import Failure


def task(number, engine, failure=None, engines=None):
    made = Task(Request("r", "map", 0.0, None, None), number, engine)
    made.engines = engines
    made.finish("ok" if failure is None else "error", failure=failure)
    return made


def numbers_in(text):
    """Return the engines that a text like ``0-2, 4`` names."""
    found = []
    for low, high in re.findall(r"(\d+)(?:-(\d+))?", text):
        found.extend(range(int(low), int(high or low) + 1))
    return found


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, ""),
        ({3: 0}, "engine 3: 0"),
        ({3: 1200}, "engine 3: 1,200"),
        ({0: 7, 1: 7, 2: 7, 3: 7}, "engines 0-3: 7 each"),
        ({0: 7, 1: 9, 2: 7, 3: 0}, "engines 0, 2: 7; 1: 9; 3: 0"),
        ({engine: engine // 32 for engine in range(64)}, "engines 0-31: 0; 32-63: 1"),
        ({engine: engine % 2 for engine in range(64)}, "64 engines: 0-1 each"),
        ({engine: 100 + engine for engine in range(1000)}, "1000 engines: 100-1,099 each"),
    ],
)
def test_share(counts, words):
    assert share(counts) == words


@given(st.dictionaries(st.integers(0, 2000), st.integers(0, 10**9), min_size=2, max_size=300))
def test_the_share_of_every_engine_is_told_or_summed_up(counts):
    text = share(counts)
    assert len(text) <= WIDTH + 40  # of equal counts the engines are listed, in at most eight pieces
    summed = re.fullmatch(r"(\d+) engines: ([\d,]+)-([\d,]+) each", text)
    if summed:
        assert int(summed[1]) == len(counts)
        assert [int(word.replace(",", "")) for word in summed.groups()[1:]] == [
            min(counts.values()), max(counts.values())
        ]  # fmt: skip
        return
    told = {}
    for part in text.removeprefix("engines ").removesuffix(" each").split("; "):
        engines, count = part.split(": ")
        if "in all" in engines:
            assert f"({len(counts)} in all)" in engines and len(set(counts.values())) == 1
            return
        told.update(dict.fromkeys(numbers_in(engines), int(count.replace(",", ""))))
    assert told == counts


def test_counts_of_tasks():
    tally = Tally()
    for number in range(6):
        tally.add(task(number, number % 2), 10)
    assert (tally.done, tally.failed, tally.by_engine) == (60, 0, {0: 30, 1: 30})
    assert tally.words() == "engines 0-1: 30 each"
    tally.add(task(6, 1, Failure("ValueError", "no")), 10)
    tally.add(task(7, -1, TimeoutError("nobody ran it")), 5)
    assert (tally.done, tally.failed, tally.by_engine) == (75, 15, {0: 30, 1: 40})
    assert tally.words() == "15 failed: ValueError, engines 0: 30; 1: 40"
    assert tally.among(range(4)).words() == "15 failed: ValueError, engines 0: 30; 1: 40; 2-3: 0"
    assert tally.by_engine == {0: 30, 1: 40}  # a copy was made


def test_who_waited_for_one_that_failed_is_not_the_reason():
    one, other = Tally(), Tally()
    one.add(task(0, 0, Failure("PeerFailed", "rank 1")))
    assert one.words() == "1 failed: PeerFailed, engine 0: 1"
    other.add(task(1, 1, Failure("ValueError", "no")))
    assert Tally.sum([one, other]).reason == Tally.sum([other, one]).reason == "ValueError"
    for failure in (Failure("ValueError", "no"), Failure("PeerFailed", "rank 1"), Failure("OSError", "")):
        one.add(task(2, 2, failure))
        assert one.reason == "ValueError"


def test_counts_of_gangs():
    tally = Tally()
    tally.add(task(0, 0, engines=[0, 1]))
    tally.add(task(1, 2, engines=[2, 3]))
    assert (tally.done, tally.words()) == (2, "engines 0-3: 1 each")


def test_errors_among_values():
    tally = Tally()
    tally.add(task(0, 0), 4)
    tally.add_errors([1, RemoteError("KeyError", "x", ""), ValueError("a value"), None])
    assert (tally.done, tally.failed, tally.errors, tally.n_failed) == (4, 0, 1, 1)
    assert tally.words() == "1 failed: KeyError, engine 0: 4"


def test_parts_that_are_not_done():
    tally = Tally()
    tally.left = [0, 1, 2, 5]
    assert tally.words() == "waiting for engines 0-2, 5"
    tally.left = []
    assert tally.words() == ""


def test_sums():
    one, other = Tally(), Tally()
    one.add(task(0, 0), 3)
    other.add(task(0, 1, Failure("OSError", "")), 4)
    done: Future[int] = Future()
    done.set_result(1)
    failed: Future[int] = Future()
    failed.set_exception(KeyError(1))
    cancelled: Future[int] = Future()
    cancelled.cancel()
    total = Tally.sum([one, other])
    for future in (done, failed, cancelled, Future()):
        total.add_future(future)
    assert (total.done, total.failed, total.reason) == (10, 6, "OSError")
    assert total.by_engine == {0: 3, 1: 4}
