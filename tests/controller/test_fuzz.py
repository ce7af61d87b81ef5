"""Any bytes at the controller's two doors, before and after authentication, leave it serving others."""

from __future__ import annotations

import socket
import struct
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire.strategies import HEADER_TYPES, headers, payloads

from mpiparallel.wire.frames import MARK, pack
from mpiparallel.wire.messages import Answer, Ask, Hello, HelloWorld, Message, Output, Refused, Result, Submit

from .peers import Controller, FakeClient, FakePeer, FakeWorld

fuzzed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
NULL_GREETING = GREETING.replace(b"CURVE", b"NULL\0")


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = Controller(tmp_path_factory.mktemp("fuzz") / "cluster")
    yield controller
    controller.end()


@pytest.fixture
def served(controller: Controller) -> Iterator[FakeClient]:
    """A client and a world that were there before; their work must go on."""
    with FakeClient(controller.info("client")) as client, FakeWorld(controller.info("engine")) as world:
        (engine,) = world.hello(1, name=uuid.uuid4().hex).engines
        client.hello(uuid.uuid4().hex)
        yield client
        request = client.submit([engine], b"x")
        world.serve()
        while client.expect(Result).request != request:
            pass
        assert controller.process.poll() is None
        assert "Traceback" not in controller.log.read_text()


def hello_works(client: FakeClient) -> None:
    client.send(Ask(1, "status"))
    assert client.expect(Answer).value["clients"] >= 1


def raw(controller: Controller, door: str) -> socket.socket:
    if door == "tcp":
        address = urlsplit(controller.info("client").addresses[0])
        return socket.create_connection((address.hostname, address.port), timeout=5)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(controller.info("client").local.removeprefix("ipc://"))
    return connection


def throw(controller: Controller, door: str, *pieces: bytes) -> None:
    """Send bytes as they are; the controller may hang up at any of them."""
    with raw(controller, door) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return


@pytest.mark.parametrize("door", ["tcp", "ipc"])
class TestRawBytes:
    @fuzzed
    @given(data=st.binary(max_size=200))
    def test_any_bytes(self, controller: Controller, served: FakeClient, door: str, data: bytes) -> None:
        throw(controller, door, data)
        hello_works(served)

    @fuzzed
    @given(greeting=st.sampled_from([GREETING, NULL_GREETING]), data=st.binary(max_size=200))
    def test_any_bytes_after_a_greeting(self, controller, served, door, greeting, data) -> None:
        throw(controller, door, greeting, data)
        hello_works(served)

    @fuzzed
    @given(flags=st.integers(0, 7), size=st.integers(0, (1 << 64) - 1), data=st.binary())
    def test_any_frame_after_the_null_handshake(self, controller, served, door, flags, size, data) -> None:
        ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
        frame = bytes([flags | 2]) + struct.pack(">Q", size) + data
        throw(controller, door, NULL_GREETING, b"\x04" + bytes([len(ready)]) + ready, frame)
        hello_works(served)

    def test_connections_that_say_nothing(
        self, controller: Controller, served: FakeClient, door: str
    ) -> None:
        silent = [raw(controller, door) for _ in range(50)]
        try:
            hello_works(served)
        finally:
            for connection in silent:
                connection.close()


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Return the frames of real messages with some bytes, or frames, changed."""
    messages = [
        Message(draw(headers(draw(st.sampled_from(HEADER_TYPES)))), draw(payloads))
        for _ in range(draw(st.integers(1, 3)))
    ]
    frames = [bytes(frame) for frame in pack(messages)]
    first = bytearray(frames[0])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(first) - 1))
        first[place] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(first))) if draw(st.booleans()) else len(first)
    return draw(st.sampled_from([[bytes(first[:cut]), *frames[1:]], [bytes(first)], frames, frames * 2]))


ROLES = ["stranger", "client", "world"]


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "ipc"])
@pytest.mark.parametrize("role", ROLES)
class TestMessages:
    """After authentication: a peer that has a key and says anything."""

    def peer(self, controller: Controller, role: str, tcp: bool) -> FakePeer:
        peer = FakePeer(controller.info("engine" if role == "world" else "client"), tcp=tcp)
        peer.socket.sndtimeo = 5000
        if role == "client":
            peer.send(Hello("v", "fuzz", "elsewhere", 1))
        elif role == "world":
            peer.send(HelloWorld("v", "fuzz", ["elsewhere"] * 3, [1, 2, 3]))
        return peer

    @fuzzed
    @given(frames=st.lists(st.binary(max_size=300), max_size=4), marked=st.booleans())
    def test_any_frames(self, controller, served, role, tcp, frames, marked) -> None:
        if marked and frames:
            frames[0] = MARK + frames[0]
        with self.peer(controller, role, tcp) as peer:
            peer.send_raw(frames or [b""])
            hello_works(served)

    @fuzzed
    @given(batches=st.lists(mutated(), min_size=1, max_size=5))
    def test_mutated_messages(self, controller, served, role, tcp, batches) -> None:
        with self.peer(controller, role, tcp) as peer:
            for frames in batches:
                if not stops_the_controller(frames):
                    peer.send_raw(frames)
            hello_works(served)


def stops_the_controller(frames: list[bytes]) -> bool:
    """A client may do that; these tests want it to go on."""
    return b"Stop" in frames[0]


def test_a_peer_that_never_reads_its_refusals(controller: Controller, served: FakeClient) -> None:
    with FakePeer(controller.info("client"), rcvhwm=1, sndhwm=0) as peer:
        for _ in range(20_000):
            peer.send_raw([b"junk"])
        hello_works(served)


def test_hundreds_of_frames_of_nothing(controller: Controller, served: FakeClient) -> None:
    with FakePeer(controller.info("client")) as peer:
        peer.send_raw([b""] * 500)
        assert peer.expect(Refused).reason
        peer.send_raw([MARK, *[b""] * 500])
        assert peer.expect(Refused).reason
        hello_works(served)


def test_other_kinds_of_sockets(controller: Controller, served: FakeClient) -> None:
    info = controller.info("client")
    with zmq.Context() as context:
        for kind in (zmq.REQ, zmq.PUB, zmq.PUSH, zmq.PAIR, zmq.ROUTER):
            with context.socket(kind) as odd:
                odd.linger = 0
                odd.connect(info.local)
                odd.sndtimeo = 50
                try:
                    odd.send_multipart([b"x", *pack([Message(Output("r", "c", 0, "stdout", "t"))])])
                except zmq.ZMQError:
                    continue  # it may not send, or not to us
        hello_works(served)


def test_lies_about_others(controller: Controller, served: FakeClient) -> None:
    """One client takes the name of another in every way that messages allow."""
    with FakePeer(controller.info("client"), tcp=True) as thief:
        thief.send(Hello("v", "thief", "h", 1))
        thief.send(Submit(f"{served.name}-1", served.name, "execute", [0]))
        assert "in the name of" in thief.expect(Refused).reason
        thief.send(Submit(f"{served.name}-1", "thief", "execute", [0]))
        assert "does not begin" in thief.expect(Refused).reason
