"""The user's namespace on an engine, and the name ``comm``, which every request finds at hand.

``comm`` is a builtin while a request runs, so a ``comm`` of the user's own goes before it.
"""

from __future__ import annotations

import builtins
import re
import types
from collections.abc import Callable
from typing import Any

from mpiparallel.wire import objects
from mpiparallel.wire.messages import Submit

_USES = re.compile(r"\bcomm\b|\bexec\b|\beval\b|%run\b")  # what these run may mention it
_DEFINES = re.compile(r"\b(?:def|class|lambda)\b")


class UserModule(types.ModuleType):
    """``__main__`` on an engine; ``comm`` is found in it, too."""

    def __getattr__(self, name: str) -> Any:
        if name == "comm":
            return builtins.comm  # type: ignore[attr-defined]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class Namespace(objects.MainNamespace):
    """The names of a `UserModule`.

    Attributes
    ----------
    comm_at_hand : Callable or None
        Gives the communicator of a request; it is told whether user code is seen to use it.
    """

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(names)
        self.comm_at_hand: Callable[[Submit, bool], Any] | None = None
        self._functions_use_comm = False

    def make_function(self, code: types.CodeType, *rest: Any) -> types.FunctionType:
        self._functions_use_comm = self._functions_use_comm or _uses_comm(code)
        return super().make_function(code, *rest)

    def supply(self, wanted: dict[str, Any]) -> None:
        if "comm" in wanted:
            wanted = {name: value for name, value in wanted.items() if name != "comm"}
        super().supply(wanted)

    def lend_comm(self, header: Submit, text: str = "") -> None:
        """Let ``comm`` be the communicator of a request that is about to run `text`, or a function."""
        if self.comm_at_hand is None:
            return
        uses = _USES.search(text) is not None
        self._set(self.comm_at_hand(header, uses or self._functions_use_comm))
        self._functions_use_comm = self._functions_use_comm or (uses and _DEFINES.search(text) is not None)

    def take_comm_back(self) -> None:
        """Let ``comm`` be the world's again, for threads that go on."""
        from mpi4py import MPI

        self._set(MPI.COMM_WORLD)

    @staticmethod
    def _set(comm: Any) -> None:
        if getattr(builtins, "comm", None) is not comm:  # what is compiled relies on builtins that stay
            builtins.comm = comm  # type: ignore[attr-defined]

    def clear(self) -> None:
        super().clear()
        self._functions_use_comm = False


def _uses_comm(code: types.CodeType) -> bool:
    return "comm" in code.co_names or any(
        _uses_comm(part) for part in code.co_consts if isinstance(part, types.CodeType)
    )
