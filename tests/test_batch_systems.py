"""Clusters by PBS or LSF, which are not here: their commands run jobs on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import wait_until

from mpiparallel import Cluster
from mpiparallel.error import LaunchError
from mpiparallel.launch.jobs import Job

pytestmark = pytest.mark.mpi

# Runs $script in a session of its own, and prints the number of its first process.
_RUN = """
setsid sh -c 'trap : TERM USR2; export JOB; echo $$ > "$0.new"; mv "$0.new" "$0.pid"; \
    bash "$1" > /dev/null 2>&1 < /dev/null; echo $? > {folder}/$$.code' \
    {folder}/started "$script" > /dev/null 2>&1 &
while [ ! -e {folder}/started.pid ]; do sleep 0.02; done
job=$(cat {folder}/started.pid)
rm {folder}/started.pid
"""
COMMANDS = {
    "pbs": {
        "qsub": "for given; do :; done\nscript={folder}/script; cp $given $script\n"
        "export PBS_NODEFILE={folder}/nodes\n"
        + _RUN.replace("JOB", "PBS_JOBID=$$.head")
        + "echo $job.head",
        "qstat": """
            shift 2
            for job; do
                echo "Job Id: $job"
                if [ -e "{folder}/${{job%.head}}.code" ]; then
                    echo "    job_state = F"
                    echo "    Exit_status = $(cat "{folder}/${{job%.head}}.code")"
                else
                    echo "    job_state = R"
                fi
            done""",
        "qdel": 'for job; do kill -TERM -- "-${{job%.head}}"; done',
        "qsig": 'kill -"${{2#SIG}}" -- "-${{3%.head}}"',
    },
    "lsf": {
        "bsub": "script={folder}/script; cat > $script\nexport LSB_DJOB_HOSTFILE={folder}/nodes\n"
        + _RUN.replace("JOB", "LSB_JOBID=$$")
        + 'echo "Job <$job> is submitted to queue <normal>."',
        "bjobs": """
            shift 4
            for job; do
                if [ -e "{folder}/$job.code" ]; then
                    code=$(cat "{folder}/$job.code")
                    [ "$code" = 0 ] && echo "$job|DONE|-|here|-|-|-" || echo "$job|EXIT|$code|here|-|-|-"
                else
                    echo "$job|RUN|-|here|-|-|-"
                fi
            done""",
        "bkill": 'signal=TERM; [ "$1" = -s ] && {{ signal=$2; shift 2; }}\n'
        'for job; do kill -"$signal" -- "-$job"; done',
    },
}


@pytest.fixture(params=list(COMMANDS))
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A batch system whose jobs run here."""
    folder = tmp_path / "batch"
    folder.mkdir()
    (folder / "nodes").write_text("localhost\n" * 4)
    for name, text in COMMANDS[request.param].items():
        path = folder / name
        path.write_text("#!/bin/bash\n" + text.format(folder=folder) + "\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield request.param
    left = [path for path in folder.glob("*.pid") if not path.with_suffix(".code").exists()]
    assert not left


def test_engines(system: str) -> None:
    cluster = Cluster(engines=system, n=2)
    with cluster as client:
        assert client[:].apply_sync(lambda: __import__("mpi4py.MPI").MPI.COMM_WORLD.allreduce(1)) == [2, 2]
        assert cluster.engine_set is not None
        job = cluster.engine_set.process
        assert isinstance(job, Job)
        found = Cluster.from_file(cluster.cluster_file)
        assert [one.state for one in found.engines.values()] == ["running"]
    assert wait_until(lambda: not job.running)
    assert job.exit_code == 0


def test_a_controller_in_the_job(system: str) -> None:
    cluster = Cluster(controller=system, n=2)
    with cluster as client:
        assert client.ids == [0, 1]
        assert cluster.controller is not None
        job = cluster.controller.process
        assert isinstance(job, Job)
    assert not job.running
    assert not cluster.folder.exists()


def test_a_job_that_fails(system: str) -> None:
    with pytest.raises(LaunchError, match=r"failed with exit code 4(?s:.*)where is my file"):
        Cluster(engines=system, n=2, setup=["echo where is my file", "exit 4"]).start_and_connect_sync()


SCRIPT = """
import sys, time
import mpiparallel as ipp
rc = ipp.Client()
print("sizes", rc[:].apply_sync(lambda: mpi_size), flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(5)
"""


def submit(system: str, folder: Path, seconds: float) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    words = ["submit", "--follow", "-n", "2", "--engines", system, "script.py", "--", str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-m", "mpiparallel", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MPIPARALLEL_STATE": str(folder / "state")},  # the logs of a job stay
    )  # fmt: skip


def test_a_whole_script(system: str, tmp_path: Path) -> None:
    process = submit(system, tmp_path, 0)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 5, output + errors
    assert "sizes [2, 2]\n" in output
    [written] = tmp_path.glob("script-*.out")
    assert written.read_text() == "sizes [2, 2]\n"


ENDINGS = {
    "pbs": {"is being ended": ["qdel"]},
    "lsf": {"is being ended": ["bkill"], "has reached its time limit": ["bkill", "-s", "USR2"]},
}


@pytest.mark.anympi
def test_a_whole_script_is_ended(system: str, tmp_path: Path) -> None:
    for words, command in ENDINGS[system].items():
        folder = tmp_path / command[-1]
        folder.mkdir()
        process = submit(system, folder, 600)
        assert process.stdout is not None
        said = next(line for line in process.stdout if line.startswith("sizes"))
        assert said == "sizes [2, 2]\n"
        [written] = folder.glob("script-*.out")
        job = written.stem.removeprefix("script-")
        subprocess.run([*command, job], check=True)
        output, errors = process.communicate(timeout=60)
        assert process.returncode, output + errors
        assert f"job {job} {words}" in output
