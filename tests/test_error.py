"""The errors: their tree, their texts, and how several become one."""

from __future__ import annotations

import builtins
import copy
import pickle

import pytest

import mpiparallel
from mpiparallel import error
from mpiparallel.error import (
    AlreadyDisplayedError,
    CompositeError,
    EngineError,
    NoEnginesRegistered,
    PeerFailed,
    RemoteError,
    TaskAborted,
    collect_exceptions,
)

TREE = {
    "KernelError": "IPythonError",
    "EngineError": "KernelError",
    "NoEnginesRegistered": "KernelError",
    "TaskAborted": "KernelError",
    "TaskTimeout": "KernelError",
    "UnmetDependency": "KernelError",
    "ImpossibleDependency": "UnmetDependency",
    "DependencyTimeout": "ImpossibleDependency",
    "InvalidDependency": "ImpossibleDependency",
    "RemoteError": "KernelError",
    "CompositeError": "RemoteError",
    "AlreadyDisplayedError": "RemoteError",
    "TaskRejectError": "KernelError",
}


def info(engine: int, method: str = "apply") -> dict:
    return {"engine_id": engine, "engine_uuid": f"w-{engine}", "method": method}


def remote(engine: int = 0, ename: str = "ValueError", evalue: str = "bad") -> RemoteError:
    return RemoteError(ename, evalue, f"Traceback of {engine}\n{ename}: {evalue}", info(engine))


@pytest.mark.parametrize("name, base", TREE.items())
def test_the_tree_is_ipython_parallels(name, base):
    assert getattr(error, name).__bases__ == (getattr(error, base),)
    assert getattr(mpiparallel, name) is getattr(error, name)


def test_names():
    assert error.TimeoutError is builtins.TimeoutError is mpiparallel.TimeoutError
    assert error.IPythonError.__bases__ == (Exception,)
    assert set(error.__all__) <= set(dir(error))
    assert issubclass(error.ConnectionFileError, OSError) and issubclass(error.WireError, ValueError)


def test_no_engines_registered_always_says_what_to_do():
    for raised in (NoEnginesRegistered(), NoEnginesRegistered("something else")):
        assert str(raised) == (
            "This operation requires engines. Try client.wait_for_engines(n) to wait for engines to register."
        )


def test_remote_error():
    raised = remote(3)
    assert str(raised) == "[3:apply] ValueError: bad"
    assert repr(raised) == "<RemoteError[3]:ValueError(bad)>"
    assert (raised.ename, raised.evalue, raised.args) == ("ValueError", "bad", ("ValueError", "bad"))
    assert raised.engine_info["engine_uuid"] == "w-3"
    lines = raised.render_traceback()
    assert lines[0].startswith("[3:apply]") and lines[-1] == "ValueError: bad"
    assert raised._render_traceback_() == lines


def test_remote_error_of_nobody_in_particular(capsys):
    raised = RemoteError("KeyError", "'a'", "")
    assert str(raised) == "[Engine Exception] KeyError: 'a'"
    raised.print_traceback()
    assert "KeyError: 'a'" in capsys.readouterr().out


def composite(count: int) -> CompositeError:
    return CompositeError(
        "one or more exceptions raised in: f",
        [("ValueError", f"bad {i}", f"Traceback of {i}\nValueError: bad {i}", info(i)) for i in range(count)],
    )


def test_composite_error_shows_four():
    assert CompositeError.tb_limit == 4
    assert str(composite(2)).splitlines() == [
        "one or more exceptions raised in: f",
        "[0:apply] ValueError: bad 0",
        "[1:apply] ValueError: bad 1",
    ]
    lines = str(composite(7)).splitlines()
    assert len(lines) == 6 and lines[-1] == ".... 3 more exceptions ..."
    rendered = composite(7).render_traceback()
    assert rendered[-1] == "... 3 more exceptions ..."
    assert "Traceback of 3" in rendered and "Traceback of 4" not in rendered
    assert "more exceptions" not in "\n".join(composite(4).render_traceback())
    assert len(composite(7).elist) == 7


def test_composite_error_by_index(capsys):
    raised = composite(6)
    with pytest.raises(RemoteError, match=r"\[5:apply\] ValueError: bad 5") as caught:
        raised.raise_exception(5)
    assert type(caught.value) is RemoteError
    with pytest.raises(RemoteError, match="bad 0"):
        raised.raise_exception()
    with pytest.raises(IndexError, match="an exception with index 6 does not exist"):
        raised.raise_exception(6)
    raised.print_traceback(5)
    assert "Traceback of 5" in capsys.readouterr().out
    raised.print_traceback()
    assert "Traceback of 0" in capsys.readouterr().out


@pytest.mark.parametrize("count, text", [(1, "1 error"), (3, "3 errors")])
def test_already_displayed(count, text):
    original = remote() if count == 1 else composite(count)
    shown = AlreadyDisplayedError(original)
    assert str(shown) == text and shown.original_error is original and repr(shown) == repr(original)
    assert shown.render_traceback() == [text]


@pytest.mark.parametrize("raised", [remote(), composite(3), AlreadyDisplayedError(composite(2))], ids=repr)
def test_errors_can_be_copied_and_pickled(raised):
    for other in (copy.copy(raised), pickle.loads(pickle.dumps(raised))):
        assert type(other) is type(raised) and str(other) == str(raised)
        assert other.engine_info == raised.engine_info
        assert other.render_traceback() == raised.render_traceback()


def test_collect_passes_results_through():
    results = [1, None, "a"]
    assert collect_exceptions(results, "f") is results


def test_collect_flattens_and_keeps_everything():
    with pytest.raises(CompositeError) as caught:
        collect_exceptions([1, remote(0), composite(2), TaskAborted("r_3"), EngineError("gone"), 2], "f")
    raised = caught.value
    assert str(raised).startswith("one or more exceptions raised in: f\n")
    assert [entry[:2] for entry in raised.elist] == [
        ("ValueError", "bad"),
        ("ValueError", "bad 0"),
        ("ValueError", "bad 1"),
        ("TaskAborted", "r_3"),
        ("EngineError", "gone"),
    ]
    assert "[Engine Exception] TaskAborted: r_3" in str(raised)


# ---------------------------------------------------------------- causes first

CELL = "\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[1]\x1b[39m\x1b[32m, line 5\x1b[39m\nValueError"


def of_rank(rank: int, ename: str, evalue: str, traceback: str = "") -> tuple:
    about = {**info(rank, "execute"), "rank": rank, "host": f"node{rank // 2}"}
    return ename, evalue, traceback or f"Traceback of {rank}\n{ename}: {evalue}", about


def freed(rank: int, cause: int = 3, error: str = "ValueError: bad input", line: int = 5) -> tuple:
    place = f"this rank was in Allreduce on COMM_WORLD, cell line {line}"
    return of_rank(rank, "PeerFailed", str(PeerFailed(cause, error, place)))


def test_peer_failed_from_its_text():
    for error_text in ("ValueError: bad", "KeyError: 'a; this rank was in b'", "two\nlines", ""):
        for place in ("this rank was in Allreduce on COMM_WORLD, cell line 5", ""):
            if place or "; this" not in error_text:
                first = PeerFailed(3, error_text, place)
                again = PeerFailed.parse(str(first))
                assert again is not None and again.args == first.args
    assert PeerFailed.parse("something else") is None
    assert RemoteError(*freed(0)).peer_failed.rank == 3
    assert remote().peer_failed is None


def test_the_cause_comes_first_and_those_who_waited_are_one_line():
    elist = [freed(rank) for rank in range(64)]
    elist[3] = of_rank(3, "ValueError", "bad input", CELL)
    raised = CompositeError("one or more exceptions raised in: execute", elist)
    assert str(raised).splitlines() == [
        "one or more exceptions raised in: execute",
        "[3:execute] rank 3 on node1: ValueError: bad input (cell line 5)",
        "engines 0-2, 4-63 were waiting for it in Allreduce on COMM_WORLD, cell line 5",
    ]
    rendered = raised.render_traceback()
    assert rendered == [
        "[3:execute] rank 3 on node1:", *CELL.splitlines(), "",
        "engines 0-2, 4-63 were waiting for it in Allreduce on COMM_WORLD, cell line 5",
    ]  # fmt: skip
    assert [entry[3]["engine_id"] for entry in raised.elist] == list(range(64))
    assert "PeerFailed" in raised.render_traceback(0)[-1]  # one that waited, when it is asked for
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)


def test_several_causes_and_places():
    elist = [
        freed(0), of_rank(1, "KeyError", "'a'"), freed(2, 1, "KeyError: 'a'"),
        of_rank(3, "ValueError", "bad input"), freed(4, line=7),
    ]  # fmt: skip
    assert str(CompositeError("m", elist)).splitlines()[1:] == [
        "[1:execute] rank 1 on node0: KeyError: 'a'",
        "[3:execute] rank 3 on node1: ValueError: bad input",
        "engine 0 was waiting for rank 3 in Allreduce on COMM_WORLD, cell line 5",
        "engine 2 was waiting for rank 1 in Allreduce on COMM_WORLD, cell line 5",
        "engine 4 was waiting for rank 3 in Allreduce on COMM_WORLD, cell line 7",
    ]


def test_a_cause_that_is_not_among_them():
    raised = CompositeError("m", [freed(0, 5), freed(1, 5)])
    assert str(raised).splitlines()[1:] == [
        "engines 0-1 were waiting for rank 5 in Allreduce on COMM_WORLD, cell line 5; "
        "rank 5 failed: ValueError: bad input"
    ]
    assert raised.render_traceback() == str(raised).splitlines()[1:]


def test_a_deadlock_is_shown_once():
    text = "rank 0: Bcast(root=0)\nrank 1: Barrier"
    elist = [of_rank(rank, "DeadlockError", text) for rank in range(64)]
    assert str(CompositeError("m", elist)) == f"m\n[0-63:execute] DeadlockError: {text}"
    rendered = CompositeError("m", elist).render_traceback()
    assert rendered[:2] == ["[0-63:execute] ranks 0-63 on 32 hosts:", "Traceback of 0"]
    assert len(rendered) == 5
    alone = CompositeError("m", elist[:1])
    assert str(alone).splitlines()[1].startswith("[0:execute] DeadlockError")


def test_what_failed_in_the_same_way_is_shown_once():
    def failed(rank: int, evalue: str = "division by zero", number: int = 1) -> tuple:
        text = f"\x1b[32mCell\x1b[39m In[{number}], line 2\n<object at 0x{rank:08x}>\nError: {evalue}"
        return of_rank(rank, "ZeroDivisionError", evalue, text)

    elist = [failed(rank, number=rank % 2) for rank in range(6)]
    elist[3] = failed(3, "something else")
    raised = CompositeError("m", elist)
    assert str(raised).splitlines()[1:] == [
        "[0-2, 4-5:execute] ZeroDivisionError: division by zero",
        "[3:execute] ZeroDivisionError: something else",
    ]
    assert raised.render_traceback() == [
        "[0-2, 4-5:execute] ranks 0-2, 4-5 on node0, node1, node2:", *elist[0][2].splitlines(), "",
        "[3:execute] rank 3 on node1:", *elist[3][2].splitlines(), "",
    ]  # fmt: skip
    assert raised.render_traceback(4) == ["[4:execute] rank 4 on node2:", *elist[4][2].splitlines()]
    many = CompositeError("m", [failed(rank, f"bad {rank // 2}") for rank in range(20)])
    assert many.render_traceback()[-1] == "... 12 more exceptions ..."


def test_syntax_errors_are_shown_once_whatever_the_numbers_of_the_cells():
    def failed(rank: int) -> tuple:
        number = rank % 2 + 7
        evalue = f"incomplete input (<ipython-input-{number}-0fa1b2>, line 1)"
        return of_rank(rank, "SyntaxError", evalue, f"  Cell In[{number}], line 1\nSyntaxError: incomplete")

    raised = CompositeError("m", [failed(rank) for rank in range(4)])
    assert str(raised) == "m\n[0-3:execute] SyntaxError: incomplete input (the cell, line 1)"
    assert raised.render_traceback()[0].startswith("[0-3:execute] ranks 0-3 on ")


def test_engines_that_went_with_one_another_are_shown_once():
    why = "rank 2 on node1 (pid 12) was killed by signal 9 (SIGKILL)"

    def of(rank: int, evalue: str) -> tuple:
        return "EngineError", evalue, "", of_rank(rank, "", "")[3]

    def died(rank: int) -> tuple:
        return of(rank, f"Engine {rank} died while running task c-1_{rank}: {why}")

    def lost(rank: int) -> tuple:
        return of(rank, f"Task c-1_{rank} has failed: its result was lost when engine 2 died")

    everybody = CompositeError("m", [died(rank) for rank in range(64)])
    assert str(everybody) == f"m\n[0-63:execute] EngineError: the engine died: {why}"
    assert everybody.render_traceback() == [
        "[0-63:execute] ranks 0-63 on 32 hosts:", f"EngineError: the engine died: {why}", "",
    ]  # fmt: skip
    bridge = CompositeError("m", [lost(0), lost(1), died(2), lost(3)])
    assert str(bridge).splitlines()[1:] == [
        f"[2:execute] EngineError: Engine 2 died while running task c-1_2: {why}",
        "[0-1, 3:execute] EngineError: the task has failed: its result was lost when engine 2 died",
    ]
    assert bridge.elist[0][1].startswith("Task c-1_0 has failed")


def test_two_tasks_of_one_engine_are_not_made_into_one():
    raised = CompositeError("m", [("ValueError", "bad", "same", info(1))] * 2)
    assert str(raised).count("[1:apply] ValueError: bad") == 2


def test_whom_others_waited_for_comes_first():
    elist = [of_rank(0, "KeyError", "'a'"), of_rank(1, "ValueError", "bad input"), freed(2, 1)]
    assert str(CompositeError("m", elist)).splitlines()[1].startswith("[1:execute]")


def test_ipython_shows_the_remote_traceback():
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell.instance()
    shown = []
    shell._showtraceback, original = lambda kind, value, lines: shown.extend(lines), shell._showtraceback
    try:
        shell.user_ns["fail"] = remote(2)
        shell.run_cell("raise fail", store_history=False)
    finally:
        shell._showtraceback = original
    text = "\n".join(shown)
    assert "Traceback of 2" in text and "render_traceback" not in text
