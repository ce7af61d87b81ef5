"""Names of IPython Parallel's serialization that scripts import, in terms of ours."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mpiparallel.wire import objects

can_map: dict[Any, Callable[..., Any]] = {}
"""There for code that registers types; everything cloudpickle takes travels without it."""

uncan_map: dict[Any, Callable[..., Any]] = {}
"""There for code that registers types."""


class PrePickled:
    """An object pickled once, to be sent many times; engines receive the object itself.

    >>> PrePickled([1, 2]).obj
    [1, 2]
    """

    def __init__(self, obj: Any) -> None:
        self.frames = [bytes(frame) for frame in objects.dumps(obj)]

    @property
    def obj(self) -> Any:
        """A copy of the object."""
        return objects.loads(self.frames)

    def __reduce__(self) -> tuple[Any, ...]:
        return objects.loads, ([pickle.PickleBuffer(frame) for frame in self.frames],)


def can(obj: Any) -> Any:
    """Return `obj`: nothing needs canning."""
    return obj


def uncan(obj: Any, g: Mapping[str, Any] | None = None) -> Any:
    """Return `obj`, or what it holds if it is `PrePickled`."""
    return obj.obj if isinstance(obj, PrePickled) else obj


def serialize_object(obj: Any, buffer_threshold: int = 0, item_threshold: int = 0) -> list[Any]:
    """Return `obj` as buffers: a pickle and its large buffers."""
    return objects.dumps(obj)


def deserialize_object(buffers: Sequence[Any], g: dict[str, Any] | None = None) -> tuple[Any, list[Any]]:
    """Return the object in `buffers`, and the buffers that are left over: none."""
    namespace = objects.MainNamespace(g) if g is not None else None
    return objects.loads(buffers, namespace), []


def pack_apply_message(
    f: Any, args: Sequence[Any], kwargs: Mapping[str, Any], buffer_threshold: int = 0, item_threshold: int = 0
) -> list[Any]:
    """Return a call as buffers."""
    return objects.dumps((f, tuple(args), dict(kwargs)))


def unpack_apply_message(
    bufs: Sequence[Any], g: dict[str, Any] | None = None, copy: bool = True
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return function, arguments and keyword arguments of a call made by `pack_apply_message`."""
    call, _ = deserialize_object(objects.copied(bufs) if copy else bufs, g)
    return call


def use_cloudpickle() -> None:
    """Do nothing: functions always travel by cloudpickle."""


def use_dill() -> None:
    """Import dill, which makes its types known to pickle; functions travel by cloudpickle all the same.

    Raises
    ------
    ImportError
        If dill is not installed.
    """
    importlib.import_module("dill")


def use_pickle() -> None:
    """Do nothing: what pickle takes, cloudpickle takes too."""
