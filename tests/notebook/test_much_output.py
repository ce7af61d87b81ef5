"""Floods: a hundred thousand lines from each of eight engines, and memory while they come."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
from helpers import processes_of

from mpiparallel import Cluster
from notebook.conftest import CONNECT
from notebook.kernels import Cell, Kernel
from notebook.pages import Page

pytestmark = pytest.mark.mpi

ENGINES = 8
LINES = 100_000
MEGABYTE = 1 << 20
LINE = "'rank %d line %06d of a hundred thousand' % (mpi_rank, i)"
SIZE = len("rank 0 line 000000 of a hundred thousand\n") * LINES  # from one engine


@pytest.fixture(scope="module")
def eight(state_dir) -> Iterator[Cluster]:
    cluster = Cluster(n=ENGINES, cluster_id="eight")
    cluster.start_and_connect_sync().close()
    yield cluster
    cluster.stop_cluster_sync()


@pytest.fixture(scope="module")
def kernel(make_kernel: Callable[..., Kernel], eight: Cluster) -> Kernel:
    kernel = make_kernel()
    kernel.do(CONNECT.format(file=eight.connection_file))
    kernel.do("view.execute('1', silent=False, block=True)")  # IPython is there before memory is looked at
    return kernel


class Watch:
    """The most memory that each process has had, and the longest wait for the kernel, while a cell ran."""

    def __init__(self, kernel: Kernel, state_dir) -> None:
        self.kernel = kernel
        self.processes = {"kernel": [kernel.process], "controller": [], "engine": []}
        for process in processes_of(state_dir):
            command = process.cmdline()
            for name in ("controller", "engine"):
                if command[1:3] == ["-m", f"mpiparallel.{name}"]:
                    self.processes[name].append(process)
        assert len(self.processes["controller"]) == 1 and len(self.processes["engine"]) == ENGINES
        self.before = self._memory()
        self.most = dict(self.before)
        self.slowest = 0.0
        self._next = 0.0

    def _memory(self) -> dict[psutil.Process, int]:
        return {one: one.memory_info().rss for many in self.processes.values() for one in many}

    def look(self, page: Page) -> bool:
        """Look, a few times in a second; never the end."""
        if time.monotonic() >= self._next:
            for process, memory in self._memory().items():
                self.most[process] = max(self.most[process], memory)
            self.slowest = max(self.slowest, self.kernel.answers(timeout=30))
            self._next = time.monotonic() + 0.2
        return False

    def finish(self, cell: Cell, timeout: float) -> Page:
        cell.until(lambda page: self.look(page) or cell.idle, timeout)
        return cell.finish()

    def growth(self, name: str) -> int:
        return max(self.most[process] - self.before[process] for process in self.processes[name])


def stream(code: str) -> str:
    return (
        f"ar = view.execute({code!r}, silent=False, block=False)\n"
        "with ar.stream_output():\n"
        "    ar.wait()\n"
        "ar.get()\n"
        "del ar"
    )


def test_every_line_arrives_once(kernel, state_dir):
    watch = Watch(kernel, state_dir)
    began = time.monotonic()
    page = watch.finish(kernel.start(stream(f"for i in range({LINES}):\n    print({LINE})")), 110)
    took = time.monotonic() - began
    # Labels stand on lines of their own, or before a single line.
    lines = Counter(line for line in re.sub(r"^\[.*?\] ", "", page.stdout, flags=re.M).split("\n") if line)
    wanted = (
        f"rank {rank} line {i:06d} of a hundred thousand" for rank in range(ENGINES) for i in range(LINES)
    )
    assert all(lines.pop(line, 0) == 1 for line in wanted)
    assert not lines
    growth = {name: watch.growth(name) // MEGABYTE for name in watch.processes}
    print(f"{took:.1f} s, slowest answer {watch.slowest:.2f} s, MB more: {growth}")
    assert page.error is None
    assert watch.growth("engine") < 16 * MEGABYTE
    assert watch.growth("controller") < 64 * MEGABYTE
    assert watch.growth("kernel") < 4 * ENGINES * SIZE + 64 * MEGABYTE
    assert watch.slowest < 2
