"""The batch job that a process is in, and what the batch system says of it, in words for people.

Reading the answers is pure; only `Question` runs a program. Engines ask for the time limit, controllers and
clients why a job has ended: none of them may import `launch`, which starts jobs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

PATIENCE = 10.0  # seconds that the batch system has for an answer
ENOUGH = 256 << 10  # bytes of it


class BatchJob(NamedTuple):
    """A job; `restarts` says how often it was requeued."""

    system: str
    id: str
    restarts: int = 0

    def __str__(self) -> str:
        return f"job {self.id}"

    @property
    def name(self) -> str:
        """What peers are told: the same after a requeue."""
        return f"{self.system}:{self.id}"


def named(name: str, restarts: int = 0) -> BatchJob | None:
    """Return the job of a `BatchJob.name`; None for what is none."""
    system, _, number = name.partition(":")
    return BatchJob(system, number, restarts) if system in _QUESTIONS and _IDS.fullmatch(number) else None


def from_environment(environ: Mapping[str, str] | None = None) -> BatchJob | None:
    """Return the job that this process is in, if it is in one."""
    environ = os.environ if environ is None else environ
    restarts = environ.get("SLURM_RESTART_COUNT", "")
    candidates = [
        ("slurm", environ.get("SLURM_JOB_ID", ""), int(restarts) if restarts.isdigit() else 0),
        ("pbs", environ.get("PBS_JOBID", ""), 0),
        ("lsf", environ.get("LSB_JOBID", ""), 0),
    ]
    if environ.get("SLURM_ARRAY_JOB_ID") and environ.get("SLURM_ARRAY_TASK_ID"):
        number = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
        candidates[0] = ("slurm", number, candidates[0][2])
    if environ.get("LSB_JOBINDEX", "0") not in ("", "0"):
        candidates[2] = ("lsf", f"{candidates[2][1]}[{environ['LSB_JOBINDEX']}]", 0)
    return next((BatchJob(*one) for one in candidates if _IDS.fullmatch(one[1])), None)


# ---------------------------------------------------------------- questions

_IDS = re.compile(r"\d[\w.\[\]+-]*")  # what can be an argument of a command: no option, nothing for a shell

_QUESTIONS = {
    "slurm": ("scontrol", "--oneliner", "show", "job"),
    "pbs": ("qstat", "-x", "-f"),
    "lsf": ("bjobs", "-noheader", "-a", "-o", "stat exit_reason time_left delimiter='|'"),
}


def question(job: BatchJob) -> list[str]:
    """Return the command that tells of a job."""
    return [*_QUESTIONS[job.system], job.id]


def nodes_question(hosts: Sequence[str]) -> list[str]:
    """Return the command that tells how Slurm's nodes are."""
    return ["sinfo", "--noheader", "--Node", "--nodes", ",".join(sorted(set(hosts))), "--format", "%N|%T|%E"]


def who_question(job: BatchJob) -> list[str]:
    """Return the command that tells who has cancelled a job, where Slurm keeps accounts."""
    return ["sacct", "--allocations", "--noheader", "--parsable2", "--format", "State", "--jobs", job.id]


class Question:
    """A program that was asked something; `answer` is there when it has ended."""

    def __init__(self, command: Sequence[str], patience: float = PATIENCE) -> None:
        self._until = time.monotonic() + patience
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # there is no such program here: the answer is none
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"},
                start_new_session=True,
            )
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
        self._said = b""

    @property
    def answered(self) -> bool:
        """Whether it has ended, or has had its time. Asked again and again."""
        process = self._process
        if process is None:
            return True
        assert process.stdout is not None
        while len(self._said) < ENOUGH and (more := process.stdout.read(ENOUGH)):
            self._said += more
        return process.poll() is not None or time.monotonic() >= self._until

    @property
    def text(self) -> str | None:
        """What it said; None if nothing is known, as it took too long or is not there."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._said = b""
        assert process.stdout is not None
        said = self._said + (process.stdout.read() or b"")
        process.stdout.close()
        return said.decode(errors="replace") or None

    def wait(self, patience: float = PATIENCE) -> str | None:
        """Return what it says, after waiting for it."""
        self._until = min(self._until, time.monotonic() + patience)
        while not self.answered:
            time.sleep(0.01)
        return self.text

    def close(self) -> None:
        """Forget it."""
        self._until = 0.0
        self.text  # noqa: B018 (which ends it)


def can_ask(job: BatchJob) -> bool:
    """Whether the batch system of a job can be asked from this host."""
    return shutil.which(_QUESTIONS[job.system][0]) is not None


# ---------------------------------------------------------------- answers

Phase = Literal["runs", "ends", "waits", "ended", "unknown"]


class Facts(NamedTuple):
    """What the batch system says of a job.

    Attributes
    ----------
    phase
        ``waits``: in the queue, perhaps again; ``ends``: it is just coming to an end.
    state, reason
        In the batch system's own words.
    ends_at : float, optional
        When its time is over, in seconds since the epoch; None: never, or nobody knows.
    limit : str
        The time limit as the batch system writes it.
    preempted : bool
        Whether it has to make room for others.
    """

    phase: Phase
    state: str = ""
    reason: str = ""
    restarts: int = 0
    ends_at: float | None = None
    limit: str = ""
    exit_code: int = 0
    signal: int = 0
    preempted: bool = False


UNKNOWN = Facts("unknown")


def facts(job: BatchJob, text: str | None, now: float) -> Facts:
    """Read the answer to `question`; `now` is the time since the epoch."""
    return _READERS[job.system](text, now) if text else UNKNOWN


def _phases(**states: str) -> dict[str, Phase]:
    """Return the phase of each state; the keywords are phases."""
    return {state: phase for phase, several in states.items() for state in several.split()}  # type: ignore[misc]


_SLURM_PHASES = _phases(
    runs="RUNNING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT",
    waits="PENDING REQUEUED REQUEUE_HOLD REQUEUE_FED CONFIGURING SPECIAL_EXIT RESV_DEL_HOLD",
    ends="COMPLETING",
    ended="COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED OUT_OF_MEMORY DEADLINE BOOT_FAIL REVOKED",
)
_PBS_PHASES = _phases(runs="R S B", waits="Q H W T M U", ends="E", ended="F C X")
_LSF_PHASES = _phases(runs="RUN USUSP SSUSP", waits="PEND PSUSP WAIT", ended="DONE EXIT")
_LSF_REASONS = {  # in Slurm's words
    "TERM_RUNLIMIT": "TIMEOUT",
    "TERM_OWNER": "CANCELLED",
    "TERM_ADMIN": "CANCELLED",
    "TERM_FORCE_OWNER": "CANCELLED",
    "TERM_FORCE_ADMIN": "CANCELLED",
    "TERM_MEMLIMIT": "OUT_OF_MEMORY",
    "TERM_PREEMPT": "PREEMPTED",
}


def _slurm(text: str, now: float) -> Facts:
    if "Invalid job id specified" in text:
        return Facts("ended")
    found = re.search(r"\bJobState=(\w+) Reason=(\S*)", text)
    if found is None or found[1] not in _SLURM_PHASES:
        return UNKNOWN

    def value(key: str) -> str:
        one = re.search(rf" {key}=(\S*)", text[found.end() :])
        return one[1] if one else ""

    limit, (code, _, signum) = value("TimeLimit"), value("ExitCode").partition(":")
    return Facts(
        _SLURM_PHASES[found[1]],
        found[1],
        "" if found[2] == "None" else found[2],
        _whole(value("Restarts")),
        None if limit in ("", "UNLIMITED", "Partition_Limit") else _moment(value("EndTime")),
        limit,
        _whole(code),
        _whole(signum),
        value("PreemptTime") not in ("", "None", "Unknown", "N/A"),
    )


def _pbs(text: str, now: float) -> Facts:
    state = re.search(r"^\s*job_state = (\w)", text, re.M)
    if state is None:
        return Facts("ended") if "Unknown Job" in text or "has finished" in text else UNKNOWN

    def value(key: str) -> str:
        one = re.search(rf"^\s*{re.escape(key)} = (.*)", text, re.M)
        return one[1].strip() if one else ""

    limit, used = _clock(value("Resource_List.walltime")), _clock(value("resources_used.walltime")) or 0.0
    phase = _PBS_PHASES.get(state[1], "unknown")
    ends_at = now + limit - used if limit is not None and phase == "runs" else None
    over = phase == "ended" and limit is not None and used >= limit
    runs, code = _whole(value("run_count")), _whole(value("Exit_status"))
    word = "TIMEOUT" if over else ""
    return Facts(phase, word, "", max(0, runs - 1), ends_at, value("Resource_List.walltime"), code)


def _lsf(text: str, now: float) -> Facts:
    if "is not found" in text:
        return Facts("ended")
    state, _, rest = text.strip().partition("|")
    reason, _, left = rest.partition("|")
    if state not in _LSF_PHASES:
        return UNKNOWN
    time_left = re.match(r"(\d+):(\d+)", left)  # hours and minutes
    ends_at = now + int(time_left[1]) * 3600 + int(time_left[2]) * 60 if time_left else None
    word = next((word for sign, word in _LSF_REASONS.items() if reason.startswith(sign)), "")
    return Facts(_LSF_PHASES[state], word, "" if reason == "-" else reason, 0, ends_at)


_READERS: dict[str, Callable[[str, float], Facts]] = {"slurm": _slurm, "pbs": _pbs, "lsf": _lsf}


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _moment(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def _clock(text: str) -> float | None:
    """Return the seconds of ``H:MM:SS``."""
    parts = text.split(":")
    if not text or not all(part.isdigit() for part in parts):
        return None
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds


def failed_nodes(text: str | None) -> list[tuple[str, str]]:
    """Return nodes that do not work, and why, from the answer to `nodes_question`."""
    found = []
    for line in (text or "").splitlines():
        node, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if state.startswith(("down", "fail")) or state.endswith("*"):
            found.append((node, "" if reason == "none" else reason))
    return list(dict.fromkeys(found))


def canceller(text: str | None) -> str:
    """Return who has cancelled a job, from the answer to `who_question`; "" when that is not known."""
    found = re.match(r"CANCELLED by (\d+)", text or "")
    if found is None:
        return ""
    try:
        return pwd.getpwuid(int(found[1])).pw_name
    except KeyError:
        return f"user {found[1]}"


# ---------------------------------------------------------------- words

_WORDS = {
    "TIMEOUT": "reached its time limit",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "was preempted: others needed its nodes",
    "NODE_FAIL": "has ended: one of its nodes failed",
    "OUT_OF_MEMORY": "ran out of memory",
    "DEADLINE": "reached its deadline",
    "BOOT_FAIL": "has ended: its nodes could not be booted",
    "REVOKED": "was taken over by another cluster",
}


def told(facts: Facts) -> bool:
    """Whether the batch system says why a job has ended, and not only that."""
    return facts.state in _WORDS


def words(job: BatchJob, facts: Facts, nodes: Sequence[tuple[str, str]] = (), who: str = "") -> str:
    """Return why a job has ended, or waits again: ``job 123 reached its time limit of 00:01:00``."""
    failed = _nodes(nodes)
    if facts.phase == "waits":
        if failed:
            return f"{failed}: {job} was requeued"
        return f"{job} was preempted and requeued" if facts.preempted else f"{job} was requeued"
    text = _WORDS.get(facts.state)
    if facts.state == "NODE_FAIL" and failed:
        return f"{failed}, and with {'it' if len(nodes) == 1 else 'them'} {job} has ended"
    if facts.state == "TIMEOUT" and facts.limit:
        text = f"{text} of {facts.limit}"
    if text is not None:
        return f"{job} {text}{f' by {who}' if who and facts.state == 'CANCELLED' else ''}"
    if facts.signal:
        return f"{job} was ended by signal {facts.signal}"
    return f"{job} has ended" + (f" with exit code {facts.exit_code}" if facts.exit_code else "")


def why_killed(patience: float = 1.5) -> str:
    """Return why the batch system ends the job of this process, which got a SIGTERM; "" if it does not."""
    job = from_environment()
    if job is None or not can_ask(job):
        return ""
    return being_ended(job, facts(job, Question(question(job)).wait(patience), time.time()))


_COMPLETING = {"TimeLimit": "TIMEOUT", "NodeDown": "NODE_FAIL", "Preempted": "PREEMPTED"}


def being_ended(job: BatchJob, facts: Facts) -> str:
    """Return why a job is just coming to an end, or has; "" while it runs on."""
    if facts.phase in ("ended", "waits"):
        return words(job, facts)
    if facts.phase != "ends":
        return ""
    if facts.restarts > job.restarts:
        return words(job, facts._replace(phase="waits"))
    if facts.reason in _COMPLETING:
        return words(job, facts._replace(state=_COMPLETING[facts.reason]))
    return f"{job} was cancelled, or its script has ended"


def _nodes(nodes: Sequence[tuple[str, str]]) -> str:
    if not nodes:
        return ""
    names = ", ".join(name for name, _ in nodes)
    why = ", ".join(dict.fromkeys(reason for _, reason in nodes if reason))
    return f"node{'s' * (len(nodes) > 1)} {names} failed" + (f" ({why})" if why else "")


# In the output of a job: what Slurm's daemons and srun write there.
_CANCELLED = re.compile(r"error: \*\*\* (JOB|STEP) (\S+) ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+\b))?")
_NODE = re.compile(r"^srun: error: Node failure on (\S+)", re.M)


def said(job: BatchJob, log: str) -> str:
    """Return what the output of a job says of its end, where the batch system itself cannot be asked."""
    if job.system != "slurm":
        return ""
    node = _NODE.search(log)
    if node is not None:
        return f"node {node[1]} failed, and {job} lost its engines there"
    for kind, number, why in reversed(_CANCELLED.findall(log)):
        if number.partition(".")[0] != job.id.partition("_")[0] and "_" not in job.id:
            continue
        if why == "TIME LIMIT":
            return words(job, Facts("ended", "TIMEOUT"))
        if why == "PREEMPTION":
            return words(job, Facts("ended", "PREEMPTED"))
        if why.startswith("NODE FAIL"):
            return words(job, Facts("ended", "NODE_FAIL"))
        if why.startswith("JOB REQUEUE"):
            return words(job, Facts("waits"))
        if kind == "JOB" and not why:  # srun ends a step for a rank's failure, too
            return words(job, Facts("ended", "CANCELLED"))
    return ""
