"""The shape of the package: which way imports point, how long files are, what is shipped."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mpiparallel"
SOURCES = sorted(PACKAGE.rglob("*.py"))
BASE = {
    "mpiparallel", "error", "config", "connection_file", "resources", "ranges", "peek", "tracebacks", "freed",
    "batchjob", "disk", "launchoptions", "profiles", "reach",
}  # fmt: skip
CLUSTER = {
    "cluster", "cluster_async", "cluster_controller", "cluster_engines", "cluster_file", "cluster_keeper",
    "cluster_looks", "cluster_manager", "cluster_options", "cluster_record", "cluster_resize",
    "cluster_restart", "cluster_waiting", "cluster_widget",
}  # fmt: skip

# What each part may import of the others; what is not named here may import anything.
MAY_IMPORT = {
    "mpiparallel": set(),  # its names are loaded lazily
    "error": {"tracebacks"},
    "tracebacks": {"ranges"},
    "ranges": set(),
    "peek": set(),
    "freed": set(),
    "batchjob": set(),
    "launchoptions": set(),
    "disk": {"error"},
    "reach": set(),
    "profiles": {"launchoptions", "error", "config"},
    "config": BASE,
    "connection_file": BASE,
    "resources": BASE,
    "wire": BASE | {"wire"},
    "controller": BASE | {"wire", "controller"},
    "engine": BASE | {"wire", "engine"},
    "steer": BASE | {"wire", "engine"},
    "client": BASE | {"wire", "client"},
    "launch": BASE | {"launch"},
    "runscript": BASE,
    "doctor": BASE | {"launch", "controller", "doctor"},
    **{name: BASE | CLUSTER | {"client", "launch"} for name in CLUSTER},
}
FOREIGN = {  # the only parts that may import these
    "mpi4py": {"engine", "steer"},
    "zmq": {"controller", "engine", "client"},
    "psutil": {"launch", "controller", "engine", *CLUSTER},
}


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "mpiparallel" if first == "__init__" else first


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of what a file imports, inside functions too, except for type checks."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own_part(name: str) -> str:
    """Return the part that an imported name of ours is in."""
    words = name.split(".")
    if len(words) > 1 and ((PACKAGE / words[1]).is_dir() or (PACKAGE / f"{words[1]}.py").exists()):
        return words[1]
    return "mpiparallel"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    for line, name in imports(path):
        top = name.split(".")[0]
        assert part in FOREIGN.get(top, {part}), f"{path}:{line}: {part} may not import {top}"
        if top == "mpiparallel" and part in MAY_IMPORT:
            wanted = own_part(name)
            assert wanted in MAY_IMPORT[part], f"{path}:{line}: {part} may not import {wanted}"


def test_the_controller_needs_no_ipython() -> None:
    for path in (PACKAGE / "controller").rglob("*.py"):
        assert not [name for _, name in imports(path) if name.startswith("IPython")], path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 420


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import mpiparallel", ["zmq", "mpi4py", "numpy", "IPython"]),
        ("import mpiparallel.cli", ["zmq", "mpi4py", "IPython", "rich"]),
        ("import mpiparallel.commandline.start, mpiparallel.cluster", ["mpi4py", "IPython", "zmq", "rich"]),
        ("import mpiparallel.controller.__main__", ["mpi4py", "IPython", "mpiparallel.client"]),
        ("from mpiparallel import Client", ["mpi4py", "mpiparallel.engine", "mpiparallel.controller"]),
    ],
)
def test_what_an_import_brings_along(code: str, absent: list[str]) -> None:
    """A login node has no MPI to load, and a controller for 1,000 engines need not carry IPython."""
    check = f"import sys; {code}; print([name for name in {absent} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_package_is_shipped() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in PACKAGE.rglob("__init__.py")}
    assert listed == found | {f"mpiparallel.{name}" for name in ("launchers", "slurm", "pbs", "lsf")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip makes of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, as a build leaves folders behind.
    source = folder / "source"
    source.mkdir()
    scripts = ("launchers", "slurm", "pbs", "lsf")
    for name in ("setup.cfg", "pyproject.toml", "README.rst", "mpiparallel", *scripts):
        (source / name).symlink_to(ROOT / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_scripts_and_templates(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("launchers", "slurm", "pbs", "lsf"):
        for script in (ROOT / folder).iterdir():
            assert f"mpiparallel/{folder}/{script.name}" in names
    for source in SOURCES:
        assert str(source.relative_to(ROOT)) in names


def test_scripts_are_found_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "from mpiparallel import resources; from mpiparallel.config import Config\n"
        "print(resources.script('launchers', 'mpiexec.sh', Config.from_environment()))\n"
        "print(resources.script('slurm', 'engines.sbatch', Config.from_environment()))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "MPIPARALLEL_SITE": str(tmp_path / "site")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [
        str(tmp_path / "mpiparallel/launchers/mpiexec.sh"),
        str(tmp_path / "mpiparallel/slurm/engines.sbatch"),
    ]
