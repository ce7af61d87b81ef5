"""Worlds whose controller is killed and started again: they come back, and lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import wait_until

import mpiparallel as ipp
from mpiparallel.launch import argv, mpi

pytestmark = pytest.mark.mpi


class Parts:
    """A controller and a world of two engines, started by hand."""

    def __init__(self, folder, n=2):
        self.folder = folder
        self.environ = {**os.environ, "MPIPARALLEL_ORPHAN_AFTER": "20"}
        self.start_controller()
        assert wait_until(lambda: (folder / "engine.json").exists(), 20.0)
        flavour = mpi.detect(mpi.find_mpiexec(self.environ))
        engine = argv.engine_argv(sys.executable, folder / "engine.json")
        options = argv.ft_arguments(flavour)
        self.engines = subprocess.Popen(
            [flavour.mpiexec, *argv.mpiexec_arguments(n, engine, options)],
            env=argv.world_environment(self.environ, flavour, n=n, cores=1, root=True),
            stdin=subprocess.DEVNULL,
        )

    def start_controller(self):
        command = [sys.executable, "-m", "mpiparallel.controller", "--directory", str(self.folder)]
        self.controller = subprocess.Popen(command, env=self.environ)

    def restart_controller(self, after=0.0):
        self.controller.send_signal(signal.SIGKILL)
        self.controller.wait()
        time.sleep(after)  # as it takes somebody to notice
        self.start_controller()

    def end(self):
        if self.controller.poll() is None:
            self.controller.terminate()
            self.controller.wait(20)
        try:
            self.engines.wait(20)
        finally:
            self.engines.kill()


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path / "cluster")
    yield parts
    parts.end()


def test_a_world_goes_on_under_the_next_controller(parts):
    with ipp.Client(parts.folder / "client.json", timeout=20) as rc:
        rc.wait_for_engines(2, timeout=20)
        view = rc[:]
        view.execute("kept = 41", block=True)

        def work(seconds, number):
            import time

            import __main__

            time.sleep(seconds)
            __main__.runs.append(number)
            print("number", number)
            return number

        view.execute("runs = []", block=True)
        results = [view.apply_async(work, 0.2, i) for i in range(10)]
        for after in (0.0, 0.7):
            time.sleep(0.3)
            parts.restart_controller(after)
        assert [one.get(timeout=30) for one in results] == [[i, i] for i in range(10)]
        assert view.pull(["kept", "runs"], block=True) == [[41, list(range(10))]] * 2


def test_the_next_controller_may_come_late(parts):
    with ipp.Client(parts.folder / "client.json", timeout=20) as rc:
        rc.wait_for_engines(2, timeout=20)
        result = rc[:].apply_async(lambda: print("x" * 600_000) or 7)
        parts.restart_controller(after=3.0)
        assert result.get(timeout=30) == [7, 7]


def test_what_is_printed_meanwhile_arrives_whole_and_once(parts, tmp_path):
    """Also what was under way when the controller was killed, and what came before its client was back."""
    end = tmp_path / "end"

    def speak(end):
        import os
        import time

        number = 0
        while not os.path.exists(end):
            print(number, flush=True)
            number += 1
            time.sleep(0.001)
        return number

    with ipp.Client(parts.folder / "client.json", timeout=20) as rc:
        rc.wait_for_engines(2, timeout=20)
        direct = rc[0].apply_async(speak, str(end))
        balanced = rc.load_balanced_view(targets=[1]).apply_async(speak, str(end))

        def hears_more():
            before = [direct.stdout, balanced.stdout]
            return wait_until(lambda: direct.stdout != before[0] and balanced.stdout != before[1], 30.0)

        try:
            assert hears_more()
            for after in (0.0, 0.5):
                parts.restart_controller(after)
                rc.queue_status()  # asked again, and answered by the next one
                assert hears_more()
        finally:
            end.touch()
        for result in (direct, balanced):
            spoken = result.get(timeout=30)
            assert result.stdout.split() == [str(i) for i in range(spoken)]


def test_engines_leave_when_the_controller_has_ended_in_order(parts):
    with ipp.Client(parts.folder / "client.json", timeout=20) as rc:
        rc.wait_for_engines(2, timeout=20)
        rc[:].apply_sync(int)
    parts.controller.send_signal(signal.SIGKILL)
    (parts.folder / "engine.json").unlink()
    assert parts.engines.wait(10) is not None
