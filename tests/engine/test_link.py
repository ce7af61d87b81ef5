"""An engine's way to the controller: all its addresses are tried, and who has the key is taken."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.engine import link as links
from mpiparallel.engine.link import Link

REFUSED = "tcp://127.0.0.1:9"


class Controller:
    """A ROUTER with the controller's key, on a port of 127.0.0.1."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.public, secret = (key.decode() for key in zmq.curve_keypair())
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.curve_server = True
        self.socket.curve_secretkey = secret.encode()
        self.address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        context.linger = 0
        yield context


@pytest.fixture
def controller(context: zmq.Context[Any]) -> Iterator[Controller]:
    controller = Controller(context)
    yield controller
    controller.socket.close()


@pytest.fixture
def info(controller: Controller) -> ConnectionInfo:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return ConnectionInfo(
        cluster_id="", role="engine", version="0", host="login1", pid=os.getpid(),
        addresses=[controller.address], local="ipc:///nowhere/s", server_key=controller.public,
        public_key=public, secret_key=secret,
    )  # fmt: skip


@pytest.fixture
def connect(context: zmq.Context[Any], info: ConnectionInfo) -> Iterator[Any]:
    made: list[Link] = []

    def connect(*addresses: str, **changes: Any) -> Link:
        changed = msgspec.structs.replace(info, addresses=list(addresses), **changes)
        made.append(Link(context, changed))
        return made[-1]

    yield connect
    for link in made:
        link.close()


def test_one_of_several_addresses_answers(controller: Controller, connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as web:
        others = [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in (mute, web)]
        link = connect(REFUSED, *others, controller.address)
        assert all(address in link.address for address in (REFUSED, *others, controller.address))
        assert link.send([b"hello"])  # which waits until there is a way
        deadline = time.monotonic() + 20.0
        while not controller.socket.poll(0) and time.monotonic() < deadline:
            link.wait(50)
        identity, said = controller.socket.recv_multipart()
        assert said == b"hello" and link.address == controller.address
        controller.socket.send_multipart([identity, b"welcome"])
        assert link.wait(20_000)
        assert [bytes(frame.buffer) for frame in link.receive()] == [b"welcome"]
        assert link.receive() is None
        assert not link.is_broken() and not link.is_hopeless


def test_a_broken_connection_is_noticed(controller: Controller, connect: Any) -> None:
    link = connect(REFUSED, controller.address)
    link.send([b"hello"])
    deadline = time.monotonic() + 20.0
    while not controller.socket.poll(0) and time.monotonic() < deadline:
        link.wait(50)
    assert not link.is_broken()
    controller.socket.close()
    while not link.is_broken() and time.monotonic() < deadline:
        link.wait(50)
    assert link.is_broken()


def test_who_does_not_have_the_controllers_key_is_not_taken(
    context: zmq.Context[Any], controller: Controller, connect: Any
) -> None:
    stranger = Controller(context)
    try:
        link = connect(stranger.address, controller.address)
        link.send([b"hello"])
        deadline = time.monotonic() + 20.0
        while not controller.socket.poll(0) and time.monotonic() < deadline:
            link.wait(50)
        assert link.address == controller.address
    finally:
        stranger.socket.close()


def test_hopeless_is_what_nobody_listens_at(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is seen long before an address that takes connections, and is silent, is given up."""
    monkeypatch.setattr(links, "EARLY", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert not connect(address).is_hopeless
    link = connect(address)
    assert link.is_hopeless and f"{address}: Connection refused" in link.explain(30.0)


def test_hopeless_is_what_was_not_reached_in_time(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    link = connect(REFUSED, "tcp://127.0.0.1:10")
    assert not link.is_hopeless
    monkeypatch.setattr(links, "REACH", 0.0)
    assert link.is_hopeless
    said = link.explain(30.0)
    assert f"no controller answers on login1, tried from {socket.gethostname()} (" in said
    assert f"{REFUSED}: Connection refused; tcp://127.0.0.1:10: Connection refused" in said
    assert "--ip '*'" in said


def test_another_program_has_the_port(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        assert f"{address} takes connections" in connect(address).explain(30.0)


def test_a_controller_of_another_run(context: zmq.Context[Any], connect: Any) -> None:
    stranger = Controller(context)
    try:
        link = connect(stranger.address)
        deadline = time.monotonic() + 20.0
        while not link.is_broken() and time.monotonic() < deadline:
            link.wait(50)
        assert f"what listens at {stranger.address} does not have the key" in link.explain(30.0)
    finally:
        stranger.socket.close()


def test_no_address_at_all(connect: Any) -> None:
    link = connect()
    link.wait(1)
    assert link.is_broken()
    assert "it has no address" in link.explain(30.0)
