"""The command lines of ssh, what is said on its standard input, and what comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mpiparallel
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError, LaunchError
from mpiparallel.launch import ssh
from mpiparallel.launch.onhost import EXIT_CONFIG, Order
from mpiparallel.launch.requests import WorldRequest
from mpiparallel.launchoptions import LaunchOptions


def info(role: Any) -> ConnectionInfo:
    return ConnectionInfo(
        cluster_id="c", role=role, version="0", host="far", pid=1, addresses=["tcp://10.0.0.1:5"],
        local="ipc:///x/s", server_key="k}{", public_key="p", secret_key="s",
    )  # fmt: skip


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., WorldRequest]:
    def request_for(**options: Any) -> WorldRequest:
        (tmp_path / "engine.json").write_bytes(msgspec.json.encode(info("engine")))
        return WorldRequest(
            directory=tmp_path, name="a", n=2, config=Config(site_dir=tmp_path / "site"),
            options=LaunchOptions(engines="ssh", **options),
            environ={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        )  # fmt: skip

    return request_for


@pytest.mark.parametrize("host", ["", "-oProxyCommand=evil"])
def test_a_host_must_be_named(request_for: Callable[..., WorldRequest], host: str) -> None:
    with pytest.raises(LaunchError, match=r"host='user@host'"):
        ssh.start_world(request_for(host=host))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"python": "/p y/python"}, "exec '/p y/python' -m mpiparallel.launch.onhost"),
        (
            {"python": "/python", "environment": {"PATH": "/a:/b", "SECRET": "1"}},
            "exec bash -lc 'export PATH=/a:/b\nexec /python -m mpiparallel.launch.onhost'",
        ),
        (
            {"python": "/python", "setup": ["source /env"]},
            "exec bash -lc 'source /env\nexec /python -m mpiparallel.launch.onhost'",
        ),
    ],
)
def test_the_line_for_the_other_shell(options: dict[str, Any], line: str) -> None:
    assert ssh.remote_command(LaunchOptions(**options)) == line


def test_modules_are_loaded_before_python() -> None:
    line = ssh.remote_command(LaunchOptions(python="/python", modules=["openmpi/5"]))
    assert line.startswith("exec bash -lc ") and line.index("module load") < line.index("/python")


def test_what_ssh_gets(request_for: Callable[..., WorldRequest], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/ssh"
    program.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\ncat\nexit 3\n')
    program.chmod(0o755)
    more = {"ssh_args": ["-p", "2222"], "environment": {"SECRET": "1"}}
    request = request_for(host="me@far", python="/python", **more)
    started = ssh.start_world(request)
    assert started.process.wait(20)
    *words, told = started.get_output().splitlines()
    assert words[-4:] == ["<-p>", "<2222>", "<me@far>", "<exec /python -m mpiparallel.launch.onhost>"]
    assert "<BatchMode=yes>" in words and not any("SECRET" in word for word in words)
    order = msgspec.json.decode(told, type=Order)
    assert (order.kind, order.name, order.n, order.version) == ("world", "a", 2, mpiparallel.__version__)
    assert order.connection == (tmp_path / "engine.json").read_text()
    assert (order.options.engines, order.options.host) == ("mpi", "")
    assert order.options.environment == {"SECRET": "1"}
    assert started.what == "ssh" and started.exit_code == 3
    started.clear_away()


def test_connection_files_that_come_in_one_text() -> None:
    both = [msgspec.json.format(msgspec.json.encode(info(role)), indent=2) for role in ("client", "engine")]
    found = ssh.split("\n".join(text.decode() for text in both))
    assert list(found) == ["engine", "client"]
    assert [msgspec.json.decode(text, type=ConnectionInfo).role for text in found.values()] == list(found)
    with pytest.raises(ConnectionFileError):
        ssh.split("cat: no such file")


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("hello\n", "is not understood"),
        ("", "is not understood"),
        ("VERSION", "0.0.0 there. Install the same version"),
    ],
)
def test_the_other_host_says_what_it_does_not_understand(told: str, says: str) -> None:
    if told == "VERSION":
        order = Order(version="0.0.0", kind="world", directory="/", options=LaunchOptions())
        told = msgspec.json.encode(order).decode() + "\n"
    run = subprocess.run(
        [sys.executable, "-m", "mpiparallel.launch.onhost"],
        input=told, capture_output=True, text=True, timeout=60, env=dict(os.environ),
    )  # fmt: skip
    assert run.returncode == EXIT_CONFIG and says in run.stderr
