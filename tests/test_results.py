"""Results that wait, with real engines: for other clients, for later, and in a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from controller.test_store import record
from helpers import wait_until

from mpiparallel import AsyncHubResult, Client, Cluster, RemoteError
from mpiparallel.controller.records import Record
from mpiparallel.controller.store import Store
from mpiparallel.wire import objects
from mpiparallel.wire.messages import Failure, Message, Result

SUBMIT = """
import sys, time
import mpiparallel as ipp

def double(x):
    time.sleep(0.2)
    print("doubled", x)
    if x == 3:
        raise ValueError("no threes")
    return 2 * x

rc = ipp.Client(sys.argv[1])
view = rc.load_balanced_view()
view.label = "killed"
tasks = [view.apply_async(double, i) for i in range(8)]
direct = rc[0].apply_async(lambda: b"x" * 300_000)
gang = rc.load_balanced_view(ranks=2).apply_async(lambda: "both")
rc.queue_status()  # answered when the controller has got what was sent before
print(*(name for one in (*tasks, direct, gang) for name in one.msg_ids), flush=True)
time.sleep(1000)
"""


def test_another_client_gets_the_results_of_one_that_was_killed(rc: Client, cluster: Cluster) -> None:
    path = str(cluster.connection_file)
    process = subprocess.Popen([sys.executable, "-c", SUBMIT, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    names = process.stdout.readline().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(names) == 10
    followed = rc.get_result(names[:8])  # most of them are still open
    assert type(followed) is AsyncHubResult
    values = followed.get(60, return_exceptions=True)
    assert [value for i, value in enumerate(values) if i != 3] == [0, 2, 4, 8, 10, 12, 14]
    assert str(values[3]).endswith("ValueError: no threes")
    assert rc.get_result(names[8]).get(60) == b"x" * 300_000
    assert rc.get_result(names[9]).get(60) == ["both", "both"]
    with cluster.connect_client_sync() as later:  # all are done, and from the store
        again = later.get_result(names, block=True)
        assert again.get(return_exceptions=True)[7:] == [14, b"x" * 300_000, ["both", "both"]]
        assert "doubled 7\n" in again.stdout
        assert later.result_status(names)["completed"] == names
        found = later.db_query({"msg_id": {"$in": names}, "label": "killed", "status": "error"}, ["ename"])
        assert found == [{"msg_id": names[3], "ename": "ValueError"}]
        hour = datetime.now(timezone.utc) - timedelta(hours=1)
        recent = later.db_query({"submitted": {"$gt": hour}, "msg_id": {"$in": names}})
        assert [one["msg_id"] for one in recent] == names
        assert recent[0]["completed"].tzinfo is timezone.utc
        assert later.hub_history()[-10:] == names

        resubmitted = later.resubmit(names[:2])
        assert resubmitted.get(60) == [0, 2]
        assert not set(resubmitted.msg_ids) & set(names)
        assert later.resubmit(names[9]).get(60) == ["both", "both"]
        with pytest.raises(RemoteError, match="ValueError: no threes"):
            later.resubmit(names[3], block=True).get()
        with pytest.raises(RemoteError, match="was for engine 0 alone"):
            later.resubmit(names[8])
        with pytest.raises(RemoteError, match="KeyError: no such task"):
            later.resubmit("nobody-1_0")
        with pytest.raises(KeyError, match="no task 'nobody-1_0' is known"):
            later.get_result("nobody-1_0")

        later.purge_hub_results(names[:3])
        assert later.hub_history()[-11:-4] == names[3:]
        with cluster.connect_client_sync() as third, pytest.raises(KeyError, match=names[0]):
            third.get_result(names[0])


def test_open_tasks_are_found(rc: Client) -> None:
    slow = rc.load_balanced_view().apply_async(time.sleep, 1.5)
    with pytest.raises(RemoteError, match="still under way"):
        rc.resubmit(slow.msg_ids)
    found = rc.db_query({"completed": None, "msg_id": slow.msg_ids[0]}, ["status"])
    assert found == [{"msg_id": slow.msg_ids[0], "status": None}]
    assert rc.hub_history()[-1] == slow.msg_ids[0]
    with pytest.raises(RuntimeError, match="outstanding"):
        rc.purge_results("all")
    slow.get(30)


def test_wrong_questions(rc: Client) -> None:
    for query, complaint in (
        ({"nonsense": 1}, "no such key: 'nonsense'"),
        ({"status": {"$is": 1}}, "no such operator"),
        ({"submitted": "today"}, "expected a datetime"),
        ("all", "a query is a dict"),
    ):
        with pytest.raises(ValueError, match=complaint):
            rc.db_query(query)  # type: ignore[arg-type]
    for purge in (rc.purge_results, rc.purge_hub_results, rc.purge_local_results):
        with pytest.raises(ValueError, match="Must specify"):
            purge()


def test_purge_everything(rc: Client) -> None:
    rc[:].apply_sync(os.getpid)
    assert rc.history
    rc.purge_everything()
    assert not rc.history and not rc.results
    assert rc.hub_history() == []


# ------------------------------------------------------------ the command


def command(*words: str, width: int = 0) -> tuple[int, str]:
    """Run ``mpiparallel results``, with `width` in a terminal that is so wide."""
    argv = [sys.executable, "-m", "mpiparallel", "results", *words]
    if not width:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        return run.returncode, run.stdout + run.stderr
    ours, theirs = os.openpty()
    environ = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    process = subprocess.Popen(argv, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:
        pass  # so a terminal's end is told
    os.close(ours)
    return process.wait(60), text.decode()


def done(number: int, value: Any, **fields: Any) -> Record:
    """Return the record of a task that has returned `value`."""
    made = record(number, **fields)
    made.results = [Message(Result(made.task, 3, "ok", 1.0, 2.0), objects.dumps(value))]
    return made


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder of a profile whose controller is gone, and has left results."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    store = Store(folder)
    failure = Failure("ValueError", "not so", "Traceback: line 1\nValueError: not so")
    failed = Message(Result("c-1_2", 3, "error", failure=failure))
    store.put(
        [
            done(1, {"answer": 42}, label="sweep-1"),
            record(2, status="error", failure=failure, results=[failed]),
            done(3, "long " * 100),
        ]
    )
    store.close()
    return tmp_path


def test_results_are_listed_without_a_controller(left: Path) -> None:
    code, text = command("--profile-dir", str(left))
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split() == ["msg_id", "when", "label", "status", "engines", "took", "result"]
    assert "{'answer': 42}" in lines[1] and "sweep-1" in lines[1] and "1 s" in lines[1]
    assert "ValueError: not so" in lines[2]
    assert lines[3].endswith("…")
    assert [line.split()[0] for line in lines[1:]] == ["c-1_1", "c-1_2", "c-1_3"]
    code, text = command("--profile-dir", str(left), "--label", "sweep-*", "--json")
    assert [one["msg_id"] for one in json.loads(text)] == ["c-1_1"]
    code, text = command("--profile-dir", str(left), "-n", "1")
    assert len(text.splitlines()) == 2


def test_results_are_printed(left: Path) -> None:
    code, text = command("--profile-dir", str(left), "c-1_1", "c-1_2")
    assert code == 0
    assert "{'answer': 42}" in text
    assert "Traceback: line 1\nValueError: not so" in text
    code, text = command("--profile-dir", str(left), "c-1_9")
    assert code == 1
    assert "no result of 'c-1_9' is kept" in text


@pytest.mark.parametrize("width", [40, 80, 140])
def test_results_in_a_terminal(left: Path, width: int) -> None:
    code, text = command("--profile-dir", str(left), width=width)
    assert code == 0
    for line in text.splitlines():
        plain = line.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\x1b[1m", "").rstrip()
        assert len(plain) <= width
    for word in ("msg_id", "status", "result", "c-1_1", "c-1_2", "c-1_3", "error", "{'answer': 42}"):
        assert word in text


def test_no_results(tmp_path: Path) -> None:
    code, text = command("--profile-dir", str(tmp_path))
    assert code == 1
    assert "has left no results" in text


def test_results_of_a_running_controller(rc: Client, cluster: Cluster) -> None:
    result = rc.load_balanced_view().apply_async(lambda: {"from": "engine"})
    result.get(30)
    names = ["--cluster-id", "tests"]
    assert wait_until(lambda: result.msg_ids[0] in command(*names)[1], 20)
    code, text = command(*names, *result.msg_ids)
    assert code == 0
    assert "{'from': 'engine'}" in text
