"""Which clusters there are on another host: what it is asked by ssh (`launchers/lookup.sh`), and its answer.

Used by `tunnel`. Nothing here does anything: texts come in, and words or a connection file go out.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from mpiparallel import connection_file
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError, TunnelError

WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
RUNS = ("RUNNING", "COMPLETING")


class JobWaits(TunnelError):
    """The job has not begun yet."""


class ClusterEnded(TunnelError):
    """The connection file is not there any more."""


class NotSeen(TunnelError):
    """The job runs, but its connection file is not to be seen from this host; perhaps it is on the job's."""

    def __init__(self, words: str, host: str) -> None:
        super().__init__(words)
        self.host = host


@dataclass(frozen=True)
class Wanted:
    """Which cluster of the other host.

    Attributes
    ----------
    file : str
        Its connection file there, or the folder that holds it; empty: by the others.
    job : str
        The batch job that its controller or engines are in.
    """

    file: str = ""
    profile: str = ""
    cluster_id: str | None = None
    job: str = ""

    def __str__(self) -> str:
        if self.file:
            return self.file
        if self.job:
            return f"job {self.job}"
        name = f"profile {self.profile}" if self.profile else "the default profile"
        return name + (f", cluster id {self.cluster_id}" if self.cluster_id else "")


@dataclass
class Found:
    """One connection file of the other host."""

    path: str
    mode: str = ""
    content: str = ""
    dead: bool = False  # its controller was on that host, and is not any more
    jobs: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, str]:
        """Profile and cluster id, by the folder."""
        folders = self.path.split("/")[-3:-1]
        if len(folders) < 2:
            return "", ""
        return folders[0], folders[1].removeprefix("cluster").removeprefix("-")

    def info(self, destination: str) -> ConnectionInfo:
        """Return what is in it.

        Raises
        ------
        ConnectionFileError
            If it is no client's connection file, or others can read it.
        """
        where = f"{self.path} on {destination}"
        if self.mode[4:].strip("-."):
            raise ConnectionFileError(
                f"connection file {where} has mode {self.mode}: others can use the key in it. If nobody did, "
                f"run there: chmod 600 {self.path}"
            )
        info = connection_file.parse(self.content, where)
        if info.role != "client":
            name = connection_file.NAMES["client"]
            raise ConnectionFileError(f"{where} is for engines; a client needs the file {name} beside it")
        return info


@dataclass
class Answer:
    """What the other host has said."""

    host: str = ""
    state: str = ""  # the folder where clusters are
    command: str = ""  # where mpiparallel is, in the PATH of a shell without a terminal
    looked: str = ""  # for this one file
    job: str | None = None  # what Slurm says of the job: state|reason|start|host|number
    found: list[Found] = field(default_factory=list)  # the newest first


def question(script: str, mark: str, wanted: Wanted) -> str:
    """Return the text for a shell on the other host."""
    values = {"mark": mark, "file": wanted.file, "job": wanted.job}
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()) + script


def parse(text: str, mark: str, destination: str) -> Answer:
    """Return what the answer says.

    Raises
    ------
    TunnelError
        If it is cut off, or none at all.
    """
    answer = Answer()
    one: Found | None = None
    whole = False
    for line in text.splitlines():
        if not line.startswith(f"{mark} "):
            if one is not None:
                one.content += line + "\n"
            continue
        key, _, value = line[len(mark) + 1 :].partition(" ")
        if key == "file":
            one = Found(value)
        elif key == "end" and one is not None:
            answer.found.append(one)
            one = None
        elif key == "dead" and one is not None:
            one.dead = True
        elif key == "mode" and one is not None:
            one.mode = value
        elif key == "of" and one is not None:
            one.jobs.append(value)
        elif key == "complete":
            whole = True
        elif key in ("host", "state", "command", "looked", "job"):
            setattr(answer, key, value)
    if not whole:
        raise TunnelError(
            f"{destination} did not answer as a shell does; it said: {text.strip()[-500:] or 'nothing'}. "
            f"See what this prints: ssh {destination} 'echo hello'"
        )
    return answer


def choose(answer: Answer, wanted: Wanted, destination: str) -> Found:
    """Return the connection file that is wanted.

    Where no cluster is named it is the profile's main cluster if that runs, or else the one whose file is
    the newest, as on that host itself.

    Raises
    ------
    JobWaits, NotSeen, ClusterEnded, TunnelError
        If there is none; the message says what there is, and what to do.
    """
    if wanted.file:
        if wanted.job and _is_over(answer):
            state = _state(answer) or "it is not known any more"
            raise ClusterEnded(f"job {wanted.job}, which the controller was in, has ended ({state}).")
        if answer.found:
            return _alive(answer.found, wanted, answer, destination)
        raise ClusterEnded(
            f"there is no {answer.looked} on {destination}: that cluster was stopped, or its file is "
            "elsewhere. Without a path, the clusters are looked up there."
        )
    if wanted.job:
        # A job of an array has a number of its own, too.
        names = {wanted.job, (answer.job or "").rpartition("|")[2]} - {""}
        ours = [one for one in answer.found if names & {job_of(one), *one.jobs}]
        if _is_over(answer):  # files of a controller that was killed stay
            ours = [one for one in ours if job_of(one) not in names]
        if ours:
            return _alive(ours, wanted, answer, destination)
        raise _no_job(answer, wanted, destination)
    profile = wanted.profile or "default"
    ours = [one for one in answer.found if one.names[0] == profile]
    if wanted.cluster_id is not None:
        ours = [one for one in ours if one.names[1] == wanted.cluster_id]
    else:
        ours.sort(key=lambda one: one.names[1] != "")  # stable: the newest of the others stays first
    if not ours:
        raise TunnelError(
            f"no cluster of {wanted} runs on {destination}. {_others(answer, destination)}"
        )
    return _alive(ours, wanted, answer, destination)


def _alive(ours: list[Found], wanted: Wanted, answer: Answer, destination: str) -> Found:
    for one in ours:
        if not one.dead:
            return one
    raise TunnelError(
        f"the controller of {wanted} on {destination} has died: {ours[0].path} was left behind. Start a "
        f"cluster there with: mpiparallel start -n 4 --daemonize. {_others(answer, destination)}".rstrip()
    )


def _state(answer: Answer) -> str:
    """The state of the job, as far as Slurm has said one."""
    return answer.job.partition("|")[0] if answer.job is not None and "|" in answer.job else ""


def _is_over(answer: Answer) -> bool:
    """Whether the job has ended for good; one of which nothing is known has not."""
    state = _state(answer)
    return "Invalid job id" in (answer.job or "") or (state != "" and state not in (*WAITS, *RUNS))


def job_of(one: Found) -> str:
    """The job that a controller runs in, by its connection file."""
    try:
        return connection_file.parse(one.content).job
    except ConnectionFileError:
        return ""


def _no_job(answer: Answer, wanted: Wanted, destination: str) -> TunnelError:
    """Return the error for a job that no cluster belongs to."""
    state = _state(answer)
    reason, start, host = (*(answer.job or "").split("|")[1:], "", "", "")[:3]
    others = _others(answer, destination)
    if state in WAITS:
        when = f", it is expected to start at {start.replace('T', ' ')}" if start not in ("", "N/A") else ""
        because = f" ({reason})" if reason not in ("", "None") else ""
        return JobWaits(
            f"job {wanted.job} is {state}{because}{when}: there is nothing to connect to yet. Try again when "
            f"it runs, or let the command wait for it: mpiparallel attach --wait {destination}:{wanted.job}"
        )
    if state in RUNS:
        return NotSeen(
            f"job {wanted.job} is {state} on {host or 'a node'}, but no cluster of it is to be seen in "
            f"{answer.state} on {destination}. If it has only begun, try again; if its connection file is "
            f"elsewhere (MPIPARALLEL_STATE), give its path. {others}",
            "" if host == "n/a" else host,
        )
    if state:
        return TunnelError(f"job {wanted.job} has ended ({state}), and its cluster with it. {others}")
    if answer.job is None:
        return TunnelError(
            f"no cluster of job {wanted.job} is to be seen in {answer.state} on {destination}, where there "
            f"is no squeue to ask about the job. {others}"
        )
    said = answer.job or "nothing"
    return TunnelError(f"there is no job {wanted.job} on {destination}: squeue says: {said}. {others}")


def _others(answer: Answer, destination: str) -> str:
    """Say which clusters there are instead, or that there are none."""
    words = []
    for one in answer.found:
        if one.dead:
            continue
        profile, cluster_id = one.names
        about = [f"profile {profile!r}"]
        if cluster_id:
            about.append(f"cluster id {cluster_id!r}")
        jobs = list(dict.fromkeys(filter(None, [job_of(one), *one.jobs])))
        if jobs:
            about.append(f"job {', '.join(jobs)}")
        words.append(" ".join(about))
    if words:
        return f"There are: {'; '.join(words)}."
    nothing = f"There are no clusters at all in {answer.state}"
    if answer.command:
        return f"{nothing}; start one there with: mpiparallel start -n 4 --daemonize."
    return (
        f"{nothing}, and no command mpiparallel is in the PATH there. Log in, load what makes it available, "
        "and start one with: mpiparallel start -n 4 --daemonize. If its files are elsewhere "
        "(MPIPARALLEL_STATE), give the path of its client.json."
    )


def candidates(info: ConnectionInfo, host: str) -> list[str]:
    """Return the controller's addresses as `host` may reach them, the likeliest first."""
    inside = [address for address in info.addresses if is_loopback(address)]
    outside = [address for address in info.addresses if not is_loopback(address)]
    return inside + outside if info.host == host else outside


def is_loopback(address: str) -> bool:
    """Whether an address is one of the host itself."""
    return any(f"//{local}" in address for local in ("127.", "localhost", "[::1]"))


def job_name(job: Any) -> str:
    """Return a job's number as text; None: none.

    Raises
    ------
    ValueError
        If it cannot be one.
    """
    if job is None:
        return ""
    text = str(job)
    if isinstance(job, bool) or not re.fullmatch(r"\d[\w.\[\]-]*", text):
        raise ValueError(f"job={job!r}: a batch job is named by its number")
    return text
