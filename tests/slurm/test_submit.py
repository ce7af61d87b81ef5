"""Scripts as batch jobs: how each ends, whatever happens to its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import wait_until

import mpiparallel as ipp
from slurm.machine import Slurm, run

pytestmark = pytest.mark.timeout(240)

Submit = Callable[..., subprocess.Popen[str]]
BEGIN = """\
import os, signal, sys, time
import mpiparallel as ipp

rc = ipp.Client()
print("engines", *rc.ids, flush=True)
"""
HANG = "time.sleep(1000)\n"
WAYS = {"srun": [], "mpiexec": ["--set", "srun_mpi=none"]}


@pytest.fixture(scope="module", autouse=True)
def limited(
    slurm: Slurm, command: list[str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], str, str] | None]:
    """A script that hangs in a job of a minute, while other tests run; and what it had printed at first."""
    if not any(item.name == "test_the_time_limit_strikes" for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("limited")
    (folder / "script.py").write_text(BEGIN + HANG)
    here = [f"--batch-args={word}" for word in slurm.here]
    process = subprocess.Popen(
        [*command, "submit", "-n", "2", *here, "-t", "1", "script.py", "--follow"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "MPIPARALLEL_STATE": str(folder / "state")},
    )  # fmt: skip
    job = job_of(process)
    assert process.stdout
    begun = ""
    for line in process.stdout:
        begun += line
        if line.startswith("engines"):
            break  # all of its processes are there, for all tests
    yield process, job, begun
    process.kill()
    process.communicate()


@pytest.fixture
def submit(
    slurm: Slurm, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Submit]:
    """Start ``mpiparallel submit`` for a script with this text, in a folder of its own."""
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    started = []

    def submit(text: str, *words: str) -> subprocess.Popen[str]:
        Path("script.py").write_text(BEGIN + text)
        here = [f"--batch-args={word}" for word in slurm.here]
        process = subprocess.Popen(
            [*command, "submit", "-n", "2", *here, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield submit
    for process in started:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], timeout: float = 120.0) -> tuple[int, str, str]:
    """Wait for the command; return its exit code, what the script has printed, and what else was said."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output.partition("\n")[2], errors


def job_of(process: subprocess.Popen[str]) -> str:
    """Return the number of the job, as soon as it is known."""
    assert process.stdout
    return process.stdout.readline().split()[1]


GOOD = """\
print(rc[:].apply_sync(lambda: comm.allreduce(1)), sys.argv[1:])
print(len(set(rc[:].apply_sync(lambda: __import__("socket").gethostname()))), "hosts")
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.mpi
@pytest.mark.parametrize("way", WAYS)
def test_a_script_ends_with_its_exit_code(way: str, submit: Submit, slurm: Slurm) -> None:
    words = ["script.py", "--follow", "-N", "2", *WAYS[way]]
    code, output, errors = end(submit(GOOD, *words, "--", "7", "a b"))
    hosts = 2 if slurm.mode == "separate" else 1
    assert output == f"engines 0 1\n[2, 2] ['7', 'a b']\n{hosts} hosts\n", errors
    assert code == 7
    assert "failed with exit code 7" in errors


@pytest.mark.mpi
def test_the_printed_script_runs_by_sbatch_alone(
    submit: Submit, slurm: Slurm, tmp_path: Path
) -> None:
    """As somebody runs it who has never heard of ``submit``, and twice at once."""
    printed, _ = submit(GOOD, "script.py", "--print", "--", "0").communicate(timeout=60)
    Path("job.sbatch").write_text(printed)
    jobs = [run("sbatch", "--parsable", *slurm.here, "job.sbatch").strip() for _ in range(2)]
    for job in jobs:
        assert wait_until(lambda job=job: state(job)[0] == "COMPLETED", 90.0), state(job)
        assert state(job)[1] == "0:0"
        printed = (tmp_path / f"script-{job}.out").read_text()
        assert printed == "engines 0 1\n[2, 2] ['0']\n1 hosts\n"


def state(job: str) -> tuple[str, str]:
    """Return state and exit code of a job, as Slurm has them."""
    words = dict(
        word.split("=", 1) for word in run("scontrol", "-o", "show", "job", job).split() if "=" in word
    )
    return words["JobState"], words["ExitCode"]


def test_a_script_that_dies(submit: Submit) -> None:
    code, output, errors = end(submit("os.kill(os.getpid(), signal.SIGKILL)", "script.py", "--follow"))
    assert code == 137, errors
    assert "Killed" in output


def test_a_script_that_raises(submit: Submit) -> None:
    code, output, _ = end(submit("print(1 / 0)", "script.py", "--follow"))
    assert code == 1
    assert "ZeroDivisionError: division by zero" in output


LOSE = """\
try:
    rc[:].apply_sync(lambda: os.kill(os.getpid(), 9) if mpi_rank == 0 else comm.barrier())
except ipp.error.CompositeError as error:
    print(error)
"""


@pytest.mark.mpi
@pytest.mark.parametrize("way", WAYS)
def test_engines_that_die_are_the_scripts_matter_for_a_while(way: str, submit: Submit) -> None:
    text = "rc[:].execute('import os', block=True)\n" + LOSE + "sys.exit(5)\n"
    code, output, errors = end(submit(text, "script.py", "--follow", *WAYS[way]))
    assert code == 5, output + errors
    assert "was killed by signal 9 (SIGKILL)" in output


def test_a_script_that_waits_for_lost_engines_is_ended(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A site's own template, of which a person's patience is not asked.
    ours = (Path(__file__).parents[2] / "launchers/job.bash").read_text()
    assert ours.count("after 60") == 1
    (tmp_path / "site/launchers").mkdir(parents=True)
    (tmp_path / "site/launchers/job.bash").write_text(ours.replace("after 60", "after 3"))
    monkeypatch.setenv("MPIPARALLEL_SITE", str(tmp_path / "site"))
    text = "rc[:].execute('import os', block=True)\n" + LOSE + "time.sleep(1000)\n"
    code, output, errors = end(submit(text, "script.py", "--follow"))
    assert code == 1, output + errors
    assert "the engines have ended" in output and "the script has not ended" in output


@pytest.mark.mpi
def test_engines_that_cannot_start(submit: Submit) -> None:
    code, output, errors = end(submit("", "script.py", "--follow", "--engine-args=--no-such-option"))
    assert code == 1, errors
    assert "the engines could not be started" in output
    assert "unrecognized arguments: --no-such-option" in output


def test_a_script_that_hangs_is_cancelled(submit: Submit) -> None:
    process = submit(HANG, "script.py", "--follow")
    job = job_of(process)
    assert process.stdout and process.stdout.readline() == "engines 0 1\n"
    run("scancel", job)
    output, errors = process.communicate(timeout=60)
    assert f"job {job} is being ended" in output
    assert "mpiparallel.engine" not in output, "what bash says of its parts is of no use to anybody"
    assert process.returncode != 0 and f"job {job} was cancelled" in errors


def test_the_time_limit_strikes(limited: tuple[subprocess.Popen[str], str, str]) -> None:
    process, job, begun = limited
    output, errors = process.communicate(timeout=200)
    assert f"job {job} reaches its time limit in about 60 s" in begun + output
    assert f"job {job} reached its time limit of 1:00" in errors, output + errors
    assert process.returncode in (137, 143)
    assert "DUE TO TIME LIMIT" in output


def test_ctrl_c_leaves_the_job_alone_and_again_ends_it(submit: Submit, command: list[str]) -> None:
    process = submit(HANG, "script.py", "--follow")
    job = job_of(process)
    assert process.stdout and process.stdout.readline() == "engines 0 1\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert state(job)[0] == "RUNNING"
    # It can be seen from here what it does ...
    assert wait_until(lambda: "idle" in run(*command, "where", "--cluster-id", job), 30.0)
    listed = json.loads(run(*command, "list", "--json"))
    assert [(one["cluster_id"], one["state"]) for one in listed] == [(job, "running")]
    with ipp.Client(cluster_id=job) as rc:
        assert rc[:].apply_sync(os.getppid)
    # ... and it can be ended.
    follower = subprocess.Popen([*command, "logs", "-f", job], stderr=subprocess.PIPE, text=True)
    with follower:
        assert follower.stderr and "runs on" in follower.stderr.readline()
        follower.send_signal(signal.SIGINT)
        assert "goes on" in follower.stderr.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 130
    assert wait_until(lambda: state(job)[0] == "CANCELLED", 30.0)


REQUEUED = """\
turn = os.environ.get("SLURM_RESTART_COUNT", "0")
print("turn", turn, rc[:].apply_sync(lambda: comm.allreduce(1)), flush=True)
if turn == "0":
    time.sleep(1000)
sys.exit(3)
"""


@pytest.mark.timeout(400)
def test_a_job_that_is_requeued_begins_anew(submit: Submit) -> None:
    process = submit(REQUEUED, "script.py", "--follow", "--set", "requeue=true")
    job = job_of(process)
    assert process.stdout and process.stdout.readline() == "engines 0 1\n"
    assert process.stdout.readline() == "turn 0 [2, 2]\n"
    run("scontrol", "requeue", job)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 3, output + errors
    assert output.endswith("engines 0 1\nturn 1 [2, 2]\n"), output
    assert f"job {job} is PENDING" in errors


def test_stop_ends_a_job(submit: Submit, command: list[str]) -> None:
    process = submit(HANG, "script.py")
    job = job_of(process)
    assert process.wait(60) == 0
    output = Path(f"script-{job}.out")
    assert wait_until(lambda: output.exists() and "engines 0 1" in output.read_text(), 60.0)
    run(*command, "stop", "--cluster-id", job)
    assert wait_until(lambda: state(job)[0] not in ("RUNNING", "COMPLETING"), 30.0)


# ---------------------------------------------------------------- inside of jobs


@pytest.mark.mpi
@pytest.mark.parametrize("way", ["sbatch", "salloc"])
def test_run_uses_the_allocation(
    way: str, slurm: Slurm, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(BEGIN + GOOD)
    words = [*slurm.here, "-N", "2", "-n", "3"]
    run_it = [*command, "run", "script.py", "7"]
    if way == "salloc":
        done = subprocess.run(
            ["salloc", "-q", *words, *run_it], capture_output=True, text=True, timeout=120, check=False
        )
        code, output = done.returncode, done.stdout
    else:
        Path("job.sh").write_text(f"#!/bin/sh\nexec {' '.join(run_it)}\n")
        job = run("sbatch", "--parsable", *words, "-o", "job.out", "job.sh").strip()
        assert wait_until(lambda: state(job)[0] == "FAILED", 90.0), Path("job.out").read_text()
        code, output = int(state(job)[1].partition(":")[0]), Path("job.out").read_text()
    hosts = 2 if slurm.mode == "separate" else 1
    assert output == f"engines 0 1 2\n[3, 3, 3] ['7']\n{hosts} hosts\n"
    assert code == 7
    assert list((tmp_path / "state").rglob("*.json")) == []


@pytest.mark.mpi
def test_an_array_joins_one_controller(
    slurm: Slurm, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPIPARALLEL_STATE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("engines.sh").write_text(f"#!/bin/sh\nexec {' '.join(command)} engines --cluster-id all\n")
    cluster = ipp.Cluster(n=0, cluster_id="all", controller_ip="0.0.0.0")
    cluster.start_cluster_sync()
    try:
        array = ["--array=1-2", "-n", "2", "-o", "engines-%a.out"]
        job = run("sbatch", "--parsable", *slurm.here, *array, "engines.sh").strip()
        run(*command, "wait", "--cluster-id", "all", "-n", "4", "--timeout", "90", timeout=120)
        with cluster.connect_client_sync() as rc:
            tasks = rc[:].apply_sync(lambda: __import__("os").environ["SLURM_ARRAY_TASK_ID"])
            assert sorted(tasks) == ["1", "1", "2", "2"]
            # One of them ends; the other's engines stay.
            run("scancel", f"{job}_1")
            assert wait_until(lambda: len(rc.ids) == 2, 30.0)
            assert rc[:].apply_sync(lambda: __import__("os").environ["SLURM_ARRAY_TASK_ID"]) == ["2", "2"]
    finally:
        cluster.stop_cluster_sync()
    ended = Path("engines-2.out")
    assert wait_until(lambda: "the engines have ended" in ended.read_text(), 30.0), ended.read_text()


def test_run_is_not_started_by_srun(slurm: Slurm, command: list[str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('ran')\n")
    done = subprocess.run(
        ["srun", "-Q", *slurm.here, "-n", "3", *command, "run", str(tmp_path / "script.py")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "ran" not in done.stdout
    assert done.stderr.count("srun has started this command 3 times") == 1
