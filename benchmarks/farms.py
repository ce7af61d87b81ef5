"""The task farms that are compared, each measured by a process of its own.

``python -m benchmarks.farms NAME WORKLOAD...`` starts the farm of that name with four workers, runs the
workloads and prints their figures as one line of JSON. mpi4py.futures wants mpiexec around it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psutil

from benchmarks import farm_tasks as tasks

WORKERS = 4
LONG, CHUNK = 10_000_000, 10_000  # of the long map
SPAN = 1.5  # seconds that a measurement of a rate is to take
LEAST, MOST = 200, 40_000  # tasks in it
REPEATS = 3
NAPS, NAP = 4000, 0.001
UNEVEN = 8.0  # seconds of work
GANGS = 60


class Missing(Exception):
    """This system is not to be had here, or cannot do this."""


class Farm:
    """One system with its workers up. Here the parts that are the same for executors of PEP 3148."""

    module = ""

    def __init__(self) -> None:
        if importlib.util.find_spec(self.module) is None:
            raise Missing(f"{self.module} is not installed")
        self.start()

    def start(self) -> None:
        self.executor = self.make_executor()

    def make_executor(self) -> Any:
        raise NotImplementedError

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Run one task for each item."""
        return list(self.executor.map(f, items))

    def loop(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Submit one after the other, and then collect."""
        futures = [self.executor.submit(f, item) for item in items]
        return [future.result() for future in futures]

    def gangs(self, number: int) -> float:
        """Return the seconds that a gang of two takes, one after the other."""
        raise Missing("has no gangs")

    def long_map(self) -> dict[str, float]:
        """Return the seconds for ten million items, and what the processes grew by meanwhile."""
        raise Missing("is not asked")

    def stop(self) -> None:
        self.executor.shutdown()


class Ours(Farm):
    module = "mpiparallel"

    def start(self) -> None:
        import mpiparallel as ipp

        self.cluster = ipp.Cluster(n=WORKERS)
        self.client = self.cluster.start_and_connect_sync()
        self.view = self.client.load_balanced_view()

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self.view.map_sync(f, items, chunksize=1))

    def loop(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        results = [self.view.apply_async(f, item) for item in items]
        return [result.get() for result in results]

    def gangs(self, number: int) -> float:
        view = self.client.load_balanced_view(ranks=2)
        if view.apply_sync(tasks.gang) != [2, 2]:
            raise AssertionError("a gang of two did not meet")
        began = time.perf_counter()
        for _ in range(number):
            view.apply_sync(tasks.gang)
        return (time.perf_counter() - began) / number

    def long_map(self) -> dict[str, float]:
        parts = {"client": [os.getpid()], "controller": [self.cluster.controller.pid]}
        parts["engines"] = self.client[:].apply_sync(os.getpid)
        peaks = Peaks(parts)
        with peaks:
            began = time.perf_counter()
            count = sum(1 for _ in self.view.map_async(tasks.noop, range(LONG), chunksize=CHUNK))
            took = time.perf_counter() - began
        if count != LONG:
            raise AssertionError(f"{count} values came of {LONG}")
        return {"seconds": took, **peaks.growth()}

    def stop(self) -> None:
        self.client.close()
        self.cluster.stop_cluster_sync()


class Ipyparallel(Ours):
    module = "ipyparallel"

    def start(self) -> None:
        import ipyparallel as ipp

        self.cluster = ipp.Cluster(n=WORKERS, engines="mpi", log_level=40)
        self.client = self.cluster.start_and_connect_sync()
        self.client.wait_for_engines(WORKERS, timeout=120, interactive=False)
        self.view = self.client.load_balanced_view()

    gangs, long_map = Farm.gangs, Farm.long_map


class Mpi4py(Farm):
    module = "mpi4py.futures"

    def make_executor(self) -> Any:
        from mpi4py.futures import MPIPoolExecutor

        executor = MPIPoolExecutor(max_workers=WORKERS)
        executor.bootup(wait=True)
        return executor

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self.executor.map(f, items, chunksize=1))


class Executorlib(Farm):
    module = "executorlib"

    def make_executor(self, **options: Any) -> Any:
        from executorlib import SingleNodeExecutor

        # Without block_allocation it starts a new interpreter for each task.
        return SingleNodeExecutor(max_workers=WORKERS, block_allocation=True, **options)

    def gangs(self, number: int) -> float:
        with self.make_executor(resource_dict={"cores": 2}) as executor:
            if executor.submit(tasks.world).result(timeout=60) != [2, 2]:
                raise Missing("gives no communicator of two ranks with this MPI")
            began = time.perf_counter()
            for _ in range(number):
                executor.submit(tasks.world).result()
            return (time.perf_counter() - began) / number


class Dask(Farm):
    module = "distributed"

    def start(self) -> None:
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
        self.client = Client(self.cluster)

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self.client.gather(self.client.map(f, items, pure=False)))

    def loop(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self.client.gather([self.client.submit(f, item, pure=False) for item in items]))

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()


FARMS: dict[str, type[Farm]] = {
    "mpiparallel": Ours,
    "IPython Parallel": Ipyparallel,
    "mpi4py.futures": Mpi4py,
    "executorlib": Executorlib,
    "dask": Dask,
}


class Peaks:
    """The highest resident sizes of some groups of processes while it is entered."""

    def __init__(self, groups: dict[str, Iterable[int]]) -> None:
        self.groups = {name: [psutil.Process(pid) for pid in pids] for name, pids in groups.items()}
        self.before = self.sizes()
        self.highest = dict(self.before)
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def sizes(self) -> dict[str, int]:
        return {name: sum(one.memory_info().rss for one in group) for name, group in self.groups.items()}

    def watch(self) -> None:
        while not self.enough.wait(0.05):
            self.look()

    def look(self) -> None:
        for name, size in self.sizes().items():
            self.highest[name] = max(size, self.highest[name])

    def __enter__(self) -> Peaks:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.enough.set()
        self.thread.join()
        self.look()

    def growth(self) -> dict[str, float]:
        """Return by how many bytes each group has grown at its peak."""
        return {name: float(self.highest[name] - self.before[name]) for name in self.groups}


# ---------------------------------------------------------------- the workloads


def rate(run: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]) -> float:
    """Return no-op tasks per second: the median of several times about `SPAN` seconds."""
    number = LEAST
    run(tasks.noop, range(number))
    while True:
        began = time.perf_counter()
        run(tasks.noop, range(number))
        took = time.perf_counter() - began
        if took > SPAN / 4 or number >= MOST:
            break
        number = min(MOST, 4 * number)
    number = int(min(MOST, max(LEAST, number * SPAN / took)))
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        done = len(run(tasks.noop, range(number)))
        rates.append(done / (time.perf_counter() - began))
        if done != number:
            raise AssertionError(f"{done} results of {number} tasks")
    return statistics.median(rates)


def makespan(farm: Farm, durations: Sequence[float]) -> float:
    """Return how long such tasks take, as a multiple of the least time that four workers need."""
    farm.map(tasks.nap, [0.0] * WORKERS)  # so that nobody pays for sending the function
    began = time.perf_counter()
    farm.map(tasks.nap, durations)
    return (time.perf_counter() - began) / (sum(durations) / WORKERS)


WORKLOADS: dict[str, Callable[[Farm], Any]] = {
    "noop-map": lambda farm: rate(farm.map),
    "noop-loop": lambda farm: rate(farm.loop),
    "naps": lambda farm: 1 / makespan(farm, [NAP] * NAPS),
    "ascending": lambda farm: makespan(farm, tasks.rising(UNEVEN, 200)),
    "descending": lambda farm: makespan(farm, tasks.rising(UNEVEN, 200)[::-1]),
    "heavy-tailed": lambda farm: makespan(farm, tasks.heavy_tailed(UNEVEN, 400)),
    "gangs": lambda farm: farm.gangs(GANGS),
    "long-map": lambda farm: farm.long_map(),
}


def main(name: str, *workloads: str) -> dict[str, Any]:
    """Run the workloads; what cannot be done is told in words instead of figures."""
    try:
        farm = FARMS[name]()
    except Exception as error:
        return {"missing": describe(error)}
    figures: dict[str, Any] = {}
    try:
        for workload in workloads:
            try:
                figures[workload] = WORKLOADS[workload](farm)
            except Missing as error:
                figures[workload] = str(error)
            except Exception as error:
                figures[workload] = describe(error)
    finally:
        farm.stop()
    return figures


def describe(error: Exception) -> str:
    return str(error) if isinstance(error, Missing) else f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])), flush=True)
