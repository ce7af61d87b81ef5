"""Displays of a notebook: which of them an update changes, and the labels above them. Used by `screen`."""

from __future__ import annotations

import re
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

from mpiparallel.client.executereply import get_ipython, publish
from mpiparallel.client.folding import Block
from mpiparallel.ranges import ranges

MAX_DISPLAYS = 10_000  # whose places are remembered
RECENT = 64  # displays that late engines may join


def display_key(content: dict[str, Any]) -> Hashable:
    """Return what is the same for displays that look the same; None if there is nothing to see."""
    data = content.get("data") or {}
    if not data:
        return None
    name = (content.get("transient") or {}).get("display_id")
    if isinstance(name, str) and re.fullmatch(r"[0-9a-f]{32}", name):
        name = "made up"  # by IPython, another one on each engine
    bundle = tuple(
        (mime, value if isinstance(value, (str, bytes)) else repr(value)) for mime, value in data.items()
    )
    return bundle, repr(content.get("metadata") or {}), name, bool(content.get("update"))


class _Label:
    """A label that can be changed."""

    def __init__(self, key: Hashable, engines: tuple[int, ...]) -> None:
        self.key = key
        self.engines = engines
        self.name = uuid.uuid4().hex


class Labels:
    """The labels of displays: engines that display the same later are added to them.

    But only if they have said nothing since, as their own order would be another one then.
    """

    def __init__(self) -> None:
        self._recent: deque[_Label] = deque(maxlen=RECENT)
        self._since: dict[int, set[_Label]] = {}  # labels that each engine has said something after

    def take(self, block: Block) -> Callable[[], None] | None:
        """Note what engines say; return what adds them to the label of a display that is there."""
        found = self._find(block) if block.kind == "display" else None
        for engine in block.engines:
            self._since[engine] = set(self._recent)
        if found is None:
            return None
        found.engines = (*found.engines, *block.engines)
        bundle = {"text/plain": f"[output:{ranges(found.engines)}]"}
        return lambda: publish(bundle, {}, transient={"display_id": found.name}, update=True)

    def _find(self, block: Block) -> _Label | None:
        key = display_key(block.value[0])
        for label in self._recent:
            late = all(label not in self._since.get(engine, ()) for engine in block.engines)
            if late and label.key == key and not set(label.engines).intersection(block.engines):
                return label
        return None

    def show(self, block: Block, text: str) -> Callable[[], None] | None:
        """Return what shows the label of a new display; None if nobody can join it."""
        content = block.value[0]
        if (content.get("transient") or {}).get("display_id") or display_key(content) is None:
            return None
        label = _Label(display_key(content), block.engines)
        self._recent.append(label)
        for engine in block.engines:
            self._since[engine] = set(self._recent)
        return lambda: publish({"text/plain": text}, {}, transient={"display_id": label.name})


_places: OrderedDict[tuple[int, str], tuple[str, tuple[int, ...]]] = OrderedDict()
_lock = threading.Lock()


def in_place(block: Block) -> list[dict[str, Any]]:
    """Return the options that change what these engines have displayed; none if not all is theirs alone."""
    contents = block.value
    if not contents[0].get("update") or get_ipython() is None:
        return []
    with _lock:
        names: list[Any] = [(content.get("transient") or {}).get("display_id") for content in contents]
        keys = list(zip(block.engines, names, strict=True))
        found = [_places.get(key) for key in keys]
        for key in keys:
            if key in _places:
                _places.move_to_end(key)
    theirs = {place for place in found if place is not None}
    if None in found or any(not set(engines) <= set(block.engines) for _, engines in theirs):
        return []
    shown = contents[0]["transient"]
    return [{"transient": {**shown, "display_id": name}, "update": True} for name, _ in sorted(theirs)]


def options(block: Block) -> dict[str, Any]:
    """Return the options of a display that has an id: each group of engines has its own."""
    contents = block.value
    names: list[Any] = [(content.get("transient") or {}).get("display_id") for content in contents]
    if None in names or get_ipython() is None:
        return {}
    with _lock:
        keys = list(zip(block.engines, names, strict=True))
        place = (f"{names[0]}-{ranges(block.engines)}", block.engines)
        update = bool(contents[0].get("update"))
        if update:
            known = {_places.get(key) for key in keys}
            if (
                len(known) == 1
                and (only := next(iter(known))) is not None
                and set(only[1]) == set(block.engines)
            ):
                place = only
            elif known != {None}:
                # Those who have shown one thing together go on with different ones.
                place, update = (uuid.uuid4().hex, block.engines), False
        for key in keys:
            _places[key] = place
            _places.move_to_end(key)
        while len(_places) > MAX_DISPLAYS:
            _places.popitem(last=False)
    return {"transient": {**contents[0]["transient"], "display_id": place[0]}, "update": update}
