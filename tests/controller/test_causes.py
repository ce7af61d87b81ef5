"""Who died first and how: from what the MPIs, srun, Python and the kernel really say."""

from __future__ import annotations

import pytest

from mpiparallel.controller.causes import OOM, SILENT, Cause, Death, find

HOSTS = [("n1", 100), ("n1", 101), ("n2", 102), ("n2", 103)]
SIGKILL, SIGTERM, SIGSEGV = 9, 15, 11

OMPI_KILL = """\
--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 101 on node n1 exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""
FATAL = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f67969d8b80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/solver.py", line 8 in boom
  File "<ipython-input-3-d3b07384d113>", line 2 in <module>
  File "/opt/lib/python3.11/site-packages/IPython/core/interactiveshell.py", line 3526 in run_code

Thread 0x00007f5b135bcb80 (most recent call first):
  File "/home/me/other.py", line 1 in courier

Extension modules: mpi4py.MPI (total: 1)
"""
OMPI_SEGV = (
    FATAL
    + """\
[n1:00101] *** Process received signal ***
[n1:00101] Signal: Segmentation fault (11)
[n1:00101] [ 0] /lib/x86_64-linux-gnu/libc.so.6(+0x3c050)[0x7f679625a050]
[n1:00101] *** End of error message ***
--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 101 on node n1 exited on
signal 11 (Segmentation fault).
--------------------------------------------------------------------------
"""
)
OMPI_EXIT = """\
--------------------------------------------------------------------------
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-n1-8440@1,1]
   Exit code:    3
--------------------------------------------------------------------------
"""
OMPI_ABORT = """\
--------------------------------------------------------------------------
MPI_ABORT was invoked on rank 0 in communicator MPI COMM 3 SPLIT FROM 0
  Proc: [[2268,1],1]
  Errorcode: 7

NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.
--------------------------------------------------------------------------
prterun has exited due to process rank 1 with PID 0 on node n1 calling
"abort". This may have caused other processes in the application to be
terminated by signals sent by prterun (as reported here).
"""


def mpich(code: int, words: str, pid: int = 101) -> str:
    return f"""
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID {pid} RUNNING AT n1
=   EXIT CODE: {code}
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: {words} (signal {code})
This typically refers to a problem with your application.
"""


MPICH_ABORT = "Abort(7) on node 1 (rank 0 in comm 480): application called MPI_Abort(comm=0x84000001, 7)\n"
OURS_EXIT = "mpiparallel: rank 1 (pid 101) calls os._exit(3) at cell line 2\n"
OURS_ABORT = "mpiparallel: rank 1 (pid 101) called MPI_Abort(7): cell line 4 > solver.py:8 in f\n"

KILLED = "was killed by signal 9 (SIGKILL)"
CRASHED = "crashed: Segmentation fault in boom, solver.py line 8"

# By what the launcher and the ranks said: how rank 1 ended, when nobody saw a process end.
FROM_LOGS = {
    "Open MPI, killed": (OMPI_KILL, KILLED),
    "Open MPI, crashed": (OMPI_SEGV, CRASHED),
    "Open MPI, crashed without a stack": (
        OMPI_SEGV.replace("Fatal", ""),
        "crashed: Segmentation fault (SIGSEGV)",
    ),
    "Open MPI, exit": (OMPI_EXIT, "ended by itself with exit code 3"),
    "Open MPI, exit, and we know where": (OURS_EXIT + OMPI_EXIT, "called os._exit(3) at cell line 2"),
    "Open MPI, abort": (OMPI_ABORT, "called MPI_Abort(7)"),
    "Open MPI, abort, and we know where": (
        OURS_ABORT + OMPI_ABORT,
        "called MPI_Abort(7) at cell line 4 > solver.py:8 in f",
    ),
    "MPICH, killed": (mpich(9, "Killed"), KILLED),
    "MPICH, terminated": (mpich(15, "Terminated"), "was killed by signal 15 (SIGTERM)"),
    "MPICH, crashed": (FATAL + mpich(11, "Segmentation fault"), CRASHED),
    "MPICH, abort": (MPICH_ABORT, "called MPI_Abort(7)"),
    "srun, killed": ("srun: error: n1: task 1: Killed\n", KILLED),
    "srun, several": (
        "srun: error: n1: tasks 1-2,3: Exited with exit code 1\nsrun: error: n2: task 0: Killed\n",
        "ended by itself with exit code 1",
    ),
    "srun, out of memory": ("srun: error: n1: task 1: Out Of Memory\n", OOM),
    "srun, killed for memory": (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM "
        "Killed.\n"
        "srun: error: n1: task 1: Killed\n",
        OOM,
    ),
    "srun, crashed": (
        "srun: error: n1: task 1: Segmentation fault (core dumped)\n",
        "crashed: Segmentation fault (SIGSEGV)",
    ),
}


@pytest.mark.parametrize("name", FROM_LOGS)
def test_what_launchers_say(name: str) -> None:
    log, how = FROM_LOGS[name]
    noise = "user's own words about signal 9 and PID 103\n"
    in_doubt = name.startswith(("MPICH, killed", "MPICH, term"))  # see TestWho
    how += ", the first that was seen to end" if in_doubt else ""
    cause = find(noise + log, HOSTS, [], False)
    assert cause == Cause(1, f"rank 1 on n1 (pid 101) {how}", not in_doubt)
    assert cause.in_doubt is in_doubt


def test_what_is_said_of_others_processes_does_not_count() -> None:
    """A log may hold the end of an earlier world."""
    assert find(mpich(9, "Killed", pid=77), HOSTS, [], False) is None
    assert find(OMPI_KILL.replace("rank 1", "rank 9"), HOSTS, [], False) is None
    assert find("", HOSTS, [], False) is None


def test_half_a_message_says_nothing() -> None:
    half, _, _ = mpich(9, "Killed").partition("YOUR APPLICATION")
    assert find(half, HOSTS, [], False) is None


class TestWho:
    """`mpiexec` kills the others; which death was seen first does not say who was the cause."""

    def test_the_first_seen_when_nobody_says_otherwise(self) -> None:
        cause = find("", HOSTS, [Death(2, SIGKILL), Death(0, SIGKILL), Death(1, SIGTERM)], False)
        assert cause == Cause(2, f"rank 2 on n2 (pid 102) {KILLED}, the first that was seen to end", False)
        assert cause.in_doubt

    def test_one_that_ended_in_its_own_way(self) -> None:
        deaths = [Death(0, SIGKILL), Death(3, 3 << 8), Death(1, SIGTERM)]
        cause = find("", HOSTS, deaths, False)
        assert cause is not None
        assert (cause.rank, cause.text) == (3, "rank 3 on n2 (pid 103) ended by itself with exit code 3")

    def test_one_that_the_kernel_killed_for_memory(self) -> None:
        cause = find("", HOSTS, [Death(0, SIGKILL), Death(3, SIGKILL, True)], False)
        assert cause == Cause(3, f"rank 3 on n2 (pid 103) {OOM}", True)

    def test_the_launchers_word(self) -> None:
        cause = find(OMPI_KILL, HOSTS, [Death(0, SIGTERM), Death(1, SIGKILL)], False)
        assert cause == Cause(1, f"rank 1 on n1 (pid 101) {KILLED}", True)

    def test_a_launcher_that_names_one_it_has_killed(self) -> None:
        """MPICH's does so on a busy machine: there the order of deaths counts for more."""
        log = mpich(9, "Killed", pid=102)
        for deaths in (
            [Death(1, SIGKILL), Death(2, SIGKILL)],
            [Death(2, SIGKILL), Death(1, 3 << 8)],
        ):
            cause = find(log, HOSTS, deaths, False)
            assert cause is not None
            assert (cause.rank, cause.final) == (1, False)

    def test_one_that_a_client_had_killed(self) -> None:
        deaths = [Death(0, SIGKILL), Death(1, SIGKILL, asked=True)]
        cause = find(mpich(9, "Killed", pid=100), HOSTS, deaths, False)
        assert cause == Cause(1, f"rank 1 on n1 (pid 101) {KILLED}, as a client asked for", True)

    def test_an_abort_above_all(self) -> None:
        log = OURS_ABORT + mpich(9, "Killed", pid=102)
        cause = find(log, HOSTS, [Death(0, SIGKILL, True), Death(1, 7 << 8)], False)
        assert cause is not None
        assert cause.rank == 1

    def test_alone_each_is_its_own_cause(self) -> None:
        cause = find(OURS_EXIT, HOSTS, [Death(2, SIGKILL)], True)
        assert cause == Cause(2, f"rank 2 on n2 (pid 102) {KILLED}", True)


class TestHow:
    @pytest.mark.parametrize("alone", [True, False])
    def test_the_stack_of_a_crash_is_waited_for(self, alone: bool) -> None:
        assert find("", HOSTS, [Death(1, SIGSEGV)], alone) == Cause(
            1, "rank 1 on n1 (pid 101) crashed: Segmentation fault (SIGSEGV)", False
        )
        # 128: with a core file
        assert find(FATAL, HOSTS, [Death(1, SIGSEGV | 128)], alone) == Cause(
            1, f"rank 1 on n1 (pid 101) {CRASHED}", True
        )

    def test_where_in_a_cell(self) -> None:
        log = FATAL.replace('File "/home/me/solver.py", line 8 in boom', "<no Python frame>")
        cause = find(log, HOSTS, [Death(1, SIGSEGV)], True)
        assert cause is not None
        assert cause.text.endswith("crashed: Segmentation fault in <module>, cell line 2")

    def test_nowhere_in_user_code(self) -> None:
        stack = 'Current thread 0x1 (most recent call first):\n  File "/lib/python3.11/a.py", line 1 in a\n'
        log = f"Fatal Python error: Aborted\n\n{stack}"
        cause = find(log, HOSTS, [Death(1, 6)], True)
        assert cause is not None
        assert cause.text == "rank 1 on n1 (pid 101) crashed: Aborted"

    def test_a_crash_is_not_blamed_on_one_who_was_killed(self) -> None:
        cause = find(FATAL, HOSTS, [Death(1, SIGKILL)], True)
        assert cause == Cause(1, f"rank 1 on n1 (pid 101) {KILLED}", True)

    def test_an_exit_and_where(self) -> None:
        plain = find("", HOSTS, [Death(1, 3 << 8)], True)
        assert plain == Cause(1, "rank 1 on n1 (pid 101) ended by itself with exit code 3", False)
        told = find(OURS_EXIT, HOSTS, [Death(1, 3 << 8)], True)
        assert told == Cause(1, "rank 1 on n1 (pid 101) called os._exit(3) at cell line 2", True)

    def test_without_a_word(self) -> None:
        assert find("", HOSTS, [Death(1)], False) == Cause(1, f"rank 1 on n1 (pid 101) {SILENT}", False)

    def test_a_crash_of_one_whose_status_is_unknown(self) -> None:
        cause = find(FATAL, HOSTS, [Death(1)], False)
        assert cause is not None
        assert cause.text.endswith(CRASHED)

    def test_odd_signals(self) -> None:
        cause = find("", HOSTS, [Death(1, 40)], True)
        assert cause is not None
        assert "signal 40" in cause.text
