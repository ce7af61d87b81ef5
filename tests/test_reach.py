"""Addresses of a controller: which are tried, which one wins, and what is said when none does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from mpiparallel.reach import explain, is_loopback, race, worth_trying

SILENT = "tcp://192.0.2.1:4000"  # a network for documentation, to which nothing leads
REFUSED = "tcp://127.0.0.1:9"


@pytest.fixture
def server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def full() -> Iterator[str]:
    """The address of a listener that answers nobody: its queue is full, as if a firewall dropped packets."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for connection in (first, second):
            connection.setblocking(False)
            connection.connect_ex(listening.getsockname())
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("tcp://127.0.0.1:1", True), ("tcp://127.0.1.1:1", True), ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True), ("tcp://10.0.0.127:1", False), ("tcp://[fe80::1]:1", False),
    ],
)  # fmt: skip
def test_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_loopback_of_another_host_is_tried_only_if_there_is_nothing_else() -> None:
    both = ["tcp://10.0.0.1:1", "tcp://127.0.0.1:1"]
    assert worth_trying(both, elsewhere=True) == both[:1]
    assert worth_trying(both, elsewhere=False) == both
    assert worth_trying(both[1:], elsewhere=True) == both[1:]
    assert worth_trying([], elsewhere=True) == []


def test_the_one_that_answers_wins_at_once(server: str, full: str) -> None:
    began = time.monotonic()
    found = race([full, REFUSED, server], 20.0)
    assert found.address == server
    assert time.monotonic() - began < 5.0


def test_of_several_the_first_is_preferred(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        other = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        assert race([other, server], 20.0).address == other
        assert race([server, other], 20.0).address == server


def test_all_that_fail_are_named_with_their_reasons(full: str) -> None:
    found = race([full, REFUSED, "tcp://no.such.host.invalid:1", "tcp://127.0.0.1:banana"], 0.5)
    assert found.address == ""
    assert list(found.troubles) == [full, REFUSED, "tcp://no.such.host.invalid:1", "tcp://127.0.0.1:banana"]
    assert found.troubles[full] == "no answer within 0.5 s"
    assert found.troubles[REFUSED] == "Connection refused"
    assert "known" in found.troubles["tcp://no.such.host.invalid:1"] or "resolution" in (
        found.troubles["tcp://no.such.host.invalid:1"]
    )
    assert "banana" in found.troubles["tcp://127.0.0.1:banana"]


def test_no_time_is_lost_when_all_are_refused() -> None:
    began = time.monotonic()
    assert race([REFUSED], 20.0).troubles == {REFUSED: "Connection refused"}
    assert time.monotonic() - began < 5.0


def test_no_address_at_all() -> None:
    assert race([], 1.0).address == ""
    assert "it has no address" in explain("login1", {}, "node7")


@pytest.mark.parametrize(
    ("troubles", "remedies"),
    [
        ({"tcp://127.0.0.1:5": "Connection refused"}, ["--ip '*'", "controller_ip='0.0.0.0'", "Client(ssh="]),
        ({SILENT: "no answer within 15 s"}, ["--ip", "firewall of login1", "--port", "controller='slurm'"]),
        ({SILENT: "Connection refused"}, ["Has it ended?", "firewall of login1"]),
        (
            {"tcp://10.1.1.1:5": "No route to host", SILENT: "no answer within 15 s"},
            ["tcp://10.1.1.1:5: No route to host; tcp://192.0.2.1:4000: no answer within 15 s", "Start it"],
        ),
    ],
)
def test_what_was_tried_from_where_and_what_to_do(troubles: dict[str, str], remedies: list[str]) -> None:
    said = explain("login1", troubles, "node7")
    assert said.startswith("no controller answers on login1, tried from node7 (")
    for part in [*troubles, *troubles.values(), *remedies]:
        assert part in said


def test_on_the_controllers_own_host_no_network_is_to_blame() -> None:
    said = explain("login1", {REFUSED: "Connection refused"}, "login1")
    assert "Is it running?" in said and "firewall" not in said
