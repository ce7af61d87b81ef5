"""Clusters by PBS or LSF, which are not here: their commands run jobs on this machine."""

from __future__ import annotations

import os
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
setsid sh -c 'trap : TERM; echo $$ > "$0.new"; mv "$0.new" "$0.pid"; bash "$1" > /dev/null 2>&1 < /dev/null; \
    echo $? > {folder}/$$.code' {folder}/started "$script" > /dev/null 2>&1 &
while [ ! -e {folder}/started.pid ]; do sleep 0.02; done
job=$(cat {folder}/started.pid)
rm {folder}/started.pid
"""
COMMANDS = {
    "pbs": {
        "qsub": "for script; do :; done\nexport PBS_NODEFILE={folder}/nodes PBS_JOBID=1\n"
        + _RUN
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
        "bsub": "script={folder}/script; cat > $script\nexport LSB_DJOB_HOSTFILE={folder}/nodes LSB_JOBID=1\n"
        + _RUN
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
