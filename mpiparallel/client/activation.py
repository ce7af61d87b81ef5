"""Which view IPython's parallel magics use.

Called by the client and the views; imports `magics`, and with it IPython, only where a shell runs.
"""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING, Any

from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.views import DirectView

if TYPE_CHECKING:
    from mpiparallel.client.client import Client


_made: list[weakref.ref[Client]] = []  # the clients of this session, in the order in which they were made


def activate(view: DirectView, suffix: str = "") -> None:
    """Register ``%px`` and its kin for `view`, with `suffix` behind their names.

    Raises
    ------
    TypeError, ValueError
        If the suffix cannot be part of a name.
    """
    if not isinstance(suffix, str):
        raise TypeError(f"suffix must be text, not {suffix!r}")
    if not f"px{suffix}".isidentifier():
        raise ValueError(f"suffix {suffix!r}: px{suffix} would not be a name")
    shell = get_ipython()
    if shell is None:
        warnings.warn("%px and its kin work in IPython only", stacklevel=4)
        return
    _register(shell, view, suffix)


def client_made(client: Client) -> None:
    """Let the magics use `client` if there is a shell, and no other client that they use."""
    shell = get_ipython()
    if shell is None:
        return
    _made[:] = [weakref.ref(one) for one in [*open_clients(), client]]
    magics = _registered(shell)
    if magics is None:
        _register(shell, DirectView(client, block=True), "")
    elif not magics.has_client:
        magics.view = DirectView(client, block=True)


def open_clients() -> list[Client]:
    """Return the clients of this session that are open, the oldest first."""
    return [one for made in _made if (one := made()) is not None and one._connection.gone is None]


def load_ipython_extension(shell: Any) -> None:
    """Register ``%px`` and its kin: ``%load_ext mpiparallel``.

    They use the first Client that is open, also after ``%reload_ext``, or the next one that is made.
    """
    if _registered(shell) is None:
        clients = open_clients()
        _register(shell, DirectView(clients[0], block=True) if clients else None, "")


def unload_ipython_extension(shell: Any) -> None:
    """Remove all parallel magics from `shell`."""
    from mpiparallel.client.magics import remove

    remove(shell)


def _register(shell: Any, view: DirectView | None, suffix: str) -> None:
    from mpiparallel.client.magics import ParallelMagics

    shell.register_magics(ParallelMagics(shell, view, suffix))


def _registered(shell: Any) -> Any:
    """Return the magics without a suffix; None if there are none, or they are another package's."""
    from mpiparallel.client.magics import ParallelMagics

    magics = getattr(shell.find_line_magic("px"), "__self__", None)
    return magics if isinstance(magics, ParallelMagics) else None
