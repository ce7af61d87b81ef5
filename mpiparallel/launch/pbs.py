"""PBS Professional and OpenPBS: ``qsub``, ``qstat``, ``qsig``, ``qdel``, and what they say."""

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

_STATES = {
    "B": "BEGUN", "E": "EXITING", "F": "FINISHED", "H": "HELD", "M": "MOVED", "Q": "QUEUED", "R": "RUNNING",
    "S": "SUSPENDED", "T": "TRANSITING", "U": "SUSPENDED", "W": "WAITING", "X": "FINISHED", "C": "COMPLETED",
}  # fmt: skip
_WAITING = {"HELD", "MOVED", "QUEUED", "TRANSITING", "WAITING"}
_ENDED = {"FINISHED", "COMPLETED"}


def parse_status(text: str) -> dict[str, dict[str, str]]:
    """Return what ``qstat -f`` says: the attributes of each job, long lines joined."""
    jobs: dict[str, dict[str, str]] = {}
    attributes: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("Job Id:"):
            attributes = jobs.setdefault(line.partition(":")[2].strip(), {})
        elif line.startswith("\t") and name:
            attributes[name] += line.strip()
        elif " = " in line:
            name, _, value = line.strip().partition(" = ")
            attributes[name] = value
    return jobs


def info_of(attributes: Mapping[str, str]) -> JobInfo:
    """Return what the attributes of one job mean."""
    state = _STATES.get(attributes.get("job_state", ""), "UNKNOWN")
    phase = Phase.WAITING if state in _WAITING else Phase.ENDED if state in _ENDED else Phase.RUNNING
    start = attributes.get("estimated.start_time", "") if phase is Phase.WAITING else ""
    nodes = "+".join(dict.fromkeys(re.findall(r"([\w.-]+)/", attributes.get("exec_host", ""))))
    limit = attributes.get("Resource_List.walltime", "")
    comment = attributes.get("comment", "")
    info = JobInfo(
        phase,
        state,
        re.sub(r"^Not Running: ", "", comment) if phase is Phase.WAITING else "",
        start,
        nodes,
        limit,
        restarts=max(0, int(attributes.get("run_count", "1") or 1) - 1),
    )
    if phase is not Phase.ENDED:
        return info
    status = attributes.get("Exit_status", attributes.get("exit_status", ""))
    code = int(status) if status.lstrip("-").isdigit() else None
    if code is not None and code > 256:
        code = -(code - 256)  # 256 and the signal
    words = f"job killed: walltime|{re.escape('exceeded limit')}"
    if re.search(words, comment, re.IGNORECASE) or (code == -29):
        end = f"reached its time limit{f' of {limit}' if limit else ''}"
    elif code is None:
        end = f"ended ({comment})" if comment else "ended; PBS does not say how"
    elif code < 0:
        end = _by_negative(code)
    else:
        end = f"{'failed' if code else 'ended'} with exit code {code}" + (f" on {nodes}" if nodes else "")
    return JobInfo(phase, state, "", "", nodes, limit, code, info.restarts, end)


# What PBS itself calls an end, by its JOB_EXEC_... numbers; the signals come from above 256.
_CODES = {
    -1: "could not be started",
    -2: "could not be started",
    -3: "could not be started, and may be again",
}


def _by_negative(code: int) -> str:
    if code in _CODES:
        return f"{_CODES[code]} by PBS ({code})"
    return f"was killed by SIG{signal_name(-code)}"


class PBS(System):
    """PBS Professional, or OpenPBS."""

    name = "pbs"
    title = "PBS"
    suffix = "pbs"
    job_variable = "PBS_JOBID"
    hostfile = "$PBS_NODEFILE"

    def submit(self, script: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
        command = ["qsub", *arguments, str(script)]
        answer = batch.submit(command, batch.outside(environ), self._take_back)
        job = _job_of(answer.stdout)
        if answer.returncode or not job:
            raise LaunchError(
                f"PBS refused the job: {batch.advised(batch.said(answer), _REMEDIES)}\n"
                f"The command was: {shlex.join(command)}"
            )
        return job

    def _take_back(self, output: str) -> None:
        if _job_of(output):
            self.cancel([_job_of(output)])

    def query(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        # -x: also those that have ended. Its exit code is not zero as soon as one is not known any more.
        answer = batch.ask(["qstat", "-x", "-f", *ids])
        found = {job: info_of(attributes) for job, attributes in parse_status(answer.stdout).items()}
        if answer.returncode and not found and not re.search(r"Unknown Job|Unknown queue", answer.stderr):
            raise QueueError(f"qstat does not tell of job {', '.join(ids)}: {batch.said(answer)}")
        return {job: info for job, info in found.items() if job in ids}

    def recall(self, job: str) -> JobInfo:
        return JobInfo(Phase.ENDED, "UNKNOWN", end="has ended; PBS does not know any more how")

    def cancelling(self, ids: Sequence[str]) -> list[str]:
        return ["qdel", *ids]

    def cancel(self, ids: Sequence[str]) -> None:
        answer = batch.ask(self.cancelling(ids))
        if answer.returncode and not re.search("Unknown Job|has finished|already", answer.stderr):
            raise QueueError(f"qdel {' '.join(ids)}: {batch.said(answer)}")

    def signal(self, job: str, signum: int, *, script: bool) -> None:
        # It goes to the processes of the batch script; mpiexec passes it on to the ranks.
        answer = batch.ask(["qsig", "-s", f"SIG{signal_name(signum)}", job])
        if answer.returncode and not re.search("Unknown Job|has finished|not running", answer.stderr):
            raise QueueError(f"qsig {job}: {batch.said(answer)}")

    def why_never(self, job: str, info: JobInfo) -> str:
        if re.search(r"never run|cannot be satisfied|exceeds? .*maximum", info.reason, re.IGNORECASE):
            there = "qstat -Qf and pbsnodes -a say what there is"
            return f"job {job} will never start ({info.state}): {info.reason}. {there}"
        return ""

    def values(self, options: LaunchOptions, ranks: int, log: Path) -> dict[str, str]:
        nodes = options.nodes or 1
        per_node = options.ntasks_per_node or -(-ranks // nodes)
        if options.nodes is None and options.ntasks_per_node:
            nodes = -(-ranks // per_node)
        chunk = [f"{nodes}", f"ncpus={per_node * (options.cpus_per_task or 1)}", f"mpiprocs={per_node}"]
        chunk += [f"mem={options.mem}"] if options.mem else []
        chunk += [options.gres.replace("gres/", "").replace(":", "=")] if options.gres else []
        return {
            "select": shlex.quote(":".join(chunk)),
            "time": _hours(options.time),
            "requeue": "y" if options.requeue else "n",
            # 15 characters in old versions, and no blanks in any
            "job_name": re.sub(r"[^\w.+-]", "_", options.job_name or "mpiparallel")[:15],
            "output": shlex.quote(str(log)),
        }


def _hours(time: str) -> str:
    if not time:
        return ""
    minutes, seconds = divmod(batch.seconds(time), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}"


_REMEDIES = (
    (r"Unknown queue", "qstat -Q says which queues there are (partition=, -p)"),
    (r"Invalid account|Unauthorized Request|group", "Give an account that may use this queue (account=, -A)"),
    (r"exceeds|Violates|limits", "qstat -Qf says what each queue gives (n, nodes, time, mem)"),
    (r"cannot connect|Connection refused|No route", "The PBS server does not answer: try again later"),
    (r"usage:|invalid option|illegal -", "man qsub says what there is (batch_args)"),
)


def _job_of(output: str) -> str:
    """Return the id that ``qsub`` has printed: ``123.server``."""
    for line in reversed(output.splitlines()):
        if re.fullmatch(r"\d+(?:\[\])?(?:\.[\w.-]+)?", line.strip()):
            return line.strip()
    return ""


SYSTEM = PBS()


def start_controller(request: ControllerRequest) -> Controller:
    """Submit a job that is a controller, and its engines if it asks for some."""
    return submission.start_controller(SYSTEM, request)


def start_world(request: WorldRequest) -> EngineSet:
    """Submit a job that is one world of engines."""
    return submission.start_world(SYSTEM, request)
