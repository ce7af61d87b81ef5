"""``mpiparallel results``: list and print the results that wait in a cluster's folder, in a terminal.

Called by `commandline.results`. A controller that runs is asked; without one its file is read.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mpiparallel.error import IPythonError

KEYS = [
    "msg_id", "client_uuid", "verb", "label", "status", "engines", "ranks", "submitted", "started",
    "completed", "ename", "evalue", "traceback", "stdout", "stderr",
]  # fmt: skip
SHORT = 60  # characters of a value in the list


class NoResults(IPythonError):
    """There is neither a controller nor a file of results."""


class Waiting:
    """Where results are read from: `search` finds records, `values` what the tasks returned."""

    def search(self, match: dict[str, Any], keys: list[str], newest: int) -> list[dict[str, Any]]:
        raise NotImplementedError

    def values(self, task: str) -> list[Any]:
        """Return the values of a task that has ended well: one, or one for each rank of a gang."""
        raise NotImplementedError


class _Running(Waiting):
    def __init__(self, client: Any) -> None:
        self._client = client

    def search(self, match: dict[str, Any], keys: list[str], newest: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client._ask("db_query", match=match, keys=keys, newest=newest)
        return found

    def values(self, task: str) -> list[Any]:
        result = self._client.get_result([task], owner=False)
        value = result.get()[0]
        return value if result._tasks[0].request.ranks > 1 else [value]


class _File(Waiting):
    def __init__(self, tables: Any) -> None:
        self._tables = tables

    def search(self, match: dict[str, Any], keys: list[str], newest: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._tables.search(match, keys, newest or None)
        return found

    def values(self, task: str) -> list[Any]:
        from mpiparallel.wire import objects

        results = self._tables.results(task)
        if results is None:
            raise NoResults(f"what {task} returned is not kept any more")
        return [objects.loads(one.payload) if one.payload else None for one in results]


@contextmanager
def open_results(folder: Path, running: bool) -> Iterator[Waiting]:
    """Yield the results of the cluster in `folder`."""
    if running:
        from mpiparallel import connection_file
        from mpiparallel.client.client import Client

        with Client(str(folder / connection_file.NAMES["client"])) as client:
            yield _Running(client)
        return
    from mpiparallel.controller.tables import NAME, Tables, Unsuitable

    path = folder / NAME
    if not path.exists():
        raise NoResults(f"no cluster runs in {folder}, and it has left no results there")
    try:
        tables = Tables(path, reading=True)
    except (Unsuitable, sqlite3.Error) as problem:
        raise NoResults(f"{path} cannot be read: {problem}") from None
    try:
        yield _File(tables)
    finally:
        tables.close()


def show(options: argparse.Namespace, waiting: Waiting) -> int:
    """List results, or print those that are named; return the exit code."""
    if options.msg_ids:
        return _print(options, waiting)
    match: dict[str, Any] = {}
    if options.status:
        match["status"] = None if options.status == "pending" else options.status
    if options.label:
        match["label"] = {"$glob": options.label}
    try:
        records = waiting.search(match, [*KEYS, "result_buffers"], options.n)
    except ValueError:  # too large an answer
        records = waiting.search(match, KEYS, options.n)
    rows = [_row(record) for record in records]
    if options.json:
        print(json.dumps([_plain(record) for record in records], indent=2))
    elif rows:
        _table(rows)
    else:
        print("no results")
    return 0


def _print(options: argparse.Namespace, waiting: Waiting) -> int:
    records = waiting.search({"msg_id": {"$in": options.msg_ids}}, KEYS, 0)
    found = {record["msg_id"]: record for record in records}
    unknown = [task for task in options.msg_ids if task not in found]
    for task in unknown:
        print(f"mpiparallel: no result of {task!r} is kept", file=sys.stderr)
    if options.json:
        print(json.dumps([_plain(found[task]) for task in options.msg_ids if task in found], indent=2))
        return 1 if unknown else 0
    for task in options.msg_ids:
        if task in found:
            _print_one(found[task], waiting)
    return 1 if unknown else 0


def _print_one(record: dict[str, Any], waiting: Waiting) -> None:
    row = _row(record)
    engines = row["engines"] and f"engine {row['engines']}"
    facts = [row["status"], row["when"], row["label"], engines, row["took"]]
    print(f"{row['msg_id']}  {', '.join(fact for fact in facts if fact)}")
    for kind in ("stdout", "stderr"):
        for line in (record[kind] or "").splitlines():
            print(f"[{kind}] {line}")
    if record["status"] == "ok":
        try:
            for value in waiting.values(record["msg_id"]):
                print(repr(value))
        except Exception as problem:  # a class that is not here, or its own __setstate__
            print(f"(its value cannot be shown here: {type(problem).__name__}: {problem})")
    elif record["status"] is not None:
        print((record["traceback"] or "").rstrip() or f"{record['ename']}: {record['evalue']}")


def _row(record: dict[str, Any]) -> dict[str, str]:
    started, completed = record["started"], record["completed"]
    return {
        "msg_id": record["msg_id"],
        "when": _when(record["submitted"]),
        "label": record["label"] or "",
        "status": record["status"] or "pending",
        "engines": record["engines"] or "",
        "took": f"{completed - started:.3g} s" if started is not None and completed is not None else "",
        "result": _short(record),
    }


def _when(moment: float | None) -> str:
    if moment is None:
        return ""
    then = datetime.fromtimestamp(moment, timezone.utc).astimezone()
    today = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def _short(record: dict[str, Any]) -> str:
    """Return what came of a task in a few words."""
    if record["status"] == "error":
        text = f"{record['ename']}: {record['evalue']}"
    elif record["status"] == "ok" and record.get("result_buffers"):
        text = _value(record["result_buffers"], max(1, record["ranks"]))
    else:
        text = ""
    line = " ".join(text.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def _value(buffers: list[bytes], ranks: int) -> str:
    size = sum(map(len, buffers))
    if size > 1 << 20 or ranks > 1:
        return f"({ranks} values, {size:,} bytes)" if ranks > 1 else f"({size:,} bytes)"
    from mpiparallel.wire import objects

    try:
        return repr(objects.loads(buffers))
    except Exception as problem:  # a class that is not here, or its own code
        return f"({size:,} bytes; {type(problem).__name__} here)"


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    plain = {key: record[key] for key in KEYS}
    plain["result"] = _short(record) if record.get("result_buffers") else None
    return plain


def _table(rows: list[dict[str, str]]) -> None:
    columns = list(rows[0])
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        if console.width < 70:  # what tells least goes first
            columns = ["msg_id", "status", "result"]
        elif console.width < 100:
            columns = [column for column in columns if column not in ("label", "took")]
        table = Table(box=None, pad_edge=False)
        for column in columns:
            # msg_ids are there to be copied: they stay whole, and the result gives way.
            width = max(len(column), *(len(row[column]) for row in rows))
            least = 6 if column in ("label", "result") else width
            table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=least)
        styles = {"error": "red", "aborted": "yellow", "pending": "dim"}
        for row in rows:
            table.add_row(*(Text(row[column]) for column in columns), style=styles.get(row["status"]))
        console.print(table)
        return
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for row in [{column: column for column in columns}, *rows]:
        print("  ".join(row[column].ljust(widths[column]) for column in columns).rstrip())
