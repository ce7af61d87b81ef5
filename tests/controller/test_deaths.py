"""How the server sees deaths, tells of them, and looks at bridges that are silent: real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from mpiparallel.launch import argv, local, mpi
from mpiparallel.wire.messages import (
    Answer,
    Ask,
    Consumed,
    EnginesChanged,
    EnginesLost,
    Heartbeat,
    Message,
    Notice,
    Output,
    Result,
    Signal,
    Submit,
    Where,
    Whereabouts,
)
from mpiparallel.wire.waits import Place

from .peers import Controller, FakeClient, FakeWorld, wait_until

HOST = socket.gethostname()
KILLED = "was killed by signal 9 (SIGKILL)"
Process = subprocess.Popen  # of bytes


@pytest.fixture
def transport() -> str:
    """Peers on this host."""
    return "ipc"


@pytest.fixture
def start_process() -> Iterator[Callable[..., Process]]:
    """Start processes that say when they are ready and then run some code."""
    processes = []

    def run(code: str = "os.read(0, 1)") -> Process:
        script = "import os, signal\nfrom mpiparallel import peek\npeek.offer()\nos.write(1, b'ready\\n')\n"
        command = [sys.executable, "-c", script + textwrap.dedent(code)]
        processes.append(Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"ready\n"
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def name(rank: int, process: Process) -> str:
    return f"rank {rank} on {HOST} (pid {process.pid})"


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("kill", KILLED),
        ("crash", "crashed: Segmentation fault in crash, ending_ranks.py line 15"),
        ("exit", "ended by itself with exit code 3"),
        ("abort", "called MPI_Abort(7) at here"),
    ],
)
def test_who_died_first_and_how_under_mpiexec(
    controller: Controller, tmp_path: Path, how: str, what: str
) -> None:
    flavour = mpi.detect(mpi.find_mpiexec(os.environ))
    script = Path(__file__).with_name("ending_ranks.py")
    program = [sys.executable, str(script), str(tmp_path), how]
    command = [flavour.mpiexec, *argv.mpiexec_arguments(3, program)]
    env = argv.world_environment(os.environ, flavour, n=3, cores=local.cores(), root=os.geteuid() == 0)
    log = tmp_path / "engines.log"
    with open(log, "wb") as file:
        job = Process(command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        pids = tmp_path / "pids"
        wait_until(lambda: pids.exists() or job.poll() is not None, "the ranks to begin")
        numbers = [int(pid) for pid in pids.read_text().split()]
        with FakeClient(controller.info("client")) as client, FakeWorld(controller.info("engine")) as world:
            world.hello(3, pids=numbers, log=str(log))
            client.hello()
            client.submit([2])
            world.expect(Submit)
            (tmp_path / "go").touch()
            changed = client.expect(EnginesChanged)
        assert changed.removed == [0, 1, 2]
        if how == "kill" and flavour.dialect is not argv.Dialect.OPENMPI:
            # On a busy machine it sometimes names another that it has killed, and the kernel is no surer.
            wanted = rf"rank \d on {HOST} \(pid \d+\) {re.escape(what)}, the first that was seen to end"
            assert re.fullmatch(wanted, changed.reason)
        else:
            assert changed.reason == f"rank 1 on {HOST} (pid {numbers[1]}) {what}"
    finally:
        (tmp_path / "go").touch()
        job.wait(30)


class TestSurvivors:
    """A world that goes on when ranks die."""

    def test_one_rank_dies_alone(self, client: FakeClient, world: FakeWorld, start_process) -> None:
        processes = [start_process() for _ in range(3)]
        world.hello(3, pids=[process.pid for process in processes], survives=True)
        client.hello()
        request = client.submit([0, 1, 2])
        world.expect(Submit)
        processes[1].kill()
        reason = f"{name(1, processes[1])} {KILLED}"
        failure = client.expect(Result).failure
        assert failure.evalue == f"Engine 1 died while running task {request}_1: {reason}"
        assert client.expect(EnginesChanged) == EnginesChanged(removed=[1], reason=reason)
        for engine in (0, 2):
            world.send(Result(request, engine, "ok"))
            assert client.expect(Result).engine == engine

    def test_the_server_knows_better_than_the_bridge(
        self, client: FakeClient, world: FakeWorld, start_process, tmp_path: Path
    ) -> None:
        """The bridge says only that a rank has died; its own last words are in the log."""
        log = tmp_path / "log"
        log.write_text("")
        processes = [start_process() for _ in range(2)] + [start_process("os.read(0, 1); os._exit(3)")]
        pids = [process.pid for process in processes]
        world.hello(3, pids=pids, survives=True, log=str(log))
        client.hello()
        processes[2].stdin.write(b"\n")
        processes[2].stdin.flush()
        processes[2].wait()
        world.send(EnginesLost([2], "its process died"))
        log.write_text(f"mpiparallel: rank 2 (pid {pids[2]}) calls os._exit(3) at cell line 2\n")
        changed = client.expect(EnginesChanged)
        assert changed.removed == [2]
        # Before Linux 6.15 the status of a process that its parent has waited for is not known.
        assert changed.reason == f"{name(2, processes[2])} called os._exit(3) at cell line 2"
        world.send(EnginesLost([1], "the MPI library has given it up"))
        assert client.expect(EnginesChanged).reason == "the MPI library has given it up"

    def test_a_new_bridge_takes_over(self, controller: Controller, client: FakeClient, start_process) -> None:
        processes = [start_process() for _ in range(3)]
        pids = [process.pid for process in processes]
        info = controller.info("engine")
        with FakeWorld(info) as old, FakeWorld(info) as new:
            old.hello(3, pids=pids, survives=True)
            client.hello()
            kept, lost = client.submit([1]), client.submit([2])
            old.expect(Submit)
            processes[0].kill()
            assert client.expect(EnginesChanged).removed == [0]
            waiting = client.submit([2])
            new.hello(3, pids=pids, survives=True, lost=[0], held=[[], [kept], []])
            assert f"{lost}_2 has failed" in client.expect(Result).failure.evalue
            assert new.expect(Submit).request == waiting
            new.send(Result(kept, 1, "ok"), Result(waiting, 2, "ok"))
            assert {client.expect(Result).request for _ in range(2)} == {kept, waiting}
            # The next death is seen, too: the new bridge's.
            processes[1].kill()
            assert client.expect(EnginesChanged).removed == [1]
            processes[2].kill()
            assert client.expect(EnginesChanged).removed == [2]
            new.send(Heartbeat())
            assert "not said Hello" in new.receive().header.reason  # type: ignore[union-attr]

    def test_a_closed_connection_is_waited_for(self, controller: Controller, client: FakeClient) -> None:
        info = controller.info("engine")
        with FakeWorld(info) as old:
            old.hello(2, survives=True)
            client.hello()
            request = client.submit([1])
            old.expect(Submit)
        on_its_way = client.submit([1])
        client.send(Ask(1, "status"))
        client.expect(Answer)
        with FakeWorld(info) as new:
            new.hello(2, survives=True, lost=[0], held=[[], [request]])
            assert client.expect(EnginesChanged).removed == [0]
            assert "was lost when engine 0" in client.expect(Result).failure.evalue
            new.send(Output(request, client.name, 1, "stdout", "x", 1))
            client.expect(Output)
            client.send(Consumed(1, 1))
            assert new.expect(Consumed) == Consumed(1, 1)
            new.send(Result(on_its_way, 1, "ok"), Notice(client.name, request, "slow"))
            new.send(Result(request, 1, "ok"))
            assert client.receive(Notice, Result).header == Notice(client.name, request, "slow")
            assert client.expect(Result).request == request


class TestWhere:
    def places(self, client: FakeClient) -> list[Place]:
        return msgspec.convert(client.expect(Answer).value, list[Place])

    def test_it_goes_there_and_back(self, client: FakeClient, world: FakeWorld) -> None:
        world.hello(2)
        client.hello()
        client.send(Where([1, 0, 5], 3))
        where = world.expect(Where)
        assert where.engines == [1, 0]
        world.send(Whereabouts(where.query, [Place(0, "idle"), Place(1, "running", "r")]))
        assert [place.state for place in self.places(client)] == ["running", "idle", "gone"]

    def test_a_bridge_that_holds_the_gil_is_looked_at(
        self, client: FakeClient, world: FakeWorld, start_process
    ) -> None:
        process = start_process(
            """
            import ctypes
            def solve():
                ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
            solve()
            """
        )
        world.hello(2, pids=[process.pid, start_process().pid])
        client.hello()
        request = client.submit([0])
        begin = time.monotonic()
        client.send(Where([0, 1], 1))
        bridge, other = self.places(client)
        assert time.monotonic() - begin < 10.0
        assert (bridge.state, bridge.request) == ("stuck", request)
        assert [(frame.function, frame.line) for frame in bridge.stack][-1] == ("solve", 8)
        assert "holds the GIL" in bridge.detail
        assert (other.state, other.detail) == ("stuck", "its bridge does not answer")

    @pytest.mark.skipif(not shutil.which("gdb"), reason="needs a debugger")
    def test_a_debugger_tells_of_c_functions(self, client, world, start_process) -> None:
        process = start_process(
            """
            import ctypes
            ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
            """
        )
        world.hello(1, pids=[process.pid])
        client.hello()

        def native() -> list[str]:
            """What is known of it when the answer is due: on a busy machine the debugger may need longer."""
            client.send(Where([0], 1))
            return self.places(client)[0].native

        assert "read" in wait_until(native, "a debugger to be quick enough", 60.0)[-1]
        assert process.poll() is None

    def test_a_bridge_that_was_stopped(self, client: FakeClient, world: FakeWorld, start_process) -> None:
        process = start_process()
        world.hello(1, pids=[process.pid])
        client.hello()
        process.send_signal(signal.SIGSTOP)
        client.send(Where([0], 1))
        (bridge,) = self.places(client)
        assert bridge.detail == "it was stopped by a signal (SIGSTOP)"


class TestSignals:
    def test_sigkill_is_delivered_at_once(self, client: FakeClient, world: FakeWorld, start_process) -> None:
        processes = [start_process() for _ in range(2)]
        world.hello(2, pids=[process.pid for process in processes], survives=True)
        client.hello()
        client.send(Signal([1], signal.SIGKILL, 1))
        assert client.expect(Answer) == Answer(1)
        reason = client.expect(EnginesChanged).reason
        assert reason == f"{name(1, processes[1])} {KILLED}, as a client asked for"
        assert processes[0].poll() is None

    def test_sigkill_elsewhere_is_for_the_bridge(self, client: FakeClient, world: FakeWorld) -> None:
        world.hello(2)
        client.hello()
        client.send(Signal([1], signal.SIGKILL, 1))
        assert world.expect(Signal) == Signal([1], signal.SIGKILL)

    INTERRUPTED = """
        def handle(*_):
            os.write(1, b"interrupted")
            os._exit(0)
        signal.signal(signal.SIGINT, handle)
        os.write(1, b"set\\n")
        while True:
            signal.pause()
        """

    def test_a_silent_bridge_is_interrupted_directly(
        self, controller, client: FakeClient, world: FakeWorld, start_process
    ) -> None:
        process = start_process(self.INTERRUPTED)
        assert process.stdout.readline() == b"set\n"
        world.hello(1, pids=[process.pid])
        client.hello()
        client.send(Signal([0], signal.SIGINT, 1))
        assert world.expect(Signal).signum == signal.SIGINT
        assert process.stdout.read() == b"interrupted"
        said = "is silent: its bridge's process was sent a signal directly"
        wait_until(lambda: said in controller.log.read_text(), "the controller to tell of it")

    def test_one_that_answers_is_not(self, client: FakeClient, world: FakeWorld, start_process) -> None:
        process, slow = start_process(self.INTERRUPTED), start_process(self.INTERRUPTED)
        for one in (process, slow):
            assert one.stdout.readline() == b"set\n"
        with FakeWorld(world.info) as silent:
            world.hello(1, pids=[process.pid])
            silent.hello(1, name="silent", pids=[slow.pid])
            client.hello()
            client.send(Signal([0], signal.SIGINT, 1))
            assert world.expect(Signal).signum == signal.SIGINT
            assert world.expect(Heartbeat).echo
            world.send(Message(Heartbeat()))
            # When the same has become of a later signal to another, it would have become of this.
            client.send(Signal([1], signal.SIGINT, 2))
            assert slow.stdout.read() == b"interrupted"
            assert process.poll() is None
