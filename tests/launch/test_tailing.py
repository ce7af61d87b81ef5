"""Logs are read while others write to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpiparallel.launch import tailing
from mpiparallel.launch.tailing import Tail, start_of_last


def test_what_is_new_comes_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.read() == ""
    (tmp_path / "log").write_text("one\ntw")
    assert tail.read() == "one\ntw"
    assert tail.read() == ""
    with (tmp_path / "log").open("a") as file:
        file.write("o\n")
    assert tail.read() == "o\n"


def test_a_character_that_is_half_there_waits_for_its_rest(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    letter = "ä".encode()
    (tmp_path / "log").write_bytes(b"x" + letter[:1])
    assert tail.read() == "x"
    (tmp_path / "log").write_bytes(b"x" + letter)
    assert tail.read() == "ä"


def test_what_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a\xffb")
    assert Tail(tmp_path / "log").read() == "a\ufffdb"


def test_a_file_that_is_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    (tmp_path / "log").write_text("a long line of the first turn\n")
    tail.read()
    (tmp_path / "log").write_text("second\n")
    assert tail.read() == "second\n"


def test_a_long_file_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailing, "_AT_ONCE", 3)
    (tmp_path / "log").write_text("abcdefgh")
    tail = Tail(tmp_path / "log")
    assert [tail.read() for _ in range(4)] == ["abc", "def", "gh", ""]


def test_it_may_begin_with_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1\n2\n3\n")
    tail = Tail(tmp_path / "log")
    tail.skip_to_last(2)
    assert tail.read() == "2\n3\n"
    with (tmp_path / "log").open("a") as file:
        file.write("4\n")
    assert tail.read() == "4\n"
    absent = Tail(tmp_path / "absent")
    absent.skip_to_last(2)
    assert absent.read() == ""


@given(st.text(alphabet="a\n", max_size=30), st.integers(0, 12), st.integers(1, 8))
def test_the_last_lines_are_those_of_splitlines(
    tmp_path_factory: pytest.TempPathFactory, text: str, lines: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tailing, "_BLOCK", block)
        start = start_of_last(path, lines)
    kept = text.splitlines(keepends=True)
    assert text[start:] == "".join(kept[max(0, len(kept) - lines) :])
