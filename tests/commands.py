"""The command as a person runs it: fixtures for the tests of the command line.

A test module has them by ``pytest_plugins = ["commands"]``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import processes_of, wait_until

COMMAND = [sys.executable, "-m", "mpiparallel.cli"]

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder for one test; at the end nothing that was started for it may be left."""
    folder = tmp_path / "state"
    monkeypatch.setenv("MPIPARALLEL_STATE", str(folder))
    yield folder
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    assert [path for path in folder.rglob("*") if not path.is_dir()] == []


@pytest.fixture
def run(state: Path) -> Run:
    """Run the command to its end."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    return run


@pytest.fixture
def start(state: Path) -> Iterator[Start]:
    """Start the command; it is ended after the test."""
    started = []

    def start(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"no {text!r} in: {read}")


def kill_all(state: Path) -> None:
    """Kill controllers and their keepers, who would start them again."""
    for process in sorted(processes_of(state), key=lambda one: "mpiparallel.controller" in one.cmdline()):
        process.kill()


def listed(run: Run) -> list[dict]:
    return json.loads(run("list", "--json").stdout)
