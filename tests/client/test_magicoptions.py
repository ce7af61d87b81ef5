"""What is written behind %px and its kin, without engines."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from mpiparallel.client import magicoptions as opt
from mpiparallel.client.magics import ParallelMagics

IDS = [0, 1, 2, 5]


class View:
    targets = [1, 2]


NAMES = {
    "n": 2, "some": [0, 5], "view": View(), "word": "all", "odd": "odd", "yes": True, "pair": slice(0, 2),
}  # fmt: skip


def parsed(line):
    return vars(opt.parse(ParallelMagics.cell_px, line))


def test_nothing():
    for line in ("", "  ", "# only what one says --local"):
        assert set(parsed(line).values()) == {None}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("-b", "block", True),
        ("--block", "block", True),
        ("-a", "block", False),
        ("--noblock", "block", False),
        ("--stream", "stream", True),
        ("--no-stream", "stream", False),
        ("--verbose", "verbose", True),
        ("--no-verbose", "verbose", False),
        ("--fold", "fold", True),
        ("--no-fold", "fold", False),
        ("--local", "local", True),
        ("--local ", "local", True),
        ("-r", "groupby", "order"),
        ("-e", "groupby", "engine"),
        ("--group-outputs type", "groupby", "type"),
        ("--group-outputs=order", "groupby", "order"),
        ("-o ar", "out", "ar"),
        ("--out=ar", "out", "ar"),
        ("--out='ar'", "out", "ar"),
        ("--progress-after 0", "progress_after", 0.0),
        ("--progress-after -1", "progress_after", -1.0),
        ("--progress-after=2.5", "progress_after", 2.5),
        ("--signal-on-interrupt SIGKILL", "signal", "SIGKILL"),
        ("--signal-on-interrupt 0", "signal", "0"),
        ("-t 0:2", "targets", "0:2"),
        ("--target 0:2", "targets", "0:2"),
        ("--targets=0:2", "targets", "0:2"),
        ("-t '0:2'", "targets", "0:2"),
        ('-t "all"', "targets", "all"),
        ("-t '[0, 2]'", "targets", "[0, 2]"),
        ("-t [0, 2] -a", "targets", "[0, 2]"),
        ("-t 0:2, 3 -b", "targets", "0:2, 3"),
        ("-t -1", "targets", "-1"),
        ("-t -2: --local", "targets", "-2:"),
        ("-t ::2", "targets", "::2"),
        ("-t range(0, n)", "targets", "range(0, n)"),
        ("-b -b", "block", True),
        ("-b  # don't go on -a", "block", True),
        ("-b -a", "block", False),
    ],
)
def test_options(line, name, value):
    found = parsed(line)
    assert found[name] == value
    assert type(found[name]) is type(value)
    assert [other for other in found if found[other] is not None and other != name] in (
        [], ["block"], ["local"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--nothing", "unrecognized arguments: --nothing"),
        ("print(1)", "unrecognized arguments"),
        ("-t", "expected one argument"),
        ("--group-outputs colour", "invalid choice"),
        ("--progress-after soon", "invalid float"),
        ("--signal-on-interrupt SIGNOTHING", "no signal is called 'SIGNOTHING'"),
        ("--signal-on-interrupt 99", "no signal has the number 99"),
        ("-o 2x", "--out 2x: expected a name"),
        ("-o 'x", "No closing quotation"),
    ],
)
def test_mistakes_are_told(line, words):
    with pytest.raises(UsageError) as caught:
        parsed(line)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "engines"),
    [
        ("all", "all"),
        (" all ", "all"),
        ("3", 3),
        ("-1", -1),
        ("n", 2),
        ("n + 1", 3),
        (":", IDS),
        ("0:2", [0, 1]),
        ("1:", [1, 2, 5]),
        ("-1:", [5]),
        ("::2", [0, 2]),
        ("1::2", [1, 5]),
        ("n:", [2, 5]),
        ("::-1", [5, 2, 1, 0]),
        ("[0, 2]", [0, 2]),
        ("0, 2", [0, 2]),
        ("0:2, 5", [0, 1, 5]),
        ("(1, 2)", [1, 2]),
        ("[1]", [1]),
        ("range(3)", [0, 1, 2]),
        ("range(0, n)", [0, 1]),
        ("some", [0, 5]),
        ("[i for i in some if i > n]", [5]),
        ("view", [1, 2]),
        ("view.targets", [1, 2]),
        ("word", "all"),
        ("pair", [0, 1]),
        ("{'a': 1}['a']", 1),
    ],
)
def test_targets(text, engines):
    assert opt.targets_of(text, IDS, NAMES) == engines
    assert "__builtins__" not in NAMES


def test_targets_that_numpy_has_made():
    numpy = pytest.importorskip("numpy")
    found = opt.targets_of("which", IDS, {"which": numpy.array([0, 2])})
    assert found == [0, 2] and type(found[0]) is int
    found = opt.targets_of("which[1]", IDS, {"which": numpy.array([0, 2])})
    assert found == 2 and type(found) is int


@pytest.mark.parametrize("text", ["", "missing", "1 +", "odd", "yes", "1.5", "None", "[None]", "1/0", "a]+["])
def test_targets_that_are_none(text):
    with pytest.raises(UsageError, match=r"--targets .*: expected all, an engine's id"):
        opt.targets_of(text, IDS, NAMES)


@pytest.mark.parametrize("text", ["[]", "9:", "[], []"])
def test_targets_without_an_engine(text):
    with pytest.raises(UsageError, match="there is no engine among these"):
        opt.targets_of(text, IDS, NAMES)


def test_mistakes_in_expressions_are_told():
    with pytest.raises(UsageError, match="NameError: name 'missing' is not defined"):
        opt.targets_of("missing", IDS, NAMES)
