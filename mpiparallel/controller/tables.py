"""Tasks that have ended, in an SQLite file: its tables, and what is read from them.

Used by `store`, in its thread, and by the command that shows results when no controller runs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mpiparallel.config import Config
from mpiparallel.controller import query
from mpiparallel.controller.packing import decode_frames, decode_inputs, unpack_results
from mpiparallel.wire.messages import Message

NAME = "results.db"
VERSION = 1
MAX_ANSWER = 32 << 20  # bytes of an answer to a question

FIELDS = (
    "n", "task", "client", "verb", "label", "submitted", "ranks", "engines", "engine", "uuid", "status",
    "started", "completed", "stored", "ename", "evalue", "traceback", "stdout", "stderr", "results", "inputs",
    "function", "common", "nbytes",
)  # fmt: skip
_SCHEMA = f"""
CREATE TABLE tasks (n INTEGER PRIMARY KEY, task TEXT NOT NULL UNIQUE, {", ".join(FIELDS[2:])});
CREATE TABLE shared (digest BLOB PRIMARY KEY, frames BLOB NOT NULL, last INTEGER NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_METADATA = ", ".join(column.name for column in query.COLUMNS.values())


@dataclass(frozen=True)
class Limits:
    """How much is kept: the oldest goes first."""

    nbytes: int = 1 << 30
    count: int = 1_000_000
    age: float = 7 * 86400.0  # seconds
    memory: int = 256 << 20  # of large results that are not on disk
    keep: bool = True  # False: nothing at all

    @classmethod
    def of(cls, config: Config) -> Limits:
        return cls(
            config.results_bytes, config.results_count, config.results_age, config.results_memory,
            config.store,
        )  # fmt: skip


DEFAULTS = Limits()


class Unsuitable(Exception):
    """The file is damaged, is no database, or is of another version."""


class Tables:
    """One file, or with no path a database in memory.

    Parameters
    ----------
    path
        The file; made when it is not there.
    reading
        Open it to read only: it must be there.

    Raises
    ------
    Unsuitable
        If the file is not one of ours.
    sqlite3.Error, OSError
        If it cannot be opened.
    """

    def __init__(self, path: Path | None, limits: Limits = DEFAULTS, *, reading: bool = False) -> None:
        self.path = path
        self.limits = limits
        if path is not None and not reading:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        name = ":memory:" if path is None else str(path)
        if reading:
            name = f"{Path(name).absolute().as_uri()}?mode=ro"
        self._sql = sqlite3.connect(
            name, timeout=5.0, isolation_level=None, check_same_thread=False, uri=reading
        )
        try:
            self._open(reading)
        except BaseException:
            self._sql.close()
            raise

    def _open(self, reading: bool) -> None:
        try:
            version = self._sql.execute("PRAGMA user_version").fetchone()[0]
            empty = not self._sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version != VERSION and (reading or not empty):
                raise Unsuitable(f"it is of version {version}, not {VERSION}")
            if not reading:
                self._sql.execute("PRAGMA journal_mode=WAL")
                self._sql.execute("PRAGMA synchronous=OFF")
                self._sql.execute("PRAGMA journal_size_limit=33554432")
                if empty:
                    self._sql.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            if not reading:
                self._sql.execute("CREATE INDEX IF NOT EXISTS waiting ON tasks (n) WHERE status IS NULL")
            (self.next,) = self._sql.execute(
                "SELECT 1 + max(IFNULL((SELECT max(n) FROM tasks), 0), "
                "IFNULL((SELECT max(last) FROM shared), 0))"
            ).fetchone()
            totals = dict(self._sql.execute("SELECT name, value FROM totals"))
            self.count: int = totals.get("count", 0)
            self.nbytes: int = totals.get("nbytes", 0)
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise Unsuitable(str(error)) from None
            raise
        except sqlite3.DatabaseError as error:
            raise Unsuitable(str(error)) from None

    def close(self) -> None:
        self._sql.close()

    # ------------------------------------------------------------ reading

    def results(self, task: str) -> list[Message] | None:
        """Return the Results of a task; None if it is not there, or they are not."""
        row = self._sql.execute("SELECT results FROM tasks WHERE task = ?", (task,)).fetchone()
        return unpack_results(row[0]) if row and row[0] is not None else None

    def inputs(self, task: str) -> Message | None:
        """Return a Balance of a task alone; None if it is not there, or its inputs are not."""
        sql = "SELECT inputs, function, common FROM tasks WHERE task = ?"
        row = self._sql.execute(sql, (task,)).fetchone()
        return self._balance(row, {}) if row else None

    def waiting(self) -> Iterator[tuple[str, Message | None]]:
        """Yield each task that has not ended, with a Balance of it alone if its inputs are there."""
        shared: dict[bytes, list[bytes] | None] = {}
        sql = "SELECT inputs, function, common, task FROM tasks WHERE status IS NULL ORDER BY n"
        for row in self._sql.execute(sql).fetchall():
            yield row[3], self._balance(row, shared)

    def _balance(self, row: Sequence[Any], shared: dict[bytes, list[bytes] | None]) -> Message | None:
        """Return the Balance of a task whose row begins with inputs, function and common."""
        if row[0] is None:
            return None
        inputs = decode_inputs(row[0])
        for name in row[1:3]:
            if name is not None and name not in shared:
                shared[name] = self._frames(name)
        function = shared[row[1]] if row[1] is not None else []
        common = inputs.common if inputs.common is not None else shared.get(row[2])
        if function is None or common is None:
            return None
        header = msgspec.structs.replace(
            inputs.header, common=len(function) + len(common), function_frames=len(function),
            parts=[len(inputs.part)],
        )  # fmt: skip
        return Message(header, [*function, *common, *inputs.part])

    def _frames(self, name: bytes) -> list[bytes] | None:
        row = self._sql.execute("SELECT frames FROM shared WHERE digest = ?", (name,)).fetchone()
        return decode_frames(row[0]) if row else None

    def metadata(self, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of these tasks, by task; those that are not there are left out."""
        found: dict[str, dict[str, Any]] = {}
        for some in pieces(tasks):
            for row in self._sql.execute(
                f"SELECT {_METADATA} FROM tasks WHERE task IN ({marks(some)})", some
            ):
                found[row[0]] = dict(zip(query.COLUMNS, row, strict=True))
        return found

    def search(
        self, condition: dict[str, Any], keys: list[str] | None = None, newest: int | None = None
    ) -> list[dict[str, Any]]:
        """Return records of the tasks that a query finds, in the order of submission.

        With `newest` not more than so many, the last submitted.

        Raises
        ------
        ValueError
            If the query is wrong, or the answer would be too large.
        """
        text, parameters = query.where(condition)
        wanted = query.columns(keys)
        chosen = ", ".join(column.name for column in wanted.values())
        sql = f"SELECT {chosen} FROM tasks WHERE {text} ORDER BY IFNULL(submitted, stored) DESC, n DESC"
        records, size = [], 0
        for row in self._sql.execute(f"{sql} LIMIT ?", [*parameters, newest or -1]):
            record = dict(zip(wanted, row, strict=True))
            size += 100 + sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if "result_buffers" in record:
                results = unpack_results(record["result_buffers"]) if record["result_buffers"] else []
                record["result_buffers"] = [frame for result in results for frame in result.payload]
            if "buffers" in record:
                inputs = self.inputs(record["msg_id"])
                record["buffers"] = list(inputs.payload) if inputs else []
                size += sum(map(len, record["buffers"]))
            records.append(record)
            if size > MAX_ANSWER:
                raise ValueError(
                    f"more than {len(records)} tasks are found, too much for one answer: ask for fewer keys, "
                    "or for fewer tasks (as by $gt of submitted)"
                )
        records.reverse()
        return records

    def history(self, most: int = 500_000) -> list[tuple[float, str]]:
        """Return time of submission and name of all tasks in this order; the newest if they are too many."""
        rows = self._sql.execute(
            "SELECT IFNULL(submitted, stored), task FROM tasks ORDER BY 1 DESC, n DESC LIMIT ?", (most,)
        )
        return rows.fetchall()[::-1]


def marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def pieces(tasks: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(tasks), 10_000):
        yield tasks[start : start + 10_000]
