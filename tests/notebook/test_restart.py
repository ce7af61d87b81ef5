"""Kernels that own a cluster or use one, and are interrupted, restarted or killed in the middle of it."""

from __future__ import annotations

import pytest
from helpers import processes_of, wait_until

from notebook.conftest import CONNECT

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]

FOREVER = "open({file!r} + str(mpi_rank), 'w').close()\nimport time\nwhile True: time.sleep(0.01)"


def cluster_processes(state_dir, cluster_id: str) -> list[str]:
    """The processes of a cluster."""
    found = [" ".join(process.cmdline()) for process in processes_of(state_dir)]
    return [command for command in found if f"cluster-{cluster_id}" in command]


@pytest.fixture
def own(make_kernel):
    """A kernel of the test's own."""
    kernel = make_kernel()
    kernel.do("import mpiparallel as ipp")
    return kernel


def start_own_cluster(own, cluster_id: str) -> None:
    own.do(f"cluster = ipp.Cluster(n=2, cluster_id={cluster_id!r})\nrc = cluster.start_and_connect_sync()")


def test_with_cluster_in_a_running_event_loop(own, state_dir):
    page = own.do(
        "import asyncio\nassert asyncio.get_running_loop().is_running()\n"
        "with ipp.Cluster(n=2, cluster_id='within') as rc:\n"
        "    print(rc[:].apply_sync(lambda: mpi_rank))"
    )
    assert "[0, 1]" in page.stdout
    page = own.do(
        "async with ipp.Cluster(n=2, cluster_id='within') as rc:\n"
        "    print(await rc[:].apply_async(lambda: mpi_rank * 2))"
    )
    assert "[0, 2]" in page.stdout
    assert cluster_processes(state_dir, "within") == []


def test_stop_button_while_a_cluster_starts(own, state_dir):
    """The stop button reaches all processes of the kernel's group: nothing of the cluster is left."""
    cell = own.start(
        "print('starting', flush=True)\nrc = ipp.Cluster(n=2, cluster_id='s').start_and_connect_sync()"
    )
    cell.until("starting")
    assert wait_until(lambda: cluster_processes(state_dir, "s"))
    own.interrupt()
    assert cell.finish().error == "KeyboardInterrupt: "
    own.do(
        "with ipp.Cluster(n=2, cluster_id='s') as rc:\n"
        "    assert rc[:].apply_sync(lambda: mpi_rank) == [0, 1]"
    )
    assert wait_until(lambda: not cluster_processes(state_dir, "s"))


def test_stop_button_leaves_the_kernels_own_cluster_alive(own, tmp_path):
    start_own_cluster(own, "own")
    mark = str(tmp_path / "mark")
    cell = own.start(f"rc[:].execute({FOREVER.format(file=mark)!r}, block=True)")
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    own.interrupt()
    assert cell.finish().error == "KeyboardInterrupt: "
    assert own.do("print(rc[:].apply_sync(lambda: mpi_rank))").stdout == "[0, 1]\n"
    # A loop here, with the engines idle.
    cell = own.start("print('looping', flush=True)\nwhile True: pass")
    cell.until("looping")
    own.interrupt()
    assert cell.finish().error == "KeyboardInterrupt: "
    assert own.do("print(rc[:].apply_sync(lambda: mpi_rank))").stdout == "[0, 1]\n"
    own.do("cluster.stop_cluster_sync()")


@pytest.mark.parametrize("now", [False, True], ids=["restarted", "killed"])
def test_a_cluster_ends_with_its_kernel(own, state_dir, tmp_path, now):
    start_own_cluster(own, "gone")
    mark = str(tmp_path / "mark")
    own.do(f"ar = rc[:].execute({FOREVER.format(file=mark)!r}, block=False)")
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    own.restart(now=now)
    assert wait_until(lambda: not cluster_processes(state_dir, "gone"), 20), cluster_processes(
        state_dir, "gone"
    )
    own.do("import mpiparallel as ipp")
    start_own_cluster(own, "gone")
    assert own.do("print(rc[:].apply_sync(lambda: mpi_rank))").stdout == "[0, 1]\n"
    own.do("cluster.stop_cluster_sync()")


@pytest.mark.parametrize("now", [False, True], ids=["restarted", "killed"])
def test_work_goes_on_when_the_kernel_that_wants_it_restarts(own, cluster, tmp_path, go, now):
    own.do(CONNECT.format(file=cluster.connection_file))
    code = f"""
import os, time
print("begun")
open({str(tmp_path / "mark")!r} + str(mpi_rank), "w").close()
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
mine = 10 * mpi_rank
print("done", mine)
"""
    own.do(f"ar = view.execute({code!r}, silent=False, block=False)")
    ids = own.value("ar.msg_ids")
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 4)
    own.restart(now=now)
    own.do(CONNECT.format(file=cluster.connection_file))
    assert own.value("rc.queue_status()[0]['queue']") == 1
    go.touch()
    own.do(f"ar = rc.get_result({ids!r})\nar.wait(30)")
    assert own.value("ar.successful()")
    assert [text.splitlines()[-1] for text in own.value("ar.stdout")] == [
        "done 0", "done 10", "done 20", "done 30"
    ]  # fmt: skip
    assert own.value("view['mine']") == [0, 10, 20, 30]
