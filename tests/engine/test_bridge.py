"""The bridge against a controller's socket, without MPI."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import zmq

from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.engine.bridge import Bridge, Line
from mpiparallel.engine.world import World
from mpiparallel.error import ConnectionRefused
from mpiparallel.wire import frames
from mpiparallel.wire.messages import (
    Abort,
    Consumed,
    EnginesLost,
    Heartbeat,
    Message,
    Output,
    Refused,
    Result,
    Submit,
    WelcomeWorld,
    Where,
)

WORLD = World("world", 0, 2, ["here", "here"], [1, 2], "an MPI", None, None)


class FakeController:
    """A ROUTER that says what a test wants."""

    def __init__(self, folder):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.address = f"ipc://{folder}/s"
        self.socket.bind(self.address)

    def answer(self, *messages):
        assert self.socket.poll(5000)
        sender, *received = self.socket.recv_multipart()
        self.socket.send_multipart([sender, *frames.pack(messages)])
        return frames.unpack(received)


@pytest.fixture
def controller(tmp_path):
    fake = FakeController(tmp_path)
    yield fake
    fake.context.destroy(linger=0)


@pytest.fixture
def make_bridge(controller):
    made = []

    def make(pid=None, timeout=5.0, world=WORLD):
        info = ConnectionInfo(
            cluster_id="", role="engine", version="", host=socket.gethostname(), pid=pid or os.getpid(),
            addresses=[], local=controller.address, server_key="", public_key="", secret_key="",
        )  # fmt: skip
        routed = []
        bridge = Bridge(Line(info, None, Config(), timeout), world, lambda *args: routed.append(args))
        bridge.routed = routed
        made.append(bridge)
        return bridge

    yield make
    for bridge in made:
        bridge._drop_link()


def registered(bridge, controller, *more):
    """Register `bridge`; the welcome comes in one batch with `more`."""
    import threading

    welcome = Message(WelcomeWorld("1", "", [4, 5], 5.0))
    thread = threading.Thread(target=controller.answer, args=[welcome, *more])
    thread.start()
    try:
        return bridge.register()
    finally:
        thread.join()


def test_a_request_that_comes_with_the_welcome_is_not_lost(controller, make_bridge):
    bridge = make_bridge()
    early = Message(Submit("c-1", "c", "clear", [5]))
    assert registered(bridge, controller, early).engines == [4, 5]
    bridge.progress()
    [(messages, n_common, collective)] = bridge.routed
    assert messages == {1: Message(early.header, [])} and n_common == 0 and not collective


def test_a_refusal_is_told(controller, make_bridge):
    import threading

    bridge = make_bridge()
    thread = threading.Thread(target=controller.answer, args=[Message(Refused("no room"))])
    thread.start()
    with pytest.raises(ConnectionRefused, match="no room"):
        bridge.register()
    thread.join()


def test_a_controller_that_does_not_answer(controller, make_bridge):
    with pytest.raises(ConnectionRefused, match=r"no answer from the controller at ipc://.* within 0 s"):
        make_bridge(timeout=0.1).register()


def test_a_controller_that_died_is_not_waited_for(controller, make_bridge):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(ConnectionRefused, match=rf"process {ended.pid}\) is gone"):
        make_bridge(pid=ended.pid, timeout=60.0).register()


def test_parts_go_to_their_ranks_and_large_common_ones_by_broadcast(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    common = bytes(300_000)
    header = Submit("c-1", "c", "scatter", [5, 4], common=1, parts=[1, 2])
    bridge._receive(Message(header, [common, b"five", b"fo", b"ur"]))
    [(messages, n_common, collective)] = bridge.routed
    assert messages[1].payload == [common, b"five"] and messages[0].payload == [common, b"fo", b"ur"]
    assert (messages[1].header.engines, messages[1].header.parts) == ([5], [1])
    assert n_common == 1 and not collective  # two ranks: one of them is this one


def received_by(controller):
    assert controller.socket.poll(5000)
    return [message.header for message in frames.unpack(controller.socket.recv_multipart()[1:])]


def test_results_that_belong_together_leave_together(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    bridge._receive(Message(Submit("c-1", "c", "clear", [4, 5])))
    first, second = Result("c-1", 4, "ok"), Result("c-1", 5, "ok")
    bridge.post(Message(first))
    bridge.post(Message(second))
    bridge.progress()
    assert received_by(controller) == [first, second]


def test_a_result_does_not_wait_long_for_others(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    bridge._receive(Message(Submit("c-1", "c", "clear", [4, 5])))
    bridge.post(Message(Result("c-1", 4, "ok")))
    while not bridge.progress() or bridge._outgoing:
        pass  # it says that it is busy until the result has left
    assert received_by(controller) == [Result("c-1", 4, "ok")]


def test_control_overtakes_and_long_texts_make_small_batches(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    for i in range(8):
        bridge.post(Message(Output("c-1", "c", 4, "stdout", str(i) * (1 << 20), 1 << 20)))
    bridge.post(Message(Heartbeat()))
    bridge.progress()
    batches = []
    while sum(map(len, batches)) < 9:
        batches.append(received_by(controller))
    assert batches[0][0] == Heartbeat() and len(batches) >= 3
    assert [one.text[0] for batch in batches for one in batch if isinstance(one, Output)] == list("01234567")


# ---------------------------------------------------------------- ranks that die


def surviving_world(alive):
    return World("world", alive[0], 3, ["here"] * 3, [1, 2, 3], "an MPI", None, None, True, alive)


def test_a_death_is_told_and_what_comes_for_the_dead_goes_nowhere(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    bridge._receive(Message(Submit("c-1", "c", "clear", [4, 5])))
    assert not bridge.quiet
    bridge.post(Message(Result("c-1", 4, "ok")))
    bridge.lost([1])
    bridge.progress()
    assert set(map(type, received_by(controller))) == {EnginesLost, Result}
    assert bridge.quiet  # nobody else has to answer
    bridge.routed.clear()
    bridge._receive(Message(Submit("c-2", "c", "clear", [5])))
    bridge._receive(Message(Abort("c-1", [5])))
    assert not bridge.routed and bridge.quiet
    bridge._receive(Message(Where([4, 5], 1)))
    assert [list(messages) for messages, _, _ in bridge.routed] == [[0]]


def test_parts_of_the_living_stay_theirs(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    bridge.lost([0])
    bridge._receive(Message(Submit("c-1", "c", "scatter", [4, 5], parts=[1, 2]), [b"four", b"fi", b"ve"]))
    [(messages, _, _)] = bridge.routed
    assert list(messages) == [1] and messages[1].payload == [b"fi", b"ve"]


def test_requests_wait_until_a_death_is_noticed_here_too(controller, make_bridge):
    world = dataclasses.replace(WORLD, alive=[0, 1])
    bridge = make_bridge(world=world)
    registered(bridge, controller)
    bridge._receive(Message(EnginesLost([5], "it was killed")))
    for number in (1, 2):
        bridge._receive(Message(Submit(f"c-{number}", "c", "clear", [4, 5])))
    bridge.progress()
    assert not bridge.routed
    world.alive.remove(1)
    bridge.lost([1])
    bridge._receive(Message(Abort("c-2", [4])))
    bridge.progress()
    headers = [messages[0].header for messages, _, _ in bridge.routed]
    assert [header.request for header in headers] == ["c-1", "c-2", "c-2"]
    assert type(headers[-1]) is Abort  # behind what it aborts


def test_a_death_is_told_once(controller, make_bridge):
    bridge = make_bridge()
    registered(bridge, controller)
    bridge.lost([1])
    bridge.lost([1])
    bridge.post(Message(Heartbeat()))
    bridge.progress()
    lost, heartbeat = received_by(controller)
    assert isinstance(lost, EnginesLost) and lost.engines == [5] and heartbeat == Heartbeat()


def test_the_next_leader_says_who_is_left_and_what_they_hold(controller, make_bridge):
    bridge = make_bridge(world=surviving_world([1, 2]))
    bridge.resume(4, {1: {"c-1": "c"}, 2: {"c-1": "c", "c-2": "d"}})
    assert not bridge.quiet  # results are to come
    bridge.progress()
    assert controller.socket.poll(5000)
    sender, *received = controller.socket.recv_multipart()
    [(hello, _)] = frames.unpack(received)
    assert (hello.name, hello.hosts, hello.pids) == ("world", ["here"] * 3, [1, 2, 3])
    assert (hello.lost, hello.held, hello.survives) == ([0], [[], ["c-1"], ["c-1", "c-2"]], True)
    assert hello.owners == {"c-1": "c", "c-2": "d"}
    # The answer may bring work for a rank that was dead before.
    welcome = Message(WelcomeWorld("1", "", [4, 5, 6], 5.0))
    work = Message(Submit("c-3", "c", "clear", [4, 6]))
    controller.socket.send_multipart([sender, *frames.pack([welcome, work])])
    assert bridge._link.wait(5000)
    bridge.progress()
    credit, work = [messages for messages, _, _ in bridge.routed]
    assert list(credit) == [1, 2] and {type(one.header) for one in credit.values()} == {Consumed}
    assert list(work) == [2]
