"""Which rank of a world died first, and how: judged from what the kernel, the launcher and the ranks said.

``mpiexec`` kills the others within milliseconds of the first death, so that the first is not always the
one that was seen first. The log tells: Open MPI and MPICH name the rank or process, ``srun`` the task,
Python's `faulthandler` the place of a crash, and an engine where it called ``os._exit`` or ``MPI_Abort``::

    mpiparallel: rank 3 (pid 123) calls os._exit(3) at cell line 2
    mpiparallel: rank 3 (pid 123) called MPI_Abort(7) at cell line 2

No clock, file or process in here: `deaths` uses it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

CRASHES = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP"}
SILENT = "is gone without a word: killed by SIGKILL, or ended in C code"
_DOUBT = ", the first that was seen to end"
_EXIT = "ended by itself with exit code "
OOM = "ran out of memory: the kernel's OOM killer ended it"


class Death(NamedTuple):
    """The end of one rank's process. `status` is as of ``os.wait``, if known; `oom` what the kernel said;
    `asked` whether a client had it killed.
    """

    rank: int
    status: int | None = None
    oom: bool = False
    asked: bool = False


class Cause(NamedTuple):
    """What is told of the end of a world, or of a rank. `final`: waiting will not make it better."""

    rank: int
    text: str
    final: bool

    @property
    def in_doubt(self) -> bool:
        """Whether another rank may have been the first."""
        return self.text.endswith(_DOUBT)


class _Said(NamedTuple):
    """What a log says of the end of a rank.

    `sure`: it names the culprit, not just one that ended. `weak`: perhaps one that the launcher has killed:
    MPICH's names any of them on a busy machine.
    """

    rank: int
    how: str
    sure: bool = False
    weak: bool = False


def find(
    log: str,
    processes: Sequence[tuple[str, int]],
    deaths: Sequence[Death],
    alone: bool,
    apart: bool = False,
) -> Cause | None:
    """Return who died first and how; None when nothing is known.

    Parameters
    ----------
    log
        The end of what mpiexec and the ranks wrote.
    processes
        Host and pid of each rank.
    deaths
        Those seen, in the order seen.
    alone
        Whether the others live on, so that nobody is killed for another's death.
    apart
        Whether the last of `processes` is a bridge of its own: rank 0 for MPI, and no rank for people.
    """
    said = _read(log, [pid for _, pid in processes], apart)
    if alone:
        said = {rank: one for rank, one in said.items() if rank in {death.rank for death in deaths}}
    rank = _culprit(said, deaths, alone)
    if rank is None:
        return None
    host, pid = processes[rank]
    how, final = _how(said.get(rank), next((one for one in deaths if one.rank == rank), None), log, alone)
    who = "the bridge" if apart and rank == len(processes) - 1 else f"rank {rank}"
    return Cause(rank, f"{who} on {host} (pid {pid}) {how}", final)


def _culprit(said: dict[int, _Said], deaths: Sequence[Death], alone: bool) -> int | None:
    """Return the rank that died first: by what is surest."""
    if alone and deaths:
        return deaths[0].rank
    sure = [rank for rank, one in said.items() if one.sure] + [death.rank for death in deaths if death.asked]
    starved = [death.rank for death in deaths if death.oom]
    # mpiexec ends the others by SIGTERM and SIGKILL: whoever ended in another way did so by itself.
    by_itself = [death.rank for death in deaths if death.status is not None and not _may_be_mpiexec(death)]
    seen = [death.rank for death in deaths]
    first = [rank for rank, one in said.items() if not one.how.startswith("was killed")]
    named = [rank for rank, one in said.items() if not one.weak]
    for ranks in (sure, starved, first, named, by_itself, seen, said):
        for rank in ranks:
            return rank
    return None


def _may_be_mpiexec(death: Death) -> bool:
    status = death.status or 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGTERM, signal.SIGKILL)


def _how(said: _Said | None, death: Death | None, log: str, alone: bool) -> tuple[str, bool]:
    """Return how a rank ended, and whether that is the last word."""
    if said is not None and said.sure:
        return said.how, True
    if death is not None and death.oom:
        return OOM, True
    if death is None or death.status is None:
        if said is None:
            return _crash("", log) or SILENT, False
        doubt = _DOUBT if said.weak and not alone else ""
        return _crash(said.how, log) or said.how + doubt, not said.weak
    if os.WIFSIGNALED(death.status):
        name = _signal_name(os.WTERMSIG(death.status))
        if name in CRASHES:
            how = _crash(name, log)
            return how or f"crashed: {_description(os.WTERMSIG(death.status))} ({name})", bool(how)
        how = f"was killed by signal {os.WTERMSIG(death.status)} ({name})"
        if death.asked:
            return f"{how}, as a client asked for", True
        if alone or (said is not None and not said.weak):
            return how, True
        # mpiexec may have killed it for another's death: under load that is sometimes seen first.
        return (f"{how}{_DOUBT}" if _may_be_mpiexec(death) else how), False
    return f"{_EXIT}{os.WEXITSTATUS(death.status)}", False


# ---------------------------------------------------------------- what logs say

_OURS = re.compile(r"mpiparallel: rank (\d+) \(pid \d+\) calle?[sd] ((?:os\._exit|MPI_Abort)\(.*)")
_OMPI_SIGNAL = re.compile(r"process rank (\d+) with PID \d+ on node \S+ exited on signal (\d+)")
_OMPI_EXIT = re.compile(r"Process name: \[[^\]]*,(\d+)\] Exit code: (\d+)")
_OMPI_ABORT = re.compile(
    r"MPI_ABORT was invoked on rank \d+ in .*? Proc: \[\[[^\]]*\],(\d+)\] Errorcode: (-?\d+)"
)
_MPICH_END = re.compile(
    r"= PID (\d+) RUNNING AT \S+ = EXIT CODE: \d+ =[^:]*EXIT STRING: [^(]*\(signal (\d+)\)"
)
_MPICH_ABORT = re.compile(r"Abort\((-?\d+)\) on node (\d+) \(rank \d+ in comm")
_SRUN = re.compile(r"^srun: error: \S+: tasks? (\d+)[-,\d]*: (.+)$", re.MULTILINE)
_SLURM_OOM = re.compile(r"slurmstepd: error: .*(?:oom[-_ ]kill|Out Of Memory)", re.IGNORECASE)


def _read(log: str, pids: Sequence[int], apart: bool) -> dict[int, _Said]:
    """Return what is said of each rank; of one of whom several things are said, the most telling."""

    def place(number: str) -> int:
        """Return the place of a rank in `pids` by its number for MPI."""
        return (int(number) - 1) % len(pids) if apart and int(number) < len(pids) else int(number)

    lines = " ".join(log.split())  # launchers break lines where they like
    found = [_Said(int(one[1]), _ours(one), sure=True) for one in _OURS.finditer(log)]
    for pattern in (_OMPI_ABORT, _MPICH_ABORT):
        for one in pattern.finditer(lines):
            code, rank = (one[2], one[1]) if pattern is _OMPI_ABORT else (one[1], one[2])
            found.append(_Said(place(rank), f"called MPI_Abort({code})", sure=True))
    for one in _SRUN.finditer(log):
        rank, how = place(one[1]), one[2].strip().removesuffix(" (core dumped)")
        if how == "Out Of Memory" or (how == "Killed" and _SLURM_OOM.search(log)):
            found.append(_Said(rank, OOM, sure=True))
        elif "exit code" in how:
            found.append(_Said(rank, _EXIT + how.rpartition(" ")[2]))
        else:
            found.append(_Said(rank, _by_words(how)))
    found += [_Said(place(one[1]), _by_signal(int(one[2]))) for one in _OMPI_SIGNAL.finditer(lines)]
    found += [_Said(place(one[1]), _EXIT + one[2]) for one in _OMPI_EXIT.finditer(lines)]
    for one in _MPICH_END.finditer(lines):
        if int(one[1]) in pids:
            how = _by_signal(int(one[2]))
            found.append(_Said(pids.index(int(one[1])), how, weak=how.startswith("was killed")))
    said: dict[int, _Said] = {}
    for report in found:
        if report.rank < len(pids):
            said.setdefault(report.rank, report)
    return said


def _ours(found: re.Match[str]) -> str:
    return f"called {found[2].strip()}".replace("): ", ") at ", 1).removesuffix(" at")


def _by_signal(number: int) -> str:
    name = _signal_name(number)
    if name in CRASHES:
        return f"crashed: {_description(number)} ({name})"
    return f"was killed by signal {number} ({name})"


def _by_words(words: str) -> str:
    """Return how a process ended that died of a signal with this description."""
    for number in signal.valid_signals():
        if _description(number) == words:
            return _by_signal(number)
    return f"ended: {words}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _description(number: int) -> str:
    return signal.strsignal(number) or f"signal {number}"


# ---------------------------------------------------------------- where it crashed

_FATAL = re.compile(r"Fatal Python error: (.*)")
_FRAME = re.compile(r'^\s*File "(.*)", line (\d+) in (.*)$')
_NOT_THE_USERS = re.compile(r"/lib/python\d|/site-packages/|/mpiparallel/|^<frozen ")


def _crash(how: str, log: str) -> str:
    """Return what `faulthandler` tells of a crash, if it does; `how` is what else is known of it."""
    if how and not how.startswith("crashed") and how not in CRASHES:
        return ""
    fatal = _FATAL.search(log)
    if fatal is None:
        return ""
    place = _place(log[fatal.end() :])
    return f"crashed: {fatal[1].strip()}" + (f" in {place}" if place else "")


def _place(stacks: str) -> str:
    """Return where in user code the thread that crashed was; "" when it was in none."""
    begun = False
    for line in stacks.splitlines():
        if line.endswith("(most recent call first):"):
            if begun:
                break
            begun = line.startswith("Current thread")
        elif begun and (frame := _FRAME.match(line)) and not _NOT_THE_USERS.search(frame[1]):
            file = "cell" if frame[1].startswith("<ipython-input") or "ipykernel_" in frame[1] else frame[1]
            return f"{frame[3]}, {os.path.basename(file)} line {frame[2]}"
    return ""
