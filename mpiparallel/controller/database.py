"""Tasks that have ended, in an SQLite file: how they get there, and are forgotten.

Used by `store`, in its thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpiparallel.controller import query
from mpiparallel.controller.packing import MAX_BLOB, as_bytes, clean, encode, pack_results
from mpiparallel.controller.records import Record
from mpiparallel.controller.tables import DEFAULTS, FIELDS, Limits, Tables, marks, pieces
from mpiparallel.wire.frames import nbytes
from mpiparallel.wire.messages import Balance, Failure, Message
from mpiparallel.wire.objects import digest

ROWS = 128  # written by one statement: Python lets other threads run only while a statement does
SMALL = 64 << 10  # results up to this many bytes go to disk at once
MAX_TEXT = 64 << 10  # characters of what a task printed
INLINE = 1024  # bytes of common frames that are kept with each task
ROW = 400  # bytes that a row takes beside its blobs, roughly
MAX_SHARED = 10_000  # digests remembered
CULL = 5000  # rows forgotten at a time


class Database(Tables):
    """The file as its one writer has it."""

    def __init__(self, path: Path | None, limits: Limits = DEFAULTS) -> None:
        super().__init__(path, limits)
        self._shared: set[bytes] = set()  # digests known to be in the table
        self._last_common: tuple[Sequence[Any], bytes] | None = None

    # ------------------------------------------------------------ writing

    def write(
        self,
        records: Iterable[Record],
        texts: Mapping[str, Sequence[str]],
        aside: set[str],
        now: float | None,
    ) -> None:
        """Write records in one transaction, without the results of those tasks that are in `aside`.

        `texts` has stdout and stderr by task, as far as they are known. A task that is there already is
        replaced.
        """
        before = (self.next, self.count, self.nbytes, set(self._shared))
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            newest = {record.task: record for record in records}
            rows: list[Any] = []
            shared: dict[bytes, Sequence[Any]] = {}
            self._forget([*newest])
            for record in newest.values():
                rows += self._row(record, texts.get(record.task, _NO_TEXT), record.task in aside, shared, now)
                self.next += 1
                self.count += 1
                self.nbytes += rows[-1]
                if len(rows) == ROWS * len(FIELDS):
                    self._insert(rows)
                    rows = []
            while rows:
                some = _largest(len(rows) // len(FIELDS)) * len(FIELDS)
                self._insert(rows[:some])
                rows = rows[some:]
            self._share(shared)
            if now is not None:
                self._cull(now)
            self._note_totals()
            self._sql.execute("COMMIT")
        except BaseException:
            self.next, self.count, self.nbytes, self._shared = before
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise

    def _insert(self, values: list[Any]) -> None:
        self._sql.execute(_insertion(len(values) // len(FIELDS)), values)

    def _row(
        self,
        record: Record,
        text: Sequence[str],
        aside: bool,
        shared: dict[bytes, Sequence[Any]],
        now: float | None,
    ) -> tuple[Any, ...]:
        failure = record.failure or _NO_FAILURE
        results = None if aside or record.status is None else pack_results(record.results)
        inputs = function = common = None
        if record.inputs is not None:
            inputs, function, common = self._pack_inputs(record.inputs, shared)
        engines = record.engines
        size = ROW + (len(results) if results else 0) + (len(inputs) if inputs else 0)
        size += len(failure.traceback) + len(text[0]) + len(text[1])
        return (
            self.next, record.task, record.client, record.verb, record.label, record.submitted, record.ranks,
            str(engines[0]) if len(engines) == 1 else ",".join(map(str, engines)),
            engines[0] if engines else None, record.uuid, record.status, record.started, record.completed,
            now,
            clean(failure.ename), clean(failure.evalue), clean(failure.traceback), text[0], text[1],
            results, inputs, function, common, size,
        )  # fmt: skip

    def _pack_inputs(
        self, inputs: Message, shared: dict[bytes, Sequence[Any]]
    ) -> tuple[bytes | None, bytes | None, bytes | None]:
        header: Balance = inputs.header  # type: ignore[assignment]
        payload = inputs.payload
        function = header.function or None
        if function is not None:
            shared[function] = payload[: header.function_frames]
        frames = payload[header.function_frames : header.common]
        common = None
        inline: list[bytes] | None = [as_bytes(frame) for frame in frames]
        if sum(map(nbytes, frames)) > INLINE:
            common, inline = self._digest(frames), None
            shared[common] = frames
        packed = encode((header, inline, [as_bytes(frame) for frame in payload[header.common :]]))
        return (packed if len(packed) <= MAX_BLOB else None), function, common

    def _digest(self, frames: Sequence[Any]) -> bytes:
        # The tasks of a request have the very same frames one after the other.
        last = self._last_common
        if last is None or [*map(id, last[0])] != [*map(id, frames)]:
            last = self._last_common = (list(frames), b"frames" + digest(frames))
        return last[1]

    def _share(self, shared: dict[bytes, Sequence[Any]]) -> None:
        """Keep what tasks have in common, once, and note the last task that uses it."""
        if len(self._shared) > MAX_SHARED:
            self._shared.clear()
        for name, frames in shared.items():
            if name not in self._shared and frames:
                packed = encode([as_bytes(frame) for frame in frames])
                if len(packed) > MAX_BLOB:
                    continue
                done = self._sql.execute("INSERT OR IGNORE INTO shared VALUES (?, ?, 0)", (name, packed))
                self.nbytes += len(packed) * done.rowcount
                self._shared.add(name)
            self._sql.execute("UPDATE shared SET last = ? WHERE digest = ?", (self.next - 1, name))

    def _note_totals(self) -> None:
        self._sql.execute(
            "INSERT OR REPLACE INTO totals VALUES ('count', ?), ('nbytes', ?)", (self.count, self.nbytes)
        )

    def put_results(self, task: str, results: Sequence[Message]) -> None:
        """Write the results of a task that is there without them."""
        packed = pack_results(results)
        if packed is None:
            return
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            found = self._sql.execute(
                "UPDATE tasks SET results = ?, nbytes = nbytes + ? WHERE task = ?",
                (packed, len(packed), task),
            ).rowcount
            self.nbytes += found * len(packed)
            self._note_totals()
            self._sql.execute("COMMIT")
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise

    def add_text(self, task: str, text: Sequence[str]) -> bool:
        """Append what a task has printed; return whether the task is there and has ended."""
        done = self._sql.execute(
            f"UPDATE tasks SET stdout = substr(stdout || ?, 1, {MAX_TEXT}), "
            f"stderr = substr(stderr || ?, 1, {MAX_TEXT}) "
            "WHERE task = ? AND status IS NOT NULL",
            (text[0], text[1], task),
        )
        return done.rowcount > 0

    def take_waiting(self, again: bool) -> tuple[list[Message], dict[str, tuple[bool, tuple[int, ...]]]]:
        """Return the tasks that have not ended, and how those have that they come after.

        What cannot be read of them ends here; all of them do unless they are to be done (`again`).
        """
        waiting = dict(self.waiting()) if again else {}
        self._sql.execute("BEGIN IMMEDIATE")
        for (task,) in self._sql.execute("SELECT task FROM tasks WHERE status IS NULL").fetchall():
            if waiting.get(task) is None:
                self._sql.execute(
                    "UPDATE tasks SET status = 'error', ename = 'EngineError', evalue = ? WHERE task = ?",
                    (f"Task {task} has not been run: the controller has ended", task),
                )
        self._sql.execute("COMMIT")
        found = [message for message in waiting.values() if message is not None]
        needed = {
            name
            for message in found
            for needs in (message.header.after, message.header.follow)  # type: ignore[union-attr]
            for name in (needs.tasks if needs else ())
        }
        ended = {
            task: (one["status"] == "ok", tuple(map(int, filter(None, one["engines"].split(",")))))
            for task, one in self.metadata([*needed]).items()
            if one["status"] is not None
        }
        return found, ended

    # ------------------------------------------------------------ forgetting

    def forget(self, tasks: Sequence[str]) -> None:
        """Forget these tasks, as far as they are there and have ended."""
        self._sql.execute("BEGIN IMMEDIATE")
        for some in pieces(tasks):
            self._delete(f"task IN ({marks(some)}) AND status IS NOT NULL", some)
        self._note_totals()
        self._sql.execute("COMMIT")

    def forget_where(self, condition: dict[str, Any]) -> None:
        """Forget all tasks that a query finds and that have ended."""
        text, parameters = query.where(condition)
        self._sql.execute("BEGIN IMMEDIATE")
        self._delete(f"({text}) AND status IS NOT NULL", parameters)
        self._forget_shared()
        self._note_totals()
        self._sql.execute("COMMIT")

    def _forget(self, tasks: Sequence[str]) -> None:
        for some in pieces(tasks):
            self._delete(f"task IN ({marks(some)})", some)

    def _delete(self, condition: str, parameters: Sequence[Any]) -> None:
        count, size = self._sql.execute(
            f"SELECT count(*), IFNULL(sum(nbytes), 0) FROM tasks WHERE {condition}", parameters
        ).fetchone()
        if count:
            self._sql.execute(f"DELETE FROM tasks WHERE {condition}", parameters)
            self.count -= count
            self.nbytes -= size

    def _cull(self, now: float) -> None:
        """Forget the oldest tasks, a limited number at a time, when there are too many."""
        limits = self.limits
        too_many = max(0, self.count - limits.count)
        excess = self.nbytes - limits.nbytes
        sql = "SELECT n, nbytes, stored FROM tasks ORDER BY n LIMIT ?"
        rows = self._sql.execute(sql, (1,)).fetchall()
        if too_many or excess > 0 or (rows and now - rows[0][2] > limits.age):
            rows = self._sql.execute(sql, (max(CULL, 2 * too_many),)).fetchall()
        last = None
        for n, size, stored in rows:
            if too_many <= 0 and excess <= 0 and now - stored <= limits.age:
                break
            last = n
            too_many -= 1
            excess -= size
        if last is None:
            return
        self._delete("n <= ?", [last])
        self._forget_shared()

    def _forget_shared(self) -> None:
        """Forget what only tasks that are forgotten have in common."""
        (oldest,) = self._sql.execute("SELECT IFNULL(min(n), ?) FROM tasks", (self.next,)).fetchone()
        sql = "SELECT digest, length(frames) FROM shared WHERE last < ?"
        for name, size in self._sql.execute(sql, (oldest,)).fetchall():
            self._sql.execute("DELETE FROM shared WHERE digest = ?", (name,))
            self._shared.discard(name)
            self.nbytes -= size


_NO_TEXT = ("", "")
_NO_FAILURE = Failure("", "")


def _largest(rows: int) -> int:
    """Return how many rows to write by the next statement: few sizes, so that few are prepared."""
    return next(size for size in (ROWS, 32, 8, 1) if size <= rows)


def _insertion(rows: int) -> str:
    sql = _insertions.get(rows)
    if sql is None:
        row = f"({marks(FIELDS)})"
        sql = f"INSERT INTO tasks ({', '.join(FIELDS)}) VALUES {', '.join([row] * rows)}"
        _insertions[rows] = sql
    return sql


_insertions: dict[int, str] = {}
