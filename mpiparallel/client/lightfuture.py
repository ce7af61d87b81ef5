"""A future that costs little until somebody waits for it.

The lock and the condition of `concurrent.futures.Future` cost more than a short task does otherwise, and most
futures of many are done before anybody looks at them.
"""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

_making = threading.Lock()  # over `_made` and the counters of all; held for a few instructions
_DONE = frozenset(["CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"])


class LightFuture(concurrent.futures.Future):
    """A future of several parts, which is done when all have been counted.

    Whoever is to be told of its end, or waits for it, goes through `_condition`, which is made at that
    moment: where it has not been made nobody needs to be told.
    """

    _made: threading.Condition | None = None
    _left = 0  # parts that are not done
    _result: Any = None
    _exception: BaseException | None = None
    _waiters: Any = ()
    _done_callbacks: Any = ()

    def __init__(self) -> None:
        # In place of Future's own, which would make the condition.
        self._state = "PENDING"

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        made = self._made
        if made is None:
            with _making:
                made = self._made
                if made is None:
                    self._waiters, self._done_callbacks = [], []
                    made = self._made = threading.Condition()
        return made

    def _start(self) -> None:
        """Enter the state in which it cannot be cancelled; to be called before others know of it."""
        self._state = "RUNNING"

    def _count(self) -> None:
        """Note that one part is done; with the last, the future is."""
        with _making:
            self._left -= 1
            left, made = self._left, self._made
            if made is None:
                if not left:
                    self._state = "FINISHED"
                return
        if not left:
            self.set_result(None)
            return
        with made:
            made.notify_all()

    def done(self) -> bool:
        """Return whether it is done."""
        return self._state in _DONE
