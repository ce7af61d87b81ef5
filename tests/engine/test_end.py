"""How engines end: in order when they can, without them when they cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from helpers import processes_of, wait_until

import mpiparallel as ipp

pytestmark = pytest.mark.mpi


def gone(pid):
    """Whether a process has ended, though perhaps nobody has collected it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_user_codes_exit_handlers_run(tmp_path):
    def leave_a_note(folder):
        import atexit
        import pathlib

        from mpi4py import MPI

        atexit.register(pathlib.Path(folder, str(MPI.COMM_WORLD.rank)).touch)

    with ipp.Cluster(n=2) as rc:
        rc[:].apply_sync(leave_a_note, str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.parametrize("how", ["sleep", "loop", "print", "allreduce", "hold the GIL"])
@pytest.mark.parametrize("rank", [0, 1])
def test_busy_engines_do_not_keep_a_cluster_from_ending(how, rank, state_dir):
    def be_busy(how):
        import ctypes
        import time

        from mpi4py import MPI

        if how == "sleep":
            time.sleep(100)
        if how == "allreduce":
            MPI.COMM_WORLD.allreduce(1)  # nobody else comes
        if how == "hold the GIL":
            ctypes.PyDLL(None).sleep(100)
        while True:
            if how == "print":
                print("x" * 1000)

    before = len(processes_of(state_dir))
    with ipp.Cluster(n=2) as rc:
        pid = rc[rank].apply_sync(os.getpid)
        rc[rank].apply_async(be_busy, how)
        assert wait_until(lambda: rc.queue_status()[rank]["queue"] == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert wait_until(lambda: gone(pid))
    assert wait_until(lambda: len(processes_of(state_dir)) <= before)


def test_stopped_ranks_leave_and_the_last_takes_the_world_along(state_dir):
    with ipp.Cluster(n=3) as rc:
        rc.shutdown([1], block=True)
        assert wait_until(lambda: rc.ids == [0, 2])
        assert rc[:].apply_sync(lambda: "here") == ["here"] * 2
        with pytest.raises(IndexError, match="No such engine: 1"):
            rc[1]
        rc.shutdown([0, 2], block=True)
        assert wait_until(lambda: rc.ids == [])


def test_engines_end_when_controller_and_starter_are_killed(state_dir, tmp_path):
    script = tmp_path / "starter.py"
    script.write_text(
        textwrap.dedent("""
        import time
        import mpiparallel as ipp
        cluster = ipp.Cluster(n=2)
        rc = cluster.start_and_connect_sync()
        print(cluster.controller.pid, *rc[:].apply_sync(__import__("os").getpid), flush=True)
        time.sleep(100)
        """)
    )
    environ = {**os.environ, "MPIPARALLEL_ORPHAN_AFTER": "5"}
    starter = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environ)
    try:
        controller, *engines = map(int, starter.stdout.readline().split())
    finally:
        starter.stdout.close()
    folder = psutil.Process(controller).cmdline()
    folder = folder[folder.index("--directory") + 1]
    os.kill(controller, signal.SIGKILL)
    starter.kill()
    starter.wait()
    assert wait_until(lambda: all(map(gone, engines)), 20)
    # What the controller could not remove is removed by the next command that looks.
    subprocess.run([sys.executable, "-m", "mpiparallel", "list"], check=True, capture_output=True)
    assert not os.path.exists(folder)


def test_interrupts_during_the_first_cell_leave_a_shell_that_works():
    """The first cell imports IPython: cut off there, it could not be imported again."""
    with ipp.Cluster(n=1) as rc:
        first = rc[0].execute("x = 1", block=False)
        while not first.done():
            rc.send_signal(signal.SIGINT, block=True)
            first.wait(0.01)
        second = rc[0].execute("2", silent=False, block=True).get(timeout=30)
        assert second.data["text/plain"] == "2"


def test_a_process_that_hangs_in_its_end_is_ended() -> None:
    program = (
        "import ctypes; from mpiparallel.engine.__main__ import end_within; end_within(1); "
        "ctypes.CDLL(None).pause()"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert done.returncode == -signal.SIGALRM
