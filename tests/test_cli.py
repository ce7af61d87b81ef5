"""The command, as a person runs it; without engines where none are needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from client.fake import FakeController
from commands import Run, Start, kill_all, listed, read_until
from controller.test_store import record
from helpers import processes_of, wait_until

from mpiparallel import Client, connection_file
from mpiparallel.cli import make_argument_parser
from mpiparallel.controller.store import Store
from mpiparallel.wire.waits import Frame, Part, Place, Wait

pytest_plugins = ["commands"]


# ---------------------------------------------------------------- words


def test_the_parser_knows_its_defaults() -> None:
    options = make_argument_parser().parse_args(["start"])
    assert (options.n, options.daemonize, options.controller_ip, options.profile, options.cluster_id) == (
        None, False, None, None, None
    )  # fmt: skip


def test_a_scripts_own_options_are_its_own() -> None:
    options = make_argument_parser().parse_args(["run", "-n", "2", "a.py", "-n", "7", "--profile", "x"])
    assert (options.n, options.script, options.arguments) == (2, "a.py", ["-n", "7", "--profile", "x"])


@pytest.mark.parametrize("words", [[], ["nonsense"], ["start", "-n", "-1"], ["start", "-n", "x"], ["run"]])
def test_wrong_usage(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "usage: mpiparallel" in done.stderr


@pytest.mark.parametrize(
    "command", ["start", "stop", "list", "status", "where", "engines", "run", "controller", "engine"]
)
def test_help(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"usage: mpiparallel {command}" in done.stdout


def test_help_shows_examples_and_exit_codes(run: Run) -> None:
    done = run("--help")
    assert "mpiparallel run -n 4 script.py" in done.stdout
    assert "10 runs already" in done.stdout


@pytest.mark.parametrize("words", [["--watch", "0"], ["--watch", "1", "--json"], ["-1"], ["x"]])
def test_wrong_usage_of_where(run: Run, words: list[str]) -> None:
    assert run("where", *words).returncode == 2


def test_restart_in_the_background(run: Run) -> None:
    done = run("start", "-n", 2, "--restart", "same", "--daemonize")
    assert done.returncode == 2
    assert "--restart needs this command to stay" in done.stderr


# ---------------------------------------------------------------- start, list, status, stop


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_start_in_the_foreground(run: Run, start: Start, signum: int) -> None:
    process = start("start", "-n", 0)
    assert "Connect by: ipp.Client()" in read_until(process, "Press Ctrl-C")
    (row,) = listed(run)
    assert (row["profile"], row["cluster_id"], row["state"], row["engines"]) == ("default", "", "running", 0)
    process.send_signal(signum)
    assert process.communicate(timeout=15)[0] == "stopping\n"
    assert process.returncode == 0
    assert listed(run) == []


def test_ctrl_c_at_a_terminal(state: Path) -> None:
    process = pexpect.spawn(sys.executable, ["-m", "mpiparallel.cli", "start", "-n", "0"], timeout=30)
    process.expect("Press Ctrl-C")
    process.sendintr()
    process.expect("stopping")
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0


def test_in_the_background(run: Run) -> None:
    done = run("start", "-n", 0, "--daemonize", "--profile", "p", "--cluster-id", "c")
    assert done.returncode == 0
    assert "ipp.Client(profile='p', cluster_id='c')" in done.stdout
    assert "mpiparallel stop --profile p --cluster-id c" in done.stdout
    again = run("start", "-n", 0, "--daemonize", "--profile", "p", "--cluster-id", "c")
    assert again.returncode == 10
    assert "runs already" in again.stderr
    assert [row["cluster_id"] for row in listed(run)] == ["c"]
    assert "p        c           running" in run("list").stdout
    assert (
        run("status", "--profile", "p", "--cluster-id", "c").stdout.splitlines()[1].startswith("controller")
    )
    looked = run("where", "--profile", "p")  # finds the only one that runs, as a client would
    assert looked.returncode == 0 and "this is cluster c;" in looked.stderr
    assert run("status", "--profile", "p").returncode == 12, "scripts ask by this whether to start one"
    assert run("stop", "--profile", "p", "--cluster-id", "c").returncode == 0
    assert run("stop", "--profile", "p", "--cluster-id", "c").returncode == 11


@pytest.mark.mpi
def test_status_shows_engines_that_others_have_started(run: Run, state: Path) -> None:
    assert run("start", "-n", 0, "--daemonize").returncode == 0
    engine = subprocess.Popen([sys.executable, "-m", "mpiparallel", "engine"], stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: len(run("status").stdout.splitlines()) == 3, 30.0)
        words = run("status").stdout.splitlines()[2].split()
        assert words[:3] == ["engines", "0", "on"] and words[4:] == ["1", "running"]
        assert run("stop").returncode == 0
        assert engine.wait(20) == 0
    finally:
        engine.kill()
        engine.wait()


@pytest.fixture
def fake(state: Path) -> Iterator[FakeController]:
    """A controller with four engines, as the default cluster."""
    with tempfile.TemporaryDirectory(prefix="mpip") as folder:  # a socket's path has to be short
        controller = FakeController(Path(folder))
        path = state / "default/cluster/client.json"
        connection_file.write(path, controller.info)
        yield controller
        controller.close()
        path.unlink()


def test_where(run: Run, fake: FakeController) -> None:
    line = Frame("cell", 5, "<module>", "comm.barrier()")
    part = Part("collective", "world", "Barrier", 0)
    wait = Wait(1, "Barrier", 3.0, [part], False, {"world": [0, 1, 2, 3]})
    fake.places = {number: Place(number, "blocked", "r", "c", 3.0, 0, [line], wait) for number in (0, 1, 3)}
    assert run("where").stdout.splitlines() == [
        "engines 0-1, 3  blocked 3.0 s in Barrier (with engine 2)  cell line 5: comm.barrier()",
        "engine 2        idle",
    ]
    assert run("where", 2).stdout == "engine 2  idle\n"
    rows = json.loads(run("where", "--json").stdout)
    assert [row["state"] for row in rows] == ["blocked", "blocked", "idle", "blocked"]
    assert rows[0]["wait"]["call"] == "Barrier" and rows[0]["waits_for"] == [2]
    wrong = run("where", 9)
    assert wrong.returncode == 1 and "No such engine: 9" in wrong.stderr


def test_where_again_and_again(start: Start, fake: FakeController) -> None:
    process = start("where", "--watch", "0.05")
    for _ in range(3):
        read_until(process, "engines 0-3  idle")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_stop_all(run: Run) -> None:
    assert run("stop", "--all").returncode == 11
    for name in ("a", "b"):
        assert run("start", "-n", 0, "--daemonize", "--profile", name).returncode == 0
    assert len(listed(run)) == 2
    assert run("stop", "--all").returncode == 0
    assert listed(run) == []


def test_stop_ends_the_one_in_the_foreground(run: Run, start: Start) -> None:
    process = start("start", "-n", 0)
    read_until(process, "Press Ctrl-C")
    assert run("stop").returncode == 0
    assert "the controller has ended" in process.communicate(timeout=15)[0]
    assert process.returncode == 0


def test_kill_9_of_the_one_in_the_foreground(state: Path, start: Start) -> None:
    process = start("start", "-n", 0)
    read_until(process, "Press Ctrl-C")
    process.kill()
    assert wait_until(lambda: not processes_of(state))


def test_the_one_in_the_foreground_starts_its_controller_again(run: Run, start: Start) -> None:
    process = start("start", "-n", 0)
    read_until(process, "Press Ctrl-C")
    killed = listed(run)[0]["pid"]
    os.kill(killed, signal.SIGKILL)
    read_until(process, "the controller was killed by SIGKILL; it is started again")
    assert wait_until(lambda: listed(run)[0]["pid"] != killed)
    assert run("stop").returncode == 0
    assert "the controller has ended" in process.communicate(timeout=15)[0]
    assert process.returncode == 0


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: while it is there, controllers take long to begin, and any signal ends them meanwhile."""
    flag, folder = tmp_path / "slow", tmp_path / "path"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'mpiparallel.controller' in sys.orig_argv:\n"
        f"    while os.path.exists({str(flag)!r}): time.sleep(0.05)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return flag


@pytest.mark.parametrize("how", ["foreground", "background"])
def test_stop_while_a_controller_that_was_started_again_is_coming_up(
    run: Run, start: Start, slow: Path, how: str, state: Path
) -> None:
    """It does not yet handle the signal that ends it; that is no reason to start it once more."""
    if how == "foreground":
        process = start("start", "-n", 0)
        read_until(process, "Press Ctrl-C")
    else:
        run("start", "-n", 0, "--daemonize")
    killed = listed(run)[0]["pid"]
    slow.touch()
    os.kill(killed, signal.SIGKILL)
    assert wait_until(lambda: listed(run)[0]["pid"] != killed)
    assert run("stop").returncode == 0
    slow.unlink()
    assert wait_until(lambda: not processes_of(state)), processes_of(state)
    if how == "foreground":
        assert "the controller has ended" in process.communicate(timeout=15)[0]
        assert process.returncode == 0


def test_a_controller_in_the_background_is_started_again(run: Run, state: Path) -> None:
    assert run("start", "-n", 0, "--daemonize").returncode == 0
    for _ in range(2):
        killed = listed(run)[0]["pid"]
        time.sleep(1.0)  # else it counts as one that dies at once
        os.kill(killed, signal.SIGKILL)
        assert wait_until(lambda killed=killed: [one["pid"] for one in listed(run)] != [killed])
        (row,) = listed(run)
        assert row["pid"] != killed and row["state"] == "running"
    assert run("stop").returncode == 0
    assert wait_until(lambda: not processes_of(state))


def test_list_cleans_up(run: Run, state: Path) -> None:
    run("start", "-n", 0, "--daemonize")
    kill_all(state)
    assert wait_until(lambda: not processes_of(state))
    assert run("list").stdout == "no cluster runs\n"


def test_a_controller_by_itself(run: Run, start: Start, state: Path) -> None:
    process = start("controller")
    assert wait_until(lambda: list(state.rglob("client.json")))
    assert listed(run)[0]["state"] == "running"
    assert run("status").stdout.splitlines()[1].split() == ["controller", "1", "running"]
    assert run("start", "-n", 0).returncode == 10
    assert run("stop").returncode == 0
    process.communicate(timeout=15)
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["status"], ["where"], ["engines", "-n", "1"]])
def test_no_such_cluster(run: Run, words: list[str]) -> None:
    done = run(*words, "--profile", "p")
    assert done.returncode == 12
    assert "start one by: mpiparallel start --profile p" in done.stderr


def test_a_start_that_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_MPIEXEC", "/bin/false")
    done = run("start", "-n", 2, "--daemonize")
    assert done.returncode == 1
    assert done.stderr.count("mpiexec ended with exit code 1") == 1


def test_a_wrong_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_HEARTBEAT", "soon")
    done = run("list")
    assert done.returncode == 1
    assert done.stderr == "mpiparallel: MPIPARALLEL_HEARTBEAT='soon': expected a number\n"


# ---------------------------------------------------------------- run


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text("import os, sys, time\nimport mpiparallel as ipp\n" + text)
        return path

    return write


def test_run(run: Run, script: Callable[[str], Path]) -> None:
    path = script("rc = ipp.Client()\nprint(rc.ids, sys.argv, __name__, sys.path[0])\nsys.exit(7)")
    done = run("run", "-n", 0, path, "-n", "a b")
    assert done.stdout == f"[] {[str(path), '-n', 'a b']} __main__ {path.parent}\n"
    assert done.returncode == 7


def test_run_finds_its_own_cluster_and_so_do_its_children(run: Run, script: Callable[[str], Path]) -> None:
    run("start", "-n", 0, "--daemonize")
    child = "import mpiparallel as ipp; print(ipp.Client()._connection.info.cluster_id)"
    path = script(f"exec({child!r})\nsys.stdout.flush()\nos.system(f'{{sys.executable}} -c \"{child}\"')")
    names = run("run", "-n", 0, path).stdout.split()
    assert len(names) == 2
    assert names[0] == names[1]
    assert names[0].startswith("run-")
    run("stop")


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('bad luck')", 1, "bad luck\n"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_exit_codes_of_run(run: Run, script: Callable[[str], Path], text: str, code: int, says: str) -> None:
    done = run("run", "-n", 0, script(text))
    assert (done.returncode, says in done.stderr) == (code, True)


def test_the_traceback_of_a_script_is_its_own(run: Run, script: Callable[[str], Path]) -> None:
    path = script("1 / 0")
    done = run("run", "-n", 0, path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[:2] == ["Traceback (most recent call last):", f'  File "{path}", line 3, in <module>']
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_run_of_a_module(run: Run, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = script("print(__name__, sys.argv[1:])")
    monkeypatch.chdir(path.parent)
    assert run("run", "-n", 0, "-m", "script", "x").stdout == "__main__ ['x']\n"


def test_run_of_nothing(run: Run) -> None:
    done = run("run", "-n", 0, "/no/such.py")
    assert (done.returncode, done.stderr) == (2, "mpiparallel: no such file: /no/such.py\n")


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, -15)]
)
def test_run_that_is_ended(
    state: Path, start: Start, script: Callable[[str], Path], signum: int, code: int
) -> None:
    process = start("run", "-n", 0, script("print('begun', flush=True)\ntime.sleep(60)"))
    read_until(process, "begun")
    process.send_signal(signum)
    process.wait(15)
    assert process.returncode == code
    assert wait_until(lambda: not processes_of(state))


# ---------------------------------------------------------------- with engines


@pytest.mark.mpi
def test_with_engines(run: Run, start: Start) -> None:
    assert run("start", "-n", 2, "--daemonize").returncode == 0
    assert "3 in all" in run("engines", "-n", 1, "--daemonize").stdout
    assert listed(run)[0]["engines"] == 3
    more = start("engines", "-n", 1)
    read_until(more, "Press Ctrl-C")
    assert listed(run)[0]["engines"] == 4
    more.send_signal(signal.SIGINT)
    assert "stopping" in more.communicate(timeout=15)[0]
    assert wait_until(lambda: listed(run)[0]["engines"] == 3)
    assert run("stop").returncode == 0


@pytest.mark.mpi
def test_run_with_engines(run: Run, script: Callable[[str], Path]) -> None:
    path = script("rc = ipp.Client()\nprint(rc[:].apply_sync(lambda: mpi_rank))\nsys.exit(3)")
    done = run("run", "-n", 2, path)
    assert (done.stdout, done.returncode) == ("[0, 1]\n", 3)


@pytest.mark.mpi
def test_ctrl_c_in_the_foreground_with_engines(start: Start) -> None:
    process = start("start", "-n", 2)
    read_until(process, "Press Ctrl-C")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=15)[0] == "stopping\n"
    assert process.returncode == 0


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_results_stay_when_a_cluster_in_the_background_has_ended(run: Run, state: Path, how: str) -> None:
    names = ["--cluster-id", "c"]
    assert run("start", "-n", 1, "--daemonize", *names).returncode == 0
    with Client(cluster_id="c") as client:
        task = client.load_balanced_view().apply_async(lambda: "it " + "stays")
        task.get(30)
        assert wait_until(lambda: "pending" not in run("results", *names, task.msg_ids[0]).stdout)
    assert run("results", *names, "--remove").returncode == 1  # it runs
    if how == "stopped":
        assert run("stop", *names).returncode == 0
    else:
        kill_all(state)
        assert wait_until(lambda: not processes_of(state), 45)
        assert "no cluster runs\nresults are left" in run("list").stdout
        assert run("stop", *names).returncode == 11
    (folder,) = (path.parent for path in state.rglob("results.db"))
    assert [path.name for path in folder.iterdir() if not path.name.startswith("results.db")] == []
    done = run("list")
    assert "mpiparallel results --profile default --cluster-id c" in done.stdout
    assert run("list", "--json").stdout == "[]\n"
    assert "'it stays'" in run("results", *names, task.msg_ids[0]).stdout
    if how == "stopped":
        assert run("results", *names, "--remove").returncode == 0
    else:
        assert run("start", "-n", 0, "--daemonize", *names).returncode == 0
        assert run("results", *names).stdout == "no results\n"
        assert run("stop", *names).returncode == 0
    assert not folder.exists()
    assert run("results", *names, "--remove").returncode == 1


def test_list_forgets_results_in_the_end(run: Run, state: Path) -> None:
    folder = state / "default/cluster"
    folder.mkdir(parents=True)
    store = Store(folder)
    store.put([record(1)])
    store.close()
    assert "results are left" in run("list").stdout
    os.utime(folder / "results.db", (1, 1))
    assert run("list").stdout == "no cluster runs\n"
    assert not folder.exists()
