"""What is known of one task, as a dictionary with fixed keys.

Made by `tasks.Task`; read by users through `AsyncResult.metadata` and attribute access.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from mpiparallel.wire import objects

# An event is what a task printed or displayed: its number, its kind, its text, its pickled payload.
Event = tuple[int, str, str, Any, int]  # its number, kind, text and payload, and its engine

DEFAULTS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(
        [
            "msg_id", "submitted", "started", "completed", "received", "engine_uuid", "engine_id", "follow",
            "after", "status", "execute_input", "execute_result", "error",
        ],
        lambda: None,
    ),
    "stdout": str,
    "stderr": str,
    "outputs": list,
    "data": dict,
    "label": lambda: None,
}  # fmt: skip

_lock = threading.RLock()  # over the decoding of events, which is rare and short


class Metadata(dict):
    """A dictionary of what is known about a task; its keys are fixed, and are attributes too.

    Keys: ``msg_id submitted started completed received engine_uuid engine_id follow after status
    execute_input execute_result error stdout stderr outputs data label``. Times are in UTC and aware of it.
    """

    __slots__ = ("_events", "_taken", "_texts")
    _events: deque[Event]
    _taken: int
    _texts: dict[str, list[str]]

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__({key: make() for key, make in DEFAULTS.items()})
        object.__setattr__(self, "_events", deque())
        object.__setattr__(self, "_taken", 0)
        object.__setattr__(self, "_texts", {"stdout": [], "stderr": []})
        self.update(*args, **values)

    def follow_events(self, events: deque[Event]) -> None:
        """Take output from `events`, which the I/O thread appends to, whenever somebody looks."""
        object.__setattr__(self, "_events", events)

    def refresh(self) -> None:
        """Take in what was printed and displayed since the last look."""
        if not self._events:
            return
        with _lock:
            while self._events:
                number, kind, text, payload, _ = self._events.popleft()
                object.__setattr__(self, "_taken", number + 1)
                if kind in self._texts:
                    self._texts[kind].append(text)
                else:
                    self._take_display(kind, text, payload)
            for kind, parts in self._texts.items():
                if parts:
                    parts[:] = ["".join([dict.__getitem__(self, kind), *parts])]
                    dict.__setitem__(self, kind, parts.pop())

    def shown_so_far(self) -> tuple[str, str, list[dict[str, Any]], int]:
        """Return stdout, stderr and displays of the events before a number, and that number."""
        with _lock:
            self.refresh()
            get = super().__getitem__
            return get("stdout"), get("stderr"), list(get("outputs")), self._taken

    def _take_display(self, kind: str, text: str, payload: Any) -> None:
        if kind == "execute_input":
            self["execute_input"] = text
            return
        content = objects.loads(payload) if payload else {}
        if kind == "execute_result":
            self["execute_result"] = content
        elif kind == "data":
            dict.__getitem__(self, "data").update(content)
        elif kind == "clear_output":
            dict.__getitem__(self, "outputs").clear()
        else:
            _add_output(dict.__getitem__(self, "outputs"), content)

    def update(self, *args: Any, **values: Any) -> None:
        for key, value in dict(*args, **values).items():
            self[key] = value

    def __getitem__(self, key: str) -> Any:
        self.refresh()
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in DEFAULTS:
            raise KeyError(key)
        super().__setitem__(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        return self[key]

    def items(self) -> Any:
        self.refresh()
        return super().items()

    def values(self) -> Any:
        self.refresh()
        return super().values()

    def __getattr__(self, name: str) -> Any:
        if name in DEFAULTS:
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in DEFAULTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self[name] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self.items()),)

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *DEFAULTS]


def _add_output(outputs: list[dict[str, Any]], content: dict[str, Any]) -> None:
    """Append a display, or put it in the place of the one that it updates, if that is of this task."""
    identity = (content.get("transient") or {}).get("display_id")
    if content.get("update") and identity is not None:
        for index, old in enumerate(outputs):
            if (old.get("transient") or {}).get("display_id") == identity:
                # Whoever shows a display later has none that this could change.
                outputs[index] = {**content, "update": bool(old.get("update"))}
                return
    outputs.append(content)
