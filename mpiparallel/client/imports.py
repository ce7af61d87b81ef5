"""``with view.sync_imports():`` - import statements in the block happen here and on the engines."""

from __future__ import annotations

import builtins
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.wire.references import import_names

if TYPE_CHECKING:
    from mpiparallel.client.views import DirectView


def sync_imports(view: DirectView, local: bool, quiet: bool) -> Any:
    """Return the context manager; the statements are those of the frame that called `view`'s method."""
    if not local:
        raise NotImplementedError("local=False: what is imported in the block is always imported here too")
    return _synced(view, quiet, sys._getframe(2).f_globals)


@contextmanager
def _synced(view: DirectView, quiet: bool, user: dict[str, Any]) -> Iterator[None]:
    original = builtins.__import__
    thread = threading.get_ident()
    results: list[AsyncResult] = []
    seen: set[tuple[Any, ...]] = set()

    def import_both(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        module = original(name, globals, locals, fromlist, level)
        # Imports that the imported modules make are their own business.
        if globals is user and threading.get_ident() == thread:
            names = tuple(fromlist or ())
            full = (
                importlib.util.resolve_name("." * level + name, globals.get("__package__")) if level else name
            )
            if (full, names) not in seen:
                seen.add((full, names))
                if not quiet:
                    what = f"{', '.join(names)} from {full}" if names else full
                    print(f"importing {what} on engine(s)")
                results.append(view.apply_async(import_names, full, names))
        return module

    builtins.__import__ = import_both
    try:
        yield
    finally:
        builtins.__import__ = original
    for result in results:
        result.get()
