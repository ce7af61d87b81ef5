"""Pickled functions, each pickled once as long as it is certain that it would come out the same again.

Pickling a function takes longer than all else that the client does for a short task. What it refers to may
change between two calls without a trace in the function itself, so only those are kept of which every part
that goes into the pickle can be compared: functions that travel by name, and functions whose globals
are modules, plain values and things that travel by name.
"""

from __future__ import annotations

import sys
import types
import weakref
from typing import Any

from cloudpickle import cloudpickle as _cloudpickle

from mpiparallel.wire import objects

_PLAIN = frozenset([int, float, str, bytes, bool, complex, type(None)])
_BASE = ("__package__", "__name__", "__path__", "__file__")  # of a function's globals: they travel with it
_MISSING = object()
_ITSELF = object()


class Pickled(list):
    """The frames of a function, and their digest."""

    def __init__(self, frames: list[Any]) -> None:
        super().__init__(frames)
        self.digest = objects.digest(frames)


class _Kept:
    """A function's frames and, if it travels by value, all that went into them."""

    __slots__ = ("annotations", "attributes", "modules", "names", "pickled", "values")

    def __init__(self, f: Any, by_name: bool, pickled: Pickled) -> None:
        self.pickled = pickled
        self.attributes: tuple[Any, ...] | None = None
        if by_name:
            return
        self.attributes = _attributes(f)
        self.annotations = tuple(f.__annotations__.items())
        self.names = (*_BASE, *_cloudpickle._extract_code_globals(f.__code__))
        # Not the function itself: who is held by what is kept of it is never forgotten.
        self.values = [_ITSELF if value is f else value for value in map(self._getter(f), self.names)]
        self.modules = len(sys.modules)  # cloudpickle sends submodules along that the code may mean

    @staticmethod
    def _getter(f: Any) -> Any:
        get = f.__globals__.get
        return lambda name: get(name, _MISSING)

    def is_current(self, f: Any) -> bool:
        """Whether the pickle would be the same now."""
        by_name = _travels_by_name(f)
        if by_name or self.attributes is None:
            return by_name and self.attributes is None
        for mine, now in zip(self.attributes, _attributes(f), strict=True):
            if mine is not now:
                return False
        if f.__dict__ or f.__kwdefaults__ or self.modules != len(sys.modules):
            return False
        annotations = f.__annotations__
        if annotations or self.annotations:
            if len(annotations) != len(self.annotations):
                return False
            for (name, value), (name_now, now) in zip(self.annotations, annotations.items(), strict=True):
                if name is not name_now or value is not now or not _is_safe(value):
                    return False
        get = f.__globals__.get
        for name, value in zip(self.names, self.values, strict=True):
            now = get(name, _MISSING)
            if now is not (f if value is _ITSELF else value):
                return False
            if type(now) not in _PLAIN and value is not _ITSELF and not _is_safe(value):
                return False
        return True


_kept: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()


def dumps(f: Any) -> list[Any]:
    """Return the frames of a function, which belong to nobody else; do not change them."""
    kind = type(f)
    if kind is not types.FunctionType and kind is not types.BuiltinFunctionType:
        return objects.copied(objects.dumps(f))
    kept = _kept.get(f)
    if kept is not None and kept.is_current(f):
        return kept.pickled
    pickled = Pickled(objects.copied(objects.dumps(f)))
    by_name = _travels_by_name(f)
    _kept.pop(f, None)
    if by_name or (kind is types.FunctionType and _is_simple(f)):
        kept = _Kept(f, by_name, pickled)
        if kept.is_current(f):
            _kept[f] = kept
    return pickled


def _attributes(f: Any) -> tuple[Any, ...]:
    return (
        f.__code__, f.__name__, f.__qualname__, f.__module__, f.__doc__, f.__defaults__, f.__closure__,
    )  # fmt: skip


def _is_simple(f: types.FunctionType) -> bool:
    """Whether what goes into the pickle, besides globals, is immutable and can be seen."""
    return (
        f.__closure__ is None
        and not f.__dict__
        and not f.__kwdefaults__
        and not getattr(f, "__type_params__", ())
        and type(f.__doc__) in _PLAIN
        and all(type(value) in _PLAIN for value in f.__defaults__ or ())
    )


def _is_safe(value: Any) -> bool:
    """Whether a global that is the same object is pickled in the same way."""
    if value is _MISSING or type(value) in _PLAIN:
        return True
    if type(value) is types.ModuleType:
        return sys.modules.get(value.__name__) is value
    return isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and _travels_by_name(
        value
    )


def _travels_by_name(value: Any) -> bool:
    """Whether cloudpickle sends the name of this function or class."""
    module, name = value.__module__, value.__qualname__
    if module is None or module == "__main__" or _cloudpickle._PICKLE_BY_VALUE_MODULES:
        return False
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value
