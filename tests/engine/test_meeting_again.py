"""The bridge when its connection breaks: what is kept, what is said again, when it gives up. Without MPI."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading

import pytest
import zmq

from mpiparallel import connection_file
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.engine.bridge import EVERYTHING, Bridge, Line
from mpiparallel.engine.handed import Handed
from mpiparallel.engine.world import World
from mpiparallel.wire import frames
from mpiparallel.wire.messages import (
    Consumed,
    Goodbye,
    Heartbeat,
    HelloWorld,
    Lacks,
    Message,
    Output,
    Refused,
    Result,
    Returned,
    Settled,
    Submit,
    Supply,
    WelcomeWorld,
)

WORLD = World("world", 0, 2, ["here", "here"], [1, 2], "an MPI", None, None)


class Scripted:
    """A controller that can go away and come back under another address."""

    def __init__(self, folder):
        self.folder = folder
        self.context = zmq.Context()
        self.runs = 0
        self.peer = None
        self.start()

    def start(self):
        self.runs += 1
        address = f"ipc://{self.folder}/s{self.runs}"
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind(address)
        info = ConnectionInfo(
            cluster_id="", role="engine", version="", host=socket.gethostname(), pid=os.getpid(),
            addresses=[], local=address, server_key="", public_key="", secret_key="",
        )  # fmt: skip
        connection_file.write(self.folder / "engine.json", info)
        return info

    def stop(self):
        self.socket.close(linger=0)

    def send(self, *headers):
        self.socket.send_multipart([self.peer, *frames.pack([Message(one) for one in headers])])

    def receive(self, bridge, n):
        """Return the next `n` headers, while the bridge goes on."""
        found = []
        for _ in range(2000):
            bridge.progress()
            bridge.tick()
            if self.socket.poll(5):
                self.peer, *received = self.socket.recv_multipart()
                found += [message.header for message in frames.unpack(received)]
            if len(found) >= n:
                return found
        raise AssertionError(f"{found} instead of {n} messages")


@pytest.fixture
def controller(tmp_path):
    scripted = Scripted(tmp_path)
    yield scripted
    scripted.context.destroy(linger=0)


@pytest.fixture
def bridge(controller):
    info = connection_file.read(controller.folder / "engine.json")
    routed = []
    config = dataclasses.replace(Config(), orphan_after=2.0)
    bridge = Bridge(
        Line(info, controller.folder / "engine.json", config, 5.0),
        WORLD,
        lambda messages, *_: routed.append(messages),
    )
    bridge.routed = routed

    def welcome():
        assert controller.socket.poll(5000)
        controller.peer, *_ = controller.socket.recv_multipart()
        controller.send(WelcomeWorld("1", "", [4, 5], 5.0))

    thread = threading.Thread(target=welcome)
    thread.start()
    bridge.register()
    thread.join()
    yield bridge
    bridge._drop_link()


def until(condition, bridge):
    for _ in range(2000):
        bridge.progress()
        bridge.tick()
        if condition():
            return
        bridge.nap(0.001)
    raise AssertionError


def results(headers):
    return [one.request for one in headers if isinstance(one, Result)]


def come_back(controller, bridge):
    """Let the controller be killed and the next one be there; return the world's Hello."""
    controller.stop()
    controller.start()
    [hello] = controller.receive(bridge, 1)
    return hello


def test_it_says_what_it_holds_and_sends_again_what_is_not_settled(controller, bridge):
    for i in range(4):
        bridge._receive(Message(Submit(f"c-{i}", "c", "clear", [4, 5])))
    for i in (0, 1, 2):
        bridge.post(Message(Result(f"c-{i}", 4, "ok")))
    assert results(controller.receive(bridge, 3)) == ["c-0", "c-1", "c-2"]
    bridge._receive(Message(Settled(["c-0"], [4])))
    hello = come_back(controller, bridge)
    assert isinstance(hello, HelloWorld) and (hello.name, hello.lost) == ("world", [])
    everything = [f"c-{i}" for i in range(4)]
    assert list(map(sorted, hello.held)) == [everything[1:], everything]
    assert hello.owners == dict.fromkeys(everything, "c")
    # What comes meanwhile waits for the welcome.
    bridge.post(Message(Result("c-3", 4, "ok")))
    bridge.progress()
    assert not controller.socket.poll(50)
    controller.send(WelcomeWorld("1", "", [4, 5], 5.0))
    assert results(controller.receive(bridge, 3)) == ["c-1", "c-2", "c-3"]
    credit = bridge.routed[-1]
    assert {rank: message.header for rank, message in credit.items()} == {
        0: Consumed(4, EVERYTHING),
        1: Consumed(5, EVERYTHING),
    }


def test_output_stays_before_its_result(controller, bridge):
    bridge._receive(Message(Submit("c-0", "c", "clear", [4])))
    controller.stop()
    until(lambda: bridge._broken_since is not None, bridge)
    bridge.post(Message(Output("c-0", "c", 4, "stdout", "text", 4)))
    bridge.post(Message(Result("c-0", 4, "ok")))
    bridge.post(Message(Heartbeat()))
    controller.start()
    until(lambda: bridge._link is not None, bridge)
    assert isinstance(controller.receive(bridge, 1)[0], HelloWorld)
    controller.send(WelcomeWorld("1", "", [4, 5], 5.0))
    assert list(map(type, controller.receive(bridge, 2))) == [Output, Result]


def test_output_that_nobody_has_consumed_is_said_again(controller, bridge):
    def said(engine, number, size=4):
        return Output("c-0", "c", engine, "stdout", "text", size, number)

    bridge._receive(Message(Submit("c-0", "c", "clear", [4, 5])))
    for header in (said(4, 1), said(4, 2, 0), said(4, 3), said(5, 1), said(4, 4), said(4, 5)):
        bridge.post(Message(header))
    controller.receive(bridge, 6)
    bridge._receive(Message(Consumed(4, 8)))
    bridge._receive(Message(Consumed(4, 3)))  # of the next
    controller.stop()
    until(lambda: bridge._broken_since is not None, bridge)
    bridge.post(Message(said(4, 6)))
    bridge.post(Message(Result("c-0", 4, "ok")))
    controller.start()
    assert isinstance(controller.receive(bridge, 1)[0], HelloWorld)
    controller.send(WelcomeWorld("1", "", [4, 5], 5.0))
    again = controller.receive(bridge, 5)
    assert sorted(again[:3], key=lambda one: one.engine) == [said(4, 4), said(4, 5), said(5, 1)]
    assert [type(one) for one in again[3:]] == [Output, Result]
    assert again[3] == said(4, 6)
    bridge._receive(Message(Consumed(4, 12)))
    bridge._receive(Message(Consumed(5, 4)))
    bridge._receive(Message(Consumed(5, 4)))  # there is nothing left
    assert bridge._handed.output() == []


def test_what_is_lacking_is_asked_for_again_until_it_is_there(controller, bridge):
    for digest in (b"one", b"two"):
        bridge.post(Message(Lacks("c", 4, digest)))
    controller.receive(bridge, 2)
    bridge._receive(Message(Supply(4, b"one")))
    come_back(controller, bridge)
    controller.send(WelcomeWorld("1", "", [4, 5], 5.0))
    assert controller.receive(bridge, 1) == [Lacks("c", 4, b"two")]


def test_what_was_given_back_is_not_held(controller, bridge):
    for i in range(2):
        bridge._receive(Message(Submit(f"c-{i}", "c", "clear", [4])))
    bridge.post(Message(Returned(4, ["c-1"])))
    hello = come_back(controller, bridge)
    assert hello.held == [["c-0"], []]


def test_who_is_not_known_says_hello(controller, bridge):
    controller.send(Refused("Result from a peer that has not said Hello"))
    until(lambda: controller.socket.poll(1), bridge)
    assert isinstance(controller.receive(bridge, 1)[0], HelloWorld)
    assert bridge.stopped_by is None


def test_a_task_sent_again_is_not_done_again(controller, bridge):
    bridge._receive(Message(Submit("c-0", "c", "clear", [4])))
    bridge._receive(Message(Submit("c-0", "c", "clear", [4], again=True)))
    assert len(bridge.routed) == 1
    bridge.post(Message(Result("c-0", 4, "ok")))
    controller.receive(bridge, 1)
    bridge._receive(Message(Submit("c-0", "c", "clear", [4], again=True)))
    assert len(bridge.routed) == 1 and results(controller.receive(bridge, 1)) == ["c-0"]
    bridge._receive(Message(Settled(["c-0"], [4])))
    bridge._receive(Message(Submit("c-0", "c", "clear", [4])))
    assert len(bridge.routed) == 2


def test_it_gives_up_at_once_when_the_file_is_gone(controller, bridge):
    (controller.folder / "engine.json").unlink()
    controller.stop()
    until(lambda: bridge.stopped_by, bridge)
    assert "is gone" in bridge.stopped_by


def test_it_gives_up_when_nobody_comes(controller, bridge):
    controller.stop()
    until(lambda: bridge._broken_since is not None, bridge)
    bridge.tick()
    assert bridge.stopped_by is None
    until(lambda: bridge.stopped_by, bridge)
    assert "is gone" in bridge.stopped_by


def test_a_goodbye_that_came_before_the_end_is_heard(controller, bridge):
    controller.send(Goodbye("the controller was told to end"))
    until(lambda: bridge.stopped_by, bridge)
    assert bridge.stopped_by == "the controller was told to end"


def test_other_ids_end_the_world(controller, bridge):
    come_back(controller, bridge)
    controller.send(WelcomeWorld("1", "", [0, 1], 5.0))
    until(lambda: bridge.stopped_by, bridge)
    assert "other ids" in bridge.stopped_by


# ---------------------------------------------------------------- the table


def test_results_that_nobody_settles_are_bounded():
    handed = Handed(100_000)
    for i in range(1000):
        handed.give(f"c-{i}", 0, "c")
        handed.result(Message(Result(f"c-{i}", 0, "ok"), [bytes(9000)]))
        assert handed._bytes <= 100_000
    kept = handed.results()
    assert kept[-1].header.status == "ok" and len(kept[-1].payload) == 1
    lost = [message for message in kept if not message.payload]
    assert lost and all("was lost" in message.header.failure.evalue for message in lost)
    requests = [message.header.request for message in kept]
    handed.settled(requests, [0] * len(requests))
    assert handed._bytes == 0 and not handed.results() and not handed.open
