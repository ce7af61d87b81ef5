"""``mpiparallel.register_joblib_backend``: with a cluster that runs, and with none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import processes_of, wait_until

pytest.importorskip("joblib")
pytestmark = [pytest.mark.mpi, pytest.mark.anympi, pytest.mark.timeout(200)]

COMMAND = [sys.executable, "-m", "mpiparallel.cli"]
SCRIPT = """
import os
import joblib
import mpiparallel as ipp

ipp.register_joblib_backend(make_default=True)
pids = joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(10))
with joblib.parallel_config("mpiparallel"):
    pids += joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(10))
assert os.getpid() not in pids
print(*sorted(set(pids)))
"""


@pytest.fixture
def environ(tmp_path):
    values = {**os.environ, "MPIPARALLEL_STATE": str(tmp_path), "MPIPARALLEL_NONINTERACTIVE": "1"}
    yield values
    assert wait_until(lambda: not processes_of(tmp_path)), processes_of(tmp_path)


def run(*words, environ):
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_a_cluster_is_started_where_none_runs(environ):
    printed = run(sys.executable, "-c", SCRIPT, environ=environ)
    assert printed.splitlines()[-1].split() != []
    # The fixture sees that nothing of it is left.


def test_the_cluster_that_runs_is_used(environ):
    run(*COMMAND, "start", "-n", "2", "--daemonize", environ=environ)
    try:
        ask = "import os, mpiparallel as ipp; print(*ipp.Client()[:].apply_sync(os.getpid))"
        engines = run(sys.executable, "-c", ask, environ=environ).split()
        used = run(sys.executable, "-c", SCRIPT, environ=environ).splitlines()[-1].split()
        assert len(engines) == 2 and used and set(used) <= set(engines)
    finally:
        run(*COMMAND, "stop", environ=environ)
