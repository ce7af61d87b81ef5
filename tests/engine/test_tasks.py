"""What engines do with tasks: real ranks under mpiexec, a real controller, a real client."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from helpers import wait_until

import mpiparallel as ipp

pytestmark = pytest.mark.mpi


def test_the_namespace_holds_the_ranks_place(rc):
    names = rc[:].pull(["mpi_rank", "mpi_size", "engine_id", "comm.rank"], block=True)
    assert names == [[rank, 4, rank, rank] for rank in range(4)]


def test_functions_talk_by_mpi(rc):
    assert rc[:].apply_sync(ipp.interactive(lambda: comm.allreduce(mpi_rank))) == [6] * 4  # noqa: F821


def test_the_engines_names_are_the_globals_of_interactive_functions(rc):
    view = rc[:]
    view.push({"a": 5}, block=True)
    assert view.apply_sync(ipp.interactive(lambda: a + 1)) == [6] * 4  # noqa: F821

    @ipp.interactive
    def set_global():
        global made_here
        made_here = "yes"

    view.apply_sync(set_global)
    assert view["made_here"] == ["yes"] * 4


def test_an_undefined_name_is_the_users_error(rc):
    with pytest.raises(ipp.RemoteError, match="name 'nowhere' is not defined"):
        rc[0].apply_sync(ipp.interactive(lambda: nowhere))  # noqa: F821


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_user_code_raises_ends_the_task_and_not_the_engine(rc, ending):
    def leave(ending):
        raise ending("out")

    with pytest.raises(ipp.RemoteError, match=ending.__name__):
        rc[1].apply_sync(leave, ending)
    assert rc[1].apply_sync(os.getpid)


@pytest.mark.parametrize(("ending", "code"), [("return", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_a_forked_child_does_not_become_a_second_engine(rc, ending, code):
    def fork(ending):
        child = os.fork()
        if not child:
            if ending != "return":
                exec(ending, {"sys": sys})
            return None
        for _ in range(500):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        return "it stayed"

    assert rc[0].apply_sync(fork, ending) == code
    assert rc[0].apply_sync(os.getpid)


def test_a_result_that_cannot_travel_is_an_error(rc):
    with pytest.raises(ipp.RemoteError, match="cannot pickle 'generator' object"):
        rc[0].apply_sync(lambda: (i for i in range(3)))


@pytest.mark.parametrize("second", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_exception_that_cannot_be_printed_is_told(rc, second):
    def raise_it(second):
        class Silent(Exception):
            def __str__(self):
                raise second("no words")

        raise Silent

    with pytest.raises(ipp.RemoteError, match=rf"Silent.*__str__ raised {second.__name__}"):
        rc[0].apply_sync(raise_it, second)
    assert rc[0].apply_sync(os.getpid)


def test_tracebacks_show_user_code_only(rc):
    def inner():
        return 1 / 0

    def outer():
        return inner()

    with pytest.raises(ipp.RemoteError) as caught:
        rc[0].apply_sync(outer)
    text = caught.value.traceback
    assert "in outer" in text and "in inner" in text and "mpiparallel" not in text


@pytest.mark.parametrize("execute", [False, True])
def test_tracebacks_end_where_user_code_ends(rc, execute):
    """Also of those that waited in our code: they were in the user's call of MPI."""

    def fail_on_second():
        if comm.rank == 1:  # noqa: F821 - a name on engines
            raise ValueError("on purpose")
        comm.barrier()  # noqa: F821

    with pytest.raises(ipp.CompositeError) as caught:
        if execute:
            cell = "if comm.rank == 1:\n    raise ValueError('on purpose')\ncomm.barrier()"
            rc[:].execute(cell, block=True)
        else:
            rc[:].apply_sync(fail_on_second)
    for name, _, text, _ in caught.value.elist:
        assert name in ("ValueError", "PeerFailed")
        frames = [line for line in text.splitlines() if "File" in line]
        assert not any("mpiparallel/" in line for line in frames), text
        assert ("raise" if name == "ValueError" else "barrier") in text


@pytest.fixture
def gate(tmp_path):
    """A function that waits, on an engine, until the test calls the other one."""

    def wait():
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)

    path = str(tmp_path / "gate")
    return wait, (tmp_path / "gate").touch


def test_an_error_in_a_cell_aborts_what_this_client_queued_behind_it(rc, gate):
    wait, open_gate = gate
    engine = rc[0]
    engine.push({"wait": wait, "b": 1}, block=True)
    failing = engine.execute("wait(); 1 / 0", block=False)
    behind = engine.execute("b = 2", block=False)
    # Rank 0 hands out requests in the order sent: when engine 1 has answered this one, engine 0 has those.
    rc[1].apply_sync(len, ())
    open_gate()
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        failing.get(timeout=10)
    with pytest.raises(ipp.TaskAborted):
        behind.get(timeout=10)
    assert engine["b"] == 1


@pytest.mark.parametrize("end", ["raise", "raise ValueError('on purpose')"], ids=["interrupted", "failed"])
def test_what_is_sent_after_an_interrupt_runs_although_the_cell_has_not_ended(rc, gate, end):
    wait, open_gate = gate
    engine = rc[0]
    engine.push({"wait": wait, "a": 1, "b": 1}, block=True)
    cell = (
        "import time\ntry:\n    print('begun'); time.sleep(600)\n"
        f"except KeyboardInterrupt:\n    print('ending'); wait(); {end}"
    )
    interrupted = engine.execute(cell, silent=False)
    assert wait_until(lambda: "begun" in interrupted.stdout, 30)
    before = engine.execute("a = 2")
    rc[1].apply_sync(len, ())  # engine 0 has both now, as above
    rc.send_signal("SIGINT", targets=0, block=True)
    assert wait_until(lambda: "ending" in interrupted.stdout, 30)
    after = engine.execute("b = 2")
    rc[1].apply_sync(len, ())
    open_gate()
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt" if end == "raise" else "on purpose"):
        interrupted.get(timeout=10)
    with pytest.raises(ipp.TaskAborted):
        before.get(timeout=10)
    if end == "raise":
        after.get(timeout=10)
    else:
        with pytest.raises(ipp.TaskAborted):
            after.get(timeout=10)
    assert (engine["a"], engine["b"]) == (1, 2 if end == "raise" else 1)


def test_abort_takes_out_what_has_not_begun(rc, gate):
    view, (wait, open_gate) = rc[:], gate
    running, queued = view.apply_async(wait), view.apply_async(time.sleep, 50)
    queued.abort()
    with pytest.raises(ipp.TaskAborted):
        queued.get(timeout=10)
    open_gate()
    assert running.get(timeout=10) == [None] * 4


def test_a_signal_interrupts_sleep_and_spares_the_engine(rc):
    view = rc[:]
    pids = view.apply_sync(os.getpid)
    sleeping = view.execute("ready = True\nimport time\ntime.sleep(60)", block=False)
    deadline = time.monotonic() + 10
    while not sleeping.done() and time.monotonic() < deadline:
        rc.send_signal(signal.SIGINT, block=True)
        sleeping.wait(0.2)
    with pytest.raises(ipp.CompositeError, match="KeyboardInterrupt"):
        sleeping.get(timeout=0)
    rc.send_signal("SIGINT", block=True)  # nothing runs: nothing happens
    assert view.apply_sync(os.getpid) == pids


def test_a_cell_that_catches_an_interrupt_is_ended_by_the_next(rc):
    view = rc[:]
    cell = """
import time
try:
    print("begun")
    time.sleep(60)
except KeyboardInterrupt:
    caught = True
time.sleep(60)
"""
    sleeping = view.execute(cell, block=False)
    assert wait_until(lambda: sleeping.stdout == ["begun\n"] * 4)
    while not sleeping.done() and time.time() < sleeping.submitted[0].timestamp() + 10:
        rc.send_signal(signal.SIGINT, block=True)
        sleeping.wait(0.2)
    with pytest.raises(ipp.CompositeError, match="KeyboardInterrupt"):
        sleeping.get(timeout=0)
    assert view["caught"] == [True] * 4


def test_a_handler_of_user_code_is_no_c_code_and_ends_with_its_task(rc):
    view = rc[:]
    cell = """
import signal, time
heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
print("begun")
while not heard:
    time.sleep(0.01)
time.sleep(1.5)  # longer than C code is given to look
"""
    handling = view.execute(cell, block=False)
    assert wait_until(lambda: handling.stdout == ["begun\n"] * 4)
    rc.send_signal(signal.SIGINT, block=True)
    handling.get(timeout=30)
    assert not any(task.request.notices for task in handling._tasks)
    sleeping = view.execute("print('begun')\ntime.sleep(60)", block=False)
    assert wait_until(lambda: sleeping.stdout == ["begun\n"] * 4)
    rc.send_signal(signal.SIGINT, block=True)
    with pytest.raises(ipp.CompositeError, match="KeyboardInterrupt"):
        sleeping.get(timeout=10)
    assert view["heard"] == [[signal.SIGINT]] * 4


@pytest.mark.parametrize(
    "cell",
    ["!sleep 600", "!sleep 600; sleep 600", "x = !sleep 600 | cat", "%%bash\nsleep 600; sleep 600"],
)
def test_an_interrupt_ends_commands_too(rc, cell):
    engines = [psutil.Process(pid) for pid in rc[:].apply_sync(os.getpid)]

    def commands() -> list[list[str]]:
        children = [child for engine in engines for child in engine.children(recursive=True)]
        return [child.cmdline() for child in children if child.status() != psutil.STATUS_ZOMBIE]

    running = rc[:].execute(cell, block=False)
    assert wait_until(lambda: commands().count(["sleep", "600"]) == 4)
    rc.interrupt()
    running.wait(10)
    assert running.done()
    assert wait_until(lambda: commands() == [])


def test_requests_run_in_the_order_sent(rc):
    view = rc[:]
    view.push({"log": []}, block=True)
    pending = []
    for i in range(60):
        pending.append(view.apply_async(ipp.interactive(lambda i: log.append(i)), i))  # noqa: F821
        if i % 7 == 0:
            pending.append(view.push({"ballast": np.zeros(200_000)}, block=False))
    rc.wait(pending, timeout=30)
    assert view["log"] == [list(range(60))] * 4


def test_a_large_function_travels_once_and_is_asked_for_when_forgotten(rc):
    table = np.arange(100_000)

    def look_up(i):
        return int(table[i])

    assert rc[:].apply_sync(look_up, 3) == [3] * 4
    assert rc[:].apply_sync(look_up, 4) == [4] * 4
    rc.clear(block=True)  # the engines forget their functions, too
    assert rc[:].apply_sync(look_up, 5) == [5] * 4


def test_clear_gives_back_the_first_namespace(rc):
    view = rc[:]
    view.execute("x = 1; comm = None; import os", block=True)
    rc.clear(block=True)
    for gone in ("x", "os"):
        with pytest.raises(ipp.CompositeError, match=f"name '{gone}' is not defined"):
            view.pull(gone, block=True)
    assert view.pull("comm.size", block=True) == [4] * 4
    view.execute("x = 2", block=True).get()
    assert view["x"] == [2] * 4


@pytest.mark.parametrize("targets", [[0], [2], [0, 3], [1, 3], [0, 1, 2], [1, 2, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("size", [10, 5_000, 300_000])
def test_arrays_reach_any_set_of_engines_and_come_back(rc, targets, size):
    view, array = rc[targets], np.random.default_rng(size).random(size)
    view.push({"array": array}, block=True)
    for back in view.pull("array", block=True):
        assert np.array_equal(back, array) and back.flags.writeable
    assert view.apply_sync(ipp.interactive(lambda: array.flags.writeable)) == [True] * len(targets)
    view.scatter("part", array, block=True)
    assert np.array_equal(view.gather("part", block=True), array)
    for doubled in view.apply_sync(lambda x: x * 2, array):
        assert np.array_equal(doubled, array * 2)


def test_one_engines_writes_reach_nobody_else(rc):
    view, array = rc[:], np.zeros(1_000_000)

    def fill(array, value):
        array[:] = value
        return array

    filled = [view.client[i].apply_async(fill, array, i) for i in range(4)]
    both = view.apply_async(lambda a: (a.__iadd__(1), a.sum())[1], array)
    assert [float(one.get(timeout=30).sum()) for one in filled] == [i * 1e6 for i in range(4)]
    assert both.get(timeout=30) == [1e6] * 4 and array.sum() == 0


def test_more_sets_of_targets_than_communicators_are_kept(rc):
    import itertools

    array = np.ones(100_000)
    sets = [c for size in (2, 3) for c in itertools.combinations(range(4), size)]
    for targets in sets * 3:
        rc[list(targets)].push({"x": array}, block=True)
    assert rc[:].apply_sync(ipp.interactive(lambda: float(x.sum()))) == [1e5] * 4  # noqa: F821


def test_user_collectives_and_transfers_do_not_disturb_each_other(rc):
    view, array = rc[:], np.random.default_rng(0).random(500_000)

    def many_allreduces(n):
        from mpi4py import MPI

        return [MPI.COMM_WORLD.allreduce(i) for i in range(n)][-1]

    busy = view.apply_async(many_allreduces, 1000)
    pushes = [view.push({f"x{i}": array}, block=False) for i in range(5)]
    assert busy.get(timeout=60) == [4 * 999] * 4
    rc.wait(pushes, timeout=60)
    assert all(np.array_equal(x, array) for x in view["x4"])


def test_two_threads_of_one_client(rc):
    view, wrong = rc[:], []

    def use(k):
        for i in range(50):
            if view.apply_sync(lambda a: a, (k, i)) != [(k, i)] * 4:
                wrong.append((k, i))

    threads = [threading.Thread(target=use, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_two_clients_do_not_see_each_others_results(rc, cluster):
    with cluster.connect_client_sync() as other:
        first = [rc[:].apply_async(lambda x: ("first", x), i) for i in range(30)]
        second = [other[:].apply_async(lambda x: ("second", x), i) for i in range(30)]
        assert [one.get(timeout=30) for one in first] == [[("first", i)] * 4 for i in range(30)]
        assert [one.get(timeout=30) for one in second] == [[("second", i)] * 4 for i in range(30)]


def test_references_name_what_the_engine_has(rc):
    view = rc[:]
    view.execute("g = [mpi_rank, 10]; double = lambda x: 2 * x", block=True)
    assert view.apply_sync(lambda x: x, ipp.Reference("g[0]")) == [0, 1, 2, 3]
    assert view.apply_sync(ipp.Reference("double"), 4) == [8] * 4
    assert view.apply_sync(lambda x: x, [ipp.Reference("g[1]")]) == [[10]] * 4
    with pytest.raises(ipp.CompositeError, match="NameError"):
        view.apply_sync(lambda x: x, ipp.Reference("nowhere"))


def test_interpreters_are_this_one(rc):
    assert set(rc[:].apply_sync(lambda: __import__("sys").version)) == {sys.version}
