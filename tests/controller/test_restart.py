"""Controllers that are killed and started again in the same folder, with scripted peers that come back."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiparallel.controller import restore
from mpiparallel.controller.__main__ import EXIT_ALREADY_RUNNING
from mpiparallel.wire.messages import (
    EnginesChanged,
    Heartbeat,
    Hello,
    HelloWorld,
    Message,
    Received,
    Refused,
    Resend,
    Result,
    Settled,
    Submit,
    Welcome,
    WelcomeWorld,
)

from .peers import Controller, FakeClient, FakeWorld, wait_until

HOST = "elsewhere"


def kill(controller: Controller) -> None:
    """Kill a controller; its lifeline stays."""
    controller.process.kill()
    controller.process.wait()


class Peers:
    """A client and a world of two engines that find the controller again."""

    def __init__(self, controller: Controller, tcp: bool) -> None:
        self.client = FakeClient(controller.info("client"), tcp=tcp)
        self.world = FakeWorld(controller.info("engine"), tcp=tcp)
        self.welcome = self.world.hello(2)
        self.first = self.client.hello("c")

    def back(self, held: list[list[str]]) -> tuple[Welcome, WelcomeWorld]:
        """Say hello on the sockets that there are: ZeroMQ connects them again."""
        owners = {name: "c" for names in held for name in names}
        hello = HelloWorld("test", "world", [HOST] * 2, [1, 2], held=held, owners=owners)
        self.world.send(hello)
        welcome = self.world.expect(WelcomeWorld)
        self.client.send(Hello("test", "c", socket.gethostname(), os.getpid()))
        return self.client.expect(Welcome), welcome

    def close(self) -> None:
        self.client.context.destroy(linger=0)
        self.world.context.destroy(linger=0)


@pytest.fixture
def peers(controller: Controller, transport: str) -> Iterator[Peers]:
    peers = Peers(controller, transport == "tcp")
    yield peers
    peers.close()


def ok(request: str, engine: int, *payload: bytes) -> Message:
    return Message(Result(request, engine, "ok"), payload)


class TestKilled:
    def test_it_comes_up_as_it_was(self, controller: Controller, start, peers: Peers) -> None:
        before = controller.info("client"), controller.info("engine")
        path = controller.directory / restore.NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        kill(controller)
        again = start()
        wait_until(lambda: "takes" in again.log.read_text() or "serves" in again.log.read_text(), "its start")
        for old, role in zip(before, ("client", "engine"), strict=True):
            new = again.info(role)
            assert new.pid == again.process.pid
            for field in ("cluster_id", "addresses", "local", "server_key", "public_key", "secret_key"):
                assert getattr(new, field) == getattr(old, field)
        assert "its worlds: world" in again.log.read_text()
        welcome, world = peers.back([[], []])
        assert world.engines == peers.welcome.engines == [0, 1]
        assert [engine.id for engine in welcome.engines] == [0, 1]
        assert welcome.instance == world.instance != peers.first.instance != ""
        request = peers.client.submit([0, 1], b"p")
        peers.world.serve()
        assert {peers.client.expect(Result).request for _ in range(2)} == {request}

    def test_nothing_is_lost_or_doubled(self, controller: Controller, start, peers: Peers) -> None:
        client, world = peers.client, peers.world
        for _ in range(4):
            client.submit([0, 1], b"p")
        for _ in range(4):
            world.receive(Submit)
        # The first is done and settled, the second done, the third under way, and the fourth lost.
        world.send(ok("c-1", 0, b"0"), ok("c-1", 1, b"1"))
        assert [client.expect(Result).engine for _ in range(2)] == [0, 1]
        client.send(Received(2))
        assert world.expect(Settled) == Settled(["c-1", "c-1"], [0, 1])
        world.send(ok("c-2", 0, b"0"))
        assert client.expect(Result).request == "c-2"
        kill(controller)
        start()
        held = [["c-2", "c-3"], ["c-2", "c-3"]]
        peers.back(held)
        world.send(ok("c-2", 0, b"0"))
        assert client.expect(Result) == Result("c-2", 0, "ok")
        client.send(Received(1))
        assert world.expect(Settled) == Settled(["c-2"], [0])
        # It has the result of c-2 on engine 0 from before.
        common = {"common": 1, "again": True}
        client.send(Message(Submit("c-2", "c", "execute", [1], **common), [b"p"]))
        client.send(Message(Submit("c-3", "c", "execute", [0, 1], **common), [b"p"]))
        client.send(Message(Submit("c-4", "c", "execute", [0, 1], **common), [b"p"]))
        assert world.expect(Submit).request == "c-4"
        world.send(*(ok(name, engine) for name in ("c-2", "c-3", "c-4") for engine in (0, 1)))
        got = [client.expect(Result) for _ in range(5)]
        expected = [("c-2", 1), ("c-3", 0), ("c-3", 1), ("c-4", 0), ("c-4", 1)]
        assert [(one.request, one.engine) for one in got] == expected
        client.send(Received(5))
        settled = []
        while len(settled) < 6:
            header = world.expect(Settled)
            settled += zip(header.requests, header.engines, strict=True)
        # What was sent though it was settled is settled once more.
        assert sorted(settled) == sorted([("c-2", 0), *expected])

    def test_a_client_before_its_world(self, controller: Controller, start, peers: Peers) -> None:
        client, world = peers.client, peers.world
        client.submit([0], b"p")
        client.submit([0, 1], b"p")
        world.receive(Submit)
        world.receive(Submit)
        kill(controller)
        start()
        client.send(Hello("test", "c", socket.gethostname(), os.getpid()))
        client.expect(Welcome)
        for number, engines in ((1, [0]), (2, [0, 1])):
            client.send(Message(Submit(f"c-{number}", "c", "execute", engines, common=1, again=True), [b"p"]))
        client.submit([0], b"p")
        client.send(Heartbeat(echo=True))
        client.expect(Heartbeat)
        hello = HelloWorld("test", "world", [HOST] * 2, [1, 2], held=[["c-1"], ["c-2"]])
        world.send(hello)
        world.expect(WelcomeWorld)
        assert client.expect(Resend) == Resend("c-2", [0])
        assert client.expect(Resend) == Resend("c-3", [0])
        for name in ("c-2", "c-3"):
            client.send(Message(Submit(name, "c", "execute", [0], common=1, again=True), [b"p"]))
            assert world.expect(Submit).request == name

    def test_results_wait_for_who_comes_late(self, controller: Controller, start, peers: Peers) -> None:
        peers.client.submit([0, 1], b"p")
        peers.world.receive(Submit)
        kill(controller)
        start()
        hello = HelloWorld("test", "world", [HOST] * 2, [1, 2], held=[["c-1"]] * 2, owners={"c-1": "c"})
        peers.world.send(hello)
        peers.world.expect(WelcomeWorld)
        peers.world.send(ok("c-1", 0, b"0"), ok("c-1", 1, b"1"))
        assert peers.world.expect(Settled).requests == ["c-1", "c-1"]  # the store has them
        peers.client.send(Hello("test", "c", socket.gethostname(), os.getpid()))
        peers.client.send(Message(Submit("c-1", "c", "apply", [0, 1], common=1, again=True), [b"p"]))
        got = [peers.client.receive(Result) for _ in range(2)]
        assert [bytes(one.payload[0]) for one in got] == [b"0", b"1"]

    def test_a_world_that_is_dead_is_told_at_once(self, start, tmp_path: Path) -> None:
        first = start()
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        os.close(read_end)
        with FakeWorld(first.info("engine")) as world, FakeClient(first.info("client")) as client:
            world.hello(1, pids=[child])
            client.hello("c")
            kill(first)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(write_end)
            start()
            client.send(Hello("test", "c", socket.gethostname(), os.getpid()))
            assert client.expect(Welcome).engines == []
            world.send(HelloWorld("test", "world", [socket.gethostname()], [child], held=[[]]))
            assert "has been given up" in world.expect(Refused).reason

    def test_a_port_that_is_taken(self, controller: Controller, start) -> None:
        info = controller.info("client")
        kill(controller)
        port = int(info.addresses[0].rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            again = start()
            wait_until(lambda: "taking another port" in again.log.read_text(), "the note")
            wait_until(lambda: again.info("client").pid == again.process.pid, "the new files")
            new = again.info("client")
            assert new.server_key == info.server_key
            assert new.addresses != info.addresses
            with FakeClient(new, tcp=True) as client:
                client.hello()


class TestNotTakenOver:
    def test_fresh(self, controller: Controller, start, peers: Peers) -> None:
        info = controller.info("client")
        kill(controller)
        again = start("--fresh")
        wait_until(lambda: again.info("client").pid == again.process.pid, "its files")
        assert again.info("client").server_key != info.server_key
        assert not os.path.exists(Path(info.local.removeprefix("ipc://")).parent)

    def test_after_an_orderly_stop(self, controller: Controller, start) -> None:
        info = controller.info("client")
        controller.cut_lifeline()
        assert controller.wait() == 0
        assert list(controller.directory.iterdir()) == []
        assert start().info("client").server_key != info.server_key

    def test_one_that_runs(self, controller: Controller, start) -> None:
        controller.info("client")
        assert start().wait() == EXIT_ALREADY_RUNNING
        assert (controller.directory / restore.NAME).exists()

    @pytest.mark.parametrize("content", ["nonsense", "{}"])
    def test_what_cannot_be_read(self, controller: Controller, start, content: str) -> None:
        info = controller.info("client")
        kill(controller)
        (controller.directory / restore.NAME).write_text(content)
        again = start()
        wait_until(lambda: again.info("client").pid == again.process.pid, "its files")
        assert "nothing is taken over" in again.log.read_text()
        assert again.info("client").server_key != info.server_key

    def test_what_others_can_read(self, controller: Controller, start) -> None:
        info = controller.info("client")
        kill(controller)
        (controller.directory / restore.NAME).chmod(0o644)
        again = start()
        wait_until(lambda: again.info("client").pid == again.process.pid, "its files")
        assert again.info("client").server_key != info.server_key


def test_a_world_that_is_cut_off_comes_back(controller: Controller) -> None:
    with FakeClient(controller.info("client")) as client:
        client.hello("c")
        with FakeWorld(controller.info("engine")) as world:
            world.hello(1)
            client.submit([0], b"p")
            world.receive(Submit)
        client.submit([0], b"p")  # brings out that the connection is closed
        wait_until(lambda: "is cut off" in controller.log.read_text(), "the loss")
        with FakeWorld(controller.info("engine")) as world:
            world.hello(1, held=[["c-1"]])
            assert client.expect(Resend) == Resend("c-2", [0])
            client.send(Message(Submit("c-2", "c", "execute", [0], common=1, again=True), [b"p"]))
            world.receive(Submit)
            world.send(ok("c-1", 0), ok("c-2", 0))
            assert [client.expect(Result).request for _ in range(2)] == ["c-1", "c-2"]
            client.send(Received(2))
            assert world.expect(Settled).requests == ["c-1", "c-2"]
    assert EnginesChanged not in [type(message.header) for message in client.received]
