"""Floods: a hundred thousand lines from each of eight engines, and memory while they come."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
from helpers import processes_of

from mpiparallel import Cluster
from notebook.conftest import CONNECT
from notebook.kernels import Cell, Kernel
from notebook.pages import Page, spoken

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]

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
        commands = [(process, process.cmdline()) for process in processes_of(state_dir)]
        controllers = [
            process for process, command in commands
            if "mpiparallel.controller" in command and any("cluster-eight" in word for word in command)
        ]  # fmt: skip
        engines = [psutil.Process(pid) for pid in kernel.value("view.apply_sync(os.getpid)")]
        assert len(controllers) == 1 and len(engines) == ENGINES
        self.processes = {"kernel": [kernel.process], "controller": controllers, "engine": engines}
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

    def __str__(self) -> str:
        growth = {name: self.growth(name) // MEGABYTE for name in self.processes}
        return f"MB more: {growth}; slowest answer: {self.slowest:.2f} s"

    def check(self, size: int) -> None:
        """See that memory is bounded when `size` characters were shown, and that the kernel has answered."""
        assert self.growth("engine") < 16 * MEGABYTE
        assert self.growth("controller") < 64 * MEGABYTE
        assert self.growth("kernel") < 4 * size + 64 * MEGABYTE
        assert self.slowest < 2


@pytest.mark.parametrize("options", ["", "--no-stream"])
def test_every_line_arrives_once(kernel, state_dir, options):
    watch = Watch(kernel, state_dir)
    began = time.monotonic()
    page = watch.finish(kernel.start(f"%%px {options}\nfor i in range({LINES}):\n    print({LINE})"), 110)
    print(f"{time.monotonic() - began:.1f} s", watch)
    lines = Counter(spoken(page.stdout))
    wanted = (
        ((rank,), f"rank {rank} line {i:06d} of a hundred thousand")
        for rank in range(ENGINES) for i in range(LINES)
    )  # fmt: skip
    assert all(lines.pop(line, 0) == 1 for line in wanted)
    assert not lines
    assert page.error is None
    watch.check(ENGINES * SIZE)


def test_what_several_print_alike_is_shown_once(kernel, state_dir):
    watch = Watch(kernel, state_dir)
    began = time.monotonic()
    page = watch.finish(kernel.start(f"%%px\nfor i in range({LINES}):\n    print('line', i)"), 110)
    print(f"{time.monotonic() - began:.1f} s", watch)
    # Engines that lag behind the others are shown apart; nothing is lost, or shown too often.
    seen = Counter[str]()
    for engines, line in spoken(page.stdout):
        seen[line] += len(engines)
    assert seen == {f"line {i}": ENGINES for i in range(LINES)}
    assert len(spoken(page.stdout)) < ENGINES * LINES
    watch.check(ENGINES * LINES * len("line 10000\n"))
