"""How a controller begins and ends: what it refuses, whom it stops, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mpiparallel.controller.__main__ import make_argument_parser
from mpiparallel.wire.messages import Answer, EnginesChanged, Goodbye, Result, Stop, Submit

from .peers import Controller, FakeClient, FakeWorld, wait_until


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a controller that is to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "mpiparallel.controller", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environ},
    )


def socket_dir(controller: Controller) -> Path:
    return Path(controller.info("client").local.removeprefix("ipc://")).parent


def assert_nothing_left(controller: Controller, directory: Path) -> None:
    assert not directory.exists()
    left = [path.name for path in controller.directory.iterdir()]
    assert left in ([], ["results.db"])  # results wait for who asks later


ENDS = {
    "SIGTERM": lambda controller: controller.process.send_signal(signal.SIGTERM),
    "SIGINT": lambda controller: controller.process.send_signal(signal.SIGINT),
    "SIGHUP": lambda controller: controller.process.send_signal(signal.SIGHUP),
    "lifeline": lambda controller: controller.cut_lifeline(),
}


class TestEnding:
    @pytest.mark.parametrize("end", ENDS)
    def test_peers_are_told_and_files_are_gone(self, controller: Controller, end: str) -> None:
        directory = socket_dir(controller)
        with FakeClient(controller.info("client")) as client, FakeWorld(controller.info("engine")) as world:
            world.hello(2)
            client.hello()
            client.submit([1])
            world.expect(Submit)
            ENDS[end](controller)
            stop = world.expect(Stop)
            assert stop.engines == [0, 1]
            assert "shutting down" in client.expect(Result).failure.evalue
            assert client.expect(EnginesChanged).removed == [0, 1]
            assert controller.process.poll() is None  # it waits for the world
            world.send(Goodbye())
            assert client.expect(Goodbye).reason
            assert controller.wait() == 0
        assert_nothing_left(controller, directory)

    def test_by_a_client(self, controller: Controller) -> None:
        directory = socket_dir(controller)
        with FakeClient(controller.info("client"), tcp=True) as client:
            client.hello()
            client.send(Stop([], controller=True, query=9, reason="done for today"))
            assert client.expect(Answer).query == 9
            assert client.expect(Goodbye).reason == "done for today"
        assert controller.wait() == 0
        assert_nothing_left(controller, directory)

    def test_with_remove_directory_nothing_at_all_is_left(self, start) -> None:
        controller = start("--remove-directory")
        directory = socket_dir(controller)
        (controller.directory / "controller.log").write_text("log")
        ENDS["lifeline"](controller)
        assert controller.wait() == 0
        assert not controller.directory.exists()
        assert not directory.exists()

    def test_a_world_that_does_not_stop_is_killed(self, controller: Controller) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            try:
                with FakeWorld(controller.info("engine")) as world:
                    world.hello(1, pids=[process.pid])
                    ENDS["SIGTERM"](controller)
                    assert controller.wait() == 0
                assert process.wait(5) == -signal.SIGKILL
            finally:
                process.kill()
        assert "did not stop in time: rank 0 was killed" in controller.log.read_text()

    def test_a_world_that_vanishes_while_it_stops_is_not_waited_for(self, controller: Controller) -> None:
        with FakeWorld(controller.info("engine")) as world:
            world.hello(1)
            ENDS["SIGTERM"](controller)
            world.expect(Stop)
        assert controller.wait(4.0) == 0

    def test_a_second_signal_hurries(self, controller: Controller) -> None:
        with FakeWorld(controller.info("engine")) as world:
            world.hello(1)
            ENDS["SIGINT"](controller)
            world.expect(Stop)
            ENDS["SIGINT"](controller)
            assert controller.wait(4.0) == 0

    def test_a_client_that_does_not_read_does_not_keep_it(self, controller: Controller) -> None:
        with (
            FakeWorld(controller.info("engine")) as world,
            FakeClient(controller.info("client"), rcvhwm=1) as slow,
        ):
            world.hello(1)
            slow.hello()
            request = slow.submit([0], bytes(8 << 20))
            message = world.serve()
            for _ in range(80):
                world.send(Result(request, 0, "ok"))
            assert message.payload
            world.send(Goodbye())
            ENDS["SIGTERM"](controller)
            assert controller.wait() == 0

    def test_background_jobs_keep_ignoring_the_terminals_signals(self, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
        controller = Controller(tmp_path / "c")
        try:
            signal.signal(signal.SIGHUP, before)
            controller.info("client")
            ENDS["SIGHUP"](controller)
            with FakeClient(controller.info("client")) as client:
                client.hello()
        finally:
            signal.signal(signal.SIGHUP, before)
            controller.end()


class TestBeginning:
    def test_a_second_controller_is_refused(self, controller: Controller) -> None:
        controller.info("client")
        second = run("--directory", str(controller.directory))
        assert second.returncode == 10
        assert f"pid {controller.process.pid}" in second.stderr
        assert "stop it first" in second.stderr
        with FakeClient(controller.info("client")) as client:
            client.hello()

    def test_files_of_one_that_was_killed_are_overwritten(self, start) -> None:
        first = start()
        left = socket_dir(first)
        first.process.kill()
        first.wait()
        second = start("--fresh")
        wait_until(lambda: second.info("client").pid == second.process.pid, "new files")
        assert (
            f"overwriting the files of a controller that is gone (pid {first.process.pid}"
            in second.log.read_text()
        )
        assert not left.exists()
        with FakeClient(second.info("client")) as client:
            client.hello()

    def test_one_that_was_replaced_leaves_the_others_files(self, start, tmp_path: Path) -> None:
        first = start()
        first.info("client")
        for path in first.directory.iterdir():
            path.unlink()
        second = start()
        second.info("client")
        ENDS["SIGTERM"](first)
        assert first.wait() == 0
        with FakeClient(second.info("client")) as client:
            client.hello()

    def test_the_folder_follows_from_profile_and_id(self, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "mpiparallel.controller", "--profile", "p", "--cluster-id", "x"],
            env={**os.environ, "MPIPARALLEL_STATE": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until((tmp_path / "p" / "cluster-x" / "client.json").exists, "the connection file")
            assert (tmp_path / "p" / "cluster-x" / "engine.json").exists()
        finally:
            process.terminate()
            assert process.wait(10) == 0

    def test_a_port_in_use_is_named(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = run("--directory", str(tmp_path / "d"), "--port", str(port))
        assert result.returncode == 1
        assert f"port {port}" in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "code", "word"),
        [
            (["--ip", "no.such.host.invalid"], 1, "no.such.host.invalid"),
            (["--cluster-id", "a/b"], 2, "a/b"),
            (["--port", "70000"], 2, "70000"),
            (["--lifeline", "987"], 1, "987"),
        ],
    )
    def test_nonsense_is_named(self, tmp_path: Path, arguments: list[str], code: int, word: str) -> None:
        directory = [] if "--cluster-id" in arguments else ["--directory", str(tmp_path / "d")]
        result = run(*directory, *arguments, MPIPARALLEL_STATE=str(tmp_path))
        assert result.returncode == code, result.stderr
        assert word in result.stderr
        assert "Traceback" not in result.stderr
        assert not list((tmp_path / "d").glob("*.json"))

    def test_a_directory_with_other_things_is_not_for_removal(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        result = run("--directory", str(tmp_path), "--remove-directory")
        assert result.returncode == 2
        assert "thesis.tex" in result.stderr
        assert (tmp_path / "thesis.tex").exists()

    def test_the_parser(self) -> None:
        arguments = make_argument_parser().parse_args(
            ["--directory", "d", "--lifeline", "3", "--log-level", "debug"]
        )
        assert (arguments.directory, arguments.lifeline, arguments.log_level) == (Path("d"), 3, "DEBUG")
        assert (arguments.ip, arguments.port, arguments.remove_directory) == ("127.0.0.1", 0, False)
