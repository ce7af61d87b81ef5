"""A client is killed with work queued, then the controller: all of it is done once, and can be claimed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import processes_of, wait_until

import mpiparallel as ipp
from mpiparallel.controller.tables import NAME, Tables

pytestmark = [pytest.mark.mpi, pytest.mark.anympi, pytest.mark.timeout(120)]

TASKS = 200
SUBMIT = """
import os, sys, time
import mpiparallel as ipp

def note(path, number, ballast):
    time.sleep(0.02)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{number}\\n".encode())
    os.close(descriptor)
    return number, len(ballast)

connection_file, path, count = sys.argv[1:]
rc = ipp.Client(connection_file)
view = rc.load_balanced_view()
first = view.apply_async(note, path, 0, b"")
with view.temp_flags(after=[first]):
    second = view.apply_async(note, path, 1, b"")
names = [*first.msg_ids, *second.msg_ids]
for number in range(2, int(count)):
    names += view.apply_async(note, path, number, b"x" * 5000).msg_ids
rc.queue_status()  # answered when the controller has got what was sent before
print(*names, flush=True)
time.sleep(1000)
"""


def waiting(folder: Path) -> int:
    """Return how many tasks the file says are to be done."""
    tables = Tables(folder / NAME, reading=True)
    try:
        return sum(1 for _ in tables.waiting())
    finally:
        tables.close()


def test_what_is_queued_outlives_its_client_and_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("MPIPARALLEL_STATE", str(state))
    ran = tmp_path / "ran"
    with ipp.Cluster(n=2) as rc:
        cluster = rc.cluster
        pids = rc[:].apply_sync(os.getpid)
        argv = [sys.executable, "-c", SUBMIT, str(cluster.connection_file), str(ran), str(TASKS)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        names = process.stdout.readline().split()
        process.kill()
        process.wait()
        process.stdout.close()
        assert len(names) == TASKS
        assert wait_until(lambda: waiting(cluster.folder) > TASKS // 2)
        killed = cluster.controller
        os.kill(killed.pid, signal.SIGKILL)
        assert wait_until(lambda: cluster.controller is not killed)
        with cluster.connect_client_sync() as other:
            values = other.get_result(names).get(60)
            assert values == [(number, 0 if number < 2 else 5000) for number in range(TASKS)]
            assert not other.outstanding
        assert sorted(map(int, ran.read_text().split())) == list(range(TASKS))
        assert rc[:].apply_sync(os.getpid) == pids
        assert wait_until(lambda: waiting(cluster.folder) == 0)
    assert wait_until(lambda: not processes_of(state))
