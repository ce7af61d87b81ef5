"""The results that wait: tasks that have ended, written by a thread of its own.

The server puts in what the hub's journal says, and takes out which tasks are on disk and what was asked for::

    store.put(records)         from the loop; costs it next to nothing
    store.find(task)           the Results, at once, from memory or from the file
    store.ask(ticket, read)    read(database) in the thread; the answer comes with
    store.take()               when `store.descriptor` can be read

Small results are on disk a moment after they have come, so that they outlive the controller. Larger ones are
kept in memory, and go to disk when they are too many, or when their client goes. When the disk is full, or
fails, a database in memory takes the place of the file.
"""

from __future__ import annotations

import heapq
import logging
import os
import queue
import socket
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpiparallel.controller.database import MAX_TEXT, SMALL, Database
from mpiparallel.controller.packing import as_bytes
from mpiparallel.controller.records import Entry, Printed, Record
from mpiparallel.controller.tables import DEFAULTS, MAX_ANSWER, NAME, Limits, Tables, Unsuitable
from mpiparallel.freed import Returner
from mpiparallel.wire.frames import nbytes
from mpiparallel.wire.messages import Message

log = logging.getLogger(__name__)

PAUSE = 0.2  # seconds between transactions
HURRY = 5000  # records that wait, at which it does not pause
FULL = 100_000  # records that wait, at which the loop has to
MAX_GONE = 10_000  # clients remembered for being gone
MAX_TEXTS = 64 << 20  # characters printed by tasks that have not ended

Large = OrderedDict[str, tuple[str, int, list[Message]]]  # client, size, Results; by task


class Answered(NamedTuple):
    """What came of `Store.ask`: a value, or the error."""

    ticket: Any
    value: Any
    error: Exception | None


class _Job(NamedTuple):
    ticket: Any
    read: Callable[[Reader], Any]


class Reader:
    """All that the store has, for those who ask; used in its thread."""

    def __init__(self, databases: Sequence[Database], large: Large, texts: Mapping[str, list[str]]) -> None:
        self.databases = databases
        self._large = large
        self._texts = texts

    def results(self, task: str) -> list[Message] | None:
        """Return the Results of a task, if they are there."""
        held = self._large.get(task)
        if held is not None:
            return held[2]
        found = (database.results(task) for database in self.databases)
        return next((one for one in found if one is not None), None)

    def texts(self, task: str) -> list[str]:
        """Return what a task that has not ended has printed since its client is gone: stdout and stderr."""
        return self._texts.get(task, ["", ""])

    def inputs(self, task: str) -> Message | None:
        """Return the Balance of a task, if it is there."""
        found = (database.inputs(task) for database in self.databases)
        return next((one for one in found if one is not None), None)

    def metadata(self, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of these tasks, as far as they are there."""
        return {task: one for base in reversed(self.databases) for task, one in base.metadata(tasks).items()}

    def search(
        self,
        query: dict[str, Any],
        keys: list[str] | None,
        newest: int | None = None,
        opened: Sequence[Record] = (),
    ) -> list[dict[str, Any]]:
        """Return records of the tasks that a query finds, those of `opened` too, as they were submitted."""
        databases: list[Database] = list(self.databases)
        if opened:
            databases.append(Database(None))
            databases[-1].write(opened, {}, set(), None)
        if len(databases) == 1:
            return self._with_large(databases[0].search(query, keys, newest), keys)
        wanted = None if keys is None else [*keys, "submitted"]
        found = {
            record["msg_id"]: record
            for base in reversed(databases) for record in base.search(query, wanted, newest)
        }  # fmt: skip
        if opened:
            databases[-1].close()
        ordered = sorted(found.values(), key=lambda record: record["submitted"] or 0.0)
        if keys is not None and "submitted" not in keys:
            for record in ordered:
                del record["submitted"]
        return self._with_large(ordered[-newest:] if newest else ordered, keys)

    def _with_large(self, records: list[dict[str, Any]], keys: list[str] | None) -> list[dict[str, Any]]:
        """Put in the results that are in memory only."""
        size = 0
        for record in records if keys is not None and "result_buffers" in keys else ():
            held = self._large.get(record["msg_id"])
            if held is not None:
                size += held[1]
                if size > MAX_ANSWER:
                    raise ValueError("the results found are too much for one answer: ask for fewer tasks")
                record["result_buffers"] = [as_bytes(frame) for one in held[2] for frame in one.payload]
        return records

    def history(self, opened: Sequence[tuple[float, str]] = ()) -> list[str]:
        """Return all tasks, those of `opened` too, by the time of submission."""
        lists = [sorted(opened), *(base.history() for base in self.databases)]
        return list(dict.fromkeys(task for _, task in heapq.merge(*lists, key=lambda pair: pair[0])))

    def purge(self, tasks: Sequence[str], engines: Sequence[int]) -> None:
        """Forget these tasks (``["all"]``: all) and those of these engines."""
        everything = list(tasks) == ["all"]
        for base in self.databases:
            if everything:
                base.forget_where({})
            else:
                base.forget(tasks)
                if engines:
                    base.forget_where({"engine_id": {"$in": list(engines)}})
        for task in [*self._large] if everything else tasks:
            self._large.pop(task, None)


class Store:
    """The store of the controller in `folder`.

    A file there that is not fit for use is moved aside. A controller that takes another's place (`again`)
    finds the tasks in it that are to be done yet in `waiting`, and in `ended` those that they come after.
    """

    def __init__(self, folder: Path, limits: Limits = DEFAULTS, *, again: bool = False) -> None:
        self.path = folder / NAME
        self.limits = limits
        self.broken = ""  # why the file is not written any more
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting = 0  # records in the queue; the loop adds, the thread takes away
        self._room = threading.Condition()
        self._urgent = threading.Event()
        self._fresh: dict[str, Record] = {}  # not on disk yet
        self._large: Large = OrderedDict()
        self._large_bytes = 0
        self._gone: OrderedDict[str, None] = OrderedDict()  # clients
        self._texts: OrderedDict[str, list[str]] = OrderedDict()
        self._text_size = 0
        self._done: list[Any] = []
        self._awake, self._bell = socket.socketpair()
        self._awake.setblocking(False)
        self._bell.setblocking(False)
        self._databases = [self._open()]
        self.waiting, self.ended = self._databases[0].take_waiting(again)
        self._reading: Tables | None = None
        self._thread = threading.Thread(target=self._run, name="mpiparallel-store", daemon=True)
        self._thread.start()

    @property
    def descriptor(self) -> int:
        """Can be read when `take` has something."""
        return self._awake.fileno()

    # ------------------------------------------------------------ the loop

    def put(self, entries: Sequence[Entry]) -> None:
        """Store what has ended. Waits only when very much waits already."""
        if not entries or not self.limits.keep:
            return
        fresh = self._fresh
        for entry in entries:
            if type(entry) is Record:
                fresh[entry.task] = entry
        with self._room:
            if self._waiting > FULL:
                self._urgent.set()
                self._room.wait_for(lambda: self._waiting <= FULL or not self._thread.is_alive())
            self._waiting += len(entries)
            hurry = self._waiting > HURRY
        self._queue.put(entries)
        if hurry:
            self._urgent.set()

    def find(self, task: str) -> list[Message] | None:
        """Return the Results of a task, if they are there."""
        record = self._fresh.get(task)
        if record is not None:
            return record.results
        held = self._large.get(task)
        if held is not None:
            return held[2]
        try:
            if self.broken:
                # SQLite lets one thread at a time use a connection, and a database in memory has but one.
                found = self._databases[0].results(task)
                if found is not None or len(self._databases) == 1:
                    return found
            if self._reading is None:
                self._reading = Tables(self.path, reading=True)
            return self._reading.results(task)
        except (sqlite3.Error, Unsuitable) as error:
            log.warning("%s: cannot be read: %s", self.path, error)
            return None

    def ask(self, ticket: Any, read: Callable[[Reader], Any]) -> None:
        """Have `read` called in the thread, when all that was put before is written."""
        self._queue.put(_Job(ticket, read))
        self._urgent.set()

    def take(self) -> tuple[list[str], list[Answered]]:
        """Return the tasks that are on disk since the last call, and the answers."""
        try:
            while self._awake.recv(4096):
                pass
        except BlockingIOError:
            pass
        done, self._done = self._done, []
        tasks: list[str] = []
        answers = []
        for one in done:
            if type(one) is Answered:
                answers.append(one)
            else:
                tasks += one
        return tasks, answers

    def close(self) -> None:
        """Write what waits, and end the thread. A file without any task is removed."""
        self._queue.put(None)
        self._urgent.set()
        self._thread.join()
        empty = not self.broken and not self._databases[0].count
        for database in [*self._databases, self._reading]:
            if database is not None:
                database.close()
        if empty:
            self.path.unlink(missing_ok=True)
        self._awake.close()
        self._bell.close()

    # ------------------------------------------------------------ the thread

    def _open(self) -> Database:
        try:
            return Database(self.path, self.limits)
        except Unsuitable as error:
            aside = self.path.with_name(f"{NAME}.{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.bad")
            log.warning("%s cannot be used: %s; it is now %s", self.path, error, aside.name)
            try:
                os.replace(self.path, aside)
                for ending in ("-wal", "-shm"):
                    self.path.with_name(NAME + ending).unlink(missing_ok=True)
                return Database(self.path, self.limits)
            except (Unsuitable, sqlite3.Error, OSError) as second:
                return self._in_memory(second)
        except (sqlite3.Error, OSError) as error:
            return self._in_memory(error)

    def _in_memory(self, error: Exception) -> Database:
        self.broken = str(error)
        log.error("results are kept in memory only, as %s cannot be written: %s", self.path, error)
        limits = Limits(self.limits.memory, self.limits.count, self.limits.age, self.limits.memory)
        return Database(None, limits)

    def _run(self) -> None:
        open_, freed, done = True, Returner(), 0
        while open_:
            batch = [self._queue.get()]
            if type(batch[0]) is not _Job and batch[0] is not None:
                self._urgent.wait(PAUSE)
            self._urgent.clear()
            try:
                while True:
                    batch.append(self._queue.get_nowait())
            except queue.Empty:
                pass
            open_ = batch[-1] is not None
            try:
                self._work(batch)
            except Exception:
                log.exception("the store")  # a bug; what comes next is stored all the same
            self._ring()
            done += 1
            freed.look(done)  # here, where nobody waits for it
        self._spill(0)

    def _work(self, batch: list[Any]) -> None:
        records: list[Record] = []
        for item in batch:
            if type(item) is _Job:
                self._write(records)
                records = []
                self._answer(item)
            elif item is not None:
                with self._room:
                    self._waiting -= len(item)
                    self._room.notify()
                for entry in item:
                    if type(entry) is Record:
                        records.append(entry)
                    elif type(entry) is Printed:
                        self._print(entry)
                    else:
                        self._write(records)
                        records = []
                        self._spill_of(entry.client)
        self._write(records)

    def _answer(self, job: _Job) -> None:
        try:
            answered = Answered(job.ticket, job.read(Reader(self._databases, self._large, self._texts)), None)
        except Exception as error:  # whatever it is belongs to who asked
            answered = Answered(job.ticket, None, error)
        self._done.append(answered)

    def _write(self, records: list[Record]) -> None:
        if not records:
            return
        aside: set[str] = set()
        for record in records:
            size = 0
            for result in record.results:
                for frame in result.payload:
                    size += nbytes(frame)
            if size > SMALL and record.client not in self._gone:
                aside.add(record.task)
                self._large[record.task] = (record.client, size, record.results)
                self._large_bytes += size
        now = time.time()
        self._try(lambda database: database.write(records, self._texts, aside, now))
        fresh = self._fresh
        for record in records:
            if fresh.get(record.task) is record:
                del fresh[record.task]
            if self._texts and record.status is not None:
                self._forget_text(record.task)
        self._done.append([one.task for one in records if one.task not in aside and one.status is not None])
        self._spill(self.limits.memory)

    def _try(self, write: Callable[[Database], Any]) -> None:
        """Write to the file; when that fails, to memory from now on."""
        try:
            write(self._databases[0])
        except sqlite3.Error as error:
            if self.broken:
                log.error("the store: %s", error)
                return
            self._databases.insert(0, self._in_memory(error))
            write(self._databases[0])

    def _spill(self, most: int) -> None:
        """Write the oldest large results until not more than `most` bytes of them are in memory only."""
        while self._large and self._large_bytes > most:
            self._spill_one(next(iter(self._large)))

    def _spill_of(self, client: str) -> None:
        """Write the large results of a client that is gone, now and when more of them come."""
        self._gone[client] = None
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        for task in [task for task, held in self._large.items() if held[0] == client]:
            self._spill_one(task)

    def _spill_one(self, task: str) -> None:
        _, size, results = self._large[task]
        self._try(lambda database: database.put_results(task, results))
        del self._large[task]
        self._large_bytes -= size
        self._done.append([task])

    def _print(self, printed: Printed) -> None:
        text = self._texts.setdefault(printed.task, ["", ""])
        place = 0 if printed.kind == "stdout" else 1
        more = printed.text[: MAX_TEXT - len(text[place])]
        text[place] += more
        self._text_size += len(more)
        if self._databases[0].add_text(printed.task, _only(place, more)):
            self._forget_text(printed.task)
        while self._text_size > MAX_TEXTS:
            self._forget_text(next(iter(self._texts)))

    def _forget_text(self, task: str) -> None:
        text = self._texts.pop(task, None)
        if text is not None:
            self._text_size -= len(text[0]) + len(text[1])

    def _ring(self) -> None:
        if self._done:
            try:
                self._bell.send(b"!")
            except BlockingIOError:
                pass  # it rings already


def _only(place: int, text: str) -> tuple[str, str]:
    return (text, "") if place == 0 else ("", text)
