"""Functions that run on engines when they are called: the decorators ``remote`` and ``parallel``."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpiparallel.client import partition
from mpiparallel.client.view_base import View, name_of

if TYPE_CHECKING:
    from mpiparallel.client.views import DirectView


def remote(view: View, block: bool | None = None, **flags: Any) -> Callable[[Any], RemoteFunction]:
    """Return a decorator: the function runs on the view's engines.

    >>> @ipp.remote(view, block=True)  # doctest: +SKIP
    ... def getpid():
    ...     import os
    ...     return os.getpid()
    """
    return lambda f: RemoteFunction(view, f, block=block, **flags)


def parallel(
    view: DirectView, dist: str = "b", block: bool | None = None, ordered: bool = True, **flags: Any
) -> Callable[[Any], ParallelFunction]:
    """Return a decorator: engines run the function on parts of the arguments; the results are joined."""
    return lambda f: ParallelFunction(view, f, dist=dist, block=block, ordered=ordered, **flags)


class RemoteFunction:
    """A function that runs on a view's engines when it is called.

    Parameters
    ----------
    view
        Where it runs.
    f
        The function itself.
    block
        Whether calls wait; None: as the view does at the time of the call.
    **flags
        Flags of the view, for these calls.
    """

    def __init__(self, view: View, f: Any, block: bool | None = None, **flags: Any) -> None:
        self.view = view
        self.func = f
        self.block = block
        self.flags = flags
        functools.update_wrapper(self, f, updated=())
        self.__name__ = name_of(f)
        self.__doc__ = f"{type(self).__name__} wrapping:\n{getattr(f, '__doc__', None) or ''}"
        try:
            self.__signature__ = inspect.signature(f)
        except (TypeError, ValueError):  # a builtin without one, or a Reference
            pass

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__name__} on {self.view!r}>"

    def _flagged(self) -> Any:
        """Return a view with this function's flags; the view itself stays as it is, for other threads."""
        block = self.view.block if self.block is None else self.block
        return copy.copy(self.view).set_flags(**{**self.flags, "block": block})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._flagged().apply(self.func, *args, **kwargs)


class ParallelFunction(RemoteFunction):
    """A function of sequences: each engine runs it on its parts of them, and the results are joined.

    Parameters
    ----------
    dist
        ``"b"``: contiguous parts; ``"r"``: round-robin.
    ordered
        False: iterating over the AsyncMapResult gives items as they arrive.
    """

    view: DirectView

    def __init__(
        self,
        view: DirectView,
        f: Any,
        dist: str = "b",
        block: bool | None = None,
        ordered: bool = True,
        **flags: Any,
    ) -> None:
        partition.check_dist(dist)
        super().__init__(view, f, block=block, **flags)
        self.dist = dist
        self.ordered = ordered

    def __call__(self, *sequences: Any) -> Any:
        """Call the function once on each engine, with its parts of `sequences`.

        Raises
        ------
        ValueError
            If the sequences are of different length.
        """
        listed = self._listed(sequences)
        lengths = [len(sequence) for sequence in listed]
        if len(set(lengths)) > 1:
            raise ValueError(f"all sequences must have equal length, but have {lengths}")
        view = self._flagged()
        if not lengths[0]:
            return view.map(self.func, [])
        return view._apply_parts(self.func, listed, self.dist, ordered=self.ordered)

    def map(self, *sequences: Any) -> Any:
        """Call the function on each item, as Python's ``map``."""
        view = self._flagged()
        return view._map(
            self.func, self._listed(sequences), self.dist, ordered=self.ordered, label=view.label
        )

    def _listed(self, sequences: Any) -> list[Any]:
        if not sequences:
            raise TypeError(f"{self.__name__} needs at least one sequence")
        return [partition.listed(sequence) for sequence in sequences]
