"""A cluster that nobody uses ends by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpiparallel.config import Config
from mpiparallel.controller.__main__ import make_argument_parser
from mpiparallel.launch.argv import controller_argv
from mpiparallel.wire.messages import Balance, Goodbye, Heartbeat, Stop, Submit

from .conftest import Start
from .driver import Driver
from .peers import FakeWorld

PATIENCE = 60.0
WHY = "it was idle for 60 s, without clients and without work (idle_timeout)"


@pytest.fixture
def hub() -> Driver:
    driver = Driver()
    driver.hub.state.idle_timeout = PATIENCE
    return driver


def idle(hub: Driver, seconds: float) -> bool:
    """Let time pass, and everybody show signs of life; return whether the hub ends."""
    for _ in range(int(seconds)):
        hub.tick(1.0)
        for peer in list(hub.hub.state.peers):
            hub.say(peer, Heartbeat())
    return bool(hub.hub.stopping)


def test_engines_are_sent_home_when_nobody_uses_them(hub: Driver) -> None:
    hub.world(2)
    assert not idle(hub, PATIENCE - 1)
    assert idle(hub, 3)
    assert hub.hub.stopping == WHY
    stop = next(one for one in hub.heard("w") if isinstance(one, Stop))
    assert stop.engines == [0, 1]
    assert WHY in stop.reason


def test_without_the_setting_nothing_ends(hub: Driver) -> None:
    hub.hub.state.idle_timeout = 0.0
    hub.world(2)
    assert not idle(hub, 100 * PATIENCE)


def test_a_client_keeps_the_cluster_and_the_clock_begins_when_it_leaves(hub: Driver) -> None:
    hub.world(2)
    client = hub.client()
    assert not idle(hub, 3 * PATIENCE)
    hub.say(client, Goodbye())
    assert not idle(hub, PATIENCE - 1)
    assert idle(hub, 3)


def test_a_client_that_looks_in_starts_the_clock_anew(hub: Driver) -> None:
    hub.world(1)
    assert not idle(hub, PATIENCE - 5)
    hub.say(hub.client(), Goodbye())
    assert not idle(hub, PATIENCE - 5)


def test_a_client_whose_connection_is_lost_does_not_keep_the_cluster(hub: Driver) -> None:
    hub.world(1)
    hub.cut(hub.client())
    assert idle(hub, PATIENCE + 2)


@pytest.mark.parametrize("balanced", [False, True])
def test_work_of_a_client_that_has_left_is_done_first(hub: Driver, balanced: bool) -> None:
    world = hub.world(1)
    client = hub.client()
    if balanced:
        hub.say(client, Balance("a-1", client, "apply", [0], common=1), b"f")
        request = next(one for one in hub.heard(world) if isinstance(one, Submit)).request
    else:
        request = hub.submit(client, 1, [0], b"x")
    hub.say(client, Goodbye())
    assert not idle(hub, 2 * PATIENCE)
    hub.answer(world, request, 0, b"done")
    assert not idle(hub, PATIENCE - 1)
    assert idle(hub, 3)


def test_a_job_that_waits_in_the_queue_is_waited_for(hub: Driver) -> None:
    assert not idle(hub, 10 * PATIENCE)
    world = hub.world(1)
    assert not idle(hub, PATIENCE - 1)
    hub.say(world, Goodbye())
    assert idle(hub, 3), "engines that have come and gone need no controller either"


def test_the_setting_comes_from_the_command_line_or_the_environment(tmp_path: Path) -> None:
    parse = make_argument_parser().parse_args
    assert parse([]).idle_timeout is None
    assert parse(["--idle-timeout", "90"]).idle_timeout == 90
    for wrong in ("-1", "nan", "inf", "soon"):
        with pytest.raises(SystemExit):
            parse(["--idle-timeout", wrong])
    assert Config.from_environment({"MPIPARALLEL_IDLE_TIMEOUT": "2.5"}).idle_timeout == 2.5
    assert Config.from_environment({"MPIPARALLEL_IDLE_TIMEOUT": "0"}).idle_timeout == 0
    with pytest.raises(ValueError, match="MPIPARALLEL_IDLE_TIMEOUT='-1'"):
        Config.from_environment({"MPIPARALLEL_IDLE_TIMEOUT": "-1"})
    argv = controller_argv("python", tmp_path, idle_timeout=3600.0)
    assert argv[argv.index("--idle-timeout") + 1] == "3600"
    assert "--idle-timeout" not in controller_argv("python", tmp_path)


def test_a_real_controller_sends_its_engines_home_and_leaves_nothing(start: Start) -> None:
    controller = start("--idle-timeout", "0.5")
    with FakeWorld(controller.info("engine"), tcp=True) as world:
        world.hello(2)
        stop = world.expect(Stop)
        assert "it was idle for 0.5 s" in stop.reason
        world.send(Goodbye())
        assert controller.wait() == 0
    assert "shutting down: it was idle for 0.5 s" in controller.log.read_text()
    assert not list(controller.directory.glob("*.json"))
