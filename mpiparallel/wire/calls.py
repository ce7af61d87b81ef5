"""Calls for libraries that want the very exception back: it travels as a value."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from mpiparallel.error import RemoteError
from mpiparallel.wire import objects


class Outcome:
    """How a call went.

    Parameters
    ----------
    result
        What it returned.
    error, text
        What it raised instead, and the traceback.
    """

    def __init__(self, result: Any, error: Exception | None = None, text: str = "") -> None:
        self.result, self.error, self.text = result, error, text

    def value(self) -> Any:
        """Return what the call returned, or raise what it raised, with the remote traceback as the cause."""
        if self.error is None:
            return self.result
        name = type(self.error).__name__
        raise self.error from RemoteError(name, str(self.error), self.text)


def run_captured(call: Callable[[], Any]) -> Outcome:
    """Call `call` and return how it went.

    An exception that cannot be pickled is raised here, as any other call's would be.
    """
    try:
        return Outcome(call())
    except Exception as error:
        text = traceback.format_exc()
        outcome = Outcome(None, error.with_traceback(None), text)
        try:
            objects.loads(objects.dumps(outcome))
        except Exception:  # whatever its own __reduce__ raises is not what went wrong
            raise error from None
        return outcome
