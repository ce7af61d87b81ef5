"""Python objects as frames: one pickle-5 stream and its out-of-band buffers.

Functions, and classes that live in ``__main__``, travel by value (cloudpickle). What arrives is writeable.

Functions of ``__main__`` run on an engine with the engine's namespace as their globals, as in IPython
Parallel: a name which exists there wins; one that only the sender had comes along and is put
there (`MainNamespace.supply`).
"""

from __future__ import annotations

import hashlib
import io
import pickle
import types
from collections.abc import Sequence
from typing import Any, Literal

import cloudpickle
from cloudpickle import cloudpickle as _cloudpickle

OUT_OF_BAND = 1024  # buffers below this many bytes stay in the stream
_PLAIN_KINDS = "biufcSUV"  # dtypes that numpy pickles out of band
_PLAIN_TYPES = frozenset([int, float, str, bytes, bool, complex, type(None)])
_SHALLOW_TYPES = _PLAIN_TYPES | {tuple, list, dict}
_MISSING = object()


def dumps(obj: Any) -> list[Any]:
    """Return `obj` as frames: the stream (bytes-like), then its large buffers, views of `obj`'s memory.

    Raises whatever pickling `obj` raises.
    """
    if _is_plain(obj, 2):
        return [pickle.dumps(obj, 5)]
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        buffers.append(view)
        return False

    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=keep_in_band).dump(obj)
    return [stream.getvalue(), *buffers]


def _is_plain(obj: Any, depth: int) -> bool:
    """Whether plain pickle, which is much faster, does with `obj` what cloudpickle does."""
    kind = type(obj)
    if kind in _PLAIN_TYPES:
        return True
    if not depth:
        return False
    if kind is tuple or kind is list:
        kinds = set(map(type, obj))
        return kinds <= _PLAIN_TYPES or (
            kinds <= _SHALLOW_TYPES and all(_is_plain(item, depth - 1) for item in obj)
        )
    if kind is dict:
        return _is_plain(list(obj), 1) and _is_plain(list(obj.values()), depth)
    return False


def loads(frames: Sequence[Any], namespace: MainNamespace | None = None) -> Any:
    """Return the object in `frames`; functions of ``__main__`` get `namespace` as their globals, if given.

    Buffers that are writeable become the memory of the result, so they must belong to the caller.
    """
    if namespace is None and len(frames) == 1:
        return pickle.loads(frames[0])
    buffers = (_writeable(frame) for frame in frames[1:])
    if namespace is None:
        return pickle.loads(frames[0], buffers=buffers)
    return _Unpickler(io.BytesIO(frames[0]), buffers, namespace).load()


def copied(frames: Sequence[Any]) -> list[Any]:
    """Return `frames` with every view of somebody's memory replaced by a copy."""
    return [frame if type(frame) is bytes else bytearray(frame) for frame in frames]


def digest(frames: Sequence[Any]) -> bytes:
    """Return the name of a function: a 16-byte BLAKE2b digest of its frames."""
    state = hashlib.blake2b(digest_size=16)
    for frame in frames:
        state.update(frame)
    return state.digest()


class MainNamespace:
    """An engine's user namespace, as the globals of functions that come from a ``__main__``.

    Parameters
    ----------
    names
        The namespace itself; it is written to.
    """

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self._supplied: dict[str, Any] = {}  # what we put there, to tell it from what the user did
        self.record: dict[str, Any] = {}  # what the load under way asked for

    def supply(self, wanted: dict[str, Any]) -> None:
        """Put names there that the sender's functions use, except where the user has set them here."""
        for name, value in wanted.items():
            present = self.names.get(name, _MISSING)
            if present is _MISSING or present is self._supplied.get(name, _MISSING):
                self.names[name] = self._supplied[name] = value

    def make_function(
        self, code: types.CodeType, base: dict[str, Any], name: Any, defaults: Any, closure: Any
    ) -> types.FunctionType:
        """Stand in for cloudpickle's ``_make_function``."""
        if base.get("__name__") != "__main__":
            made = _cloudpickle._make_function(code, base, name, defaults, closure)
        else:
            made = types.FunctionType(code, self.names, name, defaults, closure)
        assert isinstance(made, types.FunctionType)
        return made

    def set_function_state(self, function: types.FunctionType, state: Any) -> None:
        """Stand in for cloudpickle's ``_function_setstate``."""
        if function.__globals__ is self.names:
            self.record.update(state[1]["__globals__"])
            self.supply(state[1]["__globals__"])
            state[1]["__globals__"] = {}
        _cloudpickle._function_setstate(function, state)

    def clear(self) -> None:
        """Forget what was supplied; the names themselves are the caller's to delete."""
        self._supplied.clear()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
            flags, dtype = obj.flags, obj.dtype
            if (
                not dtype.hasobject
                and dtype.itemsize
                and not (flags.writeable and flags.forc and dtype.kind in _PLAIN_KINDS)
            ):
                return _reduce_array(obj)
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, buffers: Any, namespace: MainNamespace) -> None:
        super().__init__(stream, buffers=buffers)
        self.namespace = namespace

    def find_class(self, module: str, name: str) -> Any:
        if module == "cloudpickle.cloudpickle":
            if name == "_make_function":
                return self.namespace.make_function
            if name == "_function_setstate":
                return self.namespace.set_function_state
        return super().find_class(module, name)


def _reduce_array(array: Any) -> Any:
    """Reduce the arrays that numpy itself would send less than faithfully.

    By numpy's own way read-only arrays arrive read-only, those that are not contiguous arrive in native byte
    order, and times are never out of band.
    """
    flags = array.flags
    if not (flags.writeable and flags.forc):
        array = array.copy(order="A")
    order = "C" if array.flags.c_contiguous else "F"
    raw = array.reshape(-1, order=order).view("u1")
    return _rebuild_array, (pickle.PickleBuffer(raw), array.dtype, array.shape, order)


def _rebuild_array(memory: Any, dtype: Any, shape: tuple[int, ...], order: Literal["C", "F"]) -> Any:
    import numpy

    return numpy.ndarray(shape, dtype, memory, order=order)


def _writeable(frame: Any) -> Any:
    view = memoryview(frame)
    return bytearray(view) if view.readonly else frame
