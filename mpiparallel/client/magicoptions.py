"""The options of ``%px`` and its kin: how they are written, and what they mean.

Used by `magics`, and like it imported only where IPython runs.
"""

from __future__ import annotations

import argparse
import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython.core import magic_arguments
from IPython.core.error import UsageError
from IPython.utils.process import arg_split

from mpiparallel.client.control import signal_number

_Option = tuple[tuple[str, ...], dict[str, Any]]


_COMMENT = re.compile(r"(^|\s)#.*")


def _flag(name: str, value: object, *words: str, help: str) -> _Option:
    return words, {"dest": name, "action": "store_const", "const": value, "help": help}


TARGETS: _Option = (
    ("-t", "--targets"),
    {"help": "which engines: all, an id, a slice of ids such as 0:2, or an expression that gives ids"},
)
FOLD: list[_Option] = [
    _flag("fold", True, "--fold", help="show what several engines print alike once"),
    _flag("fold", False, "--no-fold", help="show what each engine prints on its own"),
]
EXECUTION: list[_Option] = [
    _flag("block", True, "-b", "--block", help="wait for the engines, and show what they print"),
    _flag("block", False, "-a", "--noblock", help="return an AsyncResult at once"),
    _flag("stream", True, "--stream", help="show output while it comes (when waiting)"),
    _flag("stream", False, "--no-stream", help="show output, grouped, when all have ended"),
    TARGETS,
    _flag("verbose", True, "--verbose", help="say at each execution on which engines it is"),
    _flag("verbose", False, "--no-verbose", help="do not say that"),
    (
        ("--progress-after",),
        {"type": float, "help": "seconds until a progress bar is shown; -1: none, 0: at once"},
    ),
    (
        ("--signal-on-interrupt",),
        {
            "dest": "signal",
            "help": "what Ctrl-C sends to the engines: SIGINT (default), 2, SIGKILL, 9, 0 (nothing)",
        },
    ),
]  # fmt: skip
OUTPUT: list[_Option] = [
    _flag("groupby", "order", "-r", help="as --group-outputs=order"),
    _flag("groupby", "engine", "-e", help="as --group-outputs=engine"),
    (
        ("--group-outputs",),
        {
            "dest": "groupby",
            "choices": ["engine", "order", "type"],
            "help": "type (default): all standard output, then all standard error, then all displays; "
            "engine: all of one engine, then all of the next; "
            "order: as type, but the first displays of all engines before their second ones",
        },
    ),
    (("-o", "--out"), {"metavar": "NAME", "help": "keep the AsyncResult under this name"}),
]
LOCAL: _Option = _flag("local", True, "--local", help="run the cell here, too")


def options(*several: _Option) -> Callable[[Any], Any]:
    """Return a decorator which gives a magic these options, and the help that lists them."""

    def decorate(magic: Any) -> Any:
        for words, settings in reversed(several):
            magic = magic_arguments.argument(*words, **settings)(magic)
        return magic_arguments.magic_arguments()(magic)

    return decorate


def parse(magic: Any, line: str) -> argparse.Namespace:
    """Return the options of `magic` that `line` has.

    Raises
    ------
    UsageError
        If there is something wrong in it.
    """
    try:
        words = arg_split(_COMMENT.sub("", line))
    except ValueError as error:
        raise UsageError(f"{line}: {error}") from None
    found: argparse.Namespace = magic.parser.parse_args(_joined(words))
    out = getattr(found, "out", None)
    if out is not None and not out.isidentifier():
        raise UsageError(f"--out {out}: expected a name")
    if getattr(found, "signal", None) is not None:
        try:
            signal_number(found.signal)
        except ValueError as error:
            raise UsageError(f"--signal-on-interrupt {found.signal}: {error}") from None
    return found


def _joined(words: Sequence[str]) -> list[str]:
    """Return words without quotes around them, and targets as one word, be they ``-1:`` or ``[0, 2]``."""
    joined: list[str] = []
    rest = list(words)
    while rest:
        word = _unquoted(rest.pop(0))
        name, equals, value = word.partition("=")
        is_targets = name == "-t" or (name.startswith("--t") and "--targets".startswith(name))
        if is_targets and (equals or rest):
            value = _unquoted(value if equals else rest.pop(0))
            while rest and _goes_on(value):
                value += f" {rest.pop(0)}"
            word = f"--targets={value}"
        elif equals and name.startswith("-"):
            word = f"{name}={_unquoted(value)}"
        joined.append(word)
    return joined


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word


def _goes_on(text: str) -> bool:
    """Whether an expression, as far as it is there, has no end yet."""
    return text.endswith(",") or sum(map(text.count, "([{")) > sum(map(text.count, ")]}"))


def targets_of(text: str, ids: Sequence[int], names: Mapping[str, Any]) -> Any:
    """Return the engines that `text` stands for, as views take them.

    Parameters
    ----------
    text
        ``all``, a slice of ids (``1:``, ``::2``), an expression that gives an id, ids or a view, or several
        of these with commas.
    ids
        The engines that are there.
    names
        The user's namespace.

    Raises
    ------
    UsageError
        If it stands for nothing of that kind.
    """
    text = text.strip()
    if text == "all":
        return text
    try:
        subscript = ast.parse(f"_[{text}]", mode="eval").body
        if not isinstance(subscript, ast.Subscript):
            raise SyntaxError
        parts = subscript.slice.elts if isinstance(subscript.slice, ast.Tuple) else [subscript.slice]
        found = [_value(part, ids, names) for part in parts]
    except Exception as error:
        why = "" if isinstance(error, SyntaxError) else f" ({type(error).__name__}: {error})"
        expected = "expected all, an engine's id, a list of ids, or a slice of them such as 0:2"
        raise UsageError(f"--targets {text}: {expected}{why}") from None
    if all(part == [] for part in found):
        raise UsageError(f"--targets {text}: there is no engine among these")
    if len(found) == 1:
        return found[0]
    return [engine for part in found for engine in (part if isinstance(part, list) else [part])]


def _value(part: ast.expr, ids: Sequence[int], names: Mapping[str, Any]) -> Any:
    def evaluate(node: ast.expr | None) -> Any:
        if node is None:
            return None
        return eval(compile(ast.Expression(node), "<targets>", "eval"), dict(names))

    if isinstance(part, ast.Slice):
        value: Any = slice(evaluate(part.lower), evaluate(part.upper), evaluate(part.step))
    else:
        value = evaluate(part)
        value = getattr(value, "targets", value)  # a view
    if isinstance(value, slice):
        return list(ids)[value]
    if isinstance(value, str):
        if value != "all":
            raise TypeError(f"{value!r} is text")
        return value
    if isinstance(value, bool):
        raise TypeError(f"{value} is no id")
    try:
        return operator.index(value)
    except TypeError:  # which arrays raise, too
        return [operator.index(engine) for engine in value]
