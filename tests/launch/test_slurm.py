"""What Slurm says, and what is made of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import wait_until

from mpiparallel.error import LaunchError
from mpiparallel.launch import batch, pmi, slurm
from mpiparallel.launch.argv import MPI, Dialect
from mpiparallel.launch.batch import Phase, QueueError
from mpiparallel.launchoptions import LaunchOptions

QUEUE = """\
12|PENDING|None|N/A||0|0|UNLIMITED|
13|PENDING|Resources|2026-11-21T14:05:00||0|2|1:00:00|
14|RUNNING|None|2026-11-21T20:30:05|node[1-2]|0|0|10:00|
15|FAILED|NonZeroExitCode|2026-11-21T20:30:05|node1|768|0|365-00:00:00|
16|PENDING|ReqNodeNotAvail, UnavailableNodes:node5|N/A||0|0|5:00|
this is a line of a site's wrapper
17|COMPLETING|None|2026-11-21T20:30:05|node1|0|0|5:00|
18|CONFIGURING|None|2026-11-21T20:30:05|node1|0|0|5:00|
"""


def test_the_queue() -> None:
    found = slurm.parse_queue(QUEUE)
    assert list(found) == ["12", "13", "14", "15", "16", "17", "18"]
    phases = [info.phase for info in found.values()]
    waiting, running, ended = Phase.WAITING, Phase.RUNNING, Phase.ENDED
    assert phases == [waiting, waiting, running, ended, waiting, running, waiting]
    assert (found["12"].start, found["12"].limit) == ("", "")
    assert (found["13"].start, found["13"].restarts, found["13"].limit) == (
        "2026-11-21T14:05:00",
        2,
        "1:00:00",
    )
    assert found["14"].nodes == "node[1-2]"
    assert found["14"].exit_code is None
    assert found["16"].reason == "ReqNodeNotAvail, UnavailableNodes:node5"


@pytest.mark.parametrize(
    ("state", "reason", "status", "code", "words"),
    [
        ("COMPLETED", "None", 0, 0, "ended with exit code 0"),
        ("FAILED", "NonZeroExitCode", 3 << 8, 3, "failed with exit code 3 on n1"),
        ("FAILED", "RaisedSignal:9(Killed)", 9, -9, "was killed by SIGKILL on n1"),
        ("FAILED", "RaisedSignal:53(Real-time_signal_19)", 53, -53, "was killed by SIG53 on n1"),
        ("TIMEOUT", "TimeLimit", 0, 1, "reached its time limit of 1:00"),
        ("TIMEOUT", "TimeLimit", 9, -9, "reached its time limit of 1:00"),
        ("CANCELLED", "None", 15, -15, "was cancelled"),
        ("CANCELLED by 99123", "None", 0, 1, "was cancelled by 99123"),
        ("CANCELLED by 0", "None", 0, 1, "was cancelled by root"),
        ("NODE_FAIL", "NodeDown", 0, 1, "ended because a node failed: it ran on n1"),
        ("OUT_OF_MEMORY", "OutOfMemory", 125, -125, "ran out of memory on n1: ask for more (mem)"),
        ("PREEMPTED", "None", 0, 1, "was preempted by a job of higher priority"),
        ("DEADLINE", "None", 0, 1, "reached its deadline"),
        ("BOOT_FAIL", "None", 0, 1, "ended because a node could not be started on n1"),
    ],
)
def test_how_a_job_has_ended(state: str, reason: str, status: int, code: int, words: str) -> None:
    info = slurm.info_of(state, reason, "2026-11-21T20:30:05", "n1", "1:00", status, 0)
    assert (info.phase, info.exit_code, info.end) == (Phase.ENDED, code, words)


def test_a_folder_that_nodes_do_not_have() -> None:
    info = slurm.info_of("FAILED", "JobLaunchFailure", "2026-11-21T20:30:05", "n1", "", 53, 0)
    assert info.exit_code
    assert info.end.startswith("could not be launched on n1: ")
    assert "MPIPARALLEL_STATE" in info.end


def test_one_that_ends_before_its_script_begins() -> None:
    info = slurm.info_of("FAILED", "None", "N/A", "", "", 53 << 8, 0)
    assert info.end == "failed with exit code 53 before its script began"


def test_a_state_that_is_new_to_us_is_taken_for_running() -> None:
    assert slurm.info_of("STAGE_OUT", "None", "", "", "", 0, 0).phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("None", False), ("", False), ("Resources", False), ("Priority", False), ("BeginTime", False),
        ("Dependency", False), ("JobHeldUser", False), ("PartitionDown", False), ("AssocGrpCpuLimit", False),
        ("QOSMaxJobsPerUserLimit", False), ("Licenses", False), ("AssocMaxJobsLimit", False),
        ("ReqNodeNotAvail, UnavailableNodes:node5", False), ("QOSGrpNodeLimit", False),
        ("PartitionNodeLimit", True), ("PartitionTimeLimit", True), ("PartitionConfig", True),
        ("BadConstraints", True), ("DependencyNeverSatisfied", True), ("InvalidAccount", True),
        ("InvalidQOS", True), ("QOSMaxCpuPerJobLimit", True), ("AssocMaxNodePerJobLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True), ("AssocMaxWallDurationPerJobLimit", True),
        ("QOSMinCpuNotSatisfied", True), ("MaxMemPerLimit", True), ("launch failed requeued held", True),
        ("launch_failed_requeued_held", True), ("ReservationDeleted", True),
    ],
)  # fmt: skip
def test_reasons_that_time_does_not_mend(reason: str, hopeless: bool) -> None:
    assert bool(slurm.never(reason)) == hopeless


def test_partitions_for_people() -> None:
    text = "main*|up|infinite|6|16|24105\nshort|up|5:00|2|16+|24105+\nold|drain|1-00:00:00|1|4|100\n?\n"
    assert slurm.describe_partitions(text) == (
        "main (default, 6 nodes of 16 CPUs and 24105 MB, no time limit), "
        "short (2 nodes of 16+ CPUs and 24105+ MB, up to 5:00), "
        "old (1 nodes of 4 CPUs and 100 MB, up to 1-00:00:00, drain)"
    )


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("sbatch: error: invalid partition specified: x", "Partitions that exist: a, b."),
        ("sbatch: error: Invalid account or account/partition combination specified", "sacctmgr show assoc"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "sacctmgr show assoc"),
        ("sbatch: error: Requested time limit is invalid (missing or exceeds some limit)", "HH:MM:SS"),
        ("sbatch: error: Invalid --time specification", "HH:MM:SS"),
        (
            "Batch job submission failed: Requested node configuration is not available",
            "What there is: a, b.",
        ),
        ("sbatch: error: Memory specification can not be satisfied", "What there is: a, b."),
        ("sbatch: error: Invalid generic resource (gres) specification", "sinfo -o '%P %G'"),
        ("Batch job submission failed: Invalid feature specification", "sinfo -o '%P %f'"),
        ("Batch job submission failed: Requested reservation is invalid", "scontrol show reservation"),
        ("Job violates accounting/QOS policy (job submit limit)", "sacctmgr show qos"),
        ("Unable to contact slurm controller (connect failure)", "does not answer"),
        ("sbatch: unrecognized option '--frob'", "sbatch --help"),
    ],
)
def test_refusals_come_word_for_word_with_a_remedy(said: str, remedy: str) -> None:
    text = slurm.refusal(said, "a, b")
    assert text.startswith(said + "\n")
    assert remedy in text


def test_a_refusal_that_nobody_knows_stays_as_it_is() -> None:
    assert slurm.refusal("sbatch: error: the moon", "a") == "sbatch: error: the moon"


@pytest.mark.parametrize(
    ("text", "job"),
    [("123\n", "123"), ("123;cluster\n", "123"), ("Welcome!\n77\n", "77"), ("", ""), ("no\n", "")],
)
def test_the_id_of_a_new_job(text: str, job: str) -> None:
    assert slurm._job_of(text) == job


def test_accounting() -> None:
    info = slurm.parse_accounting("CANCELLED by 99123|0:15|node[1-2]|01:00:00\n")
    assert (info.state, info.end, info.exit_code) == ("CANCELLED", "was cancelled by 99123", -15)
    assert slurm.parse_accounting("OUT_OF_ME+|0:125|n1|1:00\n").end.startswith("has ended")
    assert slurm.parse_accounting("").phase is Phase.ENDED
    assert slurm.parse_accounting("Slurm accounting storage is disabled").phase is Phase.ENDED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("1:00:00", 3600), ("2-12", 216000), ("1-00:30", 88200), ("1-0:0:5", 86405)],
)
def test_time_limits(text: str, seconds: int) -> None:
    assert batch.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-1", "one", "1-"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected minutes \(90\), HH:MM:SS"):
        batch.seconds(text)


def test_a_job_is_not_told_of_the_job_that_submits_it() -> None:
    environ = {
        "SLURM_JOB_ID": "1", "SLURM_NTASKS": "9", "SLURM_CONF": "/etc/x", "SLURM_JWT": "t",
        "SLURMD_NODENAME": "n", "SBATCH_ACCOUNT": "me", "PBS_JOBID": "1", "PBS_SERVER": "s", "LSB_JOBID": "1",
        "PATH": "/bin",
    }  # fmt: skip
    assert set(batch.outside(environ)) == {"SLURM_CONF", "SLURM_JWT", "SBATCH_ACCOUNT", "PBS_SERVER", "PATH"}


# ------------------------------------------------------------ with commands that pretend


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Make commands of a batch system."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.called\n{script}\n')
        path.chmod(0o755)
        return tmp_path / f"{name}.called"

    return make


def test_a_refusal(fake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    fake("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    fake("sinfo", "echo 'debug*|up|30:00|2|8|1000'")
    with pytest.raises(LaunchError) as caught:
        slurm.SYSTEM.submit(tmp_path / "a b.sbatch", ["-p", "x"], os.environ)
    assert "invalid partition specified: x\nPartitions that exist: debug (default, 2 nodes" in str(
        caught.value
    )
    assert f"The command was: sbatch --parsable -p x '{tmp_path}/a b.sbatch'" in str(caught.value)


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"cannot run sbatch .*on a login node of the cluster"):
        slurm.SYSTEM.submit(tmp_path / "x", [], os.environ)
    with pytest.raises(QueueError, match=r"squeue was not found on the PATH"):
        slurm.SYSTEM.query(["1"])
    assert slurm.SYSTEM.recall("1").end == "has ended; Slurm does not know any more how"


def test_all_jobs_are_asked_about_in_one_call(fake) -> None:  # type: ignore[no-untyped-def]
    called = fake("squeue", "cat <<'EOF'\n" + QUEUE + "EOF")
    found = slurm.SYSTEM.query(["13", "14"])
    assert set(found) == {"13", "14"}
    assert called.read_text().count("\n") == 1
    assert "-j 13,14 " in called.read_text()


def test_who_has_cancelled_a_job(fake) -> None:  # type: ignore[no-untyped-def]
    fake("squeue", "echo '7|CANCELLED|None|2026-11-21T20:30:05|n1|15|0|5:00|'")
    fake("sacct", "echo 'CANCELLED by 0|0:15|n1|00:05:00'")
    found = slurm.SYSTEM.query(["7"])["7"]
    assert (found.end, found.exit_code) == ("was cancelled by root", -15)
    fake("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.SYSTEM.query(["7"])["7"].end == "was cancelled"


def test_filters_of_the_user_do_not_hide_jobs(fake, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("SQUEUE_STATES", "R")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    called = fake("squeue", 'echo "${SQUEUE_STATES:-none} $SLURM_TIME_FORMAT" >&2; exit 3')
    with pytest.raises(QueueError, match=r"none standard"):
        slurm.SYSTEM.query(["13"])
    assert called.exists()


def test_jobs_that_are_forgotten(fake) -> None:  # type: ignore[no-untyped-def]
    fake("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.SYSTEM.query(["1"]) == {}


@pytest.mark.parametrize("script", [False, True])
def test_signals(fake, script: bool) -> None:  # type: ignore[no-untyped-def]
    called = fake("scancel", "")
    slurm.SYSTEM.signal("7", signal.SIGUSR1, script=script)
    assert called.read_text() == ("--signal=USR1 --batch 7\n" if script else "--signal=USR1 7.0\n")


def test_cancelling_what_has_ended_is_no_error(fake) -> None:  # type: ignore[no-untyped-def]
    fake("scancel", "echo 'scancel: error: Kill job error on job id 7: Invalid job id specified' >&2; exit 1")
    slurm.SYSTEM.cancel(["7"])
    fake("scancel", "echo 'scancel: error: Kill job error on job id 7: Access/permission denied' >&2; exit 1")
    with pytest.raises(QueueError, match=r"scancel 7: .*permission denied"):
        slurm.SYSTEM.cancel(["7"])


def test_ctrl_c_while_it_is_submitted_cancels_it(fake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    submitted = fake("sbatch", "sleep 1; echo 77")
    cancelled = fake("scancel", "")
    code = (
        "import os; from pathlib import Path; from mpiparallel.launch import slurm\n"
        f"slurm.SYSTEM.submit(Path({str(tmp_path / 'x')!r}), [], os.environ)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert wait_until(submitted.exists, 20.0)
    time.sleep(0.1)  # the call is on its way; were it not yet, the interrupt would come before it
    program.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in program.communicate(timeout=20)[1]
    assert cancelled.read_text() == "77\n"


# ------------------------------------------------------------ srun --mpi

LIST_22 = (
    "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n"
)
LIST_18 = "srun: MPI types are...\nsrun: none\nsrun: openmpi\nsrun: pmi2\n"


def test_the_plugins_of_srun() -> None:
    assert pmi.parse_list(LIST_22) == ("pmix", "none", "pmi2", "pmix_v4")
    assert pmi.parse_list(LIST_18) == ("none", "openmpi", "pmi2")


@pytest.mark.parametrize(
    ("dialect", "plugins", "expected"),
    [
        (Dialect.OPENMPI, ("none", "pmix", "pmi2"), "pmix"),
        (Dialect.OPENMPI, ("none", "pmi2"), ""),
        (Dialect.MPICH, ("none", "pmix", "pmi2"), "pmi2"),
        (Dialect.MPICH, ("none", "pmix"), ""),
        (Dialect.INTELMPI, ("pmi2",), "pmi2"),
        (Dialect.UNKNOWN, ("pmix", "pmi2"), ""),
        (Dialect.OPENMPI, (), ""),
    ],
)
def test_what_an_mpi_understands(dialect: Dialect, plugins: tuple[str, ...], expected: str) -> None:
    assert pmi.fitting(dialect, plugins) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LaunchOptions(), "pmix"),
        (LaunchOptions(srun_mpi="pmix_v4"), "pmix_v4"),
        (LaunchOptions(srun_mpi="none"), ""),
        (LaunchOptions(mpi_args=["--map-by", "core"]), ""),
        (LaunchOptions(mpiexec="/opt/mpiexec"), ""),
    ],
)
def test_a_users_wish_comes_first(
    options: LaunchOptions, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pmi, "offered", lambda: ("none", "pmix", "pmix_v4"))
    assert pmi.choose(options, MPI("mpiexec", Dialect.OPENMPI)) == expected
    assert pmi.choose(LaunchOptions(), MPI("mpiexec", Dialect.OPENMPI), there=False) == ""
