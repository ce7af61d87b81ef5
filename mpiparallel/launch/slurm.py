"""Slurm: ``sbatch``, ``squeue``, ``scancel``, and what they say.

Only commands that every user has are used, and no accounting database is needed. What is parsed is asked for
in a format of our own.
"""

from __future__ import annotations

import pwd
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mpiparallel.error import LaunchError
from mpiparallel.launch import batch, submission
from mpiparallel.launch.batch import JobInfo, Phase, QueueError, System
from mpiparallel.launch.jobs import signal_name
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

ACCOUNTED = 5.0  # seconds for the accounting to say something that is nice to know
FIELDS = ("JobID", "State", "Reason", "StartTime", "NodeList", "exit_code", "RestartCnt", "TimeLimit")
FORMAT = ",".join(f"{field}:|" for field in FIELDS)

_WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip


def parse_queue(text: str) -> dict[str, JobInfo]:
    """Return what ``squeue`` in our format says, by job."""
    found = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) < len(FIELDS):
            continue  # a line that a site's wrapper has put there
        job, state, reason, start, nodes, status, restarts, limit = parts[: len(FIELDS)]
        found[job] = info_of(state, reason, start, nodes, limit, _number(status), _number(restarts))
    return found


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0


def info_of(
    state: str, reason: str, start: str, nodes: str, limit: str, status: int, restarts: int
) -> JobInfo:
    """Return what these words of Slurm mean; `status` is as of ``os.wait``."""
    start = "" if start in ("N/A", "Unknown", "(null)") else start
    limit = "" if limit in ("UNLIMITED", "NOT_SET", "INVALID") else limit
    word = state.split()[0].rstrip("+")  # "CANCELLED by 1000", and what sacct cuts
    phase = Phase.RUNNING
    if word in _WAITING:
        phase = Phase.WAITING
    elif word in _ENDED:
        phase = Phase.ENDED
    info = JobInfo(phase, word, reason, start, nodes, limit, None, restarts)
    if phase is not Phase.ENDED:
        return info
    code = -(status & 0x7F) if status & 0x7F else status >> 8 & 0xFF
    if word != "COMPLETED" and not code:
        code = 1  # nothing was wrong with the script, but it did not get to its end
    return JobInfo(phase, word, reason, start, nodes, limit, code, restarts, _end(state, info, code))


def _end(state: str, info: JobInfo, code: int) -> str:
    """Return how a job ended, in words that continue "job 123 ..."."""
    word = info.state
    on = f" on {info.nodes}" if info.nodes else ""
    if word == "COMPLETED":
        return "ended with exit code 0"
    if word == "FAILED" and info.reason == "JobLaunchFailure":
        return f"could not be launched{on}: {_UNLAUNCHED}"
    if word == "FAILED":
        if info.reason == "RaisedSignal" or code < 0:
            return f"was killed by SIG{signal_name(-code)}{on}" if code < 0 else f"was killed{on}"
        return f"failed with exit code {code}{on}" + (_LAUNCHED if not info.nodes else "")
    if word == "TIMEOUT":
        return f"reached its time limit{f' of {info.limit}' if info.limit else ''}"
    if word == "CANCELLED":
        by = re.search(r"by (\S+)", state)
        return "was cancelled" + (f" by {_person(by.group(1))}" if by else "")
    words = {
        "NODE_FAIL": f"ended because a node failed: it ran{on}",
        "OUT_OF_MEMORY": f"ran out of memory{on}: ask for more (mem)",
        "PREEMPTED": "was preempted by a job of higher priority",
        "DEADLINE": "reached its deadline",
        "BOOT_FAIL": f"ended because a node could not be started{on}",
        "REVOKED": "was revoked: another cluster has started it",
    }
    return words[word]


def _person(uid: str) -> str:
    """Return the name of a user that is given by number, if it has one here."""
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return uid


_UNLAUNCHED = (
    "most likely its output file cannot be written there. Its folder has to exist, on a file system "
    "that this host and the nodes share and that is not full: -o names another file for a script, "
    "MPIPARALLEL_STATE another folder for clusters"
)
_LAUNCHED = " before its script began"

# Reasons for which a job waits and always will, and the remedy.
_NEVER = (
    (r"PartitionNodeLimit", "it asks for more nodes, or fewer, than the partition gives to a job"),
    (r"PartitionTimeLimit", "it asks for more time than the partition gives to a job"),
    (r"PartitionConfig", "the partition can never give that, or not for so long (n, nodes, time)"),
    (r"BadConstraints", "no node has what it asks for (constraint, gres, cpus_per_task, mem)"),
    (r"DependencyNeverSatisfied", "it depends on a job that has failed"),
    (r"InvalidAccount", "the account is not yours, or is none (account)"),
    (r"InvalidQOS", "the quality of service is none, or not for you (qos)"),
    (r"(?:Assoc|QOS)Max\w*(?:PerJob|WallDuration)\w*|QOSMin\w*", "a limit of your account or QOS forbids it"),
    (r"MaxMemPerLimit", "it asks for more memory than the partition gives to a job (mem)"),
    (r"ReservationDeleted|ReservationInvalid", "the reservation is gone (reservation)"),
    (r"launch_failed_requeued_held|JobHoldMaxRequeue", "Slurm could not start it and holds it back"),
)


def never(reason: str) -> str:
    """Return why a job that waits for this reason waits for ever; empty when its turn may come."""
    for pattern, words in _NEVER:
        if re.fullmatch(pattern, reason.strip("()").replace(" ", "_")):
            return words
    return ""


def partitions() -> str:
    """Return which partitions there are, in one line; empty when nobody says."""
    try:
        answer = batch.ask(["sinfo", "-h", "-o", "%P|%a|%l|%D|%c|%m"])
    except QueueError:
        return ""  # it makes a message better that is needed all the same
    return describe_partitions(answer.stdout)


def describe_partitions(text: str) -> str:
    """Return what ``sinfo -o '%P|%a|%l|%D|%c|%m'`` says, for people."""
    found = []
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) != 6:
            continue
        name, up, limit, nodes, cpus, memory = parts
        about = [f"{nodes} nodes of {cpus} CPUs and {memory} MB"]
        about.append("no time limit" if limit == "infinite" else f"up to {limit}")
        if name.endswith("*"):
            about.insert(0, "default")
        if up != "up":
            about.append(up)
        found.append(f"{name.rstrip('*')} ({', '.join(about)})")
    return ", ".join(found)


# What sbatch says, and what helps. {partitions} is filled in.
_REMEDIES = (
    (r"invalid partition", "Partitions that exist: {partitions}. Give one of them (partition=, -p)"),
    (
        r"nvalid account|account/partition",
        "Accounts that you may use: sacctmgr show associations user=$USER format=account,partition,qos "
        "(account=, -A)",
    ),
    (r"nvalid qos", "sacctmgr show associations user=$USER format=account,qos says which are yours (qos=)"),
    (r"time limit|--time", "Partitions and their limits: {partitions}. Time is written HH:MM:SS (time=, -t)"),
    (
        r"node configuration is not available|More processors requested|node count specification|Memory spec|"
        r"[Mm]emory required",
        "What there is: {partitions}. Ask for less (n, nodes, cpus_per_task, mem)",
    ),
    (r"generic resource|gres", "sinfo -o '%P %G' says which resources there are (gres=)"),
    (r"feature", "sinfo -o '%P %f' says which features there are (constraint=)"),
    (r"reservation", "scontrol show reservation says which there are (reservation=)"),
    (
        r"violates accounting|PolicyLimit|QOSMax|AssocMax",
        "A limit of your account forbids it: see sacctmgr show qos",
    ),
    (
        r"Unable to contact|Socket timed out|Connection refused|slurm_receive_msg",
        "Slurm's controller does not answer: try again later; sinfo says whether it is back",
    ),
    (r"[Uu]nrecognized option|invalid option|Invalid --", "sbatch --help says what there is (batch_args)"),
)


def refusal(output: str, existing: str) -> str:
    """Return what `sbatch` said and what helps; `existing` are the partitions."""
    there = existing or "see sinfo"
    return batch.advised(output, [(pattern, words.format(partitions=there)) for pattern, words in _REMEDIES])


class Slurm(System):
    """Slurm."""

    name = "slurm"
    title = "Slurm"
    suffix = "sbatch"
    job_variable = "SLURM_JOB_ID"
    signals_alone = True

    def submit(self, script: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
        command = ["sbatch", "--parsable", *arguments, str(script)]
        answer = batch.submit(command, batch.outside(environ), self._take_back)
        job = _job_of(answer.stdout)
        if answer.returncode or not job:
            raise LaunchError(
                f"Slurm refused the job: {refusal(batch.said(answer), partitions())}\n"
                f"The command was: {shlex.join(command)}"
            )
        return job

    def _take_back(self, output: str) -> None:
        if _job_of(output):
            self.cancel([_job_of(output)])

    def query(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        answer = batch.ask(["squeue", "-h", "-r", "-t", "all", "-j", ",".join(ids), "-O", FORMAT])
        # That is said when none of them is known any more.
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise QueueError(f"squeue does not tell of job {', '.join(ids)}: {batch.said(answer)}")
        found = parse_queue(answer.stdout)
        return {job: self._by_whom(job, info) for job, info in found.items() if job in ids}

    def _by_whom(self, job: str, info: JobInfo) -> JobInfo:
        """Return what is known of a job, with who has cancelled it, which only the accounting knows."""
        if info.state != "CANCELLED":
            return info
        told = self._account(job, ACCOUNTED)
        return replace(info, end=told.end) if told.state == "CANCELLED" else info

    def recall(self, job: str) -> JobInfo:
        return self._account(job, batch.PATIENCE)

    def _account(self, job: str, patience: float) -> JobInfo:
        try:
            fields = "State,ExitCode,NodeList,Timelimit"
            answer = batch.ask(["sacct", "-n", "-X", "-P", "-j", job, "-o", fields], timeout=patience)
        except QueueError:
            return forgotten()  # many sites have no accounting
        return parse_accounting(answer.stdout)

    def cancelling(self, ids: Sequence[str]) -> list[str]:
        return ["scancel", *ids]

    def cancel(self, ids: Sequence[str]) -> None:
        answer = batch.ask(self.cancelling(ids))
        if answer.returncode and not re.search("Invalid job id|already completing|completed", answer.stderr):
            raise QueueError(f"scancel {' '.join(ids)}: {batch.said(answer)}")

    def signal(self, job: str, signum: int, *, script: bool) -> None:
        to = ["--batch", job] if script else [f"{job}.0"]
        answer = batch.ask(["scancel", f"--signal={signal_name(signum)}", *to])
        if answer.returncode and not re.search("Invalid job id|already completing|completed", answer.stderr):
            raise QueueError(f"scancel --signal {' '.join(to)}: {batch.said(answer)}")

    def why_never(self, job: str, info: JobInfo) -> str:
        words = never(info.reason)
        if not words:
            return ""
        return (
            f"job {job} will never start ({info.state}, {info.reason}): {words}. What there is: "
            f"{partitions() or 'see sinfo'}"
        )

    def pattern(self, path: str) -> str:
        return path.replace("\\", "\\\\").replace("%", "%%").replace("%%j", "%j")

    def values(self, options: LaunchOptions, ranks: int, log: Path) -> dict[str, str]:
        per_node = options.ntasks_per_node
        if per_node is None and options.nodes:
            per_node = -(-ranks // options.nodes)  # evenly, where Slurm would fill one node after another
        return {
            "ntasks_per_node": str(per_node or ""),
            "requeue": "requeue" if options.requeue else "no-requeue",
            "signal": signal_ahead(options),
            # sbatch has its own patterns in the names of files
            "output": shlex.quote(str(log).replace("\\", "\\\\").replace("%", "%%")),
        }


STARTED = 120  # seconds: Slurm's signal comes up to a minute early, and Python has to be there by then


def signal_ahead(options: LaunchOptions) -> str:
    """Return what sbatch's ``--signal`` is to be: engines are told ahead of the end, for whatever reason.

    Those of a very short job look at the clock alone: a signal would end them while they start.
    """
    if not options.warn_before or (
        options.time and batch.seconds(options.time) < options.warn_before + STARTED
    ):
        return ""
    return f"B:USR1@{options.warn_before}"


def _job_of(output: str) -> str:
    """Return the id that ``sbatch --parsable`` has printed: ``123`` or ``123;cluster``."""
    for line in reversed(output.splitlines()):
        found = re.fullmatch(r"(\d+)(?:;\S*)?", line.strip())
        if found:
            return found.group(1)
    return ""


def forgotten() -> JobInfo:
    """Return all that can be said of a job that nobody knows any more."""
    return JobInfo(Phase.ENDED, "UNKNOWN", end="has ended; Slurm does not know any more how")


def parse_accounting(text: str) -> JobInfo:
    """Return what ``sacct -n -X -P -o State,ExitCode,NodeList,Timelimit`` says of one job."""
    parts = text.strip().splitlines()[-1].split("|") if text.strip() else []
    if len(parts) < 4 or parts[0].split()[0].rstrip("+") not in _ENDED:
        return forgotten()
    code, _, signum = parts[1].partition(":")
    status = _number(code) << 8 | _number(signum)
    nodes = "" if parts[2] in ("None assigned", "None") else parts[2]
    return info_of(parts[0], "", "", nodes, parts[3], status, 0)


SYSTEM = Slurm()


def start_controller(request: ControllerRequest) -> Controller:
    """Submit a job that is a controller, and its engines if it asks for some."""
    return submission.start_controller(SYSTEM, request)


def start_world(request: WorldRequest) -> EngineSet:
    """Submit a job that is one world of engines."""
    return submission.start_world(SYSTEM, request)
