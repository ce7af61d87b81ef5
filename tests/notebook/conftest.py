"""Fixtures: a real kernel and a real terminal, each with IPython and a client of the shared cluster in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notebook.kernels import Kernel
from notebook.terminals import Terminal

if TYPE_CHECKING:
    from mpiparallel import Cluster

CONNECT = """\
import os, signal, sys, time
import mpiparallel as ipp
rc = ipp.Client('{file}')
view = rc[:]
"""


@pytest.fixture(scope="session")
def _on_path() -> Iterator[None]:
    """Kernels and terminals work in folders of their own, and find this package nevertheless."""
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root)
        yield


@pytest.fixture(scope="module")
def make_kernel(_on_path: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Kernel]]:
    """Makes kernels, and closes them at the end of the module."""
    kernels: list[Kernel] = []

    def make(**environment: str) -> Kernel:
        kernels.append(Kernel(tmp_path_factory.mktemp("kernel"), **environment))
        return kernels[-1]

    yield make
    for kernel in kernels:
        kernel.close()


@pytest.fixture(scope="module")
def _kernel(make_kernel: Callable[..., Kernel]) -> Kernel:
    return make_kernel()


@pytest.fixture
def kernel(_kernel: Kernel, cluster: Cluster) -> Kernel:
    """A kernel with ``rc``, a client of the shared cluster, and ``view`` of all its empty engines.

    It is shared by a module's tests, and so are the names in it.
    """
    _ready(_kernel, cluster)
    return _kernel


def _ready(kernel: Kernel, cluster: Cluster) -> None:
    try:
        ready = kernel.value(
            f"'rc' in globals() and rc.ids == {list(range(4))} and not rc._connection.lost", 10
        )
    except TimeoutError:  # a test has failed and left it busy
        kernel.restart(now=True)
        ready = False
    if not ready:
        kernel.do("if 'rc' in globals(): rc.close()\n" + CONNECT.format(file=cluster.connection_file))
    cell = kernel.start("rc.clear(block=True)")
    try:
        cell.finish(20)
    except TimeoutError:  # it has left the engines busy
        kernel.interrupt()
        cell.finish(20)  # what is sent before that is not run
        kernel.do("rc.abort()\nrc.interrupt()\nrc.clear(block=True)")


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    """A file that engines wait for: it is there when the test has ended, however that was."""
    path = tmp_path / "go"
    yield path
    path.touch()


@pytest.fixture(scope="module")
def make_terminal(
    _on_path: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Terminal]]:
    """Makes terminals, and closes them at the end of the module."""
    terminals: list[Terminal] = []

    def make(**environment: str) -> Terminal:
        terminals.append(Terminal(tmp_path_factory.mktemp("terminal"), **environment))
        return terminals[-1]

    yield make
    for terminal in terminals:
        terminal.close()


@pytest.fixture(scope="module")
def _terminal(make_terminal: Callable[..., Terminal]) -> Terminal:
    return make_terminal()


@pytest.fixture
def terminal(_terminal: Terminal, cluster: Cluster) -> Terminal:
    """IPython in a terminal, with ``rc`` and ``view`` as in `kernel`; shared by a module's tests."""
    if not _terminal.ready():  # a test has failed and left it busy
        _terminal.press("c")
        _terminal.until(_terminal.ready, 20)
    _terminal.run(CONNECT.format(file=cluster.connection_file))
    _terminal.run("rc.clear(block=True)")
    return _terminal
