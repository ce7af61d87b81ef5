"""A real controller for each test that wants one; it never outlives the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .peers import Controller, FakeClient, FakeWorld

Start = Callable[..., Controller]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start controllers: ``start("--ip", "*", directory="d", environ={...})``."""
    with ExitStack() as ended:

        def run(*arguments: str, directory: str = "cluster", **options: Any) -> Controller:
            controller = Controller(tmp_path / directory, *arguments, **options)
            ended.callback(controller.end)
            return controller

        yield run


@pytest.fixture
def controller(start: Start) -> Controller:
    return start()


@pytest.fixture(params=["ipc", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(controller: Controller, transport: str) -> Iterator[FakeClient]:
    with FakeClient(controller.info("client"), tcp=transport == "tcp") as peer:
        yield peer


@pytest.fixture
def world(controller: Controller, transport: str) -> Iterator[FakeWorld]:
    with FakeWorld(controller.info("engine"), tcp=transport == "tcp") as peer:
        yield peer
