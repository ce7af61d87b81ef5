"""LSF: ``bsub``, ``bjobs``, ``bkill``, and what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpiparallel.error import LaunchError
from mpiparallel.launch import batch, submission
from mpiparallel.launch.batch import JobInfo, Phase, QueueError, System
from mpiparallel.launch.jobs import signal_name
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

FIELDS = ("jobid", "stat", "exit_code", "exec_host", "estimated_start_time", "exit_reason", "pend_reason")
FORMAT = " ".join(FIELDS) + " delimiter='|'"
_WAITING = {"PEND", "PSUSP", "WAIT", "PROV"}
_ENDED = {"DONE", "EXIT", "ZOMBI"}

# What `exit_reason` begins with, and words that continue "job 123 ...".
_REASONS = (
    (r"TERM_RUNLIMIT", "reached its time limit"),
    (r"TERM_MEMLIMIT|TERM_SWAP", "ran out of memory: ask for more (mem)"),
    (r"TERM_OWNER|TERM_FORCE_OWNER", "was cancelled by its owner"),
    (r"TERM_ADMIN|TERM_FORCE_ADMIN", "was cancelled by an administrator"),
    (r"TERM_PREEMPT|TERM_REQUEUE", "was preempted by a job of higher priority"),
    (r"TERM_(?:ZOMBIE|SLURM|OTHER|REMOVE|EXTERNAL)", ""),
)


def parse_jobs(text: str) -> dict[str, JobInfo]:
    """Return what ``bjobs -noheader -o`` in our format says, by job."""
    found = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|", len(FIELDS) - 1)]
        if len(parts) == len(FIELDS) and parts[0].isdigit():
            job, *rest = ("" if part == "-" else part for part in parts)
            found[job] = info_of(*rest)
    return found


def info_of(state: str, code: str, hosts: str, start: str, why: str, pending: str) -> JobInfo:
    """Return what these words of LSF mean."""
    phase = Phase.WAITING if state in _WAITING else Phase.ENDED if state in _ENDED else Phase.RUNNING
    nodes = "+".join(dict.fromkeys(re.sub(r"^\d+\*", "", host) for host in hosts.split(":") if host))
    if phase is not Phase.ENDED:
        return JobInfo(phase, state, pending.rstrip(";. ") if phase is Phase.WAITING else "", start, nodes)
    status = int(code) if code.isdigit() else 0 if state == "DONE" else 1
    if status > 128:
        status = 128 - status  # by a signal
    end = next((words for pattern, words in _REASONS if words and re.match(pattern, why)), "")
    if not end and status < 0:
        end = f"was killed by SIG{signal_name(-status)}"
    on = f" on {nodes}" if nodes else ""
    return JobInfo(
        phase, state, "", "", nodes, exit_code=status,
        end=end or f"{'failed' if status else 'ended'} with exit code {status}{on}",
    )  # fmt: skip


class LSF(System):
    """LSF."""

    name = "lsf"
    title = "LSF"
    suffix = "bsub"
    job_variable = "LSB_JOBID"
    hostfile = "$LSB_DJOB_HOSTFILE"

    def submit(self, script: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
        # bsub reads directives from its standard input only.
        command = ["bsub", *arguments]
        answer = batch.submit(command, batch.outside(environ), self._take_back, script)
        job = _job_of(answer.stdout)
        if answer.returncode or not job:
            raise LaunchError(
                f"LSF refused the job: {batch.advised(batch.said(answer), _REMEDIES)}\n"
                f"The command was: {shlex.join(command)} < {shlex.quote(str(script))}"
            )
        return job

    def _take_back(self, output: str) -> None:
        if _job_of(output):
            self.cancel([_job_of(output)])

    def query(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        # -a: also those that have ended not long ago. It exits with 255 when one is not known any more.
        answer = batch.ask(["bjobs", "-a", "-noheader", "-o", FORMAT, *ids])
        found = parse_jobs(answer.stdout)
        if answer.returncode and not found and "is not found" not in answer.stderr:
            raise QueueError(f"bjobs does not tell of job {', '.join(ids)}: {batch.said(answer)}")
        return {job: info for job, info in found.items() if job in ids}

    def recall(self, job: str) -> JobInfo:
        return JobInfo(Phase.ENDED, "UNKNOWN", end="has ended; LSF does not know any more how")

    def cancelling(self, ids: Sequence[str]) -> list[str]:
        return ["bkill", *ids]

    def cancel(self, ids: Sequence[str]) -> None:
        answer = batch.ask(self.cancelling(ids))
        if answer.returncode and not re.search(
            "already finished|No matching job", answer.stderr + answer.stdout
        ):
            raise QueueError(f"bkill {' '.join(ids)}: {batch.said(answer)}")

    def signal(self, job: str, signum: int, *, script: bool) -> None:
        # It goes to all processes of the job on its first host; mpiexec passes it on.
        answer = batch.ask(["bkill", "-s", signal_name(signum), job])
        if answer.returncode and not re.search(
            "already finished|No matching job", answer.stderr + answer.stdout
        ):
            raise QueueError(f"bkill -s {job}: {batch.said(answer)}")

    def why_never(self, job: str, info: JobInfo) -> str:
        if re.search(r"never|cannot be satisfied|invalid|does not exist", info.reason, re.IGNORECASE):
            there = "bqueues -l and bhosts say what there is"
            return f"job {job} will never start ({info.state}): {info.reason}. {there}"
        return ""

    def pattern(self, path: str) -> str:
        return path.replace("%", "%%").replace("%%j", "%J")

    def values(self, options: LaunchOptions, ranks: int, log: Path) -> dict[str, str]:
        per_node = options.ntasks_per_node
        if per_node is None and options.nodes:
            per_node = -(-ranks // options.nodes)
        needs = []
        if options.constraint:
            needs.append(f"select[{options.constraint}]")
        if per_node:
            needs.append(f"span[ptile={per_node}]")
        if options.cpus_per_task:
            needs.append(f"affinity[core({options.cpus_per_task})]")
        return {
            "needs": shlex.quote(" ".join(needs)) if needs else "",
            "time": _minutes(options.time),
            "requeue": "r" if options.requeue else "rn",
            "output": shlex.quote(str(log).replace("%", "%%")),
        }


def _minutes(time: str) -> str:
    if not time:
        return ""
    minutes = -(-batch.seconds(time) // 60)
    return f"{minutes // 60}:{minutes % 60:02}"


_REMEDIES = (
    (r"No such queue|queue.*not exist", "bqueues says which queues there are (partition=, -p)"),
    (r"project|user group|User cannot use", "Give a project that may use this queue (account=, -A)"),
    (
        r"[Rr]un ?limit|RUNLIMIT|[Tt]oo many processors|limit",
        "bqueues -l says what each queue gives (n, nodes, time)",
    ),
    (r"Failed in an LSF library call|LSF is down|Cannot connect", "LSF does not answer: try again later"),
    (r"[Bb]ad resource requirement", "bhosts and lshosts say what there is (constraint=, gres=)"),
    (r"[Ii]llegal option|Usage:", "bsub -h says what there is (batch_args)"),
)


def _job_of(output: str) -> str:
    """Return the id in what ``bsub`` has printed: ``Job <123> is submitted to queue <normal>.``."""
    found = re.search(r"Job <(\d+)> is submitted", output)
    return found.group(1) if found else ""


SYSTEM = LSF()


def start_controller(request: ControllerRequest) -> Controller:
    """Submit a job that is a controller, and its engines if it asks for some."""
    return submission.start_controller(SYSTEM, request)


def start_world(request: WorldRequest) -> EngineSet:
    """Submit a job that is one world of engines."""
    return submission.start_world(SYSTEM, request)
