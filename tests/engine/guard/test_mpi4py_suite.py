"""mpi4py's own tests pass with guarded communicators in the place of its own (see mpi4py_suite.py)."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import platformdirs
import pytest

from tests.engine.guard.test_guard import run_ranks

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def suite() -> Path:
    """The folder of the tests of the mpi4py that is installed: only its source archive has them."""
    release = f"mpi4py-{version('mpi4py')}"
    cache = Path(platformdirs.user_cache_dir("mpiparallel")) / "mpi4py"
    archive = cache / f"{release}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["download", "--no-deps", "--no-binary", "mpi4py", "--dest", str(cache)]
        got = subprocess.run(
            [sys.executable, "-m", "pip", *command, release.replace("-", "==")],
            capture_output=True,
            text=True,
            timeout=100,
        )
        if not archive.exists():
            pytest.skip(
                f"the tests of {release} cannot be had: pip download says {got.stderr.strip()[-300:]}"
            )
    folder = cache / release / "test"
    if not folder.is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(cache, [m for m in tar.getmembers() if m.name.startswith(f"{release}/test/")])
    return folder


@pytest.mark.timeout(300)
def test_mpi4py_passes_its_own_tests(suite: Path) -> None:
    done = run_ranks(3, "mpi4py_suite.py", str(suite), timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert done.stdout.count(" tests, ") == 3, done.stdout
    print(done.stdout)
