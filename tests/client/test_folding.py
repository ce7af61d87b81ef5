"""Text of several engines made into blocks: complete, in order, once, and folded where it is the same."""

from __future__ import annotations

import random
import time
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiparallel.client.folding import HOLD, LIMIT, Block, Folder
from mpiparallel.client.voices import visible


def texts(blocks: list[Block]) -> list[tuple]:
    return [(block.kind, block.engines, block.text) for block in blocks]


def out(engines: str, text: str) -> tuple:
    return "stdout", tuple(map(int, engines)), text


def said(blocks: list[Block]) -> dict:
    """Return what each engine has said, and the order of its items."""
    found: dict = defaultdict(str)
    for block in blocks:
        for number, engine in enumerate(block.engines):
            if block.value is None:
                found[engine, block.kind] += block.text
            else:
                found[engine, "items"] += f"{block.value[number]} "
    return dict(found)


pieces = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["stdout", "stderr", "display", "end"]),
        st.sampled_from(["a\n", "b\n", "a\nb\n", "c", "\n", "x\ny\nz\n", "d\ne", "a\r", "\r"]),
        st.sampled_from([0.0, 0.001, 0.05, 0.15, 0.3]),
        st.booleans(),
    ),
    max_size=60,
)


@given(pieces, st.booleans(), st.booleans())
@settings(max_examples=600, deadline=None)
def test_everything_comes_once_and_in_order(script, fold, others):
    folder = Folder(range(4), fold=fold, others=others)
    now, blocks, fed = 0.0, [], defaultdict(str)
    order: dict = defaultdict(list)  # of text and items of one engine
    for engine, kind, text, pause, look in script:
        now += pause
        if kind == "display":
            folder.put(engine, "display", text, text, now)
            fed[engine, "items"] += f"{text} "
        elif kind == "end":
            folder.end(engine)
        else:
            folder.feed(engine, kind, text, now)
            fed[engine, kind] += text
            order[engine].append((kind, len(fed[engine, "items"])))
        if look:
            blocks += folder.take(now)
            deadline = folder.deadline()
            assert deadline is None or deadline > now
    blocks += folder.take(now, everything=True)
    assert said(blocks) == {key: text for key, text in fed.items() if text}
    assert folder.take(now + 10) == [] and folder.deadline() is None


@given(pieces)
@settings(max_examples=300, deadline=None)
def test_nothing_waits_longer_than_its_time(script):
    folder = Folder(range(4))
    now, blocks, fed = 0.0, [], defaultdict(str)
    for engine, kind, text, pause, _ in script:
        if kind in ("stdout", "stderr"):
            folder.feed(engine, kind, text, now)
            fed[engine, kind] += text
        until = now + pause
        while (deadline := folder.deadline()) is not None and deadline <= until:
            now = deadline
            blocks += folder.take(now)
            assert (folder.deadline() or now + 1) > now
        now = until
    blocks += folder.take(now + HOLD)
    assert said(blocks) == dict(fed)


@given(pieces, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_text_does_not_overtake_displays(script, shuffled):
    """One engine's text before a display is shown before it, text behind it after it."""
    folder = Folder(range(4))
    now, blocks = 0.0, []
    fed: dict = defaultdict(list)
    for engine, kind, text, pause, look in script:
        now += pause
        if kind == "display":
            folder.put(engine, kind, text, text, now)
            fed[engine].append("D")
        elif kind == "stdout":
            folder.feed(engine, kind, text, now)
            fed[engine].append(text)
        if look:
            blocks += folder.take(now)
    blocks += folder.take(now, everything=True)
    shown: dict = defaultdict(list)
    for block in blocks:
        for engine in block.engines:
            shown[engine].append("D" if block.value is not None else block.text)
    assert {e: "".join(one) for e, one in shown.items()} == {e: "".join(one) for e, one in fed.items()}


@given(
    st.lists(st.sampled_from(["same\n", "all\n", "{}: own\n", "other {}\n"]), min_size=1, max_size=20),
    st.integers(2, 6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_identical_lines_fold_whatever_the_order_of_arrival(program, n_engines, shuffled):
    """Engines that run one program, out of step by less than the hold: common lines come once."""
    folder = Folder(range(n_engines))
    arrivals = []
    for engine in range(n_engines):
        late = shuffled.uniform(0, HOLD * 0.9)
        for number, line in enumerate(program):
            arrivals.append((late + number * 0.001, engine, line.format(engine)))
    blocks = []
    for now, engine, line in sorted(arrivals):
        blocks += folder.take(now)
        folder.feed(engine, "stdout", line, now)
    blocks += folder.take(now)
    for engine in range(n_engines):
        folder.end(engine)
    blocks += folder.take(now)
    everybody = tuple(range(n_engines))
    common = "".join(block.text for block in blocks if block.engines == everybody)
    assert common == "".join(line for line in program if "{}" not in line)
    assert said(blocks) == {
        (engine, "stdout"): "".join(line.format(engine) for line in program) for engine in everybody
    }


def test_the_same_line_of_all_is_not_held_back():
    folder = Folder(range(3))
    for engine in (2, 0):
        folder.feed(engine, "stdout", "hello\n", 0)
        assert folder.take(0.1) == []
    folder.feed(1, "stdout", "hello\n", 0.1)
    assert texts(folder.take(0.1)) == [out("012", "hello\n")]


def test_who_is_alone_waits_for_the_hold():
    folder = Folder(range(3))
    folder.feed(1, "stdout", "hello\n", 5.0)
    assert folder.take(5.1) == [] and folder.deadline() == 5.0 + HOLD
    assert texts(folder.take(5.0 + HOLD)) == [out("1", "hello\n")]
    assert folder.deadline() is None


def test_who_has_ended_is_not_waited_for():
    folder = Folder(range(3))
    folder.feed(0, "stdout", "hello\n", 0)
    folder.feed(1, "stdout", "hello\n", 0)
    assert folder.take(0) == []
    folder.end(2)
    assert texts(folder.take(0)) == [out("01", "hello\n")]
    folder.feed(2, "stdout", "late", 0.0)  # a thread goes on printing
    assert texts(folder.take(HOLD)) == [out("2", "late")]


def test_differing_lines_stay_apart_and_together():
    folder = Folder(range(4))
    for engine in range(4):
        folder.feed(engine, "stdout", f"start\nrank {engine}\nsize 4 of {engine}\ndone\n", 0)
    assert texts(folder.take(0)) == [
        out("0123", "start\n"),
        *(out(str(engine), f"rank {engine}\nsize 4 of {engine}\n") for engine in range(4)),
        out("0123", "done\n"),
    ]


def test_one_that_says_more_than_the_others():
    folder = Folder(range(3))
    folder.feed(0, "stdout", "step 1\n", 0)
    folder.feed(1, "stdout", "I am the root\nstep 1\n", 0.05)
    folder.feed(2, "stdout", "step 1\n", 0.1)
    assert texts(folder.take(0.1)) == [out("1", "I am the root\n"), out("012", "step 1\n")]


def test_groups():
    folder = Folder(range(4))
    for engine in range(4):
        folder.feed(engine, "stdout", f"{'even' if engine % 2 == 0 else 'odd'}\n" * 3, 0)
    assert texts(folder.take(0)) == [out("02", "even\n" * 3), out("13", "odd\n" * 3)]


def test_unfinished_lines_are_shown_after_the_hold_and_go_on():
    folder = Folder(range(2))
    folder.feed(0, "stdout", "wait ...", 0)
    folder.feed(1, "stdout", "wait ...", 0.1)
    assert folder.take(0.1) == []
    blocks = folder.take(HOLD)
    assert texts(blocks) == [out("0", "wait ...")]  # of the other there may come more
    assert texts(folder.take(0.1 + HOLD)) == [out("1", "wait ...")]
    folder.feed(0, "stdout", " done\n", 1)
    folder.feed(1, "stdout", " done\n", 1)
    blocks = folder.take(1)
    assert texts(blocks) == [out("0", " done\n"), out("1", " done\n")]  # they go on with different lines
    assert all(block.continues for block in blocks)


def test_unfinished_lines_of_several_go_on_together():
    folder = Folder(range(2))
    for text in ("wait", " ...", " done\nnext\n"):
        folder.feed(0, "stdout", text, 0)
        folder.feed(1, "stdout", text, 0)
        blocks = folder.take(HOLD)
        assert texts(blocks) == [out("01", text)]
        assert blocks[0].continues == (text != "wait")


def test_displays_fold_between_texts():
    folder = Folder(range(2))
    for engine in (0, 1):
        folder.feed(engine, "stdout", "before\n", 0)
        folder.put(engine, "display", "picture", "picture", 0)
        folder.feed(engine, "stdout", "after\n", 0)
        folder.put(engine, "display", None, "own", 0)
    assert [block[:4] for block in folder.take(0)] == [
        ("stdout", (0, 1), "before\n", None),
        ("display", (0, 1), "", ["picture", "picture"]),
        ("stdout", (0, 1), "after\n", None),
        ("display", (0,), "", ["own"]),
        ("display", (1,), "", ["own"]),
    ]


def test_streams_fold_each_for_itself():
    folder = Folder(range(2))
    folder.feed(0, "stdout", "a\n", 0)
    folder.feed(0, "stderr", "b\n", 0)
    folder.feed(1, "stderr", "b\n", 0)
    assert texts(folder.take(0)) == [("stderr", (0, 1), "b\n")]
    folder.feed(1, "stdout", "a\n", 0)
    assert texts(folder.take(0)) == [out("01", "a\n")]


def test_without_folding_lines_are_whole():
    folder = Folder(range(2), fold=False)
    folder.feed(0, "stdout", "same\nbegun", 0)
    folder.feed(1, "stdout", "same\n", 0)
    assert texts(folder.take(0)) == [out("0", "same\n"), out("1", "same\n")]
    folder.feed(0, "stdout", " ended\n", 0.1)
    assert texts(folder.take(0.1)) == [out("0", "begun ended\n")]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("abc", "abc"),
        ("abc\rx", "xbc"),
        ("5\r6\r", "6"),
        ("\r 10%\r 20%", " 20%"),
        ("abc\r", "abc"),
        ("", ""),
    ],
)
def test_visible(line, seen):
    assert visible(line) == seen


def test_progress_lines_are_rows_until_they_end():
    folder = Folder(range(3), live=True)
    for engine in range(3):
        for percent in range(0, 50, 10):
            folder.feed(engine, "stderr", f"\r{percent}%", 0)
    assert folder.take(10) == [] and folder.deadline() is None
    assert folder.rows() == [("stderr", (0, 1, 2), "40%")]
    folder.feed(1, "stderr", "\r100%\n", 11)
    folder.feed(2, "stderr", "\r60%", 11)
    assert folder.rows() == [("stderr", (0,), "40%"), ("stderr", (1,), "100%"), ("stderr", (2,), "60%")]
    for engine in range(3):
        folder.end(engine)
    blocks = folder.take(12)
    assert folder.rows() == []
    assert [block[1:3] for block in blocks] == [((0,), "40%"), ((1,), "100%\n"), ((2,), "60%")]


def test_what_overwrites_a_shown_beginning_is_a_line_of_its_own():
    folder = Folder(range(1), live=True)
    folder.feed(0, "stdout", "working", 0)
    assert texts(folder.take(HOLD)) == [out("0", "working")]
    folder.feed(0, "stdout", "\rworking: done\n", 1)
    (block,) = folder.take(1)
    assert block.text == "working: done\n" and not block.continues


def test_what_waits_is_bounded():
    folder = Folder(range(8), live=True)
    now = 0.0
    for number in range(300):  # one engine alone floods, within the hold
        folder.feed(0, "stdout", "".join(f"{number} {i}\n" for i in range(500)), now)
        folder.feed(1, "stderr", "\r" + "progress" * 100, now)
        folder.take(now)
        assert folder._voices[0].size <= LIMIT
        now += HOLD / 1000
    assert folder._voices[1].size < 2000
    for _ in range(100):  # a line that never ends
        folder.feed(2, "stdout", "x" * 10_000, now)
        folder.take(now)
        assert folder._voices[2].size <= LIMIT + 10_000


@pytest.mark.parametrize("differing", [True, False])
def test_a_flood_is_fast(differing):
    shuffled = random.Random(1)
    lines = 20_000
    streams = {}
    for engine in range(8):
        text = "".join(f"{engine if differing else ''} line {i}\n" for i in range(lines))
        streams[engine] = [text[i : i + 30_000] for i in range(0, len(text), 30_000)]
    total = {(engine, "stdout"): "".join(parts) for engine, parts in streams.items()}
    folder, blocks, now = Folder(range(8)), [], 0.0
    began = time.process_time()
    while streams:
        engine = shuffled.choice(list(streams))
        folder.feed(engine, "stdout", streams[engine].pop(0), now)
        if not streams[engine]:
            folder.end(engine)
            del streams[engine]
        blocks += folder.take(now)
        now += 0.01
    blocks += folder.take(now, everything=True)
    assert time.process_time() - began < 4.0
    assert said(blocks) == total
