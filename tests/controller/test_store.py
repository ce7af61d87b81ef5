"""The store alone: what goes in comes out, from memory or from disk, whatever happens to the file."""

from __future__ import annotations

import fnmatch
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiparallel.config import Config
from mpiparallel.controller import query
from mpiparallel.controller.database import Database
from mpiparallel.controller.records import Departed, Printed, Record
from mpiparallel.controller.store import Answered, Reader, Store
from mpiparallel.controller.tables import NAME, Limits, Tables
from mpiparallel.wire.messages import Balance, Failure, Message, Result

from .peers import wait_until


def record(number: int, size: int = 10, client: str = "c", common: bytes = b"", **fields: Any) -> Record:
    """Return the record of a balanced task, whose result has `size` bytes."""
    request = f"{client}-1"
    task = f"{request}_{number}"
    balance = Balance(
        request, client, "apply", [1], number, 2, b"digest of the function", 1, label="l",
        submitted=1000.0 + number,
    )  # fmt: skip
    result = Message(Result(task, 3, "ok", 1.0, 2.0), [bytes([number % 256]) * size])
    made = Record(
        task, client, "apply", "l", 1000.0 + number, 1, [3], "ok", 1.0, 2.0, None, [result],
        Message(balance, [b"function", common, b"part %d" % number]), "world-3",
    )  # fmt: skip
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


def ask(store: Store, read: Any) -> Any:
    """Ask the store's thread and wait for the answer; what it said is durable goes to `store.said`."""
    answers: list[Answered] = []
    store.ask("t", read)

    def answered() -> bool:
        tasks, more = store.take()
        store.__dict__.setdefault("said", []).extend(tasks)
        answers.extend(more)
        return bool(answers)

    wait_until(answered, "the store's answer")
    assert answers[0].ticket == "t"
    if answers[0].error is not None:
        raise answers[0].error
    return answers[0].value


def test_what_goes_in_comes_out(store: Store, tmp_path: Path) -> None:
    records = [record(number) for number in range(300)]
    store.put(records)
    assert store.find("c-1_7") == records[7].results  # at once
    assert ask(store, lambda reader: reader.results("c-1_299")) == records[299].results
    assert sorted(store.said) == sorted(one.task for one in records)
    assert store.find("c-1_7") == records[7].results  # now from the file
    assert store.find("c-1_300") is None
    about = ask(store, lambda reader: reader.metadata(["c-1_7", "no such"]))
    assert list(about) == ["c-1_7"]
    assert about["c-1_7"]["msg_id"] == "c-1_7"
    assert about["c-1_7"]["engine_uuid"] == "world-3"
    assert about["c-1_7"]["submitted"] == 1007.0
    assert stat.S_IMODE(os.stat(tmp_path / NAME).st_mode) == 0o600


def test_inputs_come_out_as_they_went_in(store: Store) -> None:
    long = os.urandom(5000)
    store.put([record(1, common=b"short"), record(2, common=long), record(3, common=long)])
    for number, common in ((1, b"short"), (2, long), (3, long)):
        inputs = ask(store, lambda reader, number=number: reader.inputs(f"c-1_{number}"))
        assert list(inputs.payload) == [b"function", common, b"part %d" % number]
        assert inputs.header == record(number).inputs.header  # type: ignore[union-attr]
    assert ask(store, lambda reader: reader.inputs("c-1_4")) is None
    shared = ask(
        store, lambda reader: reader.databases[0]._sql.execute("SELECT count(*) FROM shared").fetchone()
    )
    assert shared == (2,)  # the function, and the long frame: once


def test_queries_find_large_results_in_memory(store: Store) -> None:
    large = [record(number, size=100_000 if number else 10) for number in range(3)]
    store.put(large)
    for opened in ([], [record(9, status=None, results=[])]):
        found = ask(store, lambda reader, opened=opened: reader.search({}, ["result_buffers"], None, opened))
        buffers = {one["msg_id"]: one["result_buffers"] for one in found}
        for one in large:
            assert buffers[one.task] == list(one.results[0].payload)
    store.put([record(4, size=40 << 20)])
    with pytest.raises(ValueError, match="too much"):
        ask(store, lambda reader: reader.search({}, ["result_buffers"]))


def test_direct_tasks_have_no_inputs(store: Store) -> None:
    store.put([record(1, inputs=None)])
    assert ask(store, lambda reader: reader.inputs("c-1_1")) is None
    assert ask(store, lambda reader: reader.results("c-1_1"))


def test_errors_and_gangs(store: Store) -> None:
    odd = Failure("ValueError", "half a pair: \udc80", "Traceback")
    results = [Message(Result("c-1_1", engine, "error", failure=odd)) for engine in (0, 1)]
    store.put([record(1, engines=[0, 1], ranks=2, status="error", failure=odd, results=results)])
    found = ask(store, lambda reader: reader.results("c-1_1"))
    assert [one.header.engine for one in found] == [0, 1]
    assert found[0].header.failure == Failure("ValueError", "half a pair: \\udc80", "Traceback")
    about = ask(store, lambda reader: reader.search({"status": "error"}, None))
    assert (about[0]["engines"], about[0]["ename"], about[0]["ranks"]) == ("0,1", "ValueError", 2)


def test_large_results_wait_in_memory(tmp_path: Path) -> None:
    store = Store(tmp_path, Limits(memory=250_000))
    large = [record(number, size=100_000, client="ab"[number % 2]) for number in range(2)]
    store.put(large)
    assert ask(store, lambda reader: reader.results("a-1_0")) == large[0].results
    assert store.said == []  # a kill of the controller would lose them
    assert store.find("b-1_1") == large[1].results
    store.put([Departed("b")])
    ask(store, lambda reader: None)
    assert store.said == ["b-1_1"]
    assert store.find("b-1_1") == large[1].results
    more = [record(number, size=100_000, client="d") for number in range(4)]
    store.put(more)  # too much: the oldest go to disk
    ask(store, lambda reader: None)
    assert store.said == ["b-1_1", "a-1_0", "d-1_0", "d-1_1"]
    store.close()
    with_all = Store(tmp_path)
    for one in large + more:
        assert with_all.find(one.task) == one.results
    with_all.close()


def test_text_of_tasks_whose_client_is_gone(store: Store) -> None:
    store.put(
        [
            Printed("c-1_1", "stdout", "a"),
            Printed("c-1_1", "stderr", "e"),
            Printed("c-1_1", "stdout", "b" * 70_000),
        ]
    )
    store.put([record(1), Printed("c-1_2", "stdout", "nothing comes of it")])
    store.put([Printed("c-1_1", "stderr", "late")])
    about = ask(store, lambda reader: reader.metadata(["c-1_1"]))["c-1_1"]
    assert about["stdout"] == "a" + "b" * (65536 - 1)
    assert about["stderr"] == "elate"


def test_a_task_that_comes_twice_is_there_once(store: Store) -> None:
    store.put([record(1), record(2), record(1, status="error")])
    assert ask(store, lambda reader: reader.databases[0].count) == 2
    store.put([record(2, status="aborted")])
    found = ask(store, lambda reader: reader.search({}, ["status"]))
    assert found == [{"msg_id": "c-1_1", "status": "error"}, {"msg_id": "c-1_2", "status": "aborted"}]
    assert ask(store, lambda reader: (reader.databases[0].count, reader.databases[0].nbytes)) == sums(store)


def names(store: Store) -> list[str]:
    return ask(store, lambda reader: reader.history())  # type: ignore[no-any-return]


def sums(store: Store) -> tuple[int, int]:
    """Return number and bytes of what is there, counted anew."""

    def count(reader: Reader) -> tuple[int, int]:
        sql = reader.databases[0]._sql
        number, size = sql.execute("SELECT count(*), IFNULL(sum(nbytes), 0) FROM tasks").fetchone()
        shared = sql.execute("SELECT IFNULL(sum(length(frames)), 0) FROM shared").fetchone()[0]
        return number, size + shared

    return ask(store, count)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "limits", [Limits(count=1000), Limits(nbytes=1_000_000)], ids=["by count", "by bytes"]
)
def test_the_oldest_go_first(tmp_path: Path, limits: Limits) -> None:
    store = Store(tmp_path, limits)
    for start in range(0, 8000, 500):
        store.put([record(start + i, common=b"%d" % (start // 2000) * 2000) for i in range(500)])
        ask(store, lambda reader: None)
    count, size = ask(store, lambda reader: (reader.databases[0].count, reader.databases[0].nbytes))
    assert (count, size) == sums(store)
    assert 500 <= count <= limits.count and size <= limits.nbytes
    left = names(store)
    assert left == [f"c-1_{number}" for number in range(8000 - count, 8000)]
    shared = ask(
        store, lambda reader: reader.databases[0]._sql.execute("SELECT count(*) FROM shared").fetchone()
    )
    assert shared[0] <= 3  # what only forgotten tasks had in common is forgotten, too
    assert ask(store, lambda reader: reader.inputs("c-1_7999")) is not None
    store.close()
    again = Store(tmp_path, limits)
    assert ask(again, lambda reader: (reader.databases[0].count, reader.databases[0].nbytes)) == (count, size)
    again.close()


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    config = Config.from_environment({"MPIPARALLEL_STORE": "0"})
    store = Store(tmp_path, Limits.of(config))
    store.put([record(1)])
    assert store.find("c-1_1") is None and not names(store)
    store.close()
    assert Config.from_environment({}).store


def test_old_results_go(tmp_path: Path) -> None:
    database = Database(tmp_path / NAME, Limits(age=100.0))
    database.write([record(1), record(2)], {}, set(), now=1000.0)
    database.write([record(3)], {}, set(), now=1090.0)
    database.write([record(4)], {}, set(), now=1101.0)
    assert [task for _, task in database.history()] == ["c-1_3", "c-1_4"]
    database.close()


def test_purge(store: Store) -> None:
    store.put([record(number, engines=[number % 3]) for number in range(9)])
    store.put([record(9, size=100_000)])
    ask(store, lambda reader: reader.purge(["c-1_0", "c-1_9", "unknown"], [1]))
    assert names(store) == ["c-1_2", "c-1_3", "c-1_5", "c-1_6", "c-1_8"]
    assert store.find("c-1_9") is None
    ask(store, lambda reader: reader.purge(["all"], []))
    assert names(store) == []
    store.put([record(number, common=b"x" * 2000) for number in range(3)])
    assert ask(store, lambda reader: reader.databases[0].count) == 3
    assert ask(store, lambda reader: reader.databases[0].nbytes) == sums(store)[1]


# ------------------------------------------------------------ what happens to the file


_WRITER = """
import sys
from pathlib import Path
from mpiparallel.controller.store import Store
from tests.controller.test_store import record
store = Store(Path(sys.argv[1]))
number = 0
while True:
    store.put([record(number + i) for i in range(100)])
    number += 100
    store.ask(number, lambda reader: None)
    answers = []
    while not answers:
        tasks, answers = store.take()
    print(number, flush=True)
"""


def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    """Whatever the store has said to be on disk is there, and the file is sound."""
    for round in range(3):
        root = Path(__file__).parents[2]
        environ = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=environ, cwd=root
        )
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(3 + 2 * round)][-1]
        writer.send_signal(signal.SIGKILL)
        said = max([said, *map(int, writer.stdout.read().split())])
        writer.wait()
        store = Store(tmp_path)
        assert not store.broken
        for number in range(said):
            assert store.find(f"c-1_{number}") == record(number).results
        assert ask(store, lambda reader: reader.databases[0].count) == sums(store)[0] >= said
        store.close()


@pytest.mark.parametrize("how", ["noise", "another version", "another database", "broken pages"])
def test_a_file_that_is_no_use_is_moved_aside(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / NAME
    if how == "noise":
        path.write_bytes(os.urandom(10_000))
    else:
        sql = sqlite3.connect(path)
        sql.execute("CREATE TABLE other (x)")
        if how == "another version":
            sql.execute("PRAGMA user_version = 99")
        sql.commit()
        sql.close()
    if how == "broken pages":
        path.unlink()
        Database(path).close()
        content = path.read_bytes()
        path.write_bytes(content[:100] + os.urandom(len(content) - 100))
    store = Store(tmp_path)
    store.put([record(1)])
    assert ask(store, lambda reader: reader.results("c-1_1"))
    assert not store.broken
    store.close()
    assert len(list(tmp_path.glob("results.db.*.bad"))) == 1
    assert "cannot be used" in caplog.text


def test_a_full_disk_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    store.put([record(1)])
    ask(store, lambda reader: reader.databases[0]._sql.execute("PRAGMA max_page_count = 12"))
    for start in range(2, 1002, 250):
        store.put([record(start + i) for i in range(250)])
        ask(store, lambda reader: None)
    assert [one.getMessage() for one in caplog.records if "in memory only" in one.getMessage()]
    assert len(caplog.records) == 1
    assert store.broken
    assert ask(store, lambda reader: reader.results("c-1_1"))
    assert ask(store, lambda reader: reader.results("c-1_1001"))
    assert len(ask(store, lambda reader: reader.search({"label": "l"}, ["label"]))) == 1001
    store.put([record(5000, size=100_000)])
    store.put([Departed("c")])
    assert ask(store, lambda reader: reader.results("c-1_5000"))
    store.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "missing")
    store.put([record(1)])
    assert ask(store, lambda reader: reader.results("c-1_1"))
    assert store.find("c-1_1") == record(1).results
    store.close()
    assert len(caplog.records) == 1


def test_reading_while_it_is_written(store: Store) -> None:
    store.put([record(1)])
    ask(store, lambda reader: None)
    reading = Tables(store.path, reading=True)
    store.put([record(2)])
    ask(store, lambda reader: None)
    assert [task for _, task in reading.history()] == ["c-1_1", "c-1_2"]
    with pytest.raises(sqlite3.OperationalError):
        reading._sql.execute("DELETE FROM tasks")
    reading.close()


def test_much_at_once_does_not_grow_without_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpiparallel.controller import store as module

    monkeypatch.setattr(module, "FULL", 1000)
    for start in range(0, 6000, 500):
        store.put([record(start + i) for i in range(500)])
        assert store._waiting <= 1500
    assert ask(store, lambda reader: reader.databases[0].count) == 6000


def test_errors_of_who_asks_are_theirs(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        ask(store, lambda reader: 1 // 0)
    with pytest.raises(ValueError, match="no such key: 'nonsense'"):
        ask(store, lambda reader: reader.search({"nonsense": 1}, None))
    store.put([record(1)])
    assert ask(store, lambda reader: reader.results("c-1_1"))


def test_too_large_an_answer(store: Store) -> None:
    store.put([record(number, size=60_000) for number in range(700)])
    with pytest.raises(ValueError, match="ask for fewer keys"):
        ask(store, lambda reader: reader.search({}, ["result_buffers"]))
    assert len(ask(store, lambda reader: reader.search({}, None))) == 700


# ------------------------------------------------------------ queries against a model in plain Python

WORDS = st.sampled_from(["", "a", "b", "ab", "Ab", "run-1", "run-2", "%_", "é"])
NUMBERS = st.sampled_from([0.0, 1.0, 1.5, 2.0, 1e9])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "label": st.none() | WORDS,
            "status": st.sampled_from(["ok", "error", "aborted"]),
            "started": st.none() | NUMBERS,
            "completed": st.none() | NUMBERS,
            "engine": st.none() | st.integers(0, 3),
        }
    ),
    max_size=12,
)
KEYS = {
    "label": WORDS,
    "status": WORDS,
    "started": NUMBERS,
    "completed": NUMBERS,
    "engine_id": st.integers(0, 3),
}


@st.composite
def conditions(draw: st.DrawFn, key: str) -> Any:
    values = KEYS[key]
    one = {
        "$eq": st.none() | values, "$ne": st.none() | values, "$gt": values, "$gte": values, "$lt": values,
        "$lte": values, "$le": values, "$in": st.lists(st.none() | values, max_size=4),
        "$nin": st.lists(st.none() | values, max_size=4),
    }  # fmt: skip
    if key in ("label", "status"):
        one["$glob"] = st.sampled_from(["*", "a*", "*b", "run-?", "[ab]*", "", "Ab"])
    if draw(st.booleans()):
        return draw(st.none() | values)
    names = draw(st.lists(st.sampled_from(sorted(one)), min_size=1, max_size=3, unique=True))
    return {name: draw(one[name]) for name in names}


def holds(value: Any, operator: str, operand: Any) -> bool:
    """What an operator means."""
    if operator in ("$eq", "$ne"):
        return (value == operand) is (operator == "$eq")
    if operator in ("$in", "$nin"):
        return (value in operand) is (operator == "$in")
    if value is None:
        return False
    if operator == "$glob":
        return fnmatch.fnmatchcase(value, operand)
    return {  # type: ignore[no-any-return]
        "$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand,
        "$le": value <= operand,
    }[operator]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ROWS, st.data())
def test_queries(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    database = Database(None)
    made = [
        record(
            number, label=row["label"], status=row["status"], started=row["started"], inputs=None,
            completed=row["completed"], engines=[] if row["engine"] is None else [row["engine"]],
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip
    database.write(made, {}, set(), time.time())
    keys = data.draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=3, unique=True))
    question = {key: data.draw(conditions(key)) for key in keys}

    def matches(row: dict[str, Any]) -> bool:
        for key, test in question.items():
            value = row["engine" if key == "engine_id" else key]
            for operator, operand in (test if isinstance(test, dict) else {"$eq": test}).items():
                if not holds(value, operator, operand):
                    return False
        return True

    expected = [f"c-1_{number}" for number, row in enumerate(rows) if matches(row)]
    assert [one["msg_id"] for one in database.search(question, [])] == expected
    assert [one["msg_id"] for one in database.search(question, [], newest=2)] == expected[-2:]
    database.close()


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ({"x; DROP TABLE tasks": 1}, "no such key"),
        ({"status": {"$where": 1}}, "no such operator: '\\$where'; operators are \\$eq, \\$ne"),
        ({"status": 1}, "status: expected text, not 1"),
        ({"submitted": "yesterday"}, "submitted: expected a datetime"),
        ({"engine_id": {"$in": 3}}, "\\$in and \\$nin take a list, not 3"),
        ({"engine_id": {"$gt": None}}, "nothing is more or less than None"),
        ({"engine_id": {"$glob": "*"}}, "\\$glob compares text"),
        ({"result_buffers": 1}, "can be asked for by `keys`"),
        ({"engine_id": {"$in": list(range(30_000))}}, "30000 operands"),
    ],
)
def test_wrong_questions(question: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        query.where(question)


def test_keys_of_an_answer() -> None:
    database = Database(None)
    database.write([record(1)], {}, set(), 5.0)
    assert database.search({}, []) == [{"msg_id": "c-1_1"}]
    assert database.search({}, ["status", "msg_id"]) == [{"msg_id": "c-1_1", "status": "ok"}]
    assert list(database.search({}, None)[0]) == list(query.COLUMNS)
    found = database.search({}, ["buffers", "result_buffers"])[0]
    assert found["buffers"] == [b"function", b"", b"part 1"]
    assert found["result_buffers"] == [b"\x01" * 10]
    with pytest.raises(ValueError, match="no such key: 'nonsense'"):
        database.search({}, ["nonsense"])
    database.close()
