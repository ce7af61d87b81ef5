"""A real controller process and real sockets: meeting, keys, slow readers, deaths."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.controller.keys import Pair
from mpiparallel.controller.server import CHECK_EVERY
from mpiparallel.wire import PROTOCOL
from mpiparallel.wire.frames import MARK
from mpiparallel.wire.messages import (
    Answer,
    Ask,
    Consumed,
    EnginesChanged,
    Goodbye,
    Heartbeat,
    Hello,
    HelloWorld,
    Message,
    Output,
    Refused,
    Result,
    Stop,
    Submit,
    Welcome,
    WelcomeWorld,
)

from .peers import Controller, FakeClient, FakePeer, FakeWorld, wait_until


def assert_serves(controller: Controller, name: str = "probe") -> None:
    """A new client and a new world meet and do a task."""
    with (
        FakeClient(controller.info("client")) as client,
        FakeWorld(controller.info("engine"), tcp=True) as world,
    ):
        (engine,) = world.hello(1, name=f"{name}-world").engines
        client.hello(name)
        request = client.submit([engine], b"payload")
        assert list(world.serve().payload) == [b"payload"]
        reply = client.receive(Result)
        assert (reply.header.request, list(reply.payload)) == (request, [b"payload"])  # type: ignore[union-attr]


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes to be those of peers."""
    argv = [sys.executable, "-c", "input()"]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


class TestMeeting:
    def test_a_task_goes_there_and_back(self, client: FakeClient, world: FakeWorld) -> None:
        assert world.hello(3).engines == [0, 1, 2]
        welcome = client.hello()
        assert [engine.rank for engine in welcome.engines] == [0, 1, 2]
        large = bytes(3 << 20)
        request = client.submit([0, 2], large, b"small")
        assert world.serve().header.engines == [0, 2]  # type: ignore[union-attr]
        for engine in (0, 2):
            result = client.receive(Result)
            assert (result.header.request, result.header.engine) == (request, engine)  # type: ignore[union-attr]
            assert list(result.payload) == [large, b"small"]

    def test_messages_in_one_batch_keep_their_order(self, client: FakeClient, world: FakeWorld) -> None:
        world.hello(1)
        client.hello()
        submits = [Submit(f"{client.name}-{n}", client.name, "execute", [0]) for n in range(1, 501)]
        client.send(*submits[:250])
        client.send(*submits[250:])
        received = [world.expect(Submit).request for _ in submits]
        assert received == [submit.request for submit in submits]

    def test_the_status_tells_who_is_there(self, controller, client: FakeClient, world: FakeWorld) -> None:
        world.hello(2)
        client.hello()
        client.send(Ask(4, "status"))
        answer = client.expect(Answer)
        assert answer.query == 4
        assert answer.value["pid"] == controller.process.pid
        assert answer.value["host"] == socket.gethostname()
        assert [one["engines"] for one in answer.value["worlds"]] == [[0, 1]]

    def test_all_addresses_are_listed_and_served(self, start) -> None:
        controller = start("--ip", "*")
        info = controller.info("client")
        assert len(info.addresses) >= 1
        for address in info.addresses:
            with FakeClient(msgspec.structs.replace(info, addresses=[address]), tcp=True) as client:
                client.hello(name=address.replace(":", "").replace("/", ""))

    def test_heartbeats_are_asked_for_and_given(self, start) -> None:
        controller = start(environ={"MPIPARALLEL_HEARTBEAT": "0.2", "MPIPARALLEL_LOST_AFTER": "1.5"})
        with FakeClient(controller.info("client")) as client, FakeWorld(controller.info("engine")) as world:
            client.hello()
            client.send(Heartbeat(echo=True))
            assert client.expect(Heartbeat) == Heartbeat()
            assert client.expect(Heartbeat) == Heartbeat(echo=True)
            # A world on another host that says nothing any more is lost.
            world.hello(1)
            client.submit([0])
            assert "nothing was heard" in client.expect(Result).failure.evalue
            assert client.expect(EnginesChanged).removed == [0]


class TestKeys:
    def test_a_client_key_cannot_register_a_world(self, controller: Controller) -> None:
        with FakePeer(controller.info("client"), tcp=True) as peer:
            peer.send(HelloWorld("v", "evil", ["h"], [1]))
            assert peer.expect(Refused).reason == "a client may not send HelloWorld"
        assert_serves(controller)

    def test_an_engine_key_cannot_submit_nor_be_a_client(self, controller: Controller) -> None:
        with FakePeer(controller.info("engine"), tcp=True) as peer:
            peer.send(Hello("v", "evil", "h", 1))
            assert peer.expect(Refused).reason == "an engine may not send Hello"
            peer.send(Submit("evil-1", "evil", "execute", [0]))
            refused = peer.expect(Refused)
            assert (refused.reason, refused.request) == ("an engine may not send Submit", "evil-1")
            peer.send(Stop([], controller=True))
            assert "may not send Stop" in peer.expect(Refused).reason
        assert_serves(controller)

    @pytest.mark.parametrize("wrong", ["own pair", "server key", "none"])
    def test_a_wrong_key_gets_nothing(self, controller: Controller, wrong: str) -> None:
        info = controller.info("client")
        bad = _with_wrong_key(info, wrong)
        with FakePeer(bad, tcp=wrong != "none") as peer:
            if wrong == "none":
                peer.socket.connect(info.addresses[0])
            peer.send(Hello("v", "evil", "h", 1))
            assert_serves(controller)
            with pytest.raises(TimeoutError):
                peer.receive(patience=0.3)

    def test_a_role_cannot_be_stolen_by_a_connections_name(self, controller: Controller) -> None:
        with FakeClient(controller.info("client"), tcp=True) as client:
            client.socket.disconnect(controller.info("client").addresses[0])
            client.socket.setsockopt(5, b"a name")  # ZMQ_ROUTING_ID
            client.socket.connect(controller.info("client").addresses[0])
            client.hello()
        with FakePeer(controller.info("engine"), tcp=True) as thief:
            thief.socket.disconnect(thief.info.addresses[0])
            thief.socket.setsockopt(5, b"a name")
            thief.socket.connect(thief.info.addresses[0])
            thief.send(Submit("c0ffee-1", "c0ffee", "execute", [0]))
            assert "an engine may not" in thief.expect(Refused).reason


def _with_wrong_key(info: ConnectionInfo, wrong: str) -> ConnectionInfo:
    pair = Pair.new()
    if wrong == "own pair":
        return msgspec.structs.replace(info, public_key=pair.public, secret_key=pair.secret)
    if wrong == "server key":
        return msgspec.structs.replace(info, server_key=pair.public)
    return msgspec.structs.replace(info, local="ipc:///nowhere")


class TestBadMessages:
    def test_another_protocol_version_is_told_so(self, controller: Controller, client: FakeClient) -> None:
        client.send_raw([MARK[:4] + bytes([PROTOCOL + 1]) + b"whatever comes later", b"frame"])
        reason = client.expect(Refused).reason
        assert f"protocol {PROTOCOL + 1} and this one {PROTOCOL}" in reason
        assert "install the same version" in reason
        assert_serves(controller)

    @pytest.mark.parametrize("frames", [[b""], [b"junk"], [MARK], [MARK + b"\x91\x92\x93", b"x"]])
    def test_malformed_messages_are_answered(self, client: FakeClient, frames: list[bytes]) -> None:
        client.send_raw(frames)
        assert client.expect(Refused).reason
        client.hello()

    def test_complaints_are_logged_once_for_a_peer(self, controller: Controller, client: FakeClient) -> None:
        for _ in range(50):
            client.send_raw([b"junk"])
        for _ in range(50):
            client.expect(Refused)
        assert controller.log.read_text().count("malformed message") == 1
        client.hello()
        client.send(Ask(1, "status"))
        assert client.expect(Answer).value["counters"]["malformed messages"] == 50

    def test_frames_beyond_the_limit_cut_their_sender_off(self, start) -> None:
        controller = start(environ={"MPIPARALLEL_MAX_FRAME": "100000"})
        for tcp in (False, True):
            with FakeClient(controller.info("client"), tcp=tcp) as client:
                client.hello(name=f"large{tcp}")
                client.submit([0], bytes(200_000))
                with pytest.raises(TimeoutError):
                    client.receive(Result, patience=0.3)
            assert_serves(controller, f"probe{tcp}")

    def test_a_request_of_many_frames_and_none(self, client: FakeClient, world: FakeWorld) -> None:
        world.hello(1)
        client.hello()
        client.submit([0], *([b"x" * 5000, b""] * 500))
        assert len(world.serve().payload) == 1000
        assert len(client.receive(Result).payload) == 1000


class TestSlowReaders:
    def test_one_that_does_not_read_blocks_nobody_and_loses_nothing(self, controller: Controller) -> None:
        engine_info, client_info = controller.info("engine"), controller.info("client")
        with (
            FakeWorld(engine_info) as world,
            FakeClient(client_info, rcvhwm=1) as slow,
            FakeClient(client_info) as quick,
        ):
            world.hello(1)
            slow.hello("slow")
            quick.hello("quick")
            payload = bytes(1 << 20)
            for number in range(150):
                world.send(Message(Output("r", "slow", 0, "display", str(number), 1), [payload]))
            begin = time.monotonic()
            for _ in range(20):
                quick.submit([0], b"x")
                world.serve()
                quick.expect(Result)
            assert time.monotonic() - begin < 10
            assert [slow.expect(Output).text for _ in range(150)] == [str(number) for number in range(150)]

    def test_beyond_the_limit_nothing_more_is_read_until_there_is_room(self, start) -> None:
        controller = start(environ={"MPIPARALLEL_MAX_BACKLOG": str(4 << 20)})
        with (
            FakeWorld(controller.info("engine")) as world,
            FakeClient(controller.info("client"), rcvhwm=1) as slow,
        ):
            world.hello(1)
            slow.hello("slow")
            payload = bytes(1 << 20)
            for number in range(200):
                world.send(Message(Output("r", "slow", 0, "display", str(number), 1), [payload]))
            wait_until(lambda: "not reading" in controller.log.read_text(), "the controller to stop reading")
            assert psutil.Process(controller.process.pid).memory_info().rss < 400 << 20
            assert [slow.expect(Output).text for _ in range(200)] == [str(number) for number in range(200)]
            wait_until(lambda: "reading again" in controller.log.read_text(), "the controller to read again")
        assert_serves(controller)


class TestDeaths:
    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_killed_process_fails_the_tasks_of_its_world(self, client, world, sleepers, rank) -> None:
        world.hello(2, pids=[process.pid for process in sleepers])
        client.hello()
        request = client.submit([0, 1])
        world.expect(Submit)
        begin = time.monotonic()
        sleepers[rank].kill()  # and not waited for: it is a zombie
        failures = [client.expect(Result).failure for _ in range(2)]
        # Two seconds on a machine that has time for us. Heartbeats alone would need 120.
        assert CHECK_EVERY <= 0.5
        assert time.monotonic() - begin < 10.0
        assert [failure.ename for failure in failures] == ["EngineError"] * 2
        process = f"rank {rank} on {socket.gethostname()} (pid {sleepers[rank].pid})"
        where = f"{process} was killed by signal 9 (SIGKILL), the first that was seen to end"
        assert failures[1].evalue == f"Engine 1 died while running task {request}_1: {where}"
        changed = client.expect(EnginesChanged)
        assert (changed.removed, changed.reason) == ([0, 1], where)
        world.send(Result(request, 0, "ok"))
        assert "not said Hello" in world.expect(Refused).reason

    def test_a_stopped_engine_may_end(self, client, world, sleepers) -> None:
        world.hello(2, pids=[process.pid for process in sleepers])
        client.hello()
        client.send(Stop([1], query=1))
        assert client.expect(Answer).query == 1
        assert world.expect(Stop).engines == [1]
        sleepers[1].kill()
        time.sleep(1.2)  # two looks at processes: nothing is to happen
        client.submit([0])
        world.serve()
        assert client.expect(Result).status == "ok"

    def test_a_client_that_is_killed_owes_nothing_any_more(self, controller, world, sleepers) -> None:
        world.hello(1)
        with FakeClient(controller.info("client"), tcp=True) as client:
            client.hello(pid=sleepers[0].pid)
            world.send(Output("r", client.name, 0, "stdout", "text", 100))
            client.expect(Output)
            sleepers[0].kill()
            assert world.expect(Consumed) == Consumed(0, 100)

    def test_a_world_whose_connection_closes_and_that_does_not_come_back_is_lost(self, start) -> None:
        controller = start(environ={"MPIPARALLEL_HEARTBEAT": "0.2", "MPIPARALLEL_LOST_AFTER": "1.5"})
        with FakeClient(controller.info("client")) as client:
            with FakeWorld(controller.info("engine")) as world:
                world.hello(1)
                client.hello(host="elsewhere")
            client.submit([0])
            deadline = time.monotonic() + 30
            while not isinstance(header := client.receive(Heartbeat, Result).header, Result):
                client.send(Heartbeat())
                assert time.monotonic() < deadline
        why = "its connection to the controller is closed; it has not connected within 1.5 s"
        assert why in header.failure.evalue

    def test_a_rank_that_died_before_its_world_was_known(self, client, world, sleepers) -> None:
        pids = [process.pid for process in sleepers]
        sleepers[1].kill()
        sleepers[1].wait()
        client.hello()
        world.send(HelloWorld("v", "w", [socket.gethostname()] * 2, pids))
        assert client.expect(EnginesChanged).added
        assert f"pid {pids[1]}" in client.expect(EnginesChanged).reason

    def test_a_client_that_comes_back_hears_of_its_tasks(
        self, controller: Controller, world: FakeWorld
    ) -> None:
        world.hello(1)
        with FakeClient(controller.info("client")) as first, FakeClient(controller.info("client")) as second:
            first.hello("name")
            request = first.submit([0])
            world.expect(Submit)
            second.hello("name")
            assert "newer connection" in first.expect(Refused).reason
            world.send(Result(request, 0, "ok"))
            assert second.expect(Result).request == request
            second.send(Goodbye())


def test_the_wire_is_what_it_was(client: FakeClient, world: FakeWorld) -> None:
    """Peers get structs, not look-alikes."""
    assert isinstance(world.hello(1), WelcomeWorld)
    assert isinstance(client.hello(), Welcome)
