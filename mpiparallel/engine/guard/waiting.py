"""The loop in which every guarded call waits, and what is known of the wait meanwhile.

At first the loop only tests, giving the core away in between: most calls end within microseconds. A wait
that lasts is registered, so that the courier can say what the main thread waits for and can end it, and
naps that grow with the time waited leave the cores to those who compute.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from mpiparallel.wire.waits import Part, Wait

TESTS = 16  # before the core is given away for the first time
REGISTER_AFTER = 200e-6  # seconds of testing before a wait is registered
NAP_AFTER = 3e-3  # and before the first nap: large collectives go on only while they are tested
NAP_SHARE = 1 / 40  # a nap's share of the time waited so far, so that naps add little to a wait
MAX_NAP = 2e-3  # an interrupt or a cut is heard within this time


class Waiting:
    """A wait of the main thread."""

    __slots__ = ("any", "args", "began", "call", "describe", "error", "number")

    def __init__(
        self,
        number: int,
        call: str,
        describe: Callable[..., Sequence[Part]],
        args: tuple[Any, ...],
        any: bool,
    ) -> None:
        self.number, self.call, self.describe, self.args, self.any = number, call, describe, args, any
        self.began = time.monotonic()
        self.error: BaseException | None = None


class Watch:
    """What the main thread waits for.

    Attributes
    ----------
    number
        Counts the waits.
    """

    def __init__(self) -> None:
        self.main = threading.main_thread().ident
        self.number = 0
        self.waiting: Waiting | None = None

    def current(self, members: Callable[[str], tuple[Sequence[int], str] | None]) -> Wait | None:
        """Return the wait. `members` has the ranks of a communicator, and its name."""
        waiting = self.waiting
        if waiting is None:
            return None
        parts = list(waiting.describe(*waiting.args))
        ranks, names = {}, {}
        for comm in {part.comm for part in parts if part.comm}:
            known = members(comm)
            if known is not None:
                ranks[comm], names[comm] = list(known[0]), known[1]
        seconds = time.monotonic() - waiting.began
        return Wait(waiting.number, waiting.call, seconds, parts, waiting.any, ranks, names)

    def cut(self, number: int, error: BaseException) -> bool:
        """End the wait of this number by raising `error` in it; return whether it still lasts."""
        waiting = self.waiting
        if waiting is None or waiting.number != number:
            return False
        waiting.error = error
        return True


watch = Watch()


def wait(
    test: Callable[[], Any],
    call: str,
    describe: Callable[..., Sequence[Part]],
    *args: Any,
    any: bool = False,
    sched_yield: Callable[[], None] = os.sched_yield,
    monotonic: Callable[[], float] = time.monotonic,
) -> Any:
    """Test until it is true, and return that; `describe(*args)` gives the parts of the wait when asked."""
    for _ in range(TESTS):
        done = test()
        if done:
            return done
    began = monotonic()
    while True:
        sched_yield()
        done = test()
        if done:
            return done
        if monotonic() - began > REGISTER_AFTER:
            break
    waiting = None
    outer = watch.waiting
    try:
        if get_ident() == watch.main:
            watch.number += 1
            waiting = watch.waiting = Waiting(watch.number, call, describe, args, any)
        while True:
            done = test()
            if done:
                return done
            if waiting is not None and waiting.error is not None:
                raise waiting.error
            waited = monotonic() - began
            if waited < NAP_AFTER:
                sched_yield()
            else:
                time.sleep(min(MAX_NAP, (waited - NAP_AFTER) * NAP_SHARE))
    finally:
        if waiting is not None:
            watch.waiting = outer


def nothing_known() -> list[Part]:
    """Return the parts of a wait of which nothing is known."""
    return [Part("other")]
