"""The manual: it builds without a warning, and what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpiparallel
from mpiparallel import launchoptions
from mpiparallel.commandline import COMMANDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", DOCS, out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def test_it_has_every_subcommand(pages: Path) -> None:
    text = (pages / "command.html").read_text()
    assert [word for word in COMMANDS if f">mpiparallel {word}<" not in text] == []


def test_it_has_every_setting(pages: Path) -> None:
    text = (pages / "settings.html").read_text()
    assert [key for key in launchoptions.KEYS if not re.search(rf"\b{key}\b", text)] == []


def test_the_interface_is_whole() -> None:
    """Whatever a user can import is on the page, but for what only stands for IPython Parallel's names."""
    text = (DOCS / "api.rst").read_text()
    named = set(re.findall(r"mpiparallel\.(\w+)$", text, re.M))
    ours = {
        name for module, names in mpiparallel._HOMES.items() for name in names
        if module not in ("mpiparallel.error", "mpiparallel.client.compat", "concurrent.futures")
    }  # fmt: skip
    assert ours - named - {"load_ipython_extension", "unload_ipython_extension", "dependent"} == set()
