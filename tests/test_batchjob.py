"""What is read in the answers of batch systems, and in what words it is told."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest

from mpiparallel import batchjob
from mpiparallel.batchjob import BatchJob, Facts, Question, facts, from_environment, said, words

JOB = BatchJob("slurm", "75")

# Slurm 22.05; what nobody reads is left out.
RUNNING = (
    "JobId=75 JobName=a b UserId=u(1) GroupId=u(1) Priority=4 Nice=0 Account=(null) QOS=(null) "
    "JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 ExitCode=0:0 "
    "RunTime=00:00:03 TimeLimit=00:01:00 TimeMin=N/A StartTime=2026-11-21T20:28:31 "
    "EndTime=2026-11-21T20:29:31 Deadline=N/A NodeList=node[4-5] BatchHost=node4 NumNodes=2 "
    "Comment=x JobState=FAILED"
)


def slurm(state: str, reason: str = "None", **fields: str) -> str:
    text = RUNNING.replace("JobState=RUNNING Reason=None", f"JobState={state} Reason={reason}")
    for key, value in fields.items():
        found = next(word for word in text.split() if word.startswith(f"{key}="))
        text = text.replace(found, f"{key}={value}")
    return text


def read(text: str | None, job: BatchJob = JOB) -> Facts:
    return facts(job, text, 1000.0)


# ---------------------------------------------------------------- where we are


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "75"}, JOB),
        ({"SLURM_JOB_ID": "75", "SLURM_RESTART_COUNT": "2"}, BatchJob("slurm", "75", 2)),
        (
            {"SLURM_JOB_ID": "51", "SLURM_ARRAY_JOB_ID": "48", "SLURM_ARRAY_TASK_ID": "3"},
            BatchJob("slurm", "48_3"),
        ),
        ({"PBS_JOBID": "12.server"}, BatchJob("pbs", "12.server")),
        ({"PBS_JOBID": "12[3].server"}, BatchJob("pbs", "12[3].server")),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "0"}, BatchJob("lsf", "9")),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "4"}, BatchJob("lsf", "9[4]")),
        ({"SLURM_JOB_ID": "--help"}, None),
        ({"SLURM_JOB_ID": "75; rm -rf /"}, None),
    ],
)
def test_the_job_is_found_by_the_environment(environ: dict[str, str], job: BatchJob | None) -> None:
    assert from_environment(environ) == job
    if job is not None:
        assert batchjob.named(job.name, job.restarts) == job


@pytest.mark.parametrize("name", ["", "75", "slurm:", "slurm:-x", "condor:75", "slurm:7 5"])
def test_what_names_no_job_is_none(name: str) -> None:
    """A world may say what it likes: it becomes no option of a command."""
    assert batchjob.named(name) is None


def test_questions_are_commands_without_a_shell() -> None:
    assert batchjob.question(JOB) == ["scontrol", "--oneliner", "show", "job", "75"]
    assert batchjob.question(BatchJob("pbs", "12.s")) == ["qstat", "-x", "-f", "12.s"]
    assert batchjob.question(BatchJob("lsf", "9[4]"))[-1] == "9[4]"
    assert "node4,node5" in batchjob.nodes_question(["node5", "node4", "node5"])
    assert batchjob.who_question(JOB)[-1] == "75"


# ---------------------------------------------------------------- Slurm


def test_a_running_job_of_slurm() -> None:
    told = read(RUNNING)
    assert told.phase == "runs"
    assert told.limit == "00:01:00"
    assert told.ends_at == time.mktime(time.strptime("2026-11-21 20:29:31", "%Y-%m-%d %H:%M:%S"))
    assert not told.preempted


@pytest.mark.parametrize("limit", ["UNLIMITED", "Partition_Limit"])
def test_a_job_without_a_limit_has_no_end(limit: str) -> None:
    assert read(slurm("RUNNING", TimeLimit=limit)).ends_at is None


def test_an_end_that_is_not_known_is_none() -> None:
    assert read(slurm("PENDING", "BeginTime", EndTime="Unknown")).ends_at is None


def test_a_preempted_job() -> None:
    told = read(RUNNING + " PreemptEligibleTime=2026-11-21T20:28:31 PreemptTime=2026-11-21T20:28:40")
    assert told.preempted
    assert not read(RUNNING + " PreemptTime=None").preempted


@pytest.mark.parametrize(
    ("text", "phase", "text_told"),
    [
        (slurm("TIMEOUT", "TimeLimit"), "ended", "job 75 reached its time limit of 00:01:00"),
        (slurm("CANCELLED"), "ended", "job 75 was cancelled"),
        (slurm("PREEMPTED"), "ended", "job 75 was preempted: others needed its nodes"),
        (slurm("NODE_FAIL", "NodeDown"), "ended", "job 75 has ended: one of its nodes failed"),
        (slurm("OUT_OF_MEMORY"), "ended", "job 75 ran out of memory"),
        (slurm("DEADLINE"), "ended", "job 75 reached its deadline"),
        (slurm("FAILED", "NonZeroExitCode", ExitCode="3:0"), "ended", "job 75 has ended with exit code 3"),
        (slurm("FAILED", "RaisedSignal", ExitCode="0:9"), "ended", "job 75 was ended by signal 9"),
        (slurm("COMPLETED"), "ended", "job 75 has ended"),
        (slurm("PENDING", "BeginTime", Restarts="1"), "waits", "job 75 was requeued"),
        ("slurm_load_jobs error: Invalid job id specified\n", "ended", "job 75 has ended"),
    ],
)
def test_ends_of_jobs_of_slurm(text: str, phase: str, text_told: str) -> None:
    told = read(text)
    assert told.phase == phase
    assert words(JOB, told) == text_told


@pytest.mark.parametrize(
    "text", [None, "", "slurm_load_jobs error: Unable to contact slurm controller", slurm("NEWSTATE")]
)
def test_what_is_not_understood_is_not_known(text: str | None) -> None:
    assert read(text).phase == "unknown"


def test_a_job_that_is_just_ending_is_asked_about_again() -> None:
    assert read(slurm("COMPLETING", "TimeLimit")).phase == "ends"


def test_nodes_that_failed_are_named() -> None:
    text = "node4|mixed|none\nnode5|down*|Not responding\nnode5|down*|Not responding\nnode6|idle*|none\n"
    nodes = batchjob.failed_nodes(text)
    assert nodes == [("node5", "Not responding"), ("node6", "")]
    ended, again = read(slurm("NODE_FAIL")), read(slurm("PENDING", "BeginTime", Restarts="1"))
    assert words(JOB, ended, nodes[:1]) == "node node5 failed (Not responding), and with it job 75 has ended"
    assert words(JOB, again, nodes) == "nodes node5, node6 failed (Not responding): job 75 was requeued"
    assert words(JOB, again._replace(preempted=True)) == "job 75 was preempted and requeued"
    assert batchjob.failed_nodes(None) == batchjob.failed_nodes("sinfo: error") == []


def test_who_has_cancelled_a_job() -> None:
    assert batchjob.canceller(f"CANCELLED by {os.getuid()}\n") != ""
    assert batchjob.canceller("CANCELLED by 4000000000\n") == "user 4000000000"
    assert batchjob.canceller("Slurm accounting storage is disabled\n") == ""
    assert batchjob.canceller(None) == ""
    assert words(JOB, read(slurm("CANCELLED")), who="ada") == "job 75 was cancelled by ada"
    assert words(JOB, read(slurm("TIMEOUT")), who="ada").endswith("limit of 00:01:00")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (RUNNING, ""),
        (None, ""),
        (slurm("COMPLETING", "TimeLimit"), "job 75 reached its time limit of 00:01:00"),
        (slurm("COMPLETING", "NodeDown"), "job 75 has ended: one of its nodes failed"),
        (slurm("COMPLETING", Restarts="1"), "job 75 was requeued"),
        (slurm("COMPLETING"), "job 75 was cancelled, or its script has ended"),
        (slurm("CANCELLED"), "job 75 was cancelled"),
        (slurm("TIMEOUT"), "job 75 reached its time limit of 00:01:00"),
    ],
)
def test_why_a_process_of_a_job_is_ended(text: str | None, why: str) -> None:
    assert batchjob.being_ended(JOB, read(text)) == why


# ---------------------------------------------------------------- what the output says


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (
            "slurmstepd-node4: error: *** JOB 75 ON node4 CANCELLED AT 2026-11-21T20:28:34 ***",
            "job 75 was cancelled",
        ),
        (
            "slurmstepd: error: *** STEP 75.0 ON n4 CANCELLED AT 2026-11-21T20:28:34 DUE TO TIME LIMIT ***",
            "job 75 reached its time limit",
        ),
        (
            "slurmstepd: error: *** JOB 75 ON node6 CANCELLED AT 2026-11-21T20:37:14 DUE TO JOB REQUEUE ***",
            "job 75 was requeued",
        ),
        (
            "slurmstepd: error: *** JOB 75 ON node6 CANCELLED AT 2026-11-21T20:37:14 DUE TO PREEMPTION ***",
            "job 75 was preempted: others needed its nodes",
        ),
        (
            "slurmstepd: error: *** JOB 75 ON n CANCELLED AT 2026-11-21T20:37:14 DUE TO NODE FAILURE, SEE "
            "SLURMCTLD LOG FOR DETAILS ***",
            "job 75 has ended: one of its nodes failed",
        ),
        ("srun: error: Node failure on node5\n", "node node5 failed, and job 75 lost its engines there"),
        # srun ends a step when a rank has failed: that says nothing of the job.
        ("slurmstepd: error: *** STEP 75.0 ON node4 CANCELLED AT 2026-11-21T20:28:34 ***", ""),
        ("slurmstepd: error: *** JOB 74 ON node4 CANCELLED AT 2026-11-21T20:28:34 ***", ""),
        ("user code: JOB 75 CANCELLED", ""),
    ],
)
def test_the_output_tells_where_slurm_cannot_be_asked(log: str, text: str) -> None:
    assert said(JOB, f"before\n{log}\nsrun: error: node5: task 1: Terminated\n") == text


def test_the_output_of_an_array_names_jobs_by_other_numbers() -> None:
    log = "slurmstepd: error: *** JOB 51 ON node4 CANCELLED AT 2026-11-21T20:28:34 DUE TO TIME LIMIT ***"
    assert said(BatchJob("slurm", "48_3"), log) == "job 48_3 reached its time limit"


# ---------------------------------------------------------------- PBS and LSF

PBS = """Job Id: 12.server
    Job_Name = engines
    job_state = {state}
    Exit_status = {code}
    resources_used.walltime = {used}
    Resource_List.walltime = 01:00:00
    run_count = {runs}
"""


def test_pbs() -> None:
    job = BatchJob("pbs", "12.server")
    running = read(PBS.format(state="R", code="", used="00:30:00", runs=1), job)
    assert (running.phase, running.ends_at, running.restarts) == ("runs", 1000.0 + 1800, 0)
    again = read(PBS.format(state="Q", code="", used="00:00:00", runs=1), job)
    assert words(job, again) == "job 12.server was requeued"
    over = read(PBS.format(state="F", code="271", used="01:00:07", runs=1), job)
    assert words(job, over) == "job 12.server reached its time limit of 01:00:00"
    failed = read(PBS.format(state="F", code="3", used="00:00:07", runs=2), job)
    assert words(job, failed) == "job 12.server has ended with exit code 3"
    assert failed.restarts == 1
    assert read("qstat: Unknown Job Id 12.server", job).phase == "ended"
    assert read("qstat: cannot connect to server", job).phase == "unknown"


def test_lsf() -> None:
    job = BatchJob("lsf", "9")
    running = read("RUN|-|1:30 L\n", job)
    assert (running.phase, running.ends_at) == ("runs", 1000.0 + 5400)
    assert read("RUN|-|-\n", job).ends_at is None
    assert words(job, read("EXIT|TERM_RUNLIMIT: job killed after reaching LSF run time limit|-", job)) == (
        "job 9 reached its time limit"
    )
    assert words(job, read("EXIT|TERM_OWNER: job killed by owner|-", job)) == "job 9 was cancelled"
    assert words(job, read("PEND|-|-", job)) == "job 9 was requeued"
    assert read("Job <9> is not found", job).phase == "ended"
    assert read("LSF is down. Please wait ...", job).phase == "unknown"


# ---------------------------------------------------------------- asking


def program(path: Path, text: str) -> list[str]:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def test_a_question_is_answered_while_we_do_other_things(tmp_path: Path) -> None:
    question = Question(program(tmp_path / "scontrol", "input(); print('unreached')"))
    assert question.wait() is not None, "it has nothing to read, and says that it fails"
    question = Question(program(tmp_path / "long", "print('x' * 200_000)"))
    assert len(question.wait() or "") == 200_001


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    command = program(tmp_path / "hangs", "import time; print('half', flush=True); time.sleep(600)")
    began = time.monotonic()
    question = Question(command, patience=1.0)
    assert not question.answered
    assert question.wait() is None
    assert time.monotonic() - began < 10
    question = Question(command)
    process = question._process
    question.close()
    assert process is not None and process.returncode is not None


def test_a_program_that_is_not_there_answers_nothing() -> None:
    question = Question(["/nowhere/scontrol"])
    assert question.answered
    assert question.text is None


def test_answers_come_in_a_language_and_a_format_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    command = program(
        tmp_path / "env", "import os; print(os.environ['SLURM_TIME_FORMAT'], os.environ['LC_ALL'])"
    )
    assert (Question(command).wait() or "").split() == ["standard", "C"]
