"""Which hosts do not answer any more."""

from __future__ import annotations

import socket
import subprocess

import pytest

from mpiparallel.controller import probe

GONE = "192.0.2.77"  # of a network that is for documents only: nobody is there


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_host_that_refuses_is_there() -> None:
    assert probe.silent(["127.0.0.1", "localhost"], free_port()) == []


def test_a_host_that_listens_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert probe.silent(["127.0.0.1"], server.getsockname()[1]) == []


def test_the_silent_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # An address of nobody may be answered for by a gateway: this one's packets go nowhere.
    real = socket.getaddrinfo

    def resolve(host: str, port: int, **options: int) -> object:
        if host == "gone":
            full = socket.create_server(("127.0.0.1", 0), backlog=0)
            fillers.append(full)
            for _ in range(3):  # its queue is full, so that it answers nobody
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            return real("127.0.0.1", full.getsockname()[1], **options)
        return real(host, port, **options)

    fillers: list[socket.socket] = []
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = free_port()
    assert probe.silent(["127.0.0.1", "gone"], port, within=0.5) == ["gone"]
    assert probe.silent(["gone"], port, within=0.3) == [], "nobody answers: it may be a firewall"
    for one in fillers:
        one.close()


def test_a_node_that_refuses_what_others_take_has_lost_its_daemon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert probe.silent(["127.0.0.1", "127.0.0.2"], port) == ["127.0.0.2"]


def test_a_name_that_means_nothing_is_passed_over() -> None:
    assert probe.silent(["nowhere.invalid", "127.0.0.1"], free_port()) == []


def test_the_command_prints_the_silent_ones() -> None:
    command = probe.argv("slurm", ["127.0.0.1"])
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == ""
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (None, "rank 0 ended"),
        ("\n", "rank 0 ended"),
        ("node5\n", "node node5 does not answer any more (power? network?); rank 0 ended"),
        ("node5\nnode6\n", "nodes node5, node6 do not answer any more (power? network?); rank 0 ended"),
    ],
)
def test_words(output: str | None, text: str) -> None:
    assert probe.told(output, "rank 0 ended") == text
