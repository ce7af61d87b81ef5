"""The loop of a wait, without MPI."""

from __future__ import annotations

import threading

import pytest

from mpiparallel.engine.guard.waiting import Watch, nothing_known, wait, watch
from mpiparallel.wire.waits import Part
from tests.helpers import wait_until

PARTS = [Part("collective", "world", "Barrier", 0)]


def members(comm: str) -> tuple[list[int], str]:
    return [0, 1], f"the {comm}"


def test_what_is_done_at_once_is_not_registered() -> None:
    before = watch.number
    answers = iter([False, 0, None, "value"])
    assert wait(lambda: next(answers), "Barrier", nothing_known) == "value"
    assert watch.number == before and watch.waiting is None


def test_a_wait_that_lasts_is_told_and_can_be_cut() -> None:
    seen = []
    error = ValueError("cut")

    def courier() -> None:
        assert wait_until(lambda: watch.waiting is not None)
        current = watch.current(members)
        seen.extend([current, watch.cut(current.number - 1, KeyError()), watch.cut(current.number, error)])

    thread = threading.Thread(target=courier)
    thread.start()
    with pytest.raises(ValueError, match="cut"):
        wait(lambda: False, "Barrier", lambda number: PARTS * number, 1)
    thread.join()
    told, wrong, right = seen
    assert told.call == "Barrier" and told.parts == PARTS and told.seconds >= 0 and not told.any
    assert told.members == {"world": [0, 1]} and told.names == {"world": "the world"}
    assert (wrong, right) == (False, True)
    assert watch.waiting is None and not watch.cut(told.number, error)


def test_every_wait_has_a_number_of_its_own() -> None:
    gate = threading.Event()
    numbers = []
    for _ in range(2):
        gate.clear()

        def open_gate() -> None:
            assert wait_until(lambda: watch.waiting is not None)
            numbers.append(watch.number)
            gate.set()

        thread = threading.Thread(target=open_gate)
        thread.start()
        wait(gate.is_set, "Recv", nothing_known)
        thread.join()
    assert numbers[1] == numbers[0] + 1


def test_a_wait_inside_of_a_wait_gives_way_to_the_outer_one() -> None:
    seen = []

    def outer() -> bool:
        if watch.waiting is None:
            return False
        number = watch.waiting.number
        with pytest.raises(ZeroDivisionError):
            wait(lambda: watch.waiting.number > number and 1 / 0, "inner", nothing_known)
        seen.append(watch.waiting.number == number)
        return True

    assert wait(outer, "outer", nothing_known)
    assert seen == [True] and watch.waiting is None


def test_other_threads_wait_untold() -> None:
    gate, waiting = threading.Event(), threading.Event()

    def test() -> bool:
        waiting.set()
        return gate.is_set()

    before = watch.number
    thread = threading.Thread(target=lambda: wait(test, "Recv", nothing_known))
    thread.start()
    assert waiting.wait(10)
    assert watch.current(members) is None and watch.number == before
    gate.set()
    thread.join(10)
    assert not thread.is_alive()


def test_nothing_is_told_when_nothing_is_waited_for() -> None:
    fresh = Watch()
    assert fresh.current(members) is None and fresh.number == 0 and not fresh.cut(0, KeyError())
