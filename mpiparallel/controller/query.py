"""Questions about tasks, as ``{key: value}`` or ``{key: {operator: operand}}``, in SQL.

Used by `database`. Nothing of a question gets into the text of the SQL: keys and operators are looked up in
the tables below, and operands are parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Column(NamedTuple):
    """Where a key is found in the table of tasks, and of which kind it is."""

    name: str
    kind: str  # text, number or time


COLUMNS = {
    "msg_id": Column("task", "text"),
    "client_uuid": Column("client", "text"),
    "engine_uuid": Column("uuid", "text"),
    "engine_id": Column("engine", "number"),
    "engines": Column("engines", "text"),
    "ranks": Column("ranks", "number"),
    "verb": Column("verb", "text"),
    "label": Column("label", "text"),
    "submitted": Column("submitted", "time"),
    "started": Column("started", "time"),
    "completed": Column("completed", "time"),
    "received": Column("stored", "time"),
    "status": Column("status", "text"),
    "ename": Column("ename", "text"),
    "evalue": Column("evalue", "text"),
    "traceback": Column("traceback", "text"),
    "stdout": Column("stdout", "text"),
    "stderr": Column("stderr", "text"),
}
BUFFERS = {"buffers": Column("inputs", "buffers"), "result_buffers": Column("results", "buffers")}
MAX_OPERANDS = 20_000  # SQLite takes 32,766 parameters

Condition = tuple[str, list[Any]]


def where(query: dict[str, Any]) -> Condition:
    """Return the condition that `query` stands for, and its parameters.

    Raises
    ------
    ValueError
        If it has a key or an operator that does not exist, or an operand of the wrong kind.
    """
    texts, parameters = [], []
    for key, test in query.items():
        column = COLUMNS.get(key)
        if column is None:
            buffers = ": it can be asked for by `keys`, not searched for" if key in BUFFERS else ""
            raise ValueError(f"no such key: {key!r}{buffers}; keys are {', '.join(COLUMNS)}")
        for operator, operand in (test if isinstance(test, dict) else {"$eq": test}).items():
            make = _OPERATORS.get(operator)
            if make is None:
                raise ValueError(f"no such operator: {operator!r}; operators are {', '.join(_OPERATORS)}")
            text, values = make(key, column, operand)
            texts.append(f"({text})")
            parameters += values
    if len(parameters) > MAX_OPERANDS:
        raise ValueError(f"{len(parameters)} operands in one question; at most {MAX_OPERANDS}")
    return " AND ".join(texts) or "1", parameters


def _check(key: str, column: Column, operand: Any) -> Any:
    if operand is None:
        return None
    if column.kind == "text":
        if isinstance(operand, str):
            return operand
    elif isinstance(operand, (int, float)) and not isinstance(operand, bool):
        return float(operand) if abs(operand) >= 1 << 63 else operand
    wanted = {"text": "text", "number": "a number", "time": "a datetime, or seconds since the epoch"}
    raise ValueError(f"{key}: expected {wanted[column.kind]}, not {operand!r}")


def _equal(operator: str) -> Callable[[str, Column, Any], Condition]:
    def make(key: str, column: Column, operand: Any) -> Condition:
        return f"{column.name} {operator} ?", [_check(key, column, operand)]

    return make


def _order(operator: str) -> Callable[[str, Column, Any], Condition]:
    def make(key: str, column: Column, operand: Any) -> Condition:
        if operand is None:
            raise ValueError(f"{key}: nothing is more or less than None")
        return f"{column.name} {operator} ?", [_check(key, column, operand)]

    return make


def _among(negated: bool) -> Callable[[str, Column, Any], Condition]:
    def make(key: str, column: Column, operand: Any) -> Condition:
        if not isinstance(operand, (list, tuple, set, frozenset)):
            raise ValueError(f"{key}: $in and $nin take a list, not {operand!r}")
        values = [_check(key, column, one) for one in operand]
        present = [value for value in values if value is not None]
        # A comparison with NULL is neither true nor false, which IFNULL makes false.
        text = f"IFNULL({column.name} IN ({','.join('?' * len(present))}), 0)"
        if len(present) < len(values):
            text += f" OR {column.name} IS NULL"
        return (f"NOT ({text})" if negated else text), present

    return make


def _glob(key: str, column: Column, operand: Any) -> Condition:
    if column.kind != "text" or not isinstance(operand, str):
        raise ValueError(f"{key}: $glob compares text with a pattern such as 'run-*', not {operand!r}")
    return f"{column.name} GLOB ?", [operand]


_OPERATORS: dict[str, Callable[[str, Column, Any], Condition]] = {
    "$eq": _equal("IS"),
    "$ne": _equal("IS NOT"),
    "$in": _among(False),
    "$nin": _among(True),
    "$gt": _order(">"),
    "$gte": _order(">="),
    "$lt": _order("<"),
    "$lte": _order("<="),
    "$le": _order("<="),
    "$glob": _glob,
}


def columns(keys: list[str] | None) -> dict[str, Column]:
    """Return the columns of these keys, by default of all but the buffers; msg_id is always there.

    Raises
    ------
    ValueError
        If a key does not exist.
    """
    if keys is None:
        return COLUMNS
    known = {**COLUMNS, **BUFFERS}
    for key in keys:
        if key not in known:
            raise ValueError(f"no such key: {key!r}; keys are {', '.join(known)}")
    return {key: known[key] for key in dict.fromkeys(["msg_id", *keys])}
