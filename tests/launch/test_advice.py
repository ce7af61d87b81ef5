"""Known troubles, as the programs word them, and what is said about them."""

from __future__ import annotations

import pytest

from mpiparallel.launch import advice

MPICH_UNDER_PMIX = """\
Abort(270157072): Fatal error in internal_Init_thread: Internal MPI error!, error stack:
check_MPIR_CVAR_PMI_VERSION(167):  Runtime environment uses unsupported PMI version PMIx. Aborting.
srun: error: node1: task 1: Exited with exit code 16"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MPICH_UNDER_PMIX, "srun_mpi to 'pmi2'"),
        ("was not built with SLURM's PMI support and therefore cannot execute", "'pmix' for Open MPI"),
        ("srun: error: Invalid MPI type 'nosuch', --mpi=list for acceptable types", "srun --mpi=list"),
        ("node1: pmi/pmix: can not load PMIx library", "'none' for mpiexec"),
        ("There are not enough slots available in the system", "--oversubscribe"),
        ("option --allow-run-as-root", "OMPI_ALLOW_RUN_AS_ROOT=1"),
        ("ImportError: libmpi.so.12: cannot open shared object file", "modules"),
        ("RuntimeError: cannot load MPI library", "pip install"),
        ("/usr/bin/python3: No module named mpiparallel", "another one (python)"),
        ("ModuleNotFoundError: No module named 'zmq'", "another one (python)"),
        ("slurmstepd: error: execve(): /x/python: No such file or directory", "all nodes share"),
        ("/bin/sh: 1: exec: /x/bin/python3: not found", "all nodes share"),
        (
            "[proxy:0:0@n1] HYDU_create_process: execvp error on file /x/python (No such file",
            "all nodes share",
        ),
        ("write: No space left on device", "TMPDIR"),
        ("srun: error: Unable to create step for job 7: More processors requested than permitted", "fewer"),
        ("srun: error: Task launch for StepId=6.0 failed on node node1: Communication", "--exclude"),
        ("me@login1: Permission denied (publickey,password).", "ssh-add"),
        ("Host key verification failed.", "fingerprint"),
        ("ssh: Could not resolve hostname nowhere: Name or service not known", "No host has that name"),
        ("ssh: connect to host node9 port 22: Connection refused", "No ssh server answers"),
        ("ssh: connect to host node9 port 22: Connection timed out", "No ssh server answers"),
        ("gethostbyname failed, vm (errno 1)", "/etc/hosts"),
    ],
)
def test_remedies(text: str, words: str) -> None:
    assert words in advice.remedy(f"something before\n{text}\nsomething after")


@pytest.mark.parametrize("text", ["", "Segmentation fault", "ValueError: python", "No module named 'mine'"])
def test_what_nobody_knows(text: str) -> None:
    assert advice.remedy(text) == ""


def test_words_of_ours_come_first_and_once() -> None:
    text = (
        "Sorry!  You were supposed to get help about:\nfrom a library\n"
        "mpiparallel engine: wrong, do this\nmpiparallel engine: wrong, do this\n"
        "srun: error: node1: tasks 0-1: Exited with exit code 1\n"
        "srun: launch/slurm: _step_signal: Terminating StepId=1.0\n"
    )
    assert advice.last_words(text) == "mpiparallel engine: wrong, do this\nfrom a library"
    assert advice.last_words("  a\nb  \n") == "a\nb"


def test_a_failure() -> None:
    assert advice.failure("job 1 failed", " ") == "job 1 failed. It said nothing."
    assert advice.failure("job 1 failed", "boom\n") == "job 1 failed. It said:\nboom"
    told = advice.failure("job 1 failed", MPICH_UNDER_PMIX)
    assert told.startswith("job 1 failed. MPICH cannot be started") and told.endswith(MPICH_UNDER_PMIX)
    ours = advice.failure("job 1 failed", f"{MPICH_UNDER_PMIX}\nmpiparallel: do this")
    assert ours.startswith("job 1 failed. It said:\nmpiparallel: do this\nAbort")
