"""Waiting for jobs, and what is said meanwhile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from mpiparallel import cluster_waiting
from mpiparallel.cluster_waiting import Words, await_start
from mpiparallel.error import LaunchError


class Clock:
    """A clock that goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cluster_waiting, "time", clock)
    return clock


class Part:
    """Something that waits for as long as there are words for it."""

    def __init__(self, *words: str, never: str = "") -> None:
        self.process: Any = self
        self.name = "job 1"
        self._words: Iterator[str] = iter(words)
        self._never = never

    def what_it_waits_for(self) -> str:
        return next(self._words, "")

    def why_never(self) -> str:
        return self._never

    def where(self) -> str:
        return "job 1 on n1"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_does_not_wait_is_not_waited_for(clock: Clock) -> None:
    await_start(lambda: [Part()], 1.0, pause=clock.pause)  # type: ignore[list-item]
    assert clock.now == 1000.0


def test_each_change_is_said_once(clock: Clock) -> None:
    stream = io.StringIO()
    part = Part(*["a"] * 20, *["b"] * 20, *["c"] * 1)
    await_start(lambda: [part], 60.0, pause=clock.pause, words=Words(stream))  # type: ignore[list-item]
    assert stream.getvalue() == "a\nb\nc\n"


def test_nothing_is_said_of_a_short_wait(clock: Clock) -> None:
    stream = io.StringIO()
    part = Part("a", "a")
    await_start(lambda: [part], 60.0, pause=clock.pause, words=Words(stream))  # type: ignore[list-item]
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_line_that_is_taken_away(clock: Clock) -> None:
    stream = Terminal()
    part = Part(*["job 1 is PENDING: Priority"] * 400)
    await_start(lambda: [part], 3600.0, pause=clock.pause, words=Words(stream))  # type: ignore[list-item]
    text = stream.getvalue()
    assert "\n" not in text
    assert "\r\x1b[Kjob 1 is PENDING: Priority (0:01)" in text
    assert "\r\x1b[Kjob 1 is PENDING: Priority (1:19)" in text
    assert text.endswith("\r\x1b[K")


def test_what_can_never_start_is_given_up(clock: Clock) -> None:
    part = Part(*["a"] * 1000, never="job 1 will never start: no such node")
    with pytest.raises(LaunchError, match="will never start: no such node"):
        await_start(lambda: [part], 60.0, pause=clock.pause, words=Words(io.StringIO()))  # type: ignore[list-item]
    assert 3.0 <= clock.now - 1000.0 < 4.0


def test_queue_timeout(clock: Clock) -> None:
    part = Part(*["job 1 is PENDING: Priority"] * 1000)
    with pytest.raises(LaunchError, match=r"job 1 is PENDING: Priority: .*within 5 s \(queue_timeout\)"):
        await_start(lambda: [part], 5.0, pause=clock.pause, words=Words(io.StringIO()))  # type: ignore[list-item]


def test_waiting_becomes_needless(clock: Clock) -> None:
    part = Part(*["a"] * 1000)
    await_start(lambda: [part], 5.0, pause=lambda _: True, words=Words(io.StringIO()))  # type: ignore[list-item]


def test_an_error_while_it_waits_takes_the_line_away(clock: Clock) -> None:
    stream = Terminal()

    def pause(seconds: float) -> bool:
        clock.pause(seconds)
        if clock.now > 1002.0:
            raise KeyboardInterrupt
        return False

    part = Part(*["a"] * 1000)
    with pytest.raises(KeyboardInterrupt):
        await_start(lambda: [part], 60.0, pause=pause, words=Words(stream))  # type: ignore[list-item]
    assert stream.getvalue().endswith("\r\x1b[K")


def test_names_for_messages() -> None:
    assert cluster_waiting.names_of([Part(), Part()]) == "job 1 on n1"  # type: ignore[list-item]
