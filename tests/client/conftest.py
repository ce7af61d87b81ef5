"""A client of the fake controller."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest

from client.fake import FakeController
from mpiparallel.client.client import Client


@pytest.fixture
def socket_dir():
    # A socket's path has to be short, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="mpip") as folder:
        yield Path(folder)


@pytest.fixture
def fake(socket_dir):
    controller = FakeController(socket_dir)
    yield controller
    controller.close()


@pytest.fixture
def connect(fake):
    """Makes clients, and closes them at the end."""
    clients = []

    def make(**options) -> Client:
        clients.append(Client(msgspec.to_builtins(fake.info), **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def view(client):
    return client[:]
